"""
LLaVA-ReCap 118K, 558K and CC3M: Parquet with `image`, `conversations` (a list of {from, value}; the caption is the
second turn's value) and mostly `id`. PATH is a folder of shards, or a repository:
`llava_recap=lmms-lab/LLaVA-ReCap-CC3M`.
"""

from collections.abc import Iterator
from pathlib import Path

from ..items import Item, Problems
from .parquet import read_pictures


KIND = "pictures"
FILES = ("*.parquet",)
TASKS = ("iig", "iic", "alr")
LICENCE = "see the data set's card on the Hub; COCO's, BLIP's and CC3M's pictures have terms of their own"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    return read_pictures(path, problems, "image", "conversations", "id", _caption, key_is_optional=True)


def _caption(turns) -> str | None:
    """The answer to "describe the picture"; older files have an object of lists in place of a list of objects."""
    if isinstance(turns, dict):
        turns = [{"value": value} for value in turns.get("value") or ()]
    return turns[1].get("value") if turns and len(turns) >= 2 and turns[1] else None
