"""
Kinetics-700: CSV with the columns `label,youtube_id,time_start,time_end,split`, `abseiling,0wR5jVB-WPk,417,427,val`;
the test file has no `label`. Clips are called `<youtube_id>_000417_000427`, and lie flat per split or in folders called
like their class, spaces sometimes as `_`.
"""

from collections.abc import Iterator
from pathlib import Path

from ..fields import identifier, kept, seconds
from ..items import Item, Problems
from .reading import annotation_files, read_csv, subset


KIND = "clips"
FILES = ("*.csv",)
TASKS = ("dense_captioning", "grounding")
LICENCE = "annotations: CC BY 4.0 (Google); videos: their owners' on YouTube"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        yield from kept(problems, _item, read_csv(file, ("youtube_id", "time_start", "time_end", "split")))


def _item(place: str, row: dict) -> Item:
    start, end = (seconds(row[name], name) for name in ("time_start", "time_end"))
    key = f"{identifier(row, 'youtube_id')}_{int(start):06d}_{int(end):06d}"
    label = (row.get("label") or "").strip()
    return Item(key, (key,), place, subset(row, "split"), label=label, duration=end - start)
