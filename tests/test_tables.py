"""Tables: what is ours, what a paper's, and on how many videos."""

import json
import re

import pytest

from dataset_scripts.items import DataError
from evaluation.tables import COLUMNS, main, markdown, published, read_results, table, terminal


def results(benchmark="youcook2", task="dvc", model="ours", videos=415, queries=None, **figures):
    figures = dict.fromkeys(COLUMNS[task], 12.345) | figures
    figures |= {"protocol": "seq2time", "interval": {name: [11.04, 13.06] for name in COLUMNS[task]}}
    coverage = {"videos": videos, "of_videos": 415, "queries": queries or videos, "of_queries": queries or 415}
    told = {"coverage": coverage, "malformed": 2.5, "figures": figures}
    return {"benchmark": benchmark, "title": "YouCook2", "split": "validation", "model": model, "tasks": {task: told}}


def test_papers_figures_stand_apart_from_ours():
    head, *rows = table([results()], "dvc")
    assert head == ["model", "from", "videos", "protocol", "malformed", *COLUMNS["dvc"].values()]
    papers, ours = (
        [row for row in rows if row[1].startswith("paper: ")],
        [row for row in rows if row[1] == "measured here"],
    )
    assert len(papers) + len(ours) == len(rows) and rows.index(ours[0]) == len(papers)
    assert {row[2] for row in papers} == {"not stated"} and {row[3] for row in papers} == {""}
    assert ours[0][:6] == ["ours", "measured here", "415 of 415 videos", "seq2time", "2.5 %", "12.3 [11.0, 13.1]"]
    assert ours[0][-1] == "12.345 [11.040, 13.060]"
    two = next(row for row in papers if row[0] == "TimeChat + Seq2Time" and row[1].endswith("table 2"))
    assert two[5:] == ["1.3", "4.2", "1.3", "16.2", "", ""]


def test_figures_are_the_papers():
    """Table 2's and 3's figures, and the gains that the text states: 44.8 % CIDEr, 27.6 % F1, 17.1 % R@1."""

    def figure(benchmark, task, model, number, name):
        rows = published(benchmark, task, ablations=True)
        (row,) = [row for row in rows if (row["model"], row["source"]) == (model, f"Seq2Time, table {number}")]
        return row["figures"][name]

    for benchmark, task, name, gain in (
        ("youcook2", "dvc", "cider", 44.8),
        ("youcook2", "dvc", "f1", 27.6),
        ("youcook2", "dvc", "soda_c", 30.0),
        ("charades_sta", "tvg", "r1@0.7", 17.1),
        ("charades_sta", "tvg", "r1@0.5", 14.7),
    ):
        ours, base = (figure(benchmark, task, model, 2, name) for model in ("TimeChat + Seq2Time", "TimeChat*"))
        assert round(100 * (ours / base - 1), 1) == gain
    assert figure("youcook2", "dvc", "TimeChat + IS", 3, "f1") == 13.3
    assert figure("youcook2", "dvc", "Video-LLaMA + IS", 4, "f1") == 3.3
    assert figure("youcook2", "dvc", "TimeChat + Seq2Time", 5, "l_avg") == 11.53
    assert figure("youcook2", "dvc", "TimeChat + IS, w/o ALR", 6, "f1") == 14.4
    assert figure("charades_sta", "tvg", "TimeChat + 5 % of Seq2Time", 7, "r1@0.5") == 26.8
    for row in published("youcook2", "dvc", True) + published("charades_sta", "tvg", True):
        assert set(row["figures"]) <= set(COLUMNS[row["task"]])
    assert len(published("youcook2", "dvc")) == 5 < len(published("youcook2", "dvc", ablations=True))


@pytest.mark.parametrize(("videos", "queries", "partial"), [(396, None, True), (415, 3_000, False), (415, None, False)])
def test_partial_coverage_is_said(videos, queries, partial):
    text = markdown([results(videos=videos, queries=queries)])
    assert f"| {videos} of 415 videos{', partial' if partial else ''} |" in text


def test_models_stand_beside_each_other():
    both = [results(model="a|b"), results(model="c")]
    text = markdown(both)
    assert text.count("### YouCook2, validation: dense captioning") == 1 and "| a\\|b |" in text and "| c |" in text
    head, ruler, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in (head, ruler, *rows)}) == 1
    lines = terminal(both).splitlines()
    assert lines[0] == "YouCook2, validation: dense captioning"
    assert len({line.index("paper:") for line in lines if "paper:" in line} | {lines[1].index("from")}) == 1


def test_a_figure_that_is_not_there_is_empty():
    told = results(benchmark="tempcompass", task="choice")
    del told["tasks"]["choice"]["figures"]["accuracy_speed"]
    head, *_, ours = table([told], "choice")
    assert ours[head.index("speed")] == "" and ours[head.index("order")].startswith("12.3")


def test_command_prints_markdown(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(results()))
    main([str(tmp_path / "results.json")])
    short = capsys.readouterr().out
    main([str(tmp_path / "results.json"), "--ablations"])
    assert short == markdown([results()]) and "Video-LLaMA" not in short and "Video-LLaMA" in capsys.readouterr().out
    (tmp_path / "results.json").write_text(json.dumps({"benchmark": "youcook2"}))
    with pytest.raises(
        DataError, match=r"results\.json: expected results of evaluation\.run: expected a field 'title'"
    ):
        read_results(tmp_path / "results.json")
