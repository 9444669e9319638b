"""
Your own pictures, clips or videos: `captions.jsonl` beside them, one object per line.

    {"file": "a.jpg", "caption": "a red kite over a beach"}
    {"file": "b.mp4", "caption": "a man juggles three balls", "label": "juggling balls"}
    {"file": "c.mp4", "duration": 61.2, "events": [{"start": 3.5, "end": 9.0, "caption": "a door opens"}]}

Optional: `id` (default: the file), `split` (train, validation, test), `duration`, `start` and `end` (the part of the
file that is meant), `windows` of an event that happens several times ([[3.5, 9.0], [20, 24]] in place of start and
end). A `metadata.jsonl` with `file_name` and `text`, as `datasets`' image folders have, is read too. Several such
files may lie below one folder.
"""

from collections.abc import Iterator
from pathlib import Path

from ..items import Event, Item, Problems
from .reading import Malformed, annotation_files, get, read_jsonl, seconds, span, split_of


KIND = "any"
FILES = ("captions.jsonl", "metadata.jsonl")
TASKS = ("dense_captioning", "grounding")
LICENCE = "the user's own"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    root = path if path.is_dir() else path.parent
    for file in annotation_files(path, FILES):
        below = file.parent.relative_to(root)
        for line, row in read_jsonl(file, problems):
            place = line if below == Path() else f"{below.as_posix()}/{line}"
            try:
                yield _item(row, place, below, problems)
            except Malformed as error:
                problems.add("malformed", place, str(error))


def _item(row: dict, place: str, below: Path, problems: Problems) -> Item:
    name = (below / get(row, "file" if "file" in row else "file_name", str)).as_posix()
    optional = {field: seconds(row[field], field) for field in ("duration", "start", "end") if field in row}
    return Item(
        key=str(row.get("id", name)),
        names=(name,),
        place=place,
        split=split_of(get(row, "split", str), "") or _no_split(row) if "split" in row else "train",
        caption=get(row, "caption" if "caption" in row else "text", str).strip()
        if {"caption", "text"} & set(row)
        else "",
        label=get(row, "label", str).strip() if "label" in row else "",
        events=[event for event in (_event(*one, place, problems) for one in _numbered(row)) if event],
        **optional,
    )


def _numbered(row: dict):
    return enumerate(get(row, "events", list)) if "events" in row else ()


def _event(number: int, event: dict, place: str, problems: Problems) -> Event | None:
    place = f"{place}, event {number}"
    try:
        caption = get(event, "caption", str).strip()
        windows = (
            [span(window, "windows") for window in get(event, "windows", list)]
            if "windows" in event
            else [
                (seconds(get(event, "start", (int, float)), "start"), seconds(get(event, "end", (int, float)), "end"))
            ]
        )
    except Malformed as error:
        problems.add("malformed", place, str(error))
        return None
    if not caption:
        problems.add("empty caption", place, "expected what happens, found an empty caption")
        return None
    return Event(caption, windows, id=str(number))


def _no_split(row: dict):
    raise Malformed(f"field 'split': expected train, validation or test, found {row['split']!r}")
