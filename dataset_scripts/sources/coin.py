"""
COIN: `COIN.json`, videos `<id>.mp4`, often in folders called like their `recipe_type`:

    {"database": {"<id>": {"duration": 109.2, "class": "PutOnHairExtensions", "subset": "training", "recipe_type": 1,
                           "video_url": "…", "start": 52.0, "end": 90.0,
                           "annotation": [{"id": "2", "segment": [60.0, 69.0], "label": "comb the hair"}]}}}

`annotation` is singular. Its `id` names the kind of step, which may come twice in a video: events are numbered instead.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..fields import get, kept, numbered, seconds, span, text
from ..items import Event, Item, Problems
from .reading import annotation_files, read_database, subset


KIND = "videos"
FILES = ("COIN*.json", "coin*.json")
TASKS = ("dense_captioning", "grounding")
LICENCE = "research only; videos: their owners' on YouTube"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        yield from kept(problems, partial(_item, problems), read_database(file))


def _item(problems: Problems, place: str, video: str, row: dict) -> Item:
    split, duration = subset(row, "subset"), seconds(get(row, "duration", (int, float)), "duration")
    label, steps = get(row, "class", str).strip(), get(row, "annotation", list)
    events = [*kept(problems, _event, numbered(place, steps))]
    return Item(video, (video,), place, split, label=label, duration=duration, events=events)


def _event(place: str, number: int, row: dict) -> Event:
    return Event(text(row, "label"), [span(get(row, "segment", list), "segment")], id=str(number))
