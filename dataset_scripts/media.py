"""
Where a source's files lie: one place for builders, training and evaluation.

`Finder(folder).find(item)` finds the file of a clip or video by rules that fit what people have on disk, and counts
which rule found how many. `read_picture(folder, media)` and `video_path(folder, media)` open what a pool refers to.
"""

import glob
import io
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from PIL import Image

from .items import DataError, Item


PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
VIDEOS = frozenset((".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts", ".wmv", ".3gp"))

BAD_PICTURE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what opening one may raise
# Of H.264, whose bytes would change with the number of threads, and from call to call with x264's macroblock tree: it
# reads memory that it never wrote (seen with MALLOC_PERTURB_).
SAME_BYTES = {"threads": "1", "x264-params": "mbtree=0"}


@dataclass(slots=True)
class Found:
    """A file, relative to the folder, and the part of it that the sequence is; `None` for its own start or end."""

    media: str
    start: float | None = None
    end: float | None = None


def parquet_cell(media: str) -> tuple[str, str, int] | None:
    """Shard, column and row of `shard.parquet#column#row`; `None` of a path, which may hold a `#` too."""
    found = re.fullmatch(r"(.+\.parquet)#([^#]+)#(\d+)", media)
    return (found[1], found[2], int(found[3])) if found else None


def picture_bytes(cell) -> bytes:
    """Of a picture in Parquet: `datasets`' own {bytes, path}, or plain bytes."""
    return (cell if isinstance(cell, bytes) else (cell or {}).get("bytes")) or b""


class Ambiguous(ValueError):
    """Several files fit an item equally well."""


@dataclass
class Finder:
    """
    Finds files below a folder, in the order of these rules:

    1. the path that the annotation names; of a user's own folder nothing else
    2. beside it, with a video's extension where it names none, or with another one
    3. a file of that name in any folder below (class folders, flat folders, splits); of several the one in a folder
       called like the clip's label (spaces or `_`) or its split
    4. the uncut video of which the id names a part: `ID_60.0_210.0` is second 60 to 210 of `ID`
    """

    folder: Path
    counts: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self._files: dict[str, list[PurePosixPath]] = defaultdict(list)
        self._paths, seen = set(), {os.path.realpath(self.folder)}
        for root, folders, names in os.walk(self.folder, followlinks=True):
            # A link to a folder that was seen, perhaps one above, leads to nothing new.
            folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(root, name)) not in seen)
            seen |= {os.path.realpath(os.path.join(root, name)) for name in folders}
            for name in sorted(names):
                path = PurePosixPath(os.path.relpath(os.path.join(root, name), self.folder).replace(os.sep, "/"))
                if path.suffix.lower() in VIDEOS | PICTURES:
                    self._paths.add(str(path))
                    self._files[path.stem].append(path)

    def find(self, item: Item) -> Found | None:
        """The item's file, `None` if there is none, `Ambiguous` if several fit."""
        for name in item.names:
            path, rule = self._lookup(name, item)
            if path:
                self.counts[rule] += 1
                is_part_of_named = not item.whole and item.start is not None
                return Found(path, item.start, item.end) if is_part_of_named else Found(path)
        if item.whole:
            path, _ = self._lookup(item.whole, item)
            if path:
                self.counts["cut out of the whole video"] += 1
                return Found(path, item.start, item.end)
        self.counts["not found"] += 1
        return None

    def _lookup(self, name: str, item: Item) -> tuple[str | None, str]:
        path = PurePosixPath(name.replace("\\", "/"))
        if str(path) in self._paths:
            return str(path), "path as annotated"
        if item.exact:
            return None, ""
        kind = PICTURES if path.suffix.lower() in PICTURES else VIDEOS
        is_file = path.suffix.lower() in kind
        stem = path.stem if is_file else path.name  # an id may hold dots: x_60.0_210.0
        known = [one for one in self._files.get(stem, ()) if one.suffix.lower() in kind]
        beside = [one for one in known if one.parent == path.parent]
        if len(beside) == 1:
            return str(beside[0]), "with another extension" if is_file else "with an extension"
        if len(known) > 1:
            wanted = {word for word in (item.label, item.label.replace(" ", "_"), item.split, path.parent.name) if word}
            known = [one for one in known if wanted & set(one.parts)] or known
            labelled = [one for one in known if one.parent.name.replace("_", " ") == item.label]
            known = labelled if len(labelled) == 1 else known
        if len(known) > 1:
            raise Ambiguous(f"{name!r} fits {len(known)} files: {', '.join(map(str, known[:3]))}")
        return (str(known[0]), "name in another folder") if known else (None, "")


def read_picture(folder: Path, media: str) -> Image.Image:
    """A pool's picture, RGB: `folder/1.jpg`, or `shard.parquet#column#row`."""
    try:
        with Image.open(_picture_file(folder, media)) as picture:
            return picture.convert("RGB")
    except BAD_PICTURE as error:
        raise DataError(f"{folder / media}: expected a readable picture: {error}") from error


def video_path(folder: Path, media: str) -> Path:
    path = folder / media
    if not path.is_file():
        raise DataError(f"{path}: there is no such video; is {folder} the folder that the pool was built from?")
    return path


def _picture_file(folder: Path, media: str):
    cell = parquet_cell(media)
    if not cell:
        return folder / media
    shard, column, row = cell
    picture = picture_bytes(_shard(str(folder / shard), column)[row][column])
    if not picture:
        raise OSError("the row holds no picture")
    return io.BytesIO(picture)


@lru_cache(maxsize=512)
def _shard(path: str, column: str):
    """A Parquet file's pictures as a memory-mapped Arrow table, which `datasets` makes once and keeps in its cache."""
    from datasets import Image as ImageFeature  # noqa: PLC0415  (only where pictures lie in Parquet)
    from datasets import load_dataset  # noqa: PLC0415

    if not os.path.isfile(path):
        raise OSError("there is no such file")
    rows = load_dataset("parquet", data_files=glob.escape(path), split="train", columns=[column])
    return (
        rows.cast_column(column, ImageFeature(decode=False))
        if isinstance(rows.features[column], ImageFeature)
        else rows
    )
