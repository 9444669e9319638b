"""
LLaVA-ReCap 118K, 558K and CC3M: Parquet with `image`, `conversations` (a list of {from, value}; the caption is the
second turn's value) and mostly `id`. PATH is a folder of shards, or a repository:
`llava_recap=lmms-lab/LLaVA-ReCap-CC3M`.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from ..items import Item, Problems
from .parquet import read_pictures
from .reading import annotation_files


KIND = "pictures"
FILES = ("*.parquet",)
TASKS = ("iig", "iic", "alr")
LICENCE = "see the data set's card on the Hub; COCO's, BLIP's and CC3M's pictures have terms of their own"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    first = annotation_files(path, FILES)[0]
    key = "id" if "id" in pq.read_schema(first).names else None
    return read_pictures(path, problems, "image", "conversations", key, _caption)


def _caption(turns) -> str | None:
    """The answer to "describe the picture"."""
    return turns[1].get("value") if turns is not None and len(turns) >= 2 else None
