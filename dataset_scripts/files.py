"""Atomic writes: a file or folder is there whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; the file or folder gets its own name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)


def remove_parts(path: Path):
    """Removes what a process that was killed while it wrote left of a file or folder."""
    for part in path.parent.iterdir() if path.parent.is_dir() else ():
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.part", part.name):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


@contextmanager
def atomic_writer(path: Path):
    """A text file to write."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as lines:
        yield lines
