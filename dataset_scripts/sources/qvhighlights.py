"""
QVHighlights: `highlight_<train, val or test>_release.jsonl`, one row per query:

    {"qid": 2579, "query": "…", "duration": 150, "vid": "<id>_60.0_210.0", "relevant_windows": [[0, 16]],
     "relevant_clip_ids": [0, 1], "saliency_scores": [[4, 1, 1], [4, 2, 2]]}

Clips are 2 s long, three annotators score each; an event's saliency is their mean at the clip's start. Test rows lack
the last three fields. Videos are `<vid>.mp4` or `v_<vid>.mp4`, second 60 to 210 of the YouTube video `<id>`.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from ..fields import Malformed, get, identifier, kept, read_jsonl, same_length, seconds, span, text
from ..items import Event, Item, Problems
from .reading import annotation_files, part_of, split_of


KIND = "videos"
FILES = ("highlight_*_release.jsonl",)
TASKS = ("grounding", "highlights")
LICENCE = "annotations: CC BY-NC-SA 4.0; videos: their owners' on YouTube"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        split, items = split_of(file.stem), {}
        rows = ((place, row, split) for place, row in read_jsonl(file, problems))
        for place, video, duration, event in kept(problems, _row, rows):
            item = Item(video, (video, f"v_{video}"), place, split, duration=duration, **part_of(video))
            items.setdefault(video, item).events.append(event)
        yield from items.values()


def _row(place: str, row: dict, split: str) -> tuple[str, str, float, Event]:
    video, duration = identifier(row, "vid"), seconds(get(row, "duration", (int, float)), "duration")
    event = Event(text(row, "query"), [], id=identifier(row, "qid"))
    if split != "test" or "relevant_windows" in row:
        event.windows = [span(window, "relevant_windows") for window in get(row, "relevant_windows", list)]
        clips, scores = get(row, "relevant_clip_ids", list), get(row, "saliency_scores", list)
        same_length(relevant_clip_ids=clips, saliency_scores=scores)
        event.saliency = [
            (2.0 * seconds(clip, "relevant_clip_ids", "clips"), _mean(three))
            for clip, three in zip(clips, scores, strict=True)
        ]
    return place, video, duration, event


def _mean(scores: list) -> float:
    if not isinstance(scores, list) or not scores:
        raise Malformed(f"field 'saliency_scores': expected the annotators' scores, found {scores!r:.60}")
    return round(fmean(seconds(score, "saliency_scores", "scores") for score in scores), 4)
