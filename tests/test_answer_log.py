"""The folder of a run: whole lines only, whatever was killed, and never answers of two settings."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dataset_scripts.items import DataError
from evaluation import answer_log
from evaluation.answer_log import AnswerLog, claim


def row(video, task="dvc", text="ü – done"):
    return {"video": video, "task": task, "length": 1.5, "answers": [{"moments": [], "text": text, "failure": None}]}


def written(folder, process, *rows):
    with closing(AnswerLog(folder)) as log:
        log.open(process)
        log.append(list(rows))


def test_rows_of_all_processes_are_read(tmp_path):
    written(tmp_path, 0, row("a"), row("a", "tvg"))
    written(tmp_path, 11, row("b", text="line\nline\u2028\r"))
    assert AnswerLog(tmp_path).read() == {
        ("a", "dvc"): row("a"),
        ("a", "tvg"): row("a", "tvg"),
        ("b", "dvc"): row("b", text="line\nline\u2028\r"),
    }
    written(tmp_path, 0)
    written(tmp_path, 12, row("a", text="later"))
    assert AnswerLog(tmp_path).read()["a", "dvc"] == row("a")  # what came first stays


def test_new_lines_of_all_processes_are_counted_once(tmp_path):
    written(tmp_path, 0, row("a"), row("b"))
    (tmp_path / "answers-00007.jsonl").write_text('{"video": "' + 300 * "ü")
    log = AnswerLog(tmp_path)
    assert log.count() == 2 and log.count() == 0
    written(tmp_path, 0, row("c"))
    written(tmp_path, 1, row("d"), row("e"))
    assert log.count() == 3 and log.count() == 0
    first, log = log, AnswerLog(tmp_path)
    assert len(log.read()) == 5 and log.count() == 0
    written(tmp_path, 7, row("f"))  # over what was left of a longer line
    assert first.count() == 1
    with (tmp_path / "answers-00001.jsonl").open("ab") as file:
        file.write(b'{"vid')  # half a row so far
        file.flush()
        assert log.count() == 1
        file.write(b'eo": "g"}\n')
    assert log.count() == 1 and log.count() == 0


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_line_is_dropped_and_written_over(tmp_path, kept):
    written(tmp_path, 0, row("a"), row("b"))
    file = tmp_path / "answers-00000.jsonl"
    first, second, _ = file.read_bytes().split(b"\n")
    file.write_bytes(first + b"\n" + second[:kept])
    assert set(AnswerLog(tmp_path).read()) == {("a", "dvc")}
    written(tmp_path, 1, row("c"))  # another process leaves it alone
    assert file.read_bytes().endswith(second[:kept]) and len(AnswerLog(tmp_path).read()) == 2
    written(tmp_path, 0, row("b"))
    assert file.read_bytes() == first + b"\n" + second + b"\n"
    assert set(AnswerLog(tmp_path).read()) == {("a", "dvc"), ("b", "dvc"), ("c", "dvc")}


SECOND = """
import sys
from pathlib import Path
from evaluation.answer_log import AnswerLog

AnswerLog(Path(sys.argv[1])).open(int(sys.argv[2]))
"""


def test_a_second_run_into_a_folder_is_refused(tmp_path):
    def second(process):
        arguments = [sys.executable, "-c", SECOND, str(tmp_path), str(process)]
        root = Path(__file__).parent.parent
        return subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=False)

    file = tmp_path / "answers-00000.jsonl"
    with closing(AnswerLog(tmp_path)) as log:
        log.open(0)
        log.append([row("a")])
        os.write(log._file, b'{"vid')  # as if in the midst of a row
        refused = second(0)
        assert refused.returncode == 1 and f"DataError: {tmp_path}: another run writes" in refused.stderr
        assert file.read_bytes().endswith(b'{"vid') and set(log.read()) == {("a", "dvc")}
        assert second(1).returncode == 0  # another process of this run
    assert second(0).returncode == 0 and file.read_bytes().endswith(b"}\n")


def test_a_refused_log_can_be_closed_and_opened_again(tmp_path):
    first, later = AnswerLog(tmp_path), AnswerLog(tmp_path)
    later.close()  # was never open
    first.open(0)
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    for _ in range(2):
        with pytest.raises(DataError, match="another run writes its answers there"):
            later.open(0)
    assert before is None or set(os.listdir("/proc/self/fd")) == before
    first.close()
    first.close()
    with closing(later):
        later.open(0)
        later.append([row("a")])


def test_a_system_without_locks_goes_without(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    if answer_log.fcntl:
        monkeypatch.setattr(answer_log.fcntl, "flock", unknown)
        written(tmp_path, 0, row("a"))
    monkeypatch.setattr(answer_log, "fcntl", None)
    written(tmp_path, 0, row("b"))
    monkeypatch.setattr(os, "ftruncate", lambda *_: pytest.fail("nothing is torn"))
    written(tmp_path, 0, row("c"))
    written(tmp_path, 1)
    assert len(AnswerLog(tmp_path).read()) == 3


def test_a_broken_line_inside_is_named(tmp_path):
    (tmp_path / "answers-00000.jsonl").write_text('{"video": "a", "task": "dvc"}\n{"vid\n{}\n')
    with pytest.raises(DataError, match=r"answers-00000\.jsonl: line 2: expected an answer"):
        AnswerLog(tmp_path).read()


def test_rows_are_one_write(tmp_path, monkeypatch):
    log, calls, write = AnswerLog(tmp_path), [], os.write
    log.open(0)
    monkeypatch.setattr(os, "write", lambda file, content: calls.append(content) or write(file, content))
    log.append([row("a"), row("b")])
    assert len(calls) == 1 and calls[0].count(b"\n") == 2
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:9]))
    with pytest.raises(OSError, match="in part only"):
        log.append([row("c")])
    log.close()


def test_other_settings_are_refused(tmp_path):
    claim(tmp_path / "run", {"model": "a", "frames": 8})
    claim(tmp_path / "run", {"model": "a", "frames": 8})
    with pytest.raises(DataError, match=r"of other settings: frames 8, not 9; window None, not 2\.5\. Choose"):
        claim(tmp_path / "run", {"model": "a", "frames": 9, "window": 2.5})
    with pytest.raises(DataError, match="frames 8, not None"):
        claim(tmp_path / "run", {"model": "a"})
    (tmp_path / "run" / "settings.json").write_text("{")
    with pytest.raises(DataError, match=r"settings\.json: expected the settings of an earlier run"):
        claim(tmp_path / "run", {"model": "a", "frames": 8})
    (tmp_path / "run" / "settings.json").unlink()
    written(tmp_path / "run", 0, row("a"))
    with pytest.raises(DataError, match="found answers without settings"):
        claim(tmp_path / "run", {"model": "a", "frames": 8})
