"""
General instruction data, which T3 mixes with its questions: a `.json` list, `.jsonl` or `.parquet` of dialogues in
LLaVA's form (`conversations` of {from: human or gpt, value}), in chat form (`messages` of {role, content}), or in
Alpaca's (`instruction`, `input`, `output`). Dialogues about a picture, and those with a system message, are problems.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from .fields import EmptyCaption, Malformed, get, kept, read_jsonl
from .items import DataError, Problems
from .sources.reading import read_list, stored


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SEEN, MEDIA = ("<image>", "<video>", "<audio>"), ("image", "images", "video", "videos", "audio", "audios")


class NotText(Malformed):
    kind = "about a picture"


def read_instructions(path: Path, problems: Problems) -> Iterator[list[dict]]:
    """The messages of each dialogue, in the file's order."""
    if path.suffix == ".parquet":
        found = (row for batch in pq.ParquetFile(path).iter_batches() for row in batch.to_pylist())
        rows = ((f"{path.name}: row {number}", row) for number, row in enumerate(found))
    elif path.suffix == ".jsonl":
        rows = read_jsonl(path, problems)
    elif path.suffix == ".json":
        rows = read_list(path)
    else:
        raise DataError(f"{path}: expected a .json, .jsonl or .parquet file of dialogues")
    return kept(problems, _messages, rows)


def _messages(place: str, row: dict) -> list[dict]:
    if not isinstance(row, dict):
        raise Malformed(f"expected a JSON object, found {row!r:.60}")
    if row.get("conversations") is not None:
        turns = [(get(turn, "from", str), get(turn, "value", str)) for turn in get(row, "conversations", list)]
    elif row.get("messages") is not None:
        turns = [(get(turn, "role", str), get(turn, "content", str)) for turn in get(row, "messages", list)]
    else:
        asked = "\n\n".join(
            part for part in (get(row, "instruction", str), get({"input": ""} | row, "input", str)) if part
        )
        turns = [("user", asked), ("assistant", get(row, "output", str))]
    roles = [ROLES.get(role, role) for role, _ in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise Malformed(f"expected user and assistant in turns, found {', '.join(roles) or 'none'}")
    if any(map(row.get, MEDIA)) or any(mark in said for _, said in turns for mark in SEEN):
        raise NotText("expected a dialogue that needs no picture, found one that does")
    if not all(said.strip() for _, said in turns):
        raise EmptyCaption("expected text in every turn, found none")
    return [{"role": role, "content": stored(said.strip())} for role, (_, said) in zip(roles, turns, strict=True)]
