"""How sure a figure is: bootstrap intervals over videos or queries, in numpy."""

from collections.abc import Callable

import numpy as np


RESAMPLES, SEED, LEVEL = 1_000, 0, 0.95


def summarise(
    columns: np.ndarray, figures: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """
    Figures and their intervals, from a row of `columns` per video or query.

    `figures` computes from the sums of the columns, `(..., columns)`, every figure, `(...)`; so the figures of a
    resample are those of other sums. An interval holds the middle 95 % of the figures of 1 000 resamples of the rows,
    drawn with replacement from a fixed seed. Without rows all figures are 0.
    """
    rows, width = columns.shape
    values = {name: float(value) for name, value in figures(columns.sum(axis=0)).items()}
    if not rows:
        return values, {name: [0.0, 0.0] for name in values}
    generator = np.random.default_rng(SEED)
    sums = np.empty((RESAMPLES, width))
    for number in range(RESAMPLES):
        sums[number] = np.bincount(generator.integers(rows, size=rows), minlength=rows) @ columns
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    spread = {name: np.quantile(value, (low, high)).tolist() for name, value in figures(sums).items()}
    return values, spread


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))), where=whole != 0)


def means(columns: dict[str, np.ndarray], scale: float = 100.0) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The mean of each column, times `scale`, with its interval."""
    table = np.column_stack([*columns.values(), np.ones(len(next(iter(columns.values()))))]).astype(float)

    def figures(sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: ratio(scale * sums[..., at], sums[..., -1]) for at, name in enumerate(columns)}

    return summarise(table, figures)
