"""
The folder of a run: `settings.json` and one `answers-<process>.jsonl` per process, to which whole lines are appended,
so that a run can be killed at any time and goes on with any number of processes.
"""

import json
import os
from pathlib import Path

from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError


try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


class AnswerLog:
    """Rows `{"video", "task", "length", "answers"}`, one for each video and task."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: int | None = None
        self._counted: dict[Path, int] = {}  # bytes of each file, up to which its lines are known

    def read(self) -> dict[tuple[str, str], dict]:
        """By video and task. A last line without its end, at which a run was killed, isn't there."""
        rows = {}
        for file in sorted(self.folder.glob("answers-*.jsonl")):
            content = file.read_bytes()
            *lines, torn = content.split(b"\n")
            self._counted[file] = len(content) - len(torn)
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    rows.setdefault((row["video"], row["task"]), row)
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{file}: line {number}: expected an answer of an earlier run: {error}") from error
        return rows

    def open(self, process: int):
        """
        To append, until `close`; what a killed run left of a line goes away. A second run is refused: both have a
        process of this number, and so the same file.
        """
        path = self.folder / f"answers-{process:05d}.jsonl"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise DataError(f"{self.folder}: another run writes its answers there") from error
        except OSError:
            pass  # a file system without locks
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, whole)

    def close(self):
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def append(self, rows: list[dict]):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if lines and os.write(self._file, lines) != len(lines):
            raise OSError(f"{self.folder}: an answer was written in part only; is the disk full?")

    def count(self) -> int:
        """Lines of all processes that came since the last `read` or `count`."""
        lines = 0
        for file in self.folder.glob("answers-*.jsonl"):
            with file.open("rb") as content:
                content.seek(self._counted.get(file, 0))
                new = content.read()
            lines += new.count(b"\n")
            self._counted[file] = self._counted.get(file, 0) + new.rfind(b"\n") + 1
        return lines


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
