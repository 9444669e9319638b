"""
Temporal grounding: how well the moments predicted for a query meet its true windows.

`r1@τ` and `r5@τ` are the share of queries of which one of the first (five) predictions has an IoU of at least τ with
one of the truth's windows; `miou` is the mean IoU of the first prediction and the window that it meets best. IoU is the
shared length divided by the length from the earlier start to the later end. Two equal moments without length have an
IoU of 1, where the published scripts would divide by zero.

A query without prediction (`missing`) and one whose answer holds no moment (`unparsed`: None, or an empty list although
there is a window) are misses. A query without windows asks for an absent event: it is in none of the figures above, but
in `absent`, the number of them, and `absent_found`, the share of them whose prediction is there and empty. Both keys
are there only if absent events are. `queries` counts all queries that the figures are about, absent ones included.

Protocols:
- `seq2time`: a moment that ends before it starts is turned round, in predictions and truths.
- `timechat`: as TimeChat's script: such a moment meets nothing. The script stops if queries are missing; here they are
  misses.
- `timechat_sample`: as the script with its option `--sample`: only queries with a prediction count.
- `qvhighlights`: as QVHighlights' script: moments aren't turned round, only queries with a prediction count, and there
  is moment retrieval's average precision, `map@0.5`, `map@0.75` and `map`, the mean over IoU .5, .55 … .95. For it the
  first ten predictions are ranked by their score, a third element of each; they keep their order if one has none.
"""

from collections.abc import Sequence

import numpy as np

from .intervals import means


PROTOCOLS = ("seq2time", "timechat", "timechat_sample", "qvhighlights")
THRESHOLDS = (0.3, 0.5, 0.7)
DEPTHS = (1, 5)
AP_THRESHOLDS = np.round(np.linspace(0.5, 0.95, 10), 2)
AP_DEPTH = 10

Moments = Sequence[Sequence[float]]  # (start, end) or (start, end, score)


def score(predictions: dict[str, Moments | None], references: dict[str, Moments], protocol: str = PROTOCOLS[0]) -> dict:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {protocol!r}")
    only_answered = protocol in ("timechat_sample", "qvhighlights")
    counted = {name: truth for name, truth in references.items() if not only_answered or name in predictions}
    there = [name for name, windows in counted.items() if len(windows)]
    absent = [name for name, windows in counted.items() if not len(windows)]
    windows, ranked = [counted[name] for name in there], [_given(predictions.get(name)) for name in there]

    best = overlaps(ranked, windows, max(DEPTHS), in_order=protocol == "seq2time").max(axis=2, initial=0.0)
    columns = {f"r{k}@{iou}": (best[:, :k] >= iou).any(axis=1) for k in DEPTHS for iou in THRESHOLDS}
    columns["miou"] = best[:, 0]
    if protocol == "qvhighlights":
        columns |= _precision_columns(ranked, windows)
    figures, interval = means(columns)
    found = np.array(
        [name in predictions and predictions[name] is not None and not predictions[name] for name in absent]
    )
    counts = {
        "queries": len(counted),
        "missing": sum(name not in predictions for name in references),
        "unparsed": sum(not predictions[name] for name in counted if name in predictions) - int(found.sum()),
    }
    if absent:
        share, spread = means({"absent_found": found})
        figures, interval, counts = figures | share, interval | spread, counts | {"absent": len(absent)}
    return {**figures, **counts, "protocol": protocol, "interval": interval}


def _given(moments: Moments | None) -> Moments:
    return [] if moments is None else moments


def overlaps(
    ranked: list[Moments], windows: list[Moments], depth: int, in_order: bool = False, of_sum: bool = False
) -> np.ndarray:
    """
    IoU of each query's first `depth` predictions with each of its windows, `(queries, depth, windows)`, 0 where there
    is none. The union is all from the first start to the last end, or (`of_sum`) both lengths less what they share: the
    same but for rounding, which decides about an IoU at a threshold, and each script has its own.
    """
    pairs = [
        (query, rank, number, *moment[:2], *window[:2])
        for query, (moments, truth) in enumerate(zip(ranked, windows, strict=True))
        for rank, moment in enumerate(moments[:depth])
        for number, window in enumerate(truth)
    ]
    table = np.array(pairs, dtype=float).reshape(-1, 7)
    spans = table[:, 3:].reshape(-1, 2, 2)
    if in_order:
        spans = np.sort(spans, axis=2)
    starts, ends = spans[..., 0], spans[..., 1]
    shared = np.maximum(ends.min(axis=1) - starts.max(axis=1), 0)
    union = (ends - starts).sum(axis=1) - shared if of_sum else ends.max(axis=1) - starts.min(axis=1)
    equal = (spans[:, 0] == spans[:, 1]).all(axis=1).astype(float)
    found = np.zeros((len(windows), depth, max(map(len, windows), default=0)))
    found[tuple(table[:, :3].astype(int).T)] = np.divide(shared, union, out=equal, where=union != 0)
    return found


def _precision_columns(ranked: list[Moments], windows: list[Moments]) -> dict[str, np.ndarray]:
    by_score = [_by_score(moments[:AP_DEPTH]) for moments in ranked]
    ious, true = overlaps(by_score, windows, AP_DEPTH, of_sum=True), np.array([len(truth) for truth in windows])
    precision = average_precision(ious, true)
    at = {f"map@{iou}": precision[:, list(AP_THRESHOLDS).index(iou)] for iou in (0.5, 0.75)}
    return {"map": precision.mean(axis=1), **at}


def _by_score(moments: Moments) -> Moments:
    if all(len(moment) > 2 for moment in moments):
        return sorted(moments, key=lambda moment: -moment[2])
    return moments


def average_precision(ious: np.ndarray, true: np.ndarray) -> np.ndarray:
    """
    `(queries, thresholds)`, from IoUs `(queries, ranks, windows)` and each query's number of windows. In order of rank
    each prediction takes the free window that it meets best, if well enough. Precision is interpolated: at each hit it
    is the best one from there on.
    """
    queries, ranks, width = ious.shape
    hits = np.zeros((queries, len(AP_THRESHOLDS), ranks))
    if not hits.size:
        return np.zeros(hits.shape[:2])
    free = np.broadcast_to((np.arange(width) < true[:, None])[:, None], (queries, len(AP_THRESHOLDS), width)).copy()
    for rank in range(ranks):
        left = np.where(free, ious[:, rank, None], -1.0)
        best = width - 1 - left[..., ::-1].argmax(axis=2)  # of windows met equally well the last, as published
        value = np.take_along_axis(left, best[..., None], axis=2)[..., 0]
        hits[..., rank] = value >= AP_THRESHOLDS
        query, level = np.nonzero(hits[..., rank])
        free[query, level, best[query, level]] = False
    precision = hits.cumsum(axis=2) / np.arange(1, ranks + 1)
    best_from_here = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    return (hits * best_from_here).sum(axis=2) / true[:, None]
