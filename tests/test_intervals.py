import numpy as np
import pytest

from evaluation.intervals import RESAMPLES, means, ratio, summarise


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    figures, interval = means({"x": values}, scale=1.0)
    assert figures["x"] == pytest.approx(values.mean())
    spread = 1.96 * values.std() / 20
    assert interval["x"] == pytest.approx([values.mean() - spread, values.mean() + spread], abs=0.02)


def test_a_constant_has_no_spread():
    assert means({"x": np.full(7, 0.25)}) == ({"x": 25.0}, {"x": [25.0, 25.0]})


def test_the_same_rows_have_the_same_interval():
    columns = np.random.default_rng(2).random((50, 3))
    one, other = (summarise(columns, lambda sums: {"a": sums[..., 0] / sums[..., 1]}) for _ in range(2))
    assert one == other


def test_a_figure_of_pooled_sums_resamples_rows_not_figures():
    """Two rows with 1 of 1 and 0 of 99: their share of all is 1 %, of a resample 0, 1 or 100 %."""
    columns = np.array([[1.0, 1.0], [0.0, 99.0]])
    seen = set()

    def share(sums):
        seen.update(np.atleast_1d(ratio(sums[..., 0], sums[..., 1])).round(3))
        return {"share": ratio(sums[..., 0], sums[..., 1])}

    figures, interval = summarise(columns, share)
    assert figures == {"share": 0.01}
    assert interval == {"share": [0.0, 1.0]}
    assert seen == {0.0, 0.01, 1.0}


def test_without_rows_everything_is_0():
    assert means({"x": np.array([])}) == ({"x": 0.0}, {"x": [0.0, 0.0]})


def test_ratio_is_0_where_there_is_nothing():
    assert ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist() == [0.0, 0.5]
    assert RESAMPLES == 1_000
