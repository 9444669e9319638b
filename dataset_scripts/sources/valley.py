"""
Valley-Instruct-65k: `valley_instruct_65k.json` (older: `Valley_instruct_73k.json`), a list of dialogues:

    {"source": "VATEX", "v_id": "<11 characters>_000001_000011", "video": "<11 characters>.mp4", "conversations": [
        {"from": "human", "value": "<video>\\n…"}, {"from": "gpt", "value": "…"}]}

`source` is VATEX or jukinmedia; `<video>` leads or trails; `.mp4` may be absent. VATEX' `v_id` names second 1 to 11 of
a YouTube video, and its `video` the whole of it. A video may have several dialogues: keys hold a checksum of the text.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..fields import EmptyCaption, Malformed, get, identifier, kept
from ..items import Item, Problems
from .reading import annotation_files, checksum, part_of, read_list, stored


KIND = "videos"
FILES = ("[Vv]alley*.json",)
TASKS = ("conversation",)
LICENCE = "Apache-2.0 by its card, CC BY-NC 4.0 by its authors' repository; videos: VATEX, jukinmedia"

_ROLES = {"human": "user", "gpt": "assistant"}
_PLACEHOLDER = re.compile(r"^\s*<video>|<video>\s*$")


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        yield from kept(problems, _item, read_list(file))


def _item(place: str, row: dict) -> Item:
    video, name = identifier(row, "v_id"), identifier(row, "video")
    turns = [_turn(turn) for turn in get(row, "conversations", list)]
    roles = [role for role, _ in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise Malformed(f"field 'conversations': expected human and gpt in turns, found {', '.join(roles) or 'none'}")
    part = part_of(video)
    is_whole = part and re.sub(r"\.\w+$", "", name.rpartition("/")[2]) in (part["whole"], f"v_{part['whole']}")
    return Item(
        key=f"{video}#{checksum(*(said for _, said in turns)):08x}",
        names=(video,) if is_whole else tuple(dict.fromkeys((name, video))),
        place=place,
        label=identifier(row, "source"),
        turns=turns,
        task="conversation",
        **part,
    )


def _turn(turn: dict) -> tuple[str, str]:
    role = get(turn, "from", str)
    if role not in _ROLES:
        raise Malformed(f"field 'from': expected human or gpt, found {role!r:.60}")
    said = _PLACEHOLDER.sub("", get(turn, "value", str)).strip()
    if not said:
        raise EmptyCaption(f"field 'value': expected what the {role} says, found no text")
    return _ROLES[role], stored(said)
