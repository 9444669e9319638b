"""The quickstart as a user starts it, in small: all stages, again, and with one that breaks."""

import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dataset_scripts.wording import TEMPLATES
from examples import quickstart, report


SMALL = ["--world", "pictures=60&clips=24&videos=5&size=56", "--instances", "16", "--test-videos", "1"]
SMALL += ["--phase1-steps", "2", "--phase2-steps", "1", "--num-proc", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_folder):
    """Arguments of a quickstart that has run."""
    base = tiny_folder("timechat", num_frames=32, initializer_range=0.2)
    arguments = ["--base", str(base), "--output", str(tmp_path_factory.mktemp("quickstart") / "out"), *SMALL]
    quickstart.main(arguments)
    return arguments


def test_models_are_asked_as_they_were_trained():
    asked = tomllib.loads(quickstart.PROMPTS.read_text(encoding="utf-8"))
    assert asked["dvc"] in TEMPLATES["dense_captioning"]["questions"]
    assert asked["tvg"].replace("{query}", "{}") in TEMPLATES["grounding"]["questions"]


class Page(HTMLParser):
    """What a page holds: the attributes of each tag, and its text."""

    def __init__(self, content: str):
        super().__init__()
        self.tags, self.text, self.open = {}, "", []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.setdefault(tag, []).append(dict(attributes))

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
def test_the_report_holds_everything_and_needs_nothing(finished):
    folder = Path(finished[3])
    content = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(content)
    assert [len(page.tags[tag]) for tag in ("h1", "table", "caption", "article")] == [1, 1, 1, quickstart.QUERIES]
    for row in ("mini base", "after both phases", "whole video", "chance"):
        assert row in page.text
    # both phases have a chart with a curve of each task, each query a row of scores
    charts = [one for one in page.tags["svg"] if one["class"] == "chart"]
    assert [one["aria-label"][:7] for one in charts] == ["Phase 1", "Phase 2"]
    assert len(page.tags["polyline"]) == len(page.tags["circle"]) >= 2
    assert sum(one["class"] == "heat" for one in page.tags["svg"]) == quickstart.QUERIES
    assert all(one["alt"] and one["src"].startswith("data:image/jpeg;base64,") for one in page.tags["img"])
    assert len(page.tags["img"]) == 1 + quickstart.QUERIES
    assert re.search(r"<\d><\d><\d><\d>", page.text)  # the answer about the sequence, in time tokens
    assert not re.search(r"https?://|//\w|url\(|<script|<link|@import", re.sub(r"base64,[^\"]+", "", content))
    for one in json.loads((folder / "answers.json").read_text())["queries"]:
        assert one["event"]["caption"] in page.text


@pytest.mark.slow
def test_a_second_call_does_nothing_again(finished, capsys, monkeypatch):
    def files() -> dict:
        return {path: path.stat().st_mtime_ns for path in Path(finished[3]).rglob("*") if path.is_file()}

    monkeypatch.setattr(quickstart, "accelerate", pytest.fail)
    before = files()
    quickstart.main(finished)
    said = capsys.readouterr().out
    assert said.count("done before") == said.count("━━") - 1  # the record is only shown
    assert said.endswith("report.html\n")
    assert files() == before


@pytest.mark.slow
def test_a_stage_that_is_missing_is_made_from_the_others(finished):
    made = Path(finished[3], "report.html")
    content = made.read_bytes()
    made.unlink()
    quickstart.main(finished)
    assert made.read_bytes() == content


@pytest.mark.slow
def test_other_settings_are_refused(finished):
    with pytest.raises(quickstart.DataError, match="holds a quickstart with phase2_steps 1, not 3. Choose another"):
        quickstart.main([*finished, "--phase2-steps", "3"])


@pytest.mark.slow
def test_a_stage_that_breaks_is_one_error(tmp_path, capfd):
    stages = quickstart.Stages(tmp_path / "seconds.json")
    with pytest.raises(quickstart.DataError, match="^train: expected accelerate to end with 0, found 1; the reason"):
        stages.launch("train", tmp_path / "never", "train.sft", "no-such.yaml")
    said = capfd.readouterr().err
    assert "no-such.yaml" in said
    assert "Traceback" not in said


def test_a_base_that_is_not_there_is_named(tmp_path):
    with pytest.raises(quickstart.DataError, match="--base nothing: expected a model's folder, found no model.safe"):
        quickstart.main(["--base", "nothing", "--output", str(tmp_path)])


def test_a_stage_that_makes_nothing_is_an_error(tmp_path):
    stages = quickstart.Stages(tmp_path / "seconds.json")
    with pytest.raises(quickstart.DataError, match="^lazy: expected .*made in the end, found none"):
        stages.do("lazy", tmp_path / "made", "# nothing", lambda: None)
    stages.do("busy", tmp_path / "made", "# something", (tmp_path / "made").touch)
    assert list(json.loads((tmp_path / "seconds.json").read_text())) == ["busy"]


def test_recipes_of_the_default_quickstart_run_as_they_are():
    args = quickstart.parse_arguments([])
    elsewhere = quickstart.parse_arguments(["--output", "a/b", "--base", "c"])
    first, second = (f"train/recipes/quickstart_phase{number}.yaml" for number in (1, 2))
    assert quickstart.overrides(first, args, None) == quickstart.overrides(second, args, None) == []
    changed = quickstart.overrides(first, elsewhere, 7)
    assert {"model=c", "output_dir=a/b/phase1", "data.0.path=a/b/data", "max_steps=7"} <= set(changed)
    assert "model=a/b/phase1" in quickstart.overrides(second, elsewhere, None)


def test_scores_of_moments_that_overlap_add_up():
    moments = [{"start": 0.0, "end": 6.0, "score": 0.5}, {"start": 4.0, "end": 8.0, "score": 0.25}]
    row, peak = report.warmth(moments, 10.0)
    assert peak == 0.75
    found = [(float(one["x"]), float(one["width"]), float(one["fill-opacity"])) for one in Page(row).tags["rect"]]
    assert found == [(0, 400, 0.667), (400, 200, 1.0), (600, 200, 0.333), (800, 200, 0.0)]


def test_a_moment_without_length_can_be_seen():
    row, peak = report.warmth([{"start": 10.0, "end": 10.0, "score": 0.5}], 20.0)
    assert peak == 0.5
    assert [one["width"] for one in Page(row).tags["rect"] if float(one["fill-opacity"])] == ["5.00"]


def test_ticks_are_round():
    assert report.ticks(100) == [0, 20, 40, 60, 80, 100]
    assert report.ticks(6.3) == [0, 2, 4, 6]
    assert report.ticks(0.9) == [0, 0.2, 0.4, 0.6, 0.8]
