"""
TempCompass, multiple choice: `questions/multi-choice.json`, videos `<id>.mp4`:

    {"<id>": {"<dimension>": [{"question": "What …?\\nA. …\\nB. …", "answer": "B. …"}]}}

Read like a source of `dataset_scripts`; each question is an event without times.
"""

from collections.abc import Iterator
from pathlib import Path

from dataset_scripts.fields import get, kept, numbered, read_json, text
from dataset_scripts.items import Event, Item, Problems
from dataset_scripts.sources.reading import annotation_files


KIND = "videos"
FILES = ("multi-choice.json",)
TASKS = ("choice",)
LICENCE = "CC BY-NC 4.0; videos: their owners'"


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        for video, rows in _videos(file, problems):
            events = [Event(row["question"], [], id=key) for key, row in rows]
            yield Item(video, (video,), f"{file.name}: {video}", "test", events=events)


def right_answers(path: Path) -> dict[str, dict]:
    """By the questions' ids."""
    files = annotation_files(path, FILES)
    return {key: row for file in files for _, rows in _videos(file, Problems()) for key, row in rows}


def _videos(file: Path, problems: Problems) -> Iterator[tuple[str, list[tuple[str, dict]]]]:
    for video, content in read_json(file, dict).items():
        place, rows, known = f"{file.name}: {video}", [], set()
        for dimension in content if isinstance(content, dict) else ("",):
            for asked in kept(problems, _asked, [(place, content, dimension)]):
                for key, row in kept(problems, _row, ((*one, video, dimension) for one in numbered(place, asked))):
                    if (dimension, row["question"]) in known:
                        problems.add("duplicate id", place, f"{dimension}: {row['question']!r:.60} was there before")
                        continue
                    known.add((dimension, row["question"]))
                    rows.append((key, row))
        yield video, rows


def _asked(place: str, content: dict, dimension: str) -> list:
    return get(content, dimension, list)


def _row(place: str, number: int, row: dict, video: str, dimension: str) -> tuple[str, dict]:
    key = f"{video}/{dimension}/{number}"
    return key, {"dimension": dimension, "question": text(row, "question"), "answer": text(row, "answer")}
