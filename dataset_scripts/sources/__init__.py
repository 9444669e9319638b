"""
Where captions come from: one module per source, named as on the command line. A module has `KIND` (pictures, clips,
videos, or any), `FILES` (patterns of its annotations), `TASKS`, `LICENCE` and `read(path, problems, **options)`.
"""

import hashlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import parse_qsl

from ..items import DataError, Item, Problems
from ..media import PICTURES, parquet_cell
from .reading import annotation_files


_NO_SOURCES = {"reading", "miniworld_drawing", "parquet"}


def names() -> list[str]:
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _NO_SOURCES)


@dataclass
class Source:
    """
    A source at a place: `READER=PATH`, a folder or a file, or a data set's repository on the Hub, with `?option=value`.
    `READER:ALIAS=PATH` tells several places of one reader apart; its name is then `reader_alias`.
    """

    reader: str
    name: str
    path: Path
    module: ModuleType
    revision: str = ""  # of a repository
    repository: str = ""
    options: dict = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Below which its media lie, unless another folder is named."""
        return self.path if self.path.is_dir() else self.path.parent

    def read(self, problems: Problems) -> Iterator[Item]:
        return self.module.read(self.path, problems, **self.options)

    def kind(self, item: Item) -> str:
        """pictures, clips or videos."""
        if self.module.KIND != "any":
            return self.module.KIND
        if parquet_cell(item.names[0]) or PurePosixPath(item.names[0]).suffix.lower() in PICTURES:
            return "pictures"
        return "videos" if item.events or item.turns else "clips"

    @cached_property
    def annotations(self) -> dict[str, str]:
        """SHA-256 of each annotation file; of Parquet shards, which hold the media too, name and size."""
        files = annotation_files(self.path, self.module.FILES)
        return {file.relative_to(self.folder).as_posix(): _digest(file) for file in files}


def open_source(name: str, path: str) -> Source:
    """`path` is local, or `owner/name[@revision]` of a data set on the Hub, which is then fetched (once, resumably)."""
    reader, _, alias = name.partition(":")
    if reader not in names():
        raise DataError(f"unknown source {reader!r}, expected one of {', '.join(names())}")
    name = f"{reader}_{alias}" if alias else reader
    path, _, query = path.partition("?")
    options = dict(parse_qsl(query)) if query else {}
    module = importlib.import_module(f".{reader}", __name__)
    known = set(inspect.signature(module.read).parameters) - {"path", "problems"}
    if set(options) - known:
        raise DataError(
            f"{reader} has no option {', '.join(set(options) - known)}, it has {', '.join(sorted(known)) or 'none'}"
        )
    if Path(path).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", path):
        if not Path(path).exists():
            raise DataError(f"{path}: there is no such file or folder, and it is no repository's name OWNER/NAME")
        return Source(reader, name, Path(path), module, options=options)

    from huggingface_hub import snapshot_download  # noqa: PLC0415  (only for the Hub)
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    repository, _, revision = path.partition("@")
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{path}: no such local path, and the Hub didn't give a data set of that name: {error}"
        ) from error
    return Source(reader, name, folder, module, revision=folder.name, repository=repository, options=options)


def parse_source(text: str) -> Source:
    """`SOURCE=PATH` of the command line."""
    name, equals, path = text.partition("=")
    if not equals:
        raise DataError(f"--source {text}: expected SOURCE=PATH with SOURCE one of {', '.join(names())}")
    return open_source(name, path)


def _digest(file: Path) -> str:
    if file.suffix == ".parquet":
        return f"{file.stat().st_size} bytes"
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
