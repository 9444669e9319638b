"""
Your own pictures, clips or videos: `captions.jsonl` beside them, one object per line.

    {"file": "a.jpg", "caption": "a red kite over a beach"}
    {"file": "b.mp4", "caption": "a man juggles three balls", "label": "juggling balls"}
    {"file": "c.mp4", "duration": 61.2, "events": [{"start": 3.5, "end": 9.0, "caption": "a door opens"}]}

Optional: `id` (default: the file), `split` (train, validation, test), `start` and `end` (the part of the file that is
meant), `duration` (of that part), `windows` of an event that happens several times ([[3.5, 9.0], [20, 24]] in place
of start and end). A `metadata.jsonl` with `file_name` and `text`, as `datasets`' image folders have, is read too.
Several such files may lie below one folder.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..fields import get, identifier, kept, numbered, read_jsonl, seconds, span, text
from ..items import Event, Item, Problems
from .reading import annotation_files, subset


KIND = "any"
FILES = ("captions.jsonl", "metadata.jsonl")
TASKS = ("dense_captioning", "grounding")
LICENCE = "the user's own"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    root = path if path.is_dir() else path.parent
    for file in annotation_files(path, FILES):
        below = file.parent.relative_to(root).as_posix()
        lead = "" if below == "." else f"{below}/"
        rows = ((f"{lead}{line}", row, lead) for line, row in read_jsonl(file, problems))
        yield from kept(problems, partial(_item, problems), rows)


def _item(problems: Problems, place: str, row: dict, lead: str) -> Item:
    name = lead + text(row, "file" if "file" in row else "file_name")
    words = {field: get(row, field, str).strip() for field in ("caption", "text", "label") if field in row}
    events = numbered(place, get(row, "events", list)) if "events" in row else ()
    return Item(
        key=identifier(row, "id") if "id" in row else name,
        names=(name,),
        place=place,
        split=subset(row, "split") if "split" in row else "train",
        caption=words.get("caption") or words.get("text") or "",
        label=words.get("label", ""),
        events=[*kept(problems, _event, events)],
        exact=True,
        **{field: seconds(row[field], field) for field in ("duration", "start", "end") if field in row},
    )


def _event(place: str, number: int, event: dict) -> Event:
    caption = text(event, "caption")
    if "windows" in event:
        windows = [span(window, "windows") for window in get(event, "windows", list)]
    else:
        windows = [tuple(seconds(get(event, side, (int, float)), side) for side in ("start", "end"))]
    return Event(caption, windows, id=str(number))
