"""Average precision and HIT@1 of clips: by hand, and as published on TimeChat's own example files."""

from pathlib import Path

import numpy as np
import pytest

from dataset_scripts.items import Problems
from evaluation.highlights import average_precision, score
from evaluation.moment_files import highlight_predictions, highlight_references


EXAMPLES = Path(__file__).parent / "data" / "timechat_examples"
# what eval_vhd.py computes with scikit-learn 1.9.1 before it rounds to 30.45, 22.5, 23.31, 20.0, 13.23, 17.5
PUBLISHED = {
    "map_fair": 30.4469246031746,
    "hit1_fair": 22.5,
    "map_good": 23.306977513227512,
    "hit1_good": 20.0,
    "map_very_good": 13.232671957671958,
    "hit1_very_good": 17.5,
}


def read() -> tuple[dict, dict]:
    problems = Problems()
    files = (
        highlight_predictions(EXAMPLES / "vhd_pred.json", problems),
        highlight_references(EXAMPLES / "vhd_gt.json", problems),
    )
    assert not problems.found
    return files


def test_the_published_script_computes_the_same_for_its_own_files():
    result = score(*read())
    assert {name: result[name] for name in PUBLISHED} == pytest.approx(PUBLISHED, abs=1e-12)
    assert (result["queries"], result["missing"], result["protocol"]) == (40, 2, "timechat")
    assert all(low <= result[name] <= high for name, (low, high) in result["interval"].items())
    assert set(result["interval"]) == set(PUBLISHED)


def test_a_missing_query_counts_0_if_so_chosen():
    result = score(*read(), "seq2time")
    expected = {name: value * 40 / 42 for name, value in PUBLISHED.items()}
    assert {name: result[name] for name in PUBLISHED} == pytest.approx(expected, abs=1e-12)
    assert (result["queries"], result["missing"], result["protocol"]) == (42, 2, "seq2time")


def published_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """The definition, threshold by threshold."""
    if truth.all() or not truth.any():
        return float(truth.all())
    best, levels = 0.0, {}
    for threshold in sorted(set(scores.tolist())):
        chosen = truth[scores >= threshold]
        best = max(best, chosen.mean())
        if chosen.any():
            levels[chosen.sum()] = best
    return float(np.mean(list(levels.values())))


def test_average_precision_is_what_it_is_threshold_by_threshold():
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 4, (60, 9)) / 2
    relevant = rng.random((60, 3, 9)) < rng.choice([0, 0.2, 0.6, 1], (60, 3, 1))
    found = average_precision(scores, relevant)
    expected = [[published_precision(one, row) for one in three] for row, three in zip(scores, relevant, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert {0.0, 1.0} < set(found.ravel())


def video(*scores: int, clips: int = 0) -> tuple:
    """A truth in which all annotators agree."""
    return 2 * max(clips, len(scores)), list(range(len(scores))), [[one] * 3 for one in scores]


def test_levels_of_relevance():
    result = score({"a": [0, 0, 1, 0]}, {"a": video(0, 1, 3, 4)})
    assert [result[f"hit1_{name}"] for name in ("fair", "good", "very_good")] == [100, 100, 0]
    assert result["map_good"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert result["map_very_good"] == pytest.approx(100 * 1 / 4)
    assert score({"a": [1]}, {"a": video(2)})["map_fair"] == 100
    assert score({"a": [1]}, {"a": video(2)})["map_good"] == 0


def test_one_annotator_is_enough_for_a_hit_and_a_third_of_the_precision():
    result = score({"a": [1, 0]}, {"a": (4, [0], [[0, 4, 0]])})
    assert (result["hit1_very_good"], result["map_very_good"]) == (100, pytest.approx(100 / 3))


def test_of_equal_scores_the_first_clip_is_the_hit():
    assert score({"a": [0, 5, 5]}, {"a": video(0, 4, 0)})["hit1_fair"] == 100
    assert score({"a": [0, 5, 5]}, {"a": video(0, 0, 4)})["hit1_fair"] == 0


def test_predictions_longer_and_shorter_than_the_video():
    references = {"a": video(4, 0), "b": video(4, 0, 0, 0, 0)}
    longer = score({"a": [0.5, 0.1, 0.9], "b": [1, 0, 0, 0, 0]}, references)
    assert (longer["hit1_fair"], longer["map_fair"]) == (50, 100)  # the best clip is behind the end
    shorter = score({"a": [-1]}, {"a": video(4, 0)})  # clip 1 has score 0 then
    assert (shorter["hit1_fair"], shorter["map_fair"]) == (100, 50)


def test_videos_of_different_length_dont_change_each_other():
    one, other = {"a": [0.1, 0.3, 0.2]}, {"b": [0.3, 0.1, 0.4, 0.1, 0.5, 0.9]}
    references = {"a": video(0, 0, 4), "b": video(4, 0, 0, 3, 0, 2)}
    apart = [score(ours, references, "timechat")["map_fair"] for ours in (one, other)]
    assert score(one | other, references)["map_fair"] == pytest.approx(np.mean(apart))


def test_an_odd_duration_has_the_clips_that_fit():
    assert score({"a": [0, 1]}, {"a": (3.9, [0], [[4, 4, 4]])})["hit1_fair"] == 0
    assert score({"a": [0, 0, 1]}, {"a": (5.9, [1], [[4, 4, 4]])})["map_fair"] == pytest.approx(50)


def test_an_empty_prediction_is_none():
    result = score({"a": [], "b": [1, 0]}, {"a": video(4), "b": video(4, 0), "c": video(4)}, "seq2time")
    assert (result["queries"], result["missing"], result["map_fair"]) == (3, 2, pytest.approx(100 / 3))


def test_nothing_to_score_is_0():
    for protocol in ("seq2time", "timechat"):
        result = score({}, {}, protocol)
        assert (result["map_fair"], result["hit1_fair"], result["queries"]) == (0, 0, 0)
    assert score({}, {"a": video(4)})["map_fair"] == 0


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="expected one of timechat, seq2time, found 'vtimellm'"):
        score({}, {}, "vtimellm")
