"""
Any captioned pictures in Parquet, local or on the Hub, with named columns:

    --source 'hub_images=OWNER/NAME?image=image&caption=text'
    --source 'hub_images=FOLDER?image=jpg&caption=txt&key=id'
"""

from collections.abc import Iterator
from pathlib import Path

from ..items import Item, Problems
from .parquet import read_pictures


KIND = "pictures"
FILES = ("*.parquet",)
TASKS = ("iig", "iic", "alr")
LICENCE = "see the data set's card"


def read(
    path: Path, problems: Problems, image: str = "image", caption: str = "caption", key: str | None = None
) -> Iterator[Item]:
    return read_pictures(path, problems, image, caption, key, _text)


def _text(value) -> str | None:
    """Several captions of one picture: the first."""
    return (value[0] if value else "") if isinstance(value, list) else value
