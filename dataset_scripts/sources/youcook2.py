"""
YouCook2: `youcookii_annotations_trainval.json` (all subsets in one file), videos `<id>.mp4`:

    {"database": {"<id>": {"duration": 241.64, "subset": "validation", "recipe_type": "212", "video_url": "…",
                           "annotations": [{"id": 0, "segment": [25, 37], "sentence": "…"}]}}}

Entries of the subset `testing` may lack `annotations`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..fields import get, identifier, kept, numbered, seconds, span, text
from ..items import Event, Item, Problems
from .reading import annotation_files, read_database, subset


KIND = "videos"
FILES = ("youcookii_annotations_*.json",)
TASKS = ("dense_captioning", "grounding")
LICENCE = "non-commercial (University of Michigan); videos: their owners' on YouTube"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        yield from kept(problems, partial(_item, problems), read_database(file))


def _item(problems: Problems, place: str, video: str, row: dict) -> Item:
    split, duration = subset(row, "subset"), seconds(get(row, "duration", (int, float)), "duration")
    steps = [] if split == "test" and "annotations" not in row else get(row, "annotations", list)
    events = [*kept(problems, _event, numbered(place, steps))]
    return Item(video, (video,), place, split, duration=duration, events=events)


def _event(place: str, number: int, row: dict) -> Event:
    return Event(text(row, "sentence"), [span(get(row, "segment", list), "segment")], id=identifier(row, "id"))
