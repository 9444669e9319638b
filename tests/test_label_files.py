"""Files of frame labels and of answers to questions."""

import json
from pathlib import Path

import pytest

from dataset_scripts.items import DataError, Problems
from evaluation.label_files import (
    choice_predictions,
    choice_references,
    segmentation_predictions,
    segmentation_references,
)
from evaluation.multiple_choice import score


def read(reader, path: Path, content) -> tuple[dict, list]:
    file, problems = path / "file.json", Problems()
    file.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return reader(file, problems), [(kind, place, detail) for kind, place, detail, _ in problems.found]


def read_folder(path: Path, files: dict[str, str], reader=segmentation_predictions) -> tuple[dict, list]:
    for name, content in files.items():
        (path / name).write_text(content, encoding="utf-8")
    problems = Problems()
    return reader(path, problems), problems.found


def test_labels_in_json(tmp_path):
    content = {"b": ["verser", "gießen"], "007": [0, 1], "7": ["x"]}
    expected = {"b": ["verser", "gießen"], "007": ["0", "1"], "7": ["x"]}
    for reader in (segmentation_predictions, segmentation_references):
        assert read(reader, tmp_path, content) == (expected, [])


def test_ms_tcns_folders(tmp_path):
    truth, results = tmp_path / "groundTruth", tmp_path / "results"
    truth.mkdir()
    results.mkdir()
    files = {"S1_Tea.txt": "take cup\ntake cup\npour\n", "S2.Tea.txt": "pour\r\npour\r\n\n", ".DS_Store": "x"}
    found, problems = read_folder(truth, files, segmentation_references)
    assert found == {"S1_Tea": ["take cup", "take cup", "pour"], "S2": ["pour", "pour"]}
    assert not problems
    found, problems = read_folder(results, {"S1_Tea": "### Frame level recognition: ###\ntake take pour"})
    assert (found, problems) == ({"S1_Tea": ["take", "take", "pour"]}, [])


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        ([], "empty", "expected a label per frame"),
        ("xxyy", "malformed", "expected a list of labels, found 'xxyy'"),
        (["x", None], "malformed", "frame 1: expected a label, found None"),
        (["x", "", "x"], "malformed", "frame 1: expected a label, found ''"),
        (None, "malformed", "expected a list"),
    ],
)
def test_labels_at_fault_are_named_and_left_out(tmp_path, labels, kind, said):
    found, ((named, place, detail),) = read(segmentation_predictions, tmp_path, {"a": ["x"], "b": labels})
    assert (found, named, place) == ({"a": ["x"]}, kind, "file.json: b")
    assert said in detail


def test_files_at_fault_are_named_and_left_out(tmp_path):
    files = {"a.txt": "x\n\ny\n", "b.txt": "", "c": "### Frame level recognition: ###\n", "d.txt": "x\n"}
    found, problems = read_folder(tmp_path, files)
    assert found == {"d": ["x"]}
    assert [problem[:3] for problem in problems] == [
        ("malformed", "a.txt", "frame 1: expected a label, found ''"),
        ("empty", "b.txt", "expected a label per frame, found none"),
        ("empty", "c", "expected a label per frame, found none"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"a": ["x"], "a": ["y"]}', "'a' stands twice"), ('{"a": ["x", ', "expected JSON"), ("[]", "found a list")],
)
def test_label_files_that_are_refused(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read(segmentation_predictions, tmp_path, content)


def test_label_folders_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="found an empty folder"):
        segmentation_predictions(tmp_path, Problems())
    with pytest.raises(DataError, match="expected every id once, found 'a' twice"):
        read_folder(tmp_path, {"a.txt": "x\n", "a": "x\n"})


def test_references_without_a_video_are_refused(tmp_path):
    with pytest.raises(
        DataError, match="expected references, found none that can be used: file.json: a: expected a label"
    ):
        read(segmentation_references, tmp_path, {"a": []})


def question(number: int, **fields) -> dict:
    return {"question": f"Où est {number}?\nA. là\nB. ici", "answer": "B. ici", **fields}


def test_tempcompass_files(tmp_path):
    content = {"10": {"order": [question(0), question(1)], "attribute_change": [question(0)]}}
    references, problems = read(choice_references, tmp_path, content)
    assert not problems
    assert [one["dimension"] for one in references.values()] == ["order", "order", "attribute_change"]
    answers = {
        "10": {
            "attribute_change": [question(0, prediction=None)],
            "order": [question(1, response="B"), question(0, prediction="B.")],
        }
    }
    predictions, problems = read(choice_predictions, tmp_path, answers)
    assert not problems
    first, second, third = references
    assert predictions == {third: None, second: "B", first: "B."}
    assert references[first] == {"answer": "B. ici", "dimension": "order", "question": question(0)["question"]}
    result = score(predictions, references)
    assert (result["accuracy_order"], result["accuracy"], result["unparsed"]) == (100, pytest.approx(200 / 3), 1)
    assert read(choice_references, tmp_path, answers)[0].keys() == references.keys()


@pytest.mark.parametrize(
    ("video", "said"),
    [
        ({"order": [question(1, prediction=3)]}, "field 'prediction': expected a text or NoneType, found 3"),
        ({"order": [{"prediction": "A"}]}, "expected a field 'question'"),
        ({"order": [question(1)]}, "expected a field 'prediction'"),
        ({"order": ["A"]}, "expected an object"),
        ({"order": question(1)}, "expected lists of questions by dimension"),
        ([question(1)], "expected lists of questions by dimension"),
    ],
)
def test_answers_at_fault_are_named_and_left_out(tmp_path, video, said):
    good = {"order": [question(0, prediction="A")]}
    found, ((kind, place, detail),) = read(choice_predictions, tmp_path, {"10": good, "11": video})
    assert (list(found.values()), kind) == (["A"], "malformed")
    assert place.startswith("file.json: 11")
    assert said in detail


def test_a_question_without_answer_is_named_and_left_out(tmp_path):
    found, problems = read(choice_references, tmp_path, {"10": {"order": [question(0), question(1, answer=" ")]}})
    assert (len(found), problems[0][:2]) == (1, ("empty", "file.json: 10, order 1"))


def test_answer_files_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected predictions with a field 'prediction', found only questions"):
        read(choice_predictions, tmp_path, {"10": {"order": [question(0)]}})
    with pytest.raises(DataError, match="expected every id once, found '10/order/Où"):
        read(choice_predictions, tmp_path, {"10": {"order": [question(0, prediction="A")] * 2}})
    with pytest.raises(DataError, match="expected references, found none"):
        read(choice_references, tmp_path, {"10": {"order": [{}]}})
    assert read(choice_predictions, tmp_path, {}) == ({}, [])
