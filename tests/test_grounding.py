"""Recall, IoU and average precision of moments: by hand, and as published on TimeChat's own example files."""

from pathlib import Path

import numpy as np
import pytest

from dataset_scripts.items import Problems
from evaluation import grounding
from evaluation.grounding import score
from evaluation.moment_files import grounding_predictions, grounding_references


EXAMPLES = Path(__file__).parent / "data" / "timechat_examples"


def read(predictions: str, references: str) -> tuple[dict, dict]:
    problems = Problems()
    files = (
        grounding_predictions(EXAMPLES / predictions, problems),
        grounding_references(EXAMPLES / references, problems),
    )
    assert not problems.found
    return files


@pytest.mark.parametrize("protocol", ["seq2time", "timechat", "timechat_sample"])
def test_timechats_script_prints_the_same_for_its_own_files(protocol):
    result = score(*read("tvg_pred.json", "tvg_gt.json"), protocol)
    assert [result[f"r1@{iou}"] for iou in (0.3, 0.5, 0.7)] == pytest.approx([7.5, 5.0, 2.5], abs=1e-12)
    assert result["miou"] == pytest.approx(5.485552464476044, abs=1e-12)  # of the script's `iou`
    assert (result["queries"], result["missing"], result["unparsed"]) == (40, 0, 27)
    assert result["protocol"] == protocol


def test_qvhighlights_script_computes_the_same():
    # made-up windows for the queries of the example; the figures are those of compute_average_precision_detection and
    # compute_mr_r1 of the script
    result = score(*read("mr_pred.jsonl", "vhd_gt.json"), "qvhighlights")
    expected = {"map": 42.98923611111111, "map@0.5": 57.04166666666666, "map@0.75": 43.49305555555556}
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert (result["r1@0.5"], result["r1@0.7"]) == pytest.approx((52.5, 45.0), abs=1e-12)
    assert (result["queries"], result["missing"]) == (40, 2)
    assert "map" not in score(*read("mr_pred.jsonl", "vhd_gt.json"))


def test_recall_counts_an_iou_at_the_threshold():
    result = score({"a": [(0, 3)], "b": [(0, 5)], "c": [(0, 7)]}, {name: [(0, 10)] for name in "abc"})
    assert [result[f"r1@{iou}"] for iou in (0.3, 0.5, 0.7)] == pytest.approx([100, 200 / 3, 100 / 3])
    assert result["miou"] == pytest.approx(50)


def test_recall_at_5_looks_at_five_and_at_all_windows():
    misses = [(90, 99)] * 4
    references = {"a": [(50, 60), (0, 10)], "b": [(0, 10)]}
    result = score({"a": [*misses, (0, 10)], "b": [*misses, (90, 91), (0, 10)]}, references)
    assert (result["r1@0.5"], result["r5@0.5"], result["miou"]) == (0, 50, 0)


def test_the_first_prediction_is_held_against_the_window_it_meets_best():
    assert score({"a": [(0, 4), (50, 60)]}, {"a": [(50, 60), (0, 10)]})["miou"] == pytest.approx(40)


def test_missing_and_unparsed_answers_miss():
    references = {name: [(0, 10)] for name in "abcd"}
    result = score({"a": [(0, 10)], "b": None, "c": [], "stranger": [(0, 1)]}, references)
    assert (result["queries"], result["missing"], result["unparsed"]) == (4, 1, 2)
    assert (result["r1@0.3"], result["r5@0.7"], result["miou"]) == (25, 25, 25)
    assert "absent" not in result
    sampled = score({"a": [(0, 10)], "b": None}, references, "timechat_sample")
    assert (sampled["queries"], sampled["missing"], sampled["unparsed"], sampled["miou"]) == (2, 2, 1, 50)


def test_absent_events_are_found_by_an_empty_answer_and_count_apart():
    references = {"a": [(0, 10)], "b": [], "c": [], "d": [], "e": []}
    result = score({"a": [(0, 10)], "b": [], "c": None, "d": [(0, 1)]}, references)
    assert (result["absent"], result["absent_found"], result["interval"]["absent_found"][0]) == (4, 25, 0)
    assert (result["queries"], result["missing"], result["unparsed"], result["r1@0.7"]) == (5, 1, 1, 100)
    nothing_there = score({"b": []}, {"b": []})
    assert (nothing_there["absent_found"], nothing_there["r1@0.5"]) == (100, 0)


@pytest.mark.parametrize(("protocol", "miou"), [("seq2time", 50), ("timechat", 0), ("qvhighlights", 0)])
def test_a_moment_that_ends_before_it_starts(protocol, miou):
    assert score({"a": [(10, 0, 1)]}, {"a": [(0, 5)]}, protocol)["miou"] == miou
    assert score({"a": [(0, 5, 1)]}, {"a": [(10, 0)]}, protocol)["miou"] == miou
    assert score({"a": [(50, 2, 1)]}, {"a": [(40, 10)]}, protocol)["miou"] == pytest.approx(miou and 100 * 30 / 48)


@pytest.mark.parametrize("protocol", grounding.PROTOCOLS)
def test_moments_without_length(protocol):
    references = {"same": [(3, 3)], "apart": [(4, 4)], "inside": [(0, 10)]}
    result = score({"same": [(3, 3, 1)], "apart": [(3, 3, 1)], "inside": [(5, 5, 1)]}, references, protocol)
    assert result["miou"] == pytest.approx(100 / 3)
    assert result.get("map", 100 / 3) == pytest.approx(100 / 3)


def test_average_precision_by_hand():
    # ranked by score: a miss, a hit, the same window again, the other window
    predictions = {"a": [(0, 10, 0.5), (80, 90, 0.9), (0, 10, 0.4), (20, 30, 0.3)]}
    result = score(predictions, {"a": [(0, 10), (20, 30)]}, "qvhighlights")
    assert result["map"] == pytest.approx(50 * (1 / 2 + 2 / 4))
    # in order of the list if a score is lacking: hit, miss, miss, hit
    result = score({"a": [(0, 10), *predictions["a"][1:]]}, {"a": [(0, 10), (20, 30)]}, "qvhighlights")
    assert result["map"] == pytest.approx(50 * (1 + 2 / 4))


def test_of_windows_met_equally_well_the_last_is_taken():
    # as in the script; the second prediction meets the other window well enough up to .9, and the taken one up to .55
    result = score({"a": [(1, 11, 0.9), (0, 9, 0.8)]}, {"a": [(0, 10), (2, 12)]}, "qvhighlights")
    assert result["map"] == pytest.approx(10 * 7 * 1.0 + 10 * 2 * 1 / 2 * 1 / 2)


def test_rounding_at_a_threshold_is_as_in_the_scripts():
    # IoU is 7.4 / 14.8; from both lengths it comes out a little lower
    result = score({"a": [(2.6, 14.8, 1)]}, {"a": [(0, 10)]}, "qvhighlights")
    assert (result["r1@0.5"], result["map@0.5"]) == (100, 0)


def test_precision_is_interpolated_and_recall_is_of_all_windows():
    moments = [(90, 99, 0.9), (0, 10, 0.8), (20, 30, 0.7)]  # precision 0, 1/2, 2/3; the best from each hit on is 2/3
    result = score({"a": moments}, {"a": [(0, 10), (20, 30), (40, 50), (60, 70)]}, "qvhighlights")
    assert result["map"] == pytest.approx(100 * 2 / 4 * 2 / 3)


def test_only_ten_predictions_count_for_average_precision():
    moments = [(90, 99, 0.1)] * 10 + [(0, 10, 0.9)]
    assert score({"a": moments}, {"a": [(0, 10)]}, "qvhighlights")["map"] == 0
    assert score({"a": moments[1:]}, {"a": [(0, 10)]}, "qvhighlights")["map"] == 100


def test_intervals_hold_the_figures_and_narrow_with_more_queries():
    rng = np.random.default_rng(0)

    def result(queries: int) -> dict:
        starts = rng.uniform(0, 50, queries)
        return score(
            {str(number): [(start, start + 20)] for number, start in enumerate(starts)},
            {str(number): [(20, 40)] for number in range(queries)},
        )

    few, many = result(50), result(2000)
    for one in (few, many):
        assert set(one["interval"]) == {name for name, value in one.items() if isinstance(value, float)}
        assert all(low <= one[name] <= high for name, (low, high) in one["interval"].items())
    width = {id(one): np.ptp(one["interval"]["miou"]) for one in (few, many)}
    assert width[id(many)] < width[id(few)] / 4


def test_nothing_to_score_is_0():
    for protocol in grounding.PROTOCOLS:
        result = score({}, {}, protocol)
        assert (result["r1@0.5"], result["miou"], result["queries"], result["missing"]) == (0, 0, 0, 0)


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="expected one of seq2time, timechat, .*, found 'vtimellm'"):
        score({}, {}, "vtimellm")
