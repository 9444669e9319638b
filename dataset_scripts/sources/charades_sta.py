"""
Charades-STA: text files `charades_sta_train.txt`, `charades_sta_test.txt` with lines
`3MSZA 24.3 30.4##person turn a light on.`; videos `3MSZA.mp4`. Durations come from the videos. Four rows of the train
file end before they start.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..fields import EmptyCaption, Malformed, kept, read_lines
from ..items import Event, Item, Problems
from .reading import annotation_files, split_of


KIND = "videos"
FILES = ("charades_sta_*.txt",)
TASKS = ("grounding",)
LICENCE = "Charades: non-commercial research (Allen Institute for AI)"

_LINE = re.compile(r"(?P<video>\S+) (?P<start>\d+(?:\.\d+)?) (?P<end>\d+(?:\.\d+)?)##(?P<caption>.*)", re.ASCII)


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        items: dict[str, Item] = {}
        for place, video, event in kept(problems, _row, read_lines(file)):
            items.setdefault(video, Item(video, (video,), place, split_of(file.stem))).events.append(event)
        yield from items.values()


def _row(place: str, line: str) -> tuple[str, str, Event]:
    found = _LINE.fullmatch(line)
    if not found:
        raise Malformed(f"expected 'VIDEO START END##sentence', found {line!r:.80}")
    if not found["caption"].strip():
        raise EmptyCaption(f"expected a sentence behind '##', found {line!r:.80}")
    window = (float(found["start"]), float(found["end"]))
    return place, found["video"], Event(found["caption"].strip(), [window], id=place.rpartition(" ")[2])
