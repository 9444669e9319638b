"""The folder of a run: whole lines only, whatever was killed, and never answers of two settings."""

import os

import pytest

from dataset_scripts.items import DataError
from evaluation.answer_log import AnswerLog, claim


def row(video, task="dvc", text="ü – done"):
    return {"video": video, "task": task, "length": 1.5, "answers": [{"moments": [], "text": text, "failure": None}]}


def written(folder, process, *rows):
    log = AnswerLog(folder)
    log.open(process)
    log.append(list(rows))
    return log


def test_rows_of_all_processes_are_read(tmp_path):
    log = written(tmp_path, 0, row("a"), row("a", "tvg"))
    written(tmp_path, 11, row("b", text="line\nline\u2028\r"))
    assert AnswerLog(tmp_path).read() == {
        ("a", "dvc"): row("a"),
        ("a", "tvg"): row("a", "tvg"),
        ("b", "dvc"): row("b", text="line\nline\u2028\r"),
    }
    assert log.count() == 3
    log.append([])
    written(tmp_path, 12, row("a", text="later"))
    assert log.count() == 4 and log.read()["a", "dvc"] == row("a")  # what came first stays


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
