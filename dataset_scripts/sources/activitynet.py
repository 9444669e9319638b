"""
ActivityNet Captions: `train.json`, `val_1.json`, `val_2.json`, videos `v_<id>.mp4` or `<id>.mp4`:

    {"v_<id>": {"duration": 73.1, "timestamps": [[6.94, 69.08]], "sentences": [" A man …"]}}

`val_1` and `val_2` are two reference sets of the same videos; the items of the second have keys `v_<id>/val_2`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..fields import get, kept, numbered, read_json, same_length, seconds, span, text
from ..items import Event, Item, Problems
from .reading import annotation_files, split_of


KIND = "videos"
FILES = ("train.json", "val_1.json", "val_2.json")
TASKS = ("dense_captioning", "grounding")
LICENCE = "not stated; videos: their owners' on YouTube"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        rows = ((f"{file.name}: {video}", file.stem, video, row) for video, row in read_json(file, dict).items())
        yield from kept(problems, partial(_item, problems), rows)


def _item(problems: Problems, place: str, stem: str, video: str, row: dict) -> Item:
    duration = seconds(get(row, "duration", (int, float)), "duration")
    timestamps, sentences = get(row, "timestamps", list), get(row, "sentences", list)
    same_length(timestamps=timestamps, sentences=sentences)
    rows = ({"sentence": sentence, "timestamp": window} for window, sentence in zip(timestamps, sentences, strict=True))
    return Item(
        key=f"{video}/val_2" if stem == "val_2" else video,
        names=tuple(dict.fromkeys((video, video.removeprefix("v_")))),
        place=place,
        split=split_of(stem),
        duration=duration,
        events=[*kept(problems, _event, numbered(place, rows))],
    )


def _event(place: str, number: int, row: dict) -> Event:
    return Event(text(row, "sentence"), [span(row["timestamp"], "timestamps")], id=str(number))
