"""
ShareGPT4Video: `sharegpt4video_40k.jsonl`, one video per line:

    {"video_id": "…", "video_path": "panda/….mp4", "zip_folder": "panda_videos_1.zip",
     "captions": [{"idx": "1", "content": "…"}, …, {"idx": "-1", "content": "<of the whole video>"}]}

The caption `-1` answers a question of ours. The others describe slices; they become events only where `timestamp` gives
as many pairs of seconds, which the published file isn't known to do.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..fields import Malformed, get, identifier, kept, numbered, read_jsonl, span, text
from ..items import Event, Item, Problems
from .reading import annotation_files, checksum, stored


KIND = "videos"
FILES = ("sharegpt4video*.jsonl",)
TASKS = ("captioning",)
LICENCE = "CC BY-NC 4.0; videos: Panda-70M, Pexels, Pixabay, Mixkit, Ego4D, BDD100K"

_QUESTIONS = (
    "Describe this video in detail.",
    "What happens in this video? Give a detailed account.",
    "Write a detailed caption for this video.",
    "Tell me everything that can be seen in this video, from beginning to end.",
    "Please give a thorough description of the video and of how it changes.",
)


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        yield from kept(problems, partial(_item, problems), read_jsonl(file, problems))


def _item(problems: Problems, place: str, row: dict) -> Item:
    key, name = identifier(row, "video_id"), identifier(row, "video_path")
    captions = [(identifier(caption, "idx"), caption) for caption in get(row, "captions", list)]
    whole = [caption for number, caption in captions if number == "-1"]
    if len(whole) != 1:
        raise Malformed(f"field 'captions': expected one with idx '-1', found {len(whole)}")
    question = _QUESTIONS[checksum(key) % len(_QUESTIONS)]
    answer = stored(text(whole[0], "content"))
    slices = [(number, caption) for number, caption in captions if number != "-1"]
    windows = row.get("timestamp")
    has_windows = isinstance(windows, list) and len(windows) == len(slices) and all(map(_is_pair, windows))
    rows = zip(slices, windows, strict=True) if has_windows else ()
    return Item(
        key=key,
        names=tuple(dict.fromkeys((name, key))),
        place=place,
        events=[*kept(problems, _event, numbered(place, rows))],
        turns=[("user", question), ("assistant", answer)],
        task="captioning",
    )


def _event(place: str, number: int, row: tuple) -> Event:
    (key, caption), window = row
    return Event(text(caption, "content"), [span(window, "timestamp")], id=key)


def _is_pair(window) -> bool:
    return isinstance(window, list) and len(window) == 2 and all(isinstance(one, (int, float)) for one in window)
