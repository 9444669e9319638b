"""Frame accuracy, Edit and F1 of segments: by hand, and as MS-TCN's functions compute them."""

import pytest

from evaluation.segmentation import edit_score, score, segments


# (prediction, truth), made up; one letter a frame, `_` is background
VIDEOS = [
    ("dcccccddddbaaadddddddddd_dddddaaaaaaadddddaaaaa", "ddddddddddaaaaaaaddddddddddddddccccccdddddaaaaa"),
    (
        "cccccccccccccccccccccdddddbbbbdaddddddbbbccbcaaaaaaaaaccccc",
        "cccccccccccccccccccccdddddddddaaaaaaa__aaaaaaaaaaaaaaaccccc",
    ),
    (
        "ddddddddddddddadaaaaaaaaaaddddddbbb__cc_ccbbbbbbbbbbbbbbbbbbb________a_______",
        "ddddddddddddddaaaaaaaaaaaaddddddbbb_________cccbbbbbbbbbbbbbb________a",
    ),
    (
        "_____ccccccddddddaabbbbbbbbbdddd_____bbbbbbbbbbb__aaccccc",
        "_____ccccccddddddaaaaaaaaaaaaa_______bbbbbbbaaaaaaaaccccc",
    ),
]
PREDICTIONS = {number: list(one) for number, (one, _) in enumerate(VIDEOS)}
REFERENCES = {number: list(one) for number, (_, one) in enumerate(VIDEOS)}
# of the functions of MS-TCN's eval.py, with bg_class ["_"]
PUBLISHED = {"mof": 72.53218884120172, "edit": 59.166666666666664, "f1@10": 68.75, "f1@25": 62.5, "f1@50": 50.0}


def test_ms_tcns_script_computes_the_same():
    result = score(PREDICTIONS, REFERENCES, "ms_tcn", background=["_"])
    assert {name: result[name] for name in PUBLISHED} == pytest.approx(PUBLISHED, abs=1e-12)
    assert (result["videos"], result["missing"], result["protocol"]) == (4, 0, "ms_tcn")
    assert set(result["interval"]) == set(PUBLISHED)
    assert all(low <= result[name] <= high for name, (low, high) in result["interval"].items())


def test_by_default_frames_behind_the_truths_end_are_wrong():
    result = score(PREDICTIONS, REFERENCES, background=["_"])
    frames = 169 / (233 + 7)  # 169 of 233 are right, one prediction is 7 frames too long
    assert {name: result[name] for name in PUBLISHED} == pytest.approx({**PUBLISHED, "mof": 100 * frames}, abs=1e-12)


@pytest.mark.parametrize("protocol", ["seq2time", "ms_tcn"])
def test_frames_that_a_prediction_lacks_are_wrong(protocol):
    assert score({"a": "xxy"}, {"a": "xxyyyy"}, protocol)["mof"] == 50


def test_accuracy_is_of_all_frames_and_edit_of_videos():
    result = score({"a": "xxxxxxxx", "b": "yy"}, {"a": "xxxxxxxx", "b": "zz"})
    assert (result["mof"], result["edit"]) == (80, 50)


def test_a_truth_is_hit_once():
    # both x of the prediction find the one x of the truth: a hit and a false alarm; y is a hit
    result = score({"a": "xxxyxx" + "y" * 6}, {"a": "xxxxxx" + "y" * 6})
    assert result["f1@25"] == pytest.approx(100 * 2 * 2 / (4 + 2))
    assert result["f1@50"] == pytest.approx(100 * 2 * 2 / (4 + 2))


def test_a_hit_needs_label_and_overlap():
    truth = {"a": "x" * 10 + "y" * 10}
    assert score({"a": "y" * 10 + "x" * 10}, truth)["f1@10"] == 0
    assert score({"a": "x" * 20}, truth)["f1@50"] == pytest.approx(100 * 2 / 3)  # IoU is exactly 0.5
    assert score({"a": "x" * 21}, truth)["f1@50"] == 0
    assert score({"a": "x" * 21}, truth)["f1@25"] == pytest.approx(100 * 2 / 3)


def test_background_counts_as_frames_only():
    prediction, truth = ["background"] * 5 + ["x"] * 5, ["x"] * 5 + ["background"] * 5
    result = score({"a": ["background"] * 10}, {"a": ["background"] * 5 + ["x"] * 5})
    assert (result["mof"], result["edit"], result["f1@10"]) == (50, 0, 0)
    assert score({"a": prediction}, {"a": truth})["edit"] == 100
    assert score({"a": prediction}, {"a": truth}, background=())["edit"] == 0
    assert score({"a": prediction}, {"a": prediction})["f1@50"] == 100


def test_nothing_but_background_on_both_sides_is_an_edit_of_100():
    assert score({"a": ["background"] * 3}, {"a": ["background"] * 4})["edit"] == 100


@pytest.mark.parametrize("predictions", [{"b": "xx"}, {"a": [], "b": "xx"}])
def test_a_missing_video_is_all_wrong(predictions):
    result = score(predictions, {"a": ["background"] * 2, "b": "xx", "c": "xx"})
    assert (result["videos"], result["missing"]) == (3, 3 - len(predictions))
    assert (result["mof"], result["edit"], result["f1@50"]) == pytest.approx((100 / 3, 100 / 3, 100 * 2 / 3))


def test_segments():
    assert segments("aab__ab", "_") == [("a", 0, 2), ("b", 2, 3), ("a", 5, 6), ("b", 6, 7)]
    assert segments("") == []


@pytest.mark.parametrize(
    ("ours", "theirs", "distance", "longer"),
    [("kitten", "sitting", 3, 7), ("abc", "", 3, 3), ("", "ab", 2, 2), ("ab", "ba", 2, 2), ("abcd", "bcd", 1, 4)],
)
def test_edit_score(ours, theirs, distance, longer):
    assert edit_score(ours, theirs) == pytest.approx(1 - distance / longer)
    assert edit_score(theirs, ours) == pytest.approx(1 - distance / longer)


def test_nothing_to_score_is_0():
    result = score({}, {})
    assert (result["mof"], result["edit"], result["f1@10"], result["videos"]) == (0, 0, 0, 0)


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="expected one of seq2time, ms_tcn, found 'x'"):
        score({}, {}, "x")
