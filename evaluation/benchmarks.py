"""
What each benchmark is: where its annotations are read, which split and tasks it has, what is asked about a video, and
how answers become predictions in the peers' file formats.

Tasks: `dvc` dense captioning, `tvg` grounding, `vhd` highlights, `choice` multiple choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataset_scripts.fields import read_jsonl
from dataset_scripts.items import DataError, Event, Item, Problems
from dataset_scripts.sources import Source, open_source
from dataset_scripts.sources.reading import annotation_files, split_of

from . import highlights, tempcompass


SECOND_SET = "/val_2"  # behind the keys of ActivityNet's second set of references


@dataclass(frozen=True)
class Benchmark:
    title: str
    split: str
    tasks: tuple[str, ...]
    on_demand: tuple[str, ...] = ()  # tasks that only --task asks for


BENCHMARKS = {
    "youcook2": Benchmark("YouCook2", "validation", ("dvc",), ("tvg",)),
    "charades_sta": Benchmark("Charades-STA", "test", ("tvg",)),
    "qvhighlights": Benchmark("QVHighlights", "validation", ("vhd",), ("tvg",)),
    "activitynet": Benchmark("ActivityNet Captions", "validation", ("dvc", "tvg")),
    "tempcompass": Benchmark("TempCompass", "test", ("choice",)),
    "miniworld": Benchmark("mini world", "test", ("dvc", "tvg")),
}


def open_benchmark(name: str, path: str, split: str) -> Source:
    """Its annotations. Of ActivityNet's two sets for validation the second, as VTimeLLM takes it for its test set."""
    if name == "tempcompass":
        if not Path(path).exists():
            raise DataError(f"{path}: there is no such file or folder")
        return Source(name, name, Path(path), tempcompass)
    source = open_source(name, path)
    if name == "activitynet" and split == "validation":
        files = annotation_files(source.path, source.module.FILES)
        second = [file for file in files if file.name == "val_2.json"]
        source.path = second[0] if second else source.path
    return source


def read_items(source: Source, split: str) -> tuple[list[Item], Problems]:
    """The videos of a split with what is to be found in them; each key once."""
    problems, items = Problems(), {}
    for item in source.read(problems):
        if item.split != split or source.kind(item) != "videos":
            continue
        if item.key in items:
            problems.add("duplicate id", item.place, f"{item.key!r} was there before", split)
        items.setdefault(item.key, item)
    if source.reader == "qvhighlights":  # its queries have numbers of their own, the same in every file of predictions
        asked: set[str] = set()
        for item in items.values():
            events, item.events = item.events, []
            for event in events:
                if event.id in asked:
                    problems.add("duplicate id", item.place, f"query {event.id!r} was there before", split)
                else:
                    item.events.append(event)
                asked.add(event.id)
    if not items:
        raise DataError(f"{source.path}: expected videos of split {split!r}, found none")
    return list(items.values()), problems


def queries(task: str, item: Item) -> list[Event]:
    """What is asked about a video, in the order of the answers. Dense captioning asks once, about all events."""
    timed = [event for event in item.events if event.windows]
    if task == "dvc":
        return [Event("", [])] if timed else []
    return {"tvg": timed, "vhd": [event for event in item.events if event.saliency], "choice": item.events}[task]


def video_name(item: Item) -> str:
    return item.key.removesuffix(SECOND_SET)


def as_files(
    task: str, source: Source, items: list[Item], answers: dict[str, dict], protocol: str
) -> tuple[dict | list, dict | list]:
    """
    Predictions and references as the peers write them, of the videos that were answered. `answers` are rows of the log
    by the keys of their videos; `items` all of the benchmark, so that numbers of queries are always the same.
    """
    answered = [
        (item, event, answers[item.key]["answers"][place], number)
        for number, (item, place, event) in enumerate(_numbered(task, items))
        if item.key in answers
    ]
    if task == "dvc":
        return _captions(answered, {key: row["length"] for key, row in answers.items()})
    if task == "tvg":
        return _moments(answered)
    return _saliency(answered, source, protocol) if task == "vhd" else _choices(answered, source)


def _numbered(task: str, items: list[Item]) -> Iterator[tuple[Item, int, Event]]:
    for item in items:
        for place, event in enumerate(queries(task, item)):
            yield item, place, event


def _captions(answered: list[tuple], lengths: dict[str, float]) -> tuple[dict, dict]:
    """TimeChat's predictions, ActivityNet Captions' references."""
    predictions, references = {}, {}
    for item, _, answer, _ in answered:
        spans = sorted((*window, event.caption) for event in item.events for window in event.windows)
        references[video_name(item)] = {
            "duration": item.duration or lengths[item.key],
            "timestamps": [[start, end] for start, end, _ in spans],
            "sentences": [caption for *_, caption in spans],
        }
        found = [{"timestamp": [start, end], "caption": text} for start, end, text in answer["moments"]]
        predictions[video_name(item)] = found
    return predictions, references


def _moments(answered: list[tuple]) -> tuple[dict, dict]:
    """TimeChat's files. A query with several windows has a list of them."""
    predictions, references = {}, []
    for item, event, answer, number in answered:
        name, windows = video_name(item), [list(window) for window in event.windows]
        timestamp = windows[0] if len(windows) == 1 else windows
        references.append({"image_id": name, "caption": event.caption, "timestamp": timestamp, "id": number})
        predictions[str(number)] = {"timestamp": answer["moments"], "query": event.caption, "vid": name}
    return predictions, {"annotations": references}


def _saliency(answered: list[tuple], source: Source, protocol: str) -> tuple[list, list]:
    """QVHighlights' own rows."""
    found = {event.id: (item.split, answer["moments"]) for item, event, answer, _ in answered}
    predictions, references = [], []
    for file in annotation_files(source.path, source.module.FILES):
        for _, row in read_jsonl(file, Problems()):
            split, moments = found.get(str(row.get("qid")), ("", []))
            if split_of(file.stem) == split:
                scores = clip_scores(moments, row["duration"], protocol)
                predictions.append({name: row[name] for name in ("qid", "query", "vid")})
                predictions[-1]["pred_saliency_scores"] = scores
                references.append(row)
    return predictions, references


def clip_scores(moments: list[tuple[float, float]], duration: float, protocol: str) -> list[float]:
    """
    A saliency score for each clip from (second, score) of moments: the mean of the scores in it, 0 without any.

    A second belongs to the clip that it lies in. TimeChat's script takes one second off before, which puts every start
    of a clip, as its training data name them, into the clip before; protocol `timechat` keeps that.
    """
    clips: list[list[float]] = [[] for _ in range(highlights.clips(duration))]
    for second, score in moments:
        early = (second - 1 if protocol == "timechat" else second + 1e-3) / highlights.CLIP
        if second <= duration and clips:
            clips[min(max(0, int(early)), len(clips) - 1)].append(score)
    return [sum(scores) / len(scores) if scores else 0.0 for scores in clips]


def _choices(answered: list[tuple], source: Source) -> tuple[dict, dict]:
    """TempCompass' own files."""
    right, predictions, references = tempcompass.right_answers(source.path), {}, {}
    for item, event, answer, _ in answered:
        truth = right[event.id]
        row = {"question": truth["question"], "answer": truth["answer"]}
        for content, one in ((predictions, row | {"prediction": answer["text"]}), (references, row)):
            content.setdefault(video_name(item), {}).setdefault(truth["dimension"], []).append(one)
    return predictions, references
