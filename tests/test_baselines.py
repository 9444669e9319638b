"""Answers that looked at nothing."""

import pytest

from evaluation.baselines import captioning_baselines, grounding_baselines


def test_the_whole_video_is_one_moment_of_its_length():
    queries = {"half": [(0.0, 5.0)], "fifth": [(4.0, 6.0)], "all": [(0.0, 4.0)]}
    lengths = {"half": 10.0, "fifth": 10.0, "all": 4.0}
    figures = grounding_baselines(queries, lengths)["whole video"]
    assert figures["miou"] == pytest.approx(100 * (0.5 + 0.2 + 1) / 3)
    assert [figures[f"r1@{iou}"] for iou in (0.3, 0.5, 0.7)] == pytest.approx([200 / 3, 200 / 3, 100 / 3])


def test_chance_is_what_evenly_drawn_moments_come_to():
    # The distance of two even draws from [0, 1] has the density 2 (1 - d): its mean is 1/3, above t it is (1 - t)².
    names = [str(number) for number in range(300)]
    figures = grounding_baselines({name: [(0.0, 8.0)] for name in names}, dict.fromkeys(names, 8.0))["chance"]
    assert figures["miou"] == pytest.approx(100 / 3, abs=0.5)
    assert [figures[f"r1@{iou}"] for iou in (0.3, 0.5, 0.7)] == pytest.approx([49, 25, 9], abs=1)


def test_chance_is_the_same_in_every_run_and_knows_lengths():
    once = grounding_baselines({"a": [(1.0, 2.0)]}, {"a": 10.0})
    assert once == grounding_baselines({"a": [(1.0, 2.0)]}, {"a": 10.0})
    longer = grounding_baselines({"a": [(1.0, 2.0)]}, {"a": 100.0})
    assert longer["chance"]["miou"] < once["chance"]["miou"]
    assert longer["whole video"]["miou"] == pytest.approx(1)


def test_dense_captioning_counts_places():
    events = {"one": [((0.0, 10.0), "a kite falls")], "two": [((0.0, 4.0), "a kite rises"), ((4.0, 10.0), "it lands")]}
    found = captioning_baselines(events, {"one": 10.0, "two": 10.0})
    # IoU 1 meets at all four thresholds. Of two events the first (IoU 0.4) is met at .3, the second (0.6) at .3 and .5:
    # precision is 2/4, recall (1 + 1/2)/4.
    whole = found["whole video"]
    assert (whole["precision"], whole["recall"]) == pytest.approx((75, 100 * (1 + 3 / 8) / 2))
    assert whole["f1"] == pytest.approx(100 * (1 + 2 * 0.5 * 0.375 / 0.875) / 2)
    assert 0 < found["chance"]["f1"] < whole["f1"]
    assert set(whole) == {"f1", "precision", "recall"}
