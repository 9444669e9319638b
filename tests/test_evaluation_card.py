"""The model card: figures go into its YAML head, all else stays to the byte."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from dataset_scripts.items import DataError
from evaluation.model_card import eval_results, main, updated
from tests.test_tables import results


CARD = (Path(__file__).parent.parent / "model_card.md").read_text(encoding="utf-8")
OTHERS = """\
model-index:
- name: ours
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
    rest = card[:start] + card[end:]
    for part in (lambda text: text.split("<!-- evaluation -->")[0], lambda text: text.split("<!-- /evaluation -->")[1]):
        assert part(rest) == part(CARD)


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
    assert data.model_name == "ours" and new.count("name: ours") == 1
    theirs = [one for one in data.eval_results if one.metric_args != {"protocol": "seq2time"}]
    assert [(one.metric_type, one.metric_value) for one in theirs] == [("rouge", 7.5), ("f1", 2.0)]
    assert "extra: kept" in new and "note: of others" in new and updated(new, [results()], "card") == new


THEIRS = """\
- name: theirs
  results:
  - task: {type: video-text-to-text}
    dataset: {type: youcook2, name: YouCook2, config: dense captioning, split: validation}
    metrics: [{type: f1, value: 1.0, args: {protocol: seq2time}}]
"""
OURS = "- name: ours\n  results: []\n"


@pytest.mark.parametrize("index", [THEIRS, THEIRS + OURS, OURS + THEIRS])
def test_figures_go_to_the_entry_of_their_name(index):
    new = updated(f"---\nmodel-index:\n{index}---\n", [results(f1=20.0)], "card")
    entries = yaml.safe_load(new.split("---\n")[1])["model-index"]
    names = [line[8:] for line in index.splitlines() if line.startswith("- name")]
    assert [one["name"] for one in entries] == names + ["ours"] * ("ours" not in names)
    of_name = {one["name"]: one["results"] for one in entries}
    assert of_name["theirs"] == yaml.safe_load(THEIRS)[0]["results"]
    assert [len(one["metrics"]) for one in of_name["ours"]] == [6]
    data = ModelCard(new).data
    assert data.model_name == entries[-1]["name"] and len(data.eval_results) == 7  # the Hub's library reads all
    assert updated(new, [results(f1=20.0)], "card") == new


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("after", ["", "# of the license\n\nlicense: mit\ntitle: x\n", "\n# the end\n"])
@pytest.mark.parametrize(
    "written",
    [
        f"model-index:\n# a comment\n{THEIRS}",
        f"model-index: # a comment\n\n\n  # another\n{THEIRS}",
        f'"model-index":\n{THEIRS}',
        f"'model-index' :\n{THEIRS}",
        "model-index:\n" + "".join(f"  {line}\n" for line in THEIRS.splitlines()),
        f"model-index:\n{THEIRS}  # between\n\n{THEIRS.replace('theirs', 'more')}",
        f"model-index: {json.dumps(yaml.safe_load(THEIRS), indent=1)}\n",
        f"model-index:\n{THEIRS}  note: |\n    text\n    # no comment\n",
        "model-index:\n",
        "model-index: null\n",
        "model-index: []\n",
    ],
)
def test_the_index_is_replaced_however_it_is_written(written, after, newline):
    start = "tags: [model-index,  'é😀']\ntext: |\n  model-index:\n  - no index\n"
    card = f"---\n{start}{written}{after}---\nmodel-index:\n- text\n".replace("\n", newline)
    new = updated(card, [results()], "card")
    assert new.startswith(f"---\n{start}model-index:\n".replace("\n", newline))
    assert new.endswith(f"{after}---\nmodel-index:\n- text\n".replace("\n", newline))
    old, data = (yaml.safe_load(REGEX_YAML_BLOCK.match(one)[2]) for one in (card, new))
    theirs = old.pop("model-index") or []
    *kept, ours = data.pop("model-index")
    assert kept == theirs and ours["name"] == "ours" and data == old
    head = new.replace("\r", "").split("---\n")[1].splitlines()
    assert sum(line.replace("'", "").replace('"', "").startswith("model-index") for line in head) == 1
    assert updated(new, [results()], "card") == new and ("\r\n" in new) == (newline == "\r\n")


@pytest.mark.parametrize(
    "head",
    [
        "{license: mit}",
        "{model-index: [], license: mit}",
        "? model-index\n: []",
        "  license: mit",
        "model-index: &none []\nother: *none",
        "- model-index",
        "model-index",
        "model-index:\n- results: []",
        "model-index:\n- name: ours",
        "model-index:\n- name: ours\n  results: null",
    ],
)
def test_a_head_that_cannot_be_changed_in_place_is_refused(head):
    with pytest.raises(DataError, match="card: expected a YAML head with a model-index as the Hub's: "):
        updated(f"---\n{head}\n---\n", [results()], "card")


def test_an_index_that_is_an_alias_or_twice_there():
    alias = f"---\nold: &old\n{THEIRS}model-index: *old # those\nlicense: mit\n---\n"
    new = updated(alias, [results()], "card")
    assert new.startswith(f"---\nold: &old\n{THEIRS}model-index:\n- name: theirs") and new.endswith(
        " # those\nlicense: mit\n---\n"
    )
    assert len(ModelCard(new).data.eval_results) == 7 and updated(new, [results()], "card") == new
    twice = f"---\nmodel-index: []\nmodel-index:\n{THEIRS}---\n"  # a reader takes the last
    new = updated(twice, [results()], "card")
    assert new.startswith("---\nmodel-index: []\nmodel-index:\n- name: theirs")
    assert len(ModelCard(new).data.eval_results) == 7 and updated(new, [results()], "card") == new


def test_figures_of_another_revision_stay():
    other = THEIRS.replace("theirs", "ours").replace("split: validation", "split: validation, revision: abc")
    entry = ModelCard(updated(f"---\nmodel-index:\n{other}---\n", [results()], "card")).data.eval_results
    assert len(entry) == 7 and {one.metric_value for one in entry if one.dataset_revision == "abc"} == {1.0}


def test_a_card_without_head_or_with_other_line_ends():
    assert figures_in(updated("# Title\n", [results()], "card")) and updated("# Title\n", [results()], "card").endswith(
        "---\n# Title\n"
    )
    assert updated("# Title\n", [results()], "card").startswith("---\nmodel-index:\n")
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
    part = copy.deepcopy(results("tempcompass", "choice"))
    del part["tasks"]["choice"]["figures"]["accuracy_speed"]
    assert "accuracy_speed" not in {one.metric_type for one in eval_results(part)}
