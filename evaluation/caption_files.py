"""
Files of predictions and references of dense captioning, in the peers' own formats; a file that can't be used as a whole
is a `DataError`, as in `moment_files`.

Kinds of problems, and what becomes of what they concern:
- malformed: a field is missing or wrong. A predicted event is left out; of references, the video.
- inverted: an event ends before it starts; it is kept, and the protocol says what it means.
- negative: an event starts before its video; it is kept as it is.
- empty caption: the event is kept and counts as a place; its words match nothing.
- non-ASCII: kept as it is; the protocol `vtimellm` and official SODA_c take such letters for spaces.
- no events: a reference without events is left out; a prediction without events is a prediction.
- unknown id: a prediction of a video that isn't among the references, or was left out of them, is left out.
"""

from functools import partial
from pathlib import Path

from dataset_scripts.fields import Malformed, get, identifier, kept, number, read_json, same_length
from dataset_scripts.items import DataError, Problems

from .moment_files import distinct, some


SHORTEST = 6  # TimeChat drops what is shorter among ActivityNet's sentences

Event = tuple[tuple[float, float], str]


class NoEvents(Malformed):
    kind = "no events"


def predictions(path: Path, problems: Problems) -> dict[str, list[Event]]:
    """
    TimeChat's `{"<video>": [{"timestamp": [start, end], "caption": "…"}]}`, or the ActivityNet challenge's, which
    VTimeLLM scores, too: `{"results": {"<video>": [{"timestamp": [start, end], "sentence": "…"}]}}`.
    """
    content = read_json(path, dict)
    if (
        "annotations" in content
        or "database" in content
        or any(isinstance(row, dict) and "timestamps" in row for row in content.values())
    ):
        raise DataError(f"{path}: expected predictions, found references")
    results = content["results"] if isinstance(content.get("results"), dict) else content
    rows = ((f"{path.name}: {video}", video, events) for video, events in results.items())
    return dict(kept(problems, partial(_predicted, problems), rows))


def references(path: Path, problems: Problems) -> dict[str, list[Event]]:
    """
    TimeIT's files for evaluation, `{"annotations": [{"image_id", "segments", "pure_cap" or "caption"}]}`, whose
    captions are taken apart as TimeChat does; ActivityNet Captions, `{"<video>": {"timestamps", "sentences"}}`; or
    YouCook2, `{"database": {"<video>": {"subset", "annotations": [{"segment", "sentence"}]}}}`, validation only.
    """
    content = read_json(path, dict)
    if isinstance(content.get("annotations"), list):
        rows = ((f"{path.name}: annotation {at}", row) for at, row in enumerate(content["annotations"]))
        found = kept(problems, partial(_timeit, problems), rows)
    elif isinstance(content.get("database"), dict):
        rows = ((f"{path.name}: {video}", video, row) for video, row in content["database"].items())
        found = filter(None, kept(problems, partial(_youcook2, problems), rows))
    else:
        rows = ((f"{path.name}: {video}", video, row) for video, row in content.items())
        found = kept(problems, partial(_activitynet, problems), rows)
    return some(path, distinct(path, found, numbers=False), problems)


def _predicted(problems: Problems, place: str, video: str, events: list) -> tuple[str, list[Event]]:
    if not isinstance(events, list):
        raise Malformed(f"expected a list of events, found {events!r:.60}")
    rows = ((f"{place}, event {at}", row) for at, row in enumerate(events))
    return video, list(kept(problems, partial(_predicted_event, problems), rows))


def _predicted_event(problems: Problems, place: str, row: dict) -> Event:
    field = "sentence" if isinstance(row, dict) and "sentence" in row else "caption"
    return _event(problems, place, get(row, "timestamp", list), get(row, field, str), "timestamp")


def _timeit(problems: Problems, place: str, row: dict) -> tuple[str, list[Event]]:
    video, segments = identifier(row, "image_id").split("/")[-1], get(row, "segments", list)
    if "pure_cap" in row:
        sentences = get(row, "pure_cap", str).split(". ")
    else:
        sentences = [one.strip(" ") for one in get(row, "caption", str).split(".") if len(one) >= SHORTEST]
    return video, _events(problems, f"{place} ({video})", segments, [f"{one}." for one in sentences], "segments")


def _activitynet(problems: Problems, place: str, video: str, row: dict) -> tuple[str, list[Event]]:
    return video, _events(problems, place, get(row, "timestamps", list), get(row, "sentences", list), "timestamps")


def _youcook2(problems: Problems, place: str, video: str, row: dict) -> tuple[str, list[Event]] | None:
    if get(row, "subset", str) != "validation":
        return None
    steps = get(row, "annotations", list)
    segments, sentences = ([get(step, name, kind) for step in steps] for name, kind in _STEP)
    return video, _events(problems, place, segments, sentences, "segment")


_STEP = (("segment", list), ("sentence", str))


def _events(problems: Problems, place: str, segments: list, sentences: list, field: str) -> list[Event]:
    same_length(segments=segments, captions=sentences)
    if not segments:
        raise NoEvents("expected events, found none")
    events = []
    for at, (times, text) in enumerate(zip(segments, sentences, strict=True)):
        try:
            events.append(_event(problems, f"{place}, event {at}", times, text, field))
        except Malformed as error:
            raise Malformed(f"event {at}: {error}") from error
    return events


def _event(problems: Problems, place: str, times, text, field: str) -> Event:
    if not isinstance(times, list) or len(times) != 2:
        raise Malformed(f"field {field!r}: expected [start, end], found {times!r:.60}")
    start, end = (number(time, field) for time in times)
    text = get({"caption": text}, "caption", str)
    if end < start:
        problems.add("inverted", place, f"the event [{start}, {end}] ends before it starts")
    if start < 0:
        problems.add("negative", place, f"the event [{start}, {end}] starts before the video")
    if not text.strip(" ."):
        problems.add("empty caption", place, f"expected a caption, found {text!r}")
    if not text.isascii():
        problems.add("non-ASCII", place, f"found {text!r:.60}")
    return (start, end), text
