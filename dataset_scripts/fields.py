"""JSON files and their fields, for sources and for predictions: what is wrong is named, with its place."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import isfinite, nan
from pathlib import Path

from .items import DataError, Problems


def read_json(path: Path, expected: type):
    """A JSON file whose top level is a dict or a list. A key that stands twice in an object is an error."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON: {error}") from error
    if not isinstance(content, expected):
        raise DataError(f"{path}: expected a JSON {_kind(expected)}, found a {_kind(type(content))}")
    return content


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of each line that isn't blank."""
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path.name}: line {number}", line.strip()


def read_jsonl(path: Path, problems: Problems) -> Iterator[tuple[str, dict]]:
    """(place, object) of each line. A line that is no JSON object is malformed."""
    for place, line in read_lines(path):
        try:
            row = json.loads(line, object_pairs_hook=_distinct)
        except ValueError as error:
            problems.add("malformed", place, f"expected a JSON object: {error}")
            continue
        if isinstance(row, dict):
            yield place, row
        else:
            problems.add("malformed", place, f"expected a JSON object, found a {_kind(type(row))}")


class Malformed(ValueError):
    """A row lacks a field or has a wrong one; readers count it and go on."""

    kind = "malformed"


class EmptyCaption(Malformed):
    kind = "empty caption"


def kept(problems: Problems, make: Callable, rows: Iterable[tuple]) -> Iterator:
    """What `make(place, …)` makes of each row `(place, …)`. A row at fault is counted and left out, alone."""
    for place, *fields in rows:
        try:
            made = make(place, *fields)
        except Malformed as error:
            problems.add(error.kind, place, str(error))
        else:
            yield made


def numbered(place: str, rows: Iterable) -> Iterator[tuple]:
    """(place, number, row) of the events of an item; they are counted from 0."""
    for number, row in enumerate(rows):
        yield f"{place}, event {number}", number, row


def same_length(**lists: list):
    """`Malformed` unless lists that belong together have equally many entries."""
    if len({len(one) for one in lists.values()}) > 1:
        found = ", ".join(f"{len(one)} {name}" for name, one in lists.items())
        raise Malformed(f"expected as many {' as '.join(lists)}, found {found}")


def get(row: dict, name: str, kind: type | tuple[type, ...]):
    """A field of a row, or `Malformed` that names it."""
    if not isinstance(row, dict):
        raise Malformed(f"expected an object with a field {name!r}, found a {_kind(type(row))}")
    if name not in row:
        raise Malformed(f"expected a field {name!r}, found {', '.join(map(repr, row)) or 'none'}")
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Malformed(f"field {name!r}: expected a {_kind(kind)}, found {value!r:.60}")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Malformed(f"field {name!r}: expected text, found half of a surrogate pair: {value!r:.60}")
    return value


def text(row: dict, name: str) -> str:
    """A caption, without the space around it."""
    value = get(row, name, str).strip()
    if not value:
        raise EmptyCaption(f"field {name!r}: expected text, found none")
    return value


def identifier(row: dict, name: str) -> str:
    """An id, written as text or as a whole number."""
    return str(get(row, name, (str, int))).strip() or malformed(f"field {name!r}: expected an id, found none")


def seconds(value, name: str, what: str = "seconds") -> float:
    """A number of seconds (or of what else counts from 0), written as a number or as text."""
    found = _float(value)
    if not 0 <= found < float("inf"):
        raise Malformed(f"field {name!r}: expected {what} from 0, found {value!r:.60}")
    return found


def number(value, name: str) -> float:
    """Any number, written as a number or as text."""
    found = _float(value)
    if not isfinite(found):
        raise Malformed(f"field {name!r}: expected a number, found {value!r:.60}")
    return found


def span(value, name: str) -> tuple[float, float]:
    """A pair of seconds. Whether it is in order and inside its video is the doctor's to say."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise Malformed(f"field {name!r}: expected [start, end], found {value!r:.60}")
    return seconds(value[0], name), seconds(value[1], name)


@contextmanager
def opened(path: Path, **options):
    try:
        with path.open(encoding="utf-8-sig", **options) as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8: {error}") from error


def _distinct(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return found


def _float(value) -> float:
    """NaN for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return nan


def malformed(message: str):
    raise Malformed(message)


def _kind(kind) -> str:
    names = {dict: "object", list: "list", str: "text", float: "number", int: "number", tuple: "list"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(dict.fromkeys(names.get(one, one.__name__) for one in kinds))
