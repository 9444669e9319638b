"""Tables: what is ours, what a paper's, and on how many videos."""

import json
import re
import tomllib

import pytest

from dataset_scripts.items import DataError
from evaluation.benchmarks import BENCHMARKS
from evaluation.tables import COLUMNS, PAPER, main, markdown, published, read_results, table, terminal


SPLITS = {"charades_sta": "test", "tempcompass": "test"}
FOUR, TWO = ("soda_c", "cider", "meteor", "f1"), ("r1@0.5", "r1@0.7")
FULL = ("TimeChat + Seq2Time", (1.3, 4.2, 1.3, 16.2), (31.2, 13.7))
BASE = ("TimeChat*", (1.0, 2.9, 1.1, 12.7), (27.2, 11.7))
IMAGES = ("TimeChat + IS", (1.4, 4.3, 1.4, 13.3), (28.8, 12.5))
SEQ2TIME = {  # its tables as they are printed: YouCook2's figures, Charades-STA's
    1: [
        (BASE[0], BASE[1], None),
        ("TimeChat, w/o 12 % of irrelevant data", (1.2, 2.0, 0.8, 10.5), None),
        ("TimeChat, w/o dense captioning data", (0.4, 0.9, 0.3, 4.8), None),
    ],
    2: [
        ("VTimeLLM", None, (27.5, 11.4)),
        ("Momentor", None, (26.6, 11.6)),
        BASE,
        ("TimeChat + Seq2Time, w/o RPT", (1.2, 3.7, 1.4, 15.7), (29.3, 12.8)),
        FULL,
    ],
    3: [FULL, ("TimeChat + IS + MC", (1.2, 4.0, 1.2, 15.9), (30.9, 13.1)), IMAGES, BASE],
    4: [("Video-LLaMA", (0.1, 0.0, 0.0, 0.2), None), ("Video-LLaMA + IS", (0.1, 0.1, 0.2, 3.3), None)],
    6: [
        IMAGES,
        ("TimeChat + IS, w/o IIC", (1.2, 3.4, 1.2, 12.9), (27.9, 11.8)),
        ("TimeChat + IS, w/o IIG", (1.1, 2.6, 0.9, 11.9), (26.2, 11.3)),
        ("TimeChat + IS, w/o ALR", (1.0, 2.7, 1.0, 14.4), (27.2, 11.4)),
        BASE,
    ],
    7: [
        FULL,
        ("TimeChat + 20 % of Seq2Time", (1.1, 3.8, 1.3, 14.8), (28.3, 11.9)),
        ("TimeChat + 5 % of Seq2Time", (1.2, 3.6, 1.2, 15.0), (26.8, 11.2)),
        BASE,
    ],
}
REPEATED = {(1, BASE[0]), (3, BASE[0]), (6, BASE[0]), (7, BASE[0]), (3, FULL[0]), (7, FULL[0]), (6, IMAGES[0])}
RICHNESS = {  # table 5: L_avg, TTR
    "TimeChat": (6.81, 0.268),
    "TimeChat + IS": (8.19, 0.411),
    "TimeChat + IS + MC": (8.74, 0.384),
    "TimeChat + Seq2Time": (11.53, 0.396),
}
GROUNDED = "Grounded-VideoLLM, arXiv 2410.03290"
T3 = "T3, Temporal Reasoning Transfer from Text to Video"


def results(benchmark="youcook2", task="dvc", model="ours", videos=415, queries=None, **figures):
    figures = dict.fromkeys(COLUMNS[task], 12.345) | figures
    figures |= {"protocol": "seq2time", "interval": {name: [11.04, 13.06] for name in COLUMNS[task]}}
    coverage = {"videos": videos, "of_videos": 415, "queries": queries or videos, "of_queries": queries or 415}
    scored = {"coverage": coverage, "malformed": 2.5, "figures": figures}
    split = SPLITS.get(benchmark, "validation")
    return {"benchmark": benchmark, "title": "YouCook2", "split": split, "model": model, "tasks": {task: scored}}


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
    assert ours[0][-2:] == ["12.35 [11.04, 13.06]", "12.3 [11.0, 13.1]"]
    two = next(row for row in papers if row[0] == "TimeChat + Seq2Time" and row[1].endswith("table 2"))
    assert two[5:] == ["1.3", "4.2", "1.3", "16.2", "", ""]


def stated(benchmark, split, task):
    return sorted((one["source"], one["model"], one["figures"]) for one in published(benchmark, split, task, True))


@pytest.mark.parametrize(
    ("benchmark", "split", "task", "place", "names"),
    [("youcook2", "validation", "dvc", 1, FOUR), ("charades_sta", "test", "tvg", 2, TWO)],
)
def test_figures_are_the_papers(benchmark, split, task, place, names):
    expected = [
        (f"Seq2Time, table {number}", row[0], dict(zip(names, row[place], strict=True)))
        for number, rows in SEQ2TIME.items()
        for row in rows
        if row[place] and (number, row[0]) not in REPEATED
    ]
    if task == "dvc":
        for model, (length, ratio) in RICHNESS.items():
            expected.append(("Seq2Time, table 5", model, {"l_avg": length, "ttr": round(100 * ratio, 1)}))
    else:
        figures = {"r1@0.3": 54.2, "r1@0.5": 36.4, "r1@0.7": 19.7, "miou": 36.8}
        expected.append((GROUNDED, "Grounded-VideoLLM", figures))
    assert stated(benchmark, split, task) == sorted(expected)


def test_figures_of_other_systems_are_their_papers():
    figures = {"r1@0.3": 46.2, "r1@0.5": 30.3, "r1@0.7": 19.0, "miou": 36.1}
    assert stated("activitynet", "validation", "tvg") == [(GROUNDED, "Grounded-VideoLLM", figures)]
    choices = [(T3, "LongVA-7B", {"accuracy": 55.9}), (T3, "LongVA-7B + T3", {"accuracy": 61.2})]
    assert stated("tempcompass", "test", "choice") == choices


def test_gains_are_those_of_the_papers_text():
    for place, number, gain in ((1, 1, 44.8), (1, 3, 27.6), (1, 0, 30.0), (2, 1, 17.1), (2, 0, 14.7)):
        assert round(100 * (FULL[place][number] / BASE[place][number] - 1), 1) == gain


def test_every_table_of_the_papers_has_its_place():
    """Those of a benchmark's own split, and figures that have a column."""
    tables = tomllib.loads(PAPER.read_text(encoding="utf-8"))["table"]
    assert sum(len(one["rows"]) for one in tables) == 34
    for one in tables:
        known = BENCHMARKS[one["benchmark"]]
        assert (
            one["split"] == known.split
            and one["task"] in known.tasks
            and set(one["figures"]) <= set(COLUMNS[one["task"]])
        )
        assert set(one) == {"source", "benchmark", "split", "task", "shown", "figures", "rows"}


def test_ablations_are_shown_on_demand():
    shown = [(one["model"], one["source"][-1]) for one in published("youcook2", "validation", "dvc")]
    table_2 = [("TimeChat*", "2"), ("TimeChat + Seq2Time, w/o RPT", "2"), ("TimeChat + Seq2Time", "2")]
    assert shown == [*table_2, ("TimeChat", "5"), ("TimeChat + Seq2Time", "5")]
    assert len(published("charades_sta", "test", "tvg")) == 6
    assert len(published("youcook2", "validation", "dvc", ablations=True)) == 18


def test_another_split_stands_alone():
    other = results() | {"split": "train"}
    assert [row[1] for row in table([other], "dvc", ablations=True)] == ["from", "measured here"]
    assert published("miniworld", "test", "dvc", ablations=True) == []
    text = markdown([other, results()])
    assert text.index("YouCook2, train") < text.index("YouCook2, validation") < text.index("paper: Seq2Time, table 2")


@pytest.mark.parametrize(
    ("benchmark", "task"),
    [("youcook2", "dvc"), ("charades_sta", "tvg"), ("activitynet", "tvg"), ("tempcompass", "choice")],
)
def test_a_column_has_one_number_of_digits(benchmark, task):
    rows = table([results(benchmark, task)], task, ablations=True)[1:]
    assert len(rows) > 1
    for place, name in enumerate(COLUMNS[task], 5):
        digits = {len(number.split(".")[1]) for row in rows for number in re.findall(r"[\d.]+", row[place])}
        assert digits == {2 if name == "l_avg" else 1}


def test_whole_figures_have_their_digits():
    rows = table([results("activitynet", "tvg")], "tvg")
    assert rows[1][5:] == ["46.2", "30.3", "19.0", "36.1"]
    ablations = table([results()], "dvc", ablations=True)
    assert next(row for row in ablations if row[0] == "Video-LLaMA")[5:] == ["0.1", "0.0", "0.0", "0.2", "", ""]
    assert next(row for row in ablations if row[0] == "TimeChat")[5:] == ["", "", "", "", "6.81", "26.8"]


def test_the_note_says_what_figures_are():
    note = " ".join(markdown([results()]).split())
    assert "Figures are × 100 except L_avg; in brackets" in note and "videos that were asked about and answered" in note


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
    part = results(benchmark="tempcompass", task="choice")
    del part["tasks"]["choice"]["figures"]["accuracy_speed"]
    head, *_, ours = table([part], "choice")
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
