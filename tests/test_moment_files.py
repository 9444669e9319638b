"""Files of moments and highlights: every form that is read, and everything that is named."""

import json
from pathlib import Path

import pytest

from dataset_scripts.items import DataError, Problems
from evaluation.moment_files import (
    grounding_predictions,
    grounding_references,
    highlight_predictions,
    highlight_references,
)


EXAMPLES = Path(__file__).parent / "data" / "timechat_examples"


def write(path: Path, content, name: str = "file.json") -> Path:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (path / name).write_text(text, encoding="utf-8")
    return path / name


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(reader, path: Path, content) -> tuple[dict, list]:
    problems = Problems()
    return reader(write(path, content), problems), [(kind, place, detail) for kind, place, detail, _ in problems.found]


def truth(name, *windows, **fields) -> dict:
    return {"id": name, "timestamp": windows[0] if len(windows) == 1 else list(windows), **fields}


ROW = {"qid": 7, "duration": 6, "relevant_clip_ids": [0, 2], "saliency_scores": [[4, 1, 1], [0, 2, 3]]}


def test_timechats_predictions():
    problems = Problems()
    found = grounding_predictions(EXAMPLES / "tvg_pred.json", problems)
    assert len(found) == 40
    assert sum(one == [] for one in found.values()) == 27
    entry = next(
        (name, one) for name, one in json.loads((EXAMPLES / "tvg_pred.json").read_text()).items() if found[name]
    )
    assert found[entry[0]] == [tuple(entry[1]["timestamp"][0])]
    assert not problems.found


def test_other_forms_of_grounding_predictions(tmp_path):
    content = {
        "1": {"timestamp": [3, 4.5], "query": "où?"},
        "2": {"timestamp": [[1, 2, 0.5], ["3", 4, -1]]},
        "3": {"timestamp": None},
        "4": [[1, 2]],
        "5": [],
        "a": [1, 2],
    }
    found, problems = read(grounding_predictions, tmp_path, content)
    assert found == {"1": [(3, 4.5)], "2": [(1, 2, 0.5), (3, 4, -1)], "3": None, "4": [(1, 2)], "5": [], "a": [(1, 2)]}
    assert not problems
    row = {"qid": 7, "query": "où?", "pred_relevant_windows": [[0, 2, 0.9], [4, 8, 0.1]]}
    for content in (lines(row), [row], "\n" + lines(row, {**row, "qid": "8"})):
        found, problems = read(grounding_predictions, tmp_path, content)
        assert found["7"] == [(0, 2, 0.9), (4, 8, 0.1)]
        assert not problems


def test_forms_of_grounding_references(tmp_path):
    rows = [
        truth(0, [24.3, 30.4]),
        truth("1", [0, 2], [4, 6]),
        {"id": 2, "timestamp": []},
        {"id": 3, "segments": [[1, 2]]},
    ]
    found, problems = read(grounding_references, tmp_path, {"annotations": rows})
    assert found == {"0": [(24.3, 30.4)], "1": [(0, 2), (4, 6)], "2": [], "3": [(1, 2)]}
    found, more = read(grounding_references, tmp_path, lines({"qid": 7, "relevant_windows": [[0, 16]]}))
    assert found == {"7": [(0, 16)]}
    content = {"v_x": {"duration": 9, "timestamps": [[0, 2], [3, 9]], "sentences": ["où?", " a"]}}
    found, again = read(grounding_references, tmp_path, content)
    assert found == {"v_x/0": [(0, 2)], "v_x/1": [(3, 9)]}
    assert not problems + more + again
    assert len(grounding_references(EXAMPLES / "tvg_gt.json", Problems())) == 40


def test_forms_of_highlights(tmp_path):
    for content in (lines(ROW), [ROW]):
        found, problems = read(highlight_references, tmp_path, content)
        assert (found, problems) == ({"7": (6, [0, 2], [[4, 1, 1], [0, 2, 3]])}, [])
    row = {"qid": "07", "query": "où?", "vid": "v", "pred_saliency_scores": [0.5, -1, "2"]}
    for content in (lines(row), [row]):
        assert read(highlight_predictions, tmp_path, content) == ({"7": [0.5, -1, 2]}, [])
    assert len(highlight_predictions(EXAMPLES / "vhd_pred.json", Problems())) == 40
    assert len(highlight_references(EXAMPLES / "vhd_gt.json", Problems())) == 42


def test_a_start_before_the_video_is_named_and_kept(tmp_path):
    found, problems = read(grounding_predictions, tmp_path, {"7": {"timestamp": [[-1, 2]]}})
    assert found == {"7": [(-1, 2)]}
    assert problems == [("negative", "file.json: id '7'", "the moment [-1.0, 2.0] starts before the video")]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"timestamp": [[1, float("nan")]]}, "expected a number, found nan"),
        ({"timestamp": [[1, "soon"]]}, "found 'soon'"),
        ({"timestamp": [[1, 2, "high"]]}, "expected a number, found 'high'"),
        ({"timestamp": [[1, 2, float("inf")]]}, "expected a number, found inf"),
        ({"timestamp": [[1, 2, 10**400]]}, "expected a number"),
        ({"timestamp": [[1]]}, "expected [start, end]"),
        ({"timestamp": [[1, 2, 3, 4]]}, "expected [start, end]"),
        ({"timestamp": [[1, 2], 3]}, "expected [start, end]"),
        ({"timestamp": "1 - 2"}, "field 'timestamp': expected a list"),
        ({"caption": "no time"}, "expected a field 'timestamp', found 'caption'"),
        ("1 - 2", "expected an object with a field 'timestamp'"),
    ],
)
def test_a_malformed_answer_is_named_and_counts_as_unparsed(tmp_path, entry, said):
    found, problems = read(grounding_predictions, tmp_path, {"1": {"timestamp": [[1, 2]]}, "7": entry})
    assert found == {"1": [(1, 2)], "7": None}
    ((kind, place, detail),) = problems
    assert (kind, place) == ("malformed", "file.json: id '7'")
    assert said in detail


def test_a_moment_that_ends_before_it_starts_is_named_and_kept(tmp_path):
    found, problems = read(grounding_predictions, tmp_path, {"7": [[30, 20], [1, 1]]})
    assert found == {"7": [(30, 20), (1, 1)]}
    assert problems == [("inverted", "file.json: id '7'", "the moment [30.0, 20.0] ends before it starts")]
    found, problems = read(grounding_references, tmp_path, {"annotations": [truth(7, [9, 8])]})
    assert (found, problems[0][:2]) == ({"7": [(9, 8)]}, ("inverted", "file.json: annotation 0"))


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        ({"id": 8, "timestamp": [[1, None]]}, "malformed", "found None"),
        ({"id": 8, "timestamp": None}, "malformed", "expected a list, found null"),
        ({"id": 8}, "malformed", "expected a field 'timestamp'"),
        ({"timestamp": [1, 2]}, "malformed", "expected a field 'id'"),
        (3, "malformed", "expected an object"),
    ],
)
def test_a_malformed_reference_is_named_and_left_out(tmp_path, row, kind, said):
    found, ((named, place, detail),) = read(grounding_references, tmp_path, {"annotations": [truth(7, [1, 2]), row]})
    assert (list(found), named, place) == (["7"], kind, "file.json: annotation 1")
    assert said in detail


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"relevant_clip_ids": [0, 3]}, "out of range", "expected 0 to 2, found 3"),
        ({"relevant_clip_ids": [-1, 2]}, "out of range", "found -1"),
        ({"relevant_clip_ids": [0]}, "malformed", "expected as many"),
        ({"saliency_scores": [[4, 1], [0, 2, 3]]}, "malformed", "expected 3 scores for a clip, found [4, 1]"),
        ({"saliency_scores": [[4, 1, None], [0, 2, 3]]}, "malformed", "found None"),
        ({"duration": float("nan")}, "malformed", "found nan"),
        ({"duration": None}, "malformed", "field 'duration'"),
    ],
)
def test_a_highlight_reference_at_fault_is_named_and_left_out(tmp_path, change, kind, said):
    found, ((named, place, detail),) = read(highlight_references, tmp_path, lines(ROW, {**ROW, "qid": 8, **change}))
    assert (list(found), named, place) == (["7"], kind, "file.json: line 2")
    assert said in detail


@pytest.mark.parametrize(
    ("scores", "kind"),
    [([0, float("nan")], "malformed"), ([0, "high"], "malformed"), ([], "empty"), (None, "malformed")],
)
def test_a_highlight_prediction_at_fault_is_named_and_missing(tmp_path, scores, kind):
    rows = [{"qid": 7, "pred_saliency_scores": [0, 1]}, {"qid": 8, "pred_saliency_scores": scores}]
    found, problems = read(highlight_predictions, tmp_path, rows)
    assert (list(found), problems[0][:2]) == (["7"], (kind, "file.json: row 1"))


@pytest.mark.parametrize(
    ("reader", "content", "said"),
    [
        (grounding_predictions, '{"7": [[1, 2]], "7": [[3, 4]]}', "'7' stands twice"),
        (
            grounding_predictions,
            {"7": [[1, 2]], "07": [[3, 4]]},
            "expected every id once, found '07' twice (also as '7')",
        ),
        (grounding_references, {"annotations": [truth(7, [1, 2]), truth("7", [1, 2])]}, "found '7' twice"),
        (
            grounding_references,
            {"annotations": [truth("0", [1, 2]), truth("00", [1, 2])]},
            "found '00' twice (also as '0')",
        ),
        (highlight_references, lines(ROW, {**ROW, "qid": "7"}), "found '7' twice"),
        (highlight_predictions, [{"qid": 7, "pred_saliency_scores": [1]}] * 2, "found '7' twice"),
    ],
)
def test_an_id_that_stands_twice_is_refused(tmp_path, reader, content, said):
    with pytest.raises(DataError) as error:
        read(reader, tmp_path, content)
    assert str(tmp_path / "file.json") in str(error.value)
    assert said in str(error.value)


def test_ids_that_arent_whole_numbers_are_as_written(tmp_path):
    found, _ = read(
        grounding_predictions, tmp_path, {"1_0": [], "10": [], "0a": [], "a": [], "-7": [], "٧": [], "7": []}
    )
    assert list(found) == ["1_0", "10", "0a", "a", "-7", "٧", "7"]


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        (grounding_predictions, "tvg_pred.json"),
        (grounding_predictions, "mr_pred.jsonl"),
        (grounding_references, "tvg_gt.json"),
        (highlight_predictions, "vhd_pred.json"),
        (highlight_references, "vhd_gt.json"),
    ],
)
def test_a_file_cut_in_the_middle_is_refused_with_the_place(tmp_path, reader, name):
    whole = (EXAMPLES / name).read_text(encoding="utf-8")
    for share in (0.1, 0.5, 0.97):
        cut = write(tmp_path, whole[: int(len(whole) * share)], name)
        with pytest.raises(DataError, match=rf"{name}: (line \d+|expected JSON).*(line 1 )?column \d+"):
            reader(cut, Problems())


@pytest.mark.parametrize(
    ("reader", "name", "said"),
    [
        (grounding_predictions, "tvg_gt.json", "expected predictions, found a field 'annotations': are these the ref"),
        (grounding_predictions, "vhd_gt.json", "expected predictions, found a field 'relevant_windows'"),
        (grounding_references, "tvg_pred.json", "expected references, found a field 'timestamp': are these the pred"),
        (grounding_references, "mr_pred.jsonl", "expected references, found a field 'pred_relevant_windows'"),
        (grounding_references, "vhd_pred.json", "expected references, found a field 'pred_saliency_scores'"),
        (highlight_predictions, "vhd_gt.json", "expected predictions, found a field 'saliency_scores'"),
        (highlight_predictions, "tvg_pred.json", "expected a list, or lines, of objects with an id, found {"),
        (highlight_references, "vhd_pred.json", "expected references, found a field 'pred_saliency_scores'"),
    ],
)
def test_a_file_of_another_kind_is_refused(reader, name, said):
    with pytest.raises(DataError) as error:
        reader(EXAMPLES / name, Problems())
    assert name in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("reader", "content", "said"),
    [
        (grounding_predictions, "3", "expected a JSON object or list, found a number"),
        (grounding_predictions, "", "expected JSON"),
        (grounding_references, {"annotations": {}}, "expected a list"),
        (grounding_references, {"annotations": []}, "expected references, found none that can be used"),
        (grounding_references, {}, "found none that can be used"),
        (
            grounding_references,
            lines({"qid": 1, "query": "a test row"}),
            "file.json: line 1: expected a field 'relevant_w",
        ),
        (
            highlight_references,
            lines({"qid": 1, "duration": 6}),
            "none that can be used: file.json: line 1: expected a field",
        ),
        (highlight_references, "[]", "found none that can be used"),
        (highlight_references, lines(ROW) + "[1]\n", "file.json: line 2: expected a JSON object, found a list"),
    ],
)
def test_a_file_that_cant_be_used_is_refused(tmp_path, reader, content, said):
    with pytest.raises(DataError) as error:
        read(reader, tmp_path, content)
    assert str(tmp_path / "file.json") in str(error.value)
    assert said in str(error.value)


def test_text_that_isnt_utf_8_is_refused(tmp_path):
    (tmp_path / "file.json").write_bytes(b'{"7": {"query": "o\xf9", "timestamp": [[1, 2]]}}')
    with pytest.raises(DataError, match="UTF-8"):
        grounding_predictions(tmp_path / "file.json", Problems())


def test_no_answers_at_all_are_predictions(tmp_path):
    assert read(grounding_predictions, tmp_path, {}) == ({}, [])
    assert read(highlight_predictions, tmp_path, []) == ({}, [])
