"""The model card: figures go into its YAML head, all else stays to the byte."""

import copy
import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from dataset_scripts.items import DataError
from evaluation.model_card import eval_results, main, updated
from tests.test_tables import results


CARD = (Path(__file__).parent.parent / "model_card.md").read_text(encoding="utf-8")
OTHERS = """\
model-index:
- name: their-name
  results:
  - task: {type: video-text-to-text, extra: kept}
    dataset: {type: youcook2, name: YouCook2, config: dense captioning, split: validation}
    metrics:
    - {type: rouge, value: 7.5, name: ROUGE, note: of others}
    - {type: f1, value: 1.0, args: {protocol: seq2time}}
    - {type: f1, value: 2.0, args: {protocol: vtimellm}}
"""


def figures_in(card):
    return {
        (one.dataset_type, one.metric_type, one.metric_name): one.metric_value
        for one in ModelCard(card).data.eval_results
    }


def test_figures_are_in_the_head_and_all_else_stays():
    card = updated(CARD, [results(f1=16.24567)], "card")
    found = figures_in(card)
    assert (
        found["youcook2", "f1", "F1"] == 16.246 and found["youcook2", "soda_c", "SODA_c"] == 12.345 and len(found) == 6
    )
    assert ModelCard(card).data.model_name == "ours"
    start = card.index("model-index:")
    end = card.index("---\n", start)
    assert card[:start] + card[end:] == CARD


def test_writing_twice_changes_nothing_and_new_figures_replace():
    once = updated(CARD, [results()], "card")
    assert updated(once, [results()], "card") == once
    other = updated(once, [results(f1=20.0)], "card")
    assert figures_in(other) == figures_in(once) | {("youcook2", "f1", "F1"): 20.0}
    more = updated(other, [results("charades_sta", "tvg")], "card")
    assert len(figures_in(more)) == 10 and more.count("model-index") == 1


def test_partial_coverage_is_in_the_name_until_it_is_whole():
    part = updated(CARD, [results(videos=396)], "card")
    assert ("youcook2", "f1", "F1 (396 of 415 videos, partial)") in figures_in(part)
    assert figures_in(updated(part, [results()], "card")) == figures_in(updated(CARD, [results()], "card"))


def test_tasks_of_one_benchmark_stay_apart():
    both = results("activitynet", "dvc")
    both["tasks"] |= results("activitynet", "tvg")["tasks"]
    found = ModelCard(updated(CARD, [both], "card")).data.eval_results
    assert {one.task_name for one in found} == {"dense captioning", "grounding"} and len(found) == 10


@pytest.mark.parametrize("after", ["", "license: mit\n"])
def test_figures_of_others_stay(after):
    card = f"---\ntags: [a,  b]   # odd spacing\n{OTHERS}{after}---\n# Title\n"
    new = updated(card, [results()], "card")
    assert new.startswith("---\ntags: [a,  b]   # odd spacing\nmodel-index:\n") and new.endswith(
        f"{after}---\n# Title\n"
    )
    data = ModelCard(new).data
    assert data.model_name == "their-name"
    theirs = [one for one in data.eval_results if one.metric_args != {"protocol": "seq2time"}]
    assert [(one.metric_type, one.metric_value) for one in theirs] == [("rouge", 7.5), ("f1", 2.0)]
    assert "extra: kept" in new and "note: of others" in new and updated(new, [results()], "card") == new


def test_a_card_without_head_or_with_other_line_ends():
    assert figures_in(updated("# Title\n", [results()], "card")) and updated("# Title\n", [results()], "card").endswith(
        "---\n# Title\n"
    )
    windows = CARD.replace("\n", "\r\n")
    new = updated(windows, [results()], "card")
    assert "\n" not in new.replace("\r\n", "") and new.replace("\r\n", "\n") == updated(CARD, [results()], "card")
    with pytest.raises(DataError, match="card: expected a YAML head"):
        updated("---\nmodel-index: [3]\n---\n", [results()], "card")
    with pytest.raises(DataError, match="card: expected a YAML head"):
        updated("---\na: [\n---\n", [results()], "card")


def test_tables_go_between_their_marks():
    marked = CARD + "\n<!-- evaluation -->\nstale\n<!-- /evaluation -->\nend \\1\n"
    new = updated(marked, [results()], "card")
    assert (
        "stale" not in new and "| ours | measured here | 415 of 415 videos |" in new and new.endswith("-->\nend \\1\n")
    )
    assert updated(new, [results()], "card") == new


def test_command(tmp_path, capsys):
    card, file = tmp_path / "README.md", tmp_path / "results.json"
    card.write_bytes(CARD.encode())
    file.write_text(json.dumps(results()))
    main(["--results", str(file), "--card", str(card), "--dry-run"])
    assert capsys.readouterr().out == updated(CARD, [results()], "card") and card.read_text() == CARD
    main(["--results", str(file), "--card", str(card)])
    assert card.read_text() == updated(CARD, [results()], "card") and {one.name for one in tmp_path.iterdir()} == {
        "README.md",
        "results.json",
    }
    before = card.stat().st_ino
    main(["--results", str(file), "--card", str(card)])
    assert card.stat().st_ino == before  # nothing to write
    other = tmp_path / "other.json"
    other.write_text(json.dumps(results(model="b")))
    with pytest.raises(DataError, match="one model, found b, ours"):
        main(["--results", str(file), str(other), "--card", str(card)])
    card.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"README\.md: expected text in UTF-8"):
        main(["--results", str(file), "--card", str(card)])


def test_absent_figures_are_left_out():
    told = copy.deepcopy(results("tempcompass", "choice"))
    del told["tasks"]["choice"]["figures"]["accuracy_speed"]
    assert "accuracy_speed" not in {one.metric_type for one in eval_results(told)}
