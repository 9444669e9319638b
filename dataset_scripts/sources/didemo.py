"""
DiDeMo: `train_data.json`, `val_data.json`, `test_data.json`, lists with one row per query:

    {"annotation_id": 1, "num_segments": 6, "description": "someone kicks the bug …", "dl_link": "…",
     "times": [[4, 4], [0, 0], [4, 4], [4, 4]], "video": "26292851@N04_4253489686_265c3c8051.m4v"}

`times` are the choices of four or more annotators in chunks of 5 s: `[a, b]` is second 5a to 5(b + 1), so `[1, 1]` is
one chunk. The window is the pair that most of them chose, of equals the first: DiDeMo leaves that open, this is our
choice. The last chunk may reach past the end of its video, hence `TOLERANCE`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..fields import Malformed, get, identifier, kept, span, text
from ..items import Event, Item, Problems
from .reading import annotation_files, read_list, split_of


KIND = "videos"
FILES = ("train_data.json", "val_data.json", "test_data.json")
TASKS = ("grounding",)
LICENCE = "not stated; videos: Creative Commons, by their owners on Flickr"
TOLERANCE = 5.0  # seconds by which an event may end after its video


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        items: dict[str, Item] = {}
        for place, video, event in kept(problems, _row, read_list(file)):
            items.setdefault(video, Item(video, (video,), place, split_of(file.stem))).events.append(event)
        yield from items.values()


def _row(place: str, row: dict) -> tuple[str, str, Event]:
    video, caption = identifier(row, "video"), text(row, "description")
    chunks = [span(pair, "times") for pair in get(row, "times", list)]
    if not chunks or any(not number.is_integer() for pair in chunks for number in pair):
        raise Malformed(f"field 'times': expected pairs of chunks, found {row['times']!r:.80}")
    (first, last), _ = Counter(chunks).most_common(1)[0]
    return place, video, Event(caption, [(5 * first, 5 * (last + 1))], id=identifier(row, "annotation_id"))
