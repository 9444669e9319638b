"""What the readers share: finding annotation files, their splits and layouts, names of parts, stored text."""

import csv
import re
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from modeling_seq2time.time_notation import escape

from ..fields import Malformed, get, malformed, opened, read_json
from ..items import INTERIM_MARK, DataError


_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validate", "validation"), "validation"
)


def annotation_files(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """
    The file itself, or every file below a folder whose name fits a pattern, sorted; if none does, the only one there of
    the right type.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: there is no such file or folder")
    suffixes = {Path(pattern).suffix for pattern in patterns}
    alike = [file for file in path.rglob("*") if file.suffix in suffixes and not file.name.endswith(_OURS)]
    alike = sorted(filter(Path.is_file, alike))
    found = [file for file in alike if any(fnmatchcase(file.name, pattern) for pattern in patterns)]
    if found or len(alike) == 1:
        return found or alike
    names = ", ".join(file.relative_to(path).as_posix() for file in alike[:5]) or "none of that type"
    raise DataError(f"{path}: expected annotations named {' or '.join(patterns)}, found {names}; name the file itself")


_OURS = (".lock.jsonl", ".checked.jsonl")  # what the doctor leaves beside annotations


def split_of(name: str, default: str = "train") -> str:
    """The split that a word or a file's name says: train, validation or test."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in _SPLITS:
            return _SPLITS[word]
    return default


def subset(row: dict, name: str) -> str:
    """The split that a field says, or `Malformed`."""
    value = get(row, name, str)
    return split_of(value, "") or malformed(f"field {name!r}: expected train, validation or test, found {value!r:.60}")


def read_list(path: Path) -> Iterator[tuple[str, object]]:
    """(place, row) of a JSON list; rows are counted from 0."""
    for number, row in enumerate(read_json(path, list)):
        yield f"{path.name}: row {number}", row


def read_database(path: Path) -> Iterator[tuple[str, str, object]]:
    """(place, id, entry) of ActivityNet's layout `{"database": {"<id>": {…}}}`, which YouCook2 and COIN share."""
    content = read_json(path, dict)
    database = content.get("database")
    if not isinstance(database, dict):
        raise DataError(f"{path}: expected an object 'database', found {', '.join(map(repr, content)) or 'nothing'}")
    for key, entry in database.items():
        yield f"{path.name}: {key}", key, entry


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """(place, row) of each row. A missing column makes the whole file unusable."""
    with opened(path, newline="") as lines:
        rows = csv.DictReader(lines)
        for column in columns:
            if column not in (rows.fieldnames or ()):
                raise DataError(f"{path}: expected a column {column!r}, found {', '.join(rows.fieldnames or ())}")
        for row in rows:
            yield f"{path.name}: line {rows.line_num}", row


def stored(plain: str) -> str:
    """
    Plain text as part of a turn: what looks like a time mark is escaped. Nothing escapes the marks that still lack the
    duration, which only readers write: text that already holds one is refused.
    """
    if INTERIM_MARK.search(plain):
        raise Malformed(f"expected text without interim time marks, found {INTERIM_MARK.search(plain)[0]!r}")
    return escape(plain)


def part_of(name: str) -> dict:
    """`whole`, `start` and `end` of a file named as part of a YouTube video: `[v_]<11 characters>_60.0_210.0`."""
    found = _PART.fullmatch(name.replace("\\", "/").rpartition("/")[2])
    if not found or float(found["start"]) >= float(found["end"]):
        return {}
    return {"whole": found["whole"], "start": float(found["start"]), "end": float(found["end"])}


_PART = re.compile(
    r"(?:v_)?(?P<whole>[A-Za-z0-9_-]{11})_(?P<start>\d+(?:\.\d+)?)_(?P<end>\d+(?:\.\d+)?)(?:\.\w*[A-Za-z]\w*)?",
    re.ASCII,
)


def checksum(*texts: str) -> int:
    """Of text, the same in every run (unlike `hash`)."""
    return zlib.crc32("\0".join(texts).encode("utf-8", "surrogatepass"))
