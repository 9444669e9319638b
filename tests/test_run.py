"""The runner on a mini world: once through, killed and resumed, on two processes, with videos missing."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dataset_scripts import command as script
from dataset_scripts.items import DataError
from dataset_scripts.sources import miniworld
from evaluation import run as runner
from evaluation.answer_log import AnswerLog
from evaluation.asking import Asker
from evaluation.benchmarks import BENCHMARKS, open_benchmark, read_items
from evaluation.run import main, parse_arguments
from modeling_seq2time import Seq2TimeForConditionalGeneration
from modeling_seq2time.video_decoding import PyAVReader
from modeling_seq2time.video_processing_seq2time import window_spans
from tests.sources import write_clip, write_lines
from tests.test_benchmarks import truth, videos_of


ROOT = Path(__file__).parent.parent
FAST = ("--num-frames", "8", "--max-new-tokens", "60", "--search-steps", "16", "--batch-size", "2")
FILES = [f"{task}.{name}.json" for task in ("dvc", "tvg") for name in ("predictions", "references")]
RESULTS = ("results.json", "results.md", *FILES)
VIDEOS = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Six videos of the training split, of which there are more, and two of the test split."""
    folder = tmp_path_factory.mktemp("world")
    miniworld.build(folder, pictures=0, clips=0, videos=8, size=32, num_proc=1)
    return folder / "videos"


@pytest.fixture(scope="module")
def options(world, tiny_folder):
    return ["--model", str(tiny_folder()), "--benchmark", "miniworld", "--data", str(world), "--split", "train", *FAST]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    main([*options, "--output", str(folder)])
    return folder


def contents(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


def command(*arguments):
    variables = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return {"args": [sys.executable, *arguments], "cwd": ROOT, "env": os.environ | variables}


def test_a_run_leaves_answers_files_and_tables(finished, world, tiny_folder):
    results = json.loads((finished / "results.json").read_text())
    assert results["model"] == tiny_folder().name and results["problems"] == []
    assert results["settings"] == json.loads((finished / "settings.json").read_text())
    assert results["settings"]["notation"] == "rpt" and results["settings"]["constrained"] is True
    rows = [json.loads(line) for line in (world / "captions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    queries = sum(len(row["events"]) for row in rows)
    of_tasks = {task: told["coverage"] for task, told in results["tasks"].items()}
    assert len(rows) == VIDEOS and of_tasks == {
        "dvc": {"videos": VIDEOS, "of_videos": VIDEOS, "queries": VIDEOS, "of_queries": VIDEOS},
        "tvg": {"videos": VIDEOS, "of_videos": VIDEOS, "queries": queries, "of_queries": queries},
    }
    assert results["tasks"]["tvg"]["figures"]["queries"] == queries and results["tasks"]["tvg"]["malformed"] == 0
    predicted = json.loads((finished / "tvg.predictions.json").read_text())
    assert [one["query"] for one in predicted.values()] == [event["caption"] for row in rows for event in row["events"]]
    assert all(1 <= len(one["timestamp"]) <= 5 for one in predicted.values())
    captions = json.loads((finished / "dvc.predictions.json").read_text())
    assert list(captions) == [row["file"] for row in rows] and all(captions.values())
    assert f"| measured here | {VIDEOS} of {VIDEOS} videos |" in (finished / "results.md").read_text()
    speed = json.loads((finished / "speed.json").read_text())
    assert speed["videos"] == VIDEOS and speed["processes"] == 1
    assert str(world) not in (finished / "results.json").read_text()


def test_the_second_call_asks_nothing(finished, options, monkeypatch):
    before = contents(finished)
    monkeypatch.setattr(Asker, "__init__", lambda *_: pytest.fail("the model was loaded"))
    main([*options, "--output", str(finished)])
    assert contents(finished) == before


def test_each_video_is_decoded_and_encoded_once(options, tmp_path, monkeypatch):
    decoded, encoded = [], []
    read, encode = PyAVReader._read, Seq2TimeForConditionalGeneration.get_video_features

    def counted(self, indices):
        assert threading.current_thread() is not threading.main_thread()  # the model answers meanwhile
        decoded.append(Path(self.name).name)
        return read(self, indices)

    def features(self, *args, **kwargs):
        encoded.append(len(kwargs["pixel_values_videos"]))
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(PyAVReader, "_read", counted)
    monkeypatch.setattr(Seq2TimeForConditionalGeneration, "get_video_features", features)
    main([*options, "--limit", "3", "--output", str(tmp_path)])
    assert len(decoded) == len(set(decoded)) == 3 and encoded == [1, 1, 1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tasks"]["dvc"]["coverage"] == {"videos": 3, "of_videos": 6, "queries": 3, "of_queries": 6}
    assert "| 3 of 6 videos, partial |" in (tmp_path / "results.md").read_text()


KILLED = """
import os, signal, sys
from evaluation.run import main

def torn(file, content, write=os.write, calls=[]):
    calls.append(file)
    if len(calls) < 3:
        return write(file, content)
    write(file, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

os.write = torn
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_two_processes_to_the_same_bytes(finished, options, tmp_path):
    """It was killed while it wrote the answers about the third video."""
    one_by_one = [*options, "--batch-size", "1", "--output", str(tmp_path)]
    killed = subprocess.run(**command("-c", KILLED, *one_by_one), check=False)
    file = tmp_path / "answers-00000.jsonl"
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "results.json").exists()
    assert not file.read_bytes().endswith(b"\n") and 4 <= AnswerLog(tmp_path).count() <= 5
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "evaluation.run")
    call = command(*torchrun, *options, "--output", str(tmp_path))
    done = subprocess.run(**call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("videos are there") == 1 and done.stdout.count("mini world, train: grounding") == 1
    assert contents(tmp_path) == contents(finished) and AnswerLog(tmp_path).count() == 2 * VIDEOS
    assert (tmp_path / "answers-00001.jsonl").read_bytes().count(b"\n") >= 2  # both had their share
    assert file.read_bytes().count(b"\n") >= 6
    assert json.loads((tmp_path / "speed.json").read_text())["processes"] == 2


def test_what_nohup_ignores_stays_ignored():
    handlers = [(one, signal.getsignal(one)) for one in (signal.SIGTERM, signal.SIGHUP)]
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        script.run(lambda: signal.raise_signal(signal.SIGHUP))
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(SystemExit, match="130"):
            script.run(lambda: signal.raise_signal(signal.SIGHUP))
    finally:
        for handler in handlers:
            signal.signal(*handler)


def test_an_interruption_is_one_line(finished, options, tmp_path, monkeypatch, capsys):
    handlers, ask, asked = [(one, signal.getsignal(one)) for one in (signal.SIGTERM, signal.SIGHUP)], Asker.ask, []

    def interrupted(self, task, *rest):
        asked.append(task)
        if len(asked) == 3:
            signal.raise_signal(signal.SIGTERM)
        return ask(self, task, *rest)

    monkeypatch.setattr(Asker, "ask", interrupted)
    try:
        with pytest.raises(SystemExit, match="130"):
            script.run(lambda: main([*options, "--output", str(tmp_path)]))
    finally:
        for handler in handlers:
            signal.signal(*handler)
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert len(AnswerLog(tmp_path).read()) == 4  # those of the first batch
    main([*options, "--output", str(tmp_path)])
    assert contents(tmp_path) == contents(finished)


def test_other_settings_are_refused(finished, options):
    before = contents(finished)
    for other, name in (
        (["--num-frames", "4"], "num_frames 8, not 4"),
        (["--free"], "constrained True, not False"),
        (["--window", "20"], "window None, not 20.0"),
    ):
        with pytest.raises(DataError, match=rf"holds answers of other settings: .*{re.escape(name)}"):
            main([*options, *other, "--output", str(finished)])
    assert contents(finished) == before


def test_other_annotations_or_weights_are_refused(finished, options, tmp_path, world, monkeypatch):
    monkeypatch.setattr(runner, "fingerprint", lambda _: "others")
    with pytest.raises(DataError, match="weights '[0-9a-f]{16}', not 'others'"):
        main([*options, "--output", str(finished)])
    monkeypatch.undo()
    write_lines(
        tmp_path / "captions.jsonl", [{"file": "train/000000.mp4", "events": [{"start": 0, "end": 1, "caption": "x"}]}]
    )
    with pytest.raises(DataError, match=r"annotations \{'captions\.jsonl'"):
        main([*options, "--data", str(tmp_path), "--videos", str(world), "--output", str(finished)])


def test_tasks_may_come_one_after_the_other(finished, options, tmp_path, monkeypatch):
    main([*options, "--task", "dvc", "--output", str(tmp_path)])
    assert set(json.loads((tmp_path / "results.json").read_text())["tasks"]) == {"dvc"}
    asked, ask = [], Asker.ask
    monkeypatch.setattr(Asker, "ask", lambda self, task, *rest: asked.append(task) or ask(self, task, *rest))
    main([*options, "--output", str(tmp_path)])
    assert set(asked) == {"tvg"} and contents(tmp_path) == contents(finished)


def test_missing_and_broken_videos_are_named_and_come_later(world, options, finished, tmp_path, capsys):
    videos, output = tmp_path / "videos" / "train", tmp_path / "run"
    videos.mkdir(parents=True)
    files = sorted((world / "train").glob("*.mp4"))
    for file in files[1:]:
        (videos / file.name).symlink_to(file)
    (videos / files[2].name).unlink()
    (videos / files[2].name).write_bytes(b"no video")
    (videos / files[4].name).unlink()
    write_clip(videos / files[4].name, 1, 3.0)  # another cut: 3 s
    here = [*options, "--task", "tvg", "--videos", str(videos.parent), "--output", str(output)]
    main(here)
    results = json.loads((output / "results.json").read_text())
    assert [problem.split(": ")[0] for problem in results["problems"]] == ["missing", "corrupt", "duration mismatch"]
    wrong = (files[0], files[2], files[4])
    assert all(file.name in problem for file, problem in zip(wrong, results["problems"], strict=True))
    assert str(tmp_path) not in json.dumps(results)
    covered = results["tasks"]["tvg"]["coverage"]
    assert (covered["videos"], covered["of_videos"]) == (3, 6) and covered["queries"] < covered["of_queries"]
    assert results["tasks"]["tvg"]["figures"]["queries"] == covered["queries"]
    assert not results["tasks"]["tvg"]["figures"]["missing"]
    told = capsys.readouterr()
    assert "miniworld, train: 5 of 6 videos are there" in told.out and "3 of 6 videos, partial" in told.out
    assert f"missing: captions.jsonl: line 1: no file for 'train/{files[0].name}'" in told.err
    for number in (0, 2, 4):
        (videos / files[number].name).unlink(missing_ok=True)
        (videos / files[number].name).symlink_to(files[number])
    main(here)
    whole = [json.loads((folder / "results.json").read_text())["tasks"]["tvg"] for folder in (output, finished)]
    assert whole[0] == whole[1]


def test_nothing_to_ask_is_an_error(options, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"miniworld, train: none of its videos is there, looked for below .*empty"):
        main([*options, "--videos", str(tmp_path / "empty"), "--output", str(tmp_path / "run")])
    with pytest.raises(DataError, match="--videos nowhere: there is no such folder"):
        main([*options, "--videos", "nowhere", "--output", str(tmp_path / "run")])
    rows = [{"file": "a.mp4", "split": "train", "events": [{"start": 0, "end": 1, "caption": "x"}]}]
    write_lines(tmp_path / "bad" / "captions.jsonl", rows)
    (tmp_path / "bad" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"no video could be asked about: corrupt: a\.mp4: a\.mp4: "):
        main([*options, "--data", str(tmp_path / "bad"), "--output", str(tmp_path / "bad-run")])
    with pytest.raises(DataError, match="nowhere: expected a model's folder or a repository"):
        main([*options, "--model", "nowhere", "--output", str(tmp_path / "run")])


def test_true_answers_score_100(world, options, tmp_path, monkeypatch):
    """The whole way from a log of answers to the table."""
    monkeypatch.setattr(Asker, "__init__", lambda *_: pytest.fail("everything is answered"))
    items, _ = read_items(open_benchmark("miniworld", str(world), "train"), "train")
    args = parse_arguments([*options, "--output", str(tmp_path)])
    plan = runner.Plan(args)
    plan.settings["weights"] = runner.fingerprint(plan.model)
    runner.claim(tmp_path, plan.settings)
    log = AnswerLog(tmp_path)
    log.open(3)
    log.append([truth(task, item) for item in items for task in ("dvc", "tvg")])
    main([*options, "--output", str(tmp_path)])
    figures = {
        task: told["figures"] for task, told in json.loads((tmp_path / "results.json").read_text())["tasks"].items()
    }
    assert figures["dvc"]["f1"] == pytest.approx(100) and figures["dvc"]["soda_c"] == pytest.approx(100, abs=1)
    assert figures["tvg"]["r1@0.7"] == figures["tvg"]["miou"] == 100


NAMES = {  # of each benchmark's two videos, and how long they are
    "youcook2": ("a", "b", 40.5),
    "charades_sta": ("AAAAA", "BBBBB", 31.0),
    "qvhighlights": ("abcdefghijk_60.0_210.0", "bbbbbbbbbbb_0.0_150.0", 150.0),
    "activitynet": ("v_aaa", "bbb", 73.1),
    "tempcompass": ("1", "2", 2.0),
    "miniworld": ("test/1", "test/2", 15.0),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_runs(tiny_folder, tmp_path, name):
    videos_of(name, tmp_path)
    for number, video in enumerate(NAMES[name][:2]):
        write_clip(tmp_path / "videos" / f"{video}.mp4", number, NAMES[name][2], fps=2)
    benchmark = BENCHMARKS[name]
    tasks = [word for task in benchmark.tasks + benchmark.on_demand for word in ("--task", task)]
    asked = ["--model", str(tiny_folder()), "--benchmark", name, "--data", str(tmp_path), *tasks]
    asked += ["--videos", str(tmp_path / "videos"), *FAST, "--max-new-tokens", "120"]
    for free in ((), ("--free",)) if name in ("qvhighlights", "tempcompass") else ((),):
        output = tmp_path / f"run{len(free)}"
        main([*asked, *free, "--output", str(output)])
        results = json.loads((output / "results.json").read_text())
        assert list(results["tasks"]) == [*benchmark.tasks, *benchmark.on_demand]
        assert results["problems"] == [] or name == "tempcompass"  # one question of it is empty
        for task, told in results["tasks"].items():
            assert told["coverage"]["videos"] == 2 and not told["figures"]["missing"]
            assert told["malformed"] == (100 if task == "choice" or free else 0)


@pytest.mark.parametrize("form", [(), ("--free",)])
def test_prompts_and_greedy_settings_reach_the_model(options, tmp_path, monkeypatch, form):
    calls = {}
    for name in ("dense_caption", "ground"):
        method = getattr(Seq2TimeForConditionalGeneration, name)

        def called(self, processor, video, *rest, name=name, method=method, **settings):
            calls[name] = settings
            return method(self, processor, video, *rest, **settings)

        monkeypatch.setattr(Seq2TimeForConditionalGeneration, name, called)
    (tmp_path / "mine.toml").write_text('tvg = "When is {query}?"\n')
    main([*options, "--limit", "1", "--prompts", str(tmp_path / "mine.toml"), *form, "--output", str(tmp_path / "run")])
    assert calls["ground"]["prompt"] == "When is {query}?" and calls["ground"]["top_k"] == 5
    assert calls["dense_caption"]["do_sample"] is False and calls["dense_caption"]["batch_size"] == 2
    assert calls["dense_caption"]["max_new_tokens"] == 60 and calls["ground"]["constrain"] is not bool(form)
    assert ("do_sample" in calls["ground"], "search_steps" in calls["ground"]) == (
        (True, False) if form else (False, True)
    )


def test_queries_reach_the_model_without_their_full_stop(tiny_folder, tmp_path, monkeypatch):
    videos_of("charades_sta", tmp_path)
    for video in ("AAAAA", "BBBBB"):
        write_clip(tmp_path / f"{video}.mp4", 1, 31.0, fps=2)
    asked, ground = [], Seq2TimeForConditionalGeneration.ground

    def called(self, processor, video, query, **settings):
        asked.append(query)
        return ground(self, processor, video, query, **settings)

    monkeypatch.setattr(Seq2TimeForConditionalGeneration, "ground", called)
    common = ["--model", str(tiny_folder()), "--benchmark", "charades_sta", "--data", str(tmp_path), *FAST]
    main([*common, "--output", str(tmp_path / "run")])
    assert asked == [[["person turn a light on", "they run"], ["a person sits"]]]
    predicted = json.loads((tmp_path / "run" / "tvg.predictions.json").read_text())
    assert [one["query"] for one in predicted.values()] == ["person turn a light on.", "they run.", "a person sits."]


def test_answers_can_be_scored_without_the_videos(finished, options, tmp_path):
    for file in finished.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "none").mkdir()
    main([*options, "--task", "tvg", "--videos", str(tmp_path / "none"), "--output", str(tmp_path)])
    results = [json.loads((folder / "results.json").read_text()) for folder in (tmp_path, finished)]
    assert results[0]["tasks"]["tvg"] == results[1]["tasks"]["tvg"] and len(results[0]["problems"]) == VIDEOS


def test_long_videos_are_seen_in_windows(options, tmp_path, monkeypatch):
    encoded, encode = [], Seq2TimeForConditionalGeneration.get_video_features

    def features(self, *args, **kwargs):
        encoded.append(1)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(Seq2TimeForConditionalGeneration, "get_video_features", features)
    main([*options, "--limit", "2", "--window", "10", "--output", str(tmp_path)])
    rows = AnswerLog(tmp_path).read()
    lengths = [row["length"] for (_, task), row in rows.items() if task == "dvc"]
    assert len(encoded) == sum(len(window_spans(length, 10.0)) for length in lengths) > 4  # once for both tasks
    ends = [end for row in rows.values() for answer in row["answers"] for _, end, *_ in answer["moments"]]
    assert 10 < max(ends) <= max(lengths) + 1e-6


def test_arguments(capsys, tmp_path):
    common = ["--model", "o/n@main", "--benchmark", "charades_sta", "--data", "d"]
    args = parse_arguments(common)
    assert (args.task, args.split, args.model, args.name) == (("tvg",), "test", "o/n@main", "n")
    assert args.output == Path("results/charades_sta-n")
    for wrong, message in (
        (["--task", "dvc"], "charades_sta has tvg"),
        (["--batch-size", "0"], "--batch-size: expected at least 1, found 0"),
        (["--max-new-tokens", "9"], "--max-new-tokens: expected at least 32, found 9"),
        (["--protocol", "vtimellm"], "tvg has seq2time, timechat"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments([*common, *wrong])
        assert message in capsys.readouterr().err


def test_the_bar_shows_what_was_planned(options, tmp_path, monkeypatch, capsys):
    shown = []

    class Bar(runner.tqdm):
        def __init__(self, disable, **settings):
            assert disable is None  # where no terminal is
            super().__init__(disable=False, file=io.StringIO(), **settings)
            shown.append([self.total, self.n])

        def update(self, n=1):
            super().update(n)
            shown[-1].append(self.n)

    monkeypatch.setattr(runner, "tqdm", Bar)
    here = [*options, "--output", str(tmp_path)]
    main([*here, "--task", "dvc", "--limit", "3"])
    main([*here, "--limit", "4"])
    main([*here, "--task", "tvg", "--limit", "1"])
    # planned, done before, after each batch of two videos (the last video of the first call came alone), at the end
    assert [bar[:2] for bar in shown] == [[3, 0], [8, 3], [1, 1]]
    assert [bar[-1] for bar in shown] == [3, 8, 1] and shown[0][2:] == [0, 2, 3, 3] and shown[1][2:] == [3, 5, 8, 8]
    assert "miniworld, train: 4 of 4 videos are there (of 6: --limit)\n" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(AnswerLog, "count", lambda _: pytest.fail("nobody sees it"))
    main(here)
    assert "miniworld, train: 6 of 6 videos are there\n" in capsys.readouterr().out


def test_a_second_run_at_once_is_refused(finished, options):
    before, other = contents(finished), AnswerLog(finished)
    other.open(0)
    with pytest.raises(DataError, match="another run writes its answers there"):
        main([*options, "--output", str(finished)])
    other.close()
    main([*options, "--output", str(finished)])
    assert contents(finished) == before
