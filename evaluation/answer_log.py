"""
The folder of a run: `settings.json` and one `answers-<process>.jsonl` per process, to which whole lines are appended,
so that a run can be killed at any time and goes on with any number of processes.
"""

import json
import os
from pathlib import Path

from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError


class AnswerLog:
    """Rows `{"video", "task", "length", "answers"}`, one for each video and task."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: int | None = None

    def read(self) -> dict[tuple[str, str], dict]:
        """By video and task. A last line without its end, at which a run was killed, isn't there."""
        rows = {}
        for file in sorted(self.folder.glob("answers-*.jsonl")):
            *lines, _ = file.read_bytes().split(b"\n")
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    rows.setdefault((row["video"], row["task"]), row)
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{file}: line {number}: expected an answer of an earlier run: {error}") from error
        return rows

    def open(self, process: int):
        """To append; what a killed run left of a line goes away."""
        path = self.folder / f"answers-{process:05d}.jsonl"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content = path.read_bytes()
        os.ftruncate(self._file, content.rfind(b"\n") + 1)

    def append(self, rows: list[dict]):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if lines and os.write(self._file, lines) != len(lines):
            raise OSError(f"{self.folder}: an answer was written in part only; is the disk full?")

    def count(self) -> int:
        """Lines of all processes."""
        return sum(file.read_bytes().count(b"\n") for file in self.folder.glob("answers-*.jsonl"))


def claim(folder: Path, settings: dict):
    """Notes the settings in the folder, or refuses one that holds answers of other settings."""
    path = folder / "settings.json"
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: expected the settings of an earlier run: {error}") from error
        changed = [name for name in {**known, **settings} if known.get(name) != settings.get(name)]
        if changed:
            listed = "; ".join(f"{name} {known.get(name)!r}, not {settings.get(name)!r}" for name in changed)
            raise DataError(f"{folder} holds answers of other settings: {listed}. Choose another --output or remove it")
        return
    if any(folder.glob("answers-*.jsonl")):
        raise DataError(f"{folder}: expected an empty folder or one of an earlier run, found answers without settings")
    with atomic_writer(path) as lines:
        lines.write(json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
