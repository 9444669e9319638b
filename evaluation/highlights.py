"""
Highlights: how well scores of 2-second clips rank those that annotators found good.

Three annotators score every clip from 0 to 4; a clip of which they said nothing has 0. It is relevant to an annotator
if the score is at least 2 (`fair`), 3 (`good`) or 4 (`very_good`). `map_*` is the mean over queries and annotators of
the average precision: the mean, over the levels of recall that the distinct predicted scores lead to, of the best
precision at that level or a higher one; 0 without relevant clips. `hit1_*` is the share of queries whose first clip of
the highest score is relevant to one of the annotators.

A prediction longer than the video is cut to it for `map_*`; missing clips at its end have score 0; `hit1_*` takes the
prediction as it is, and a clip behind the end is a miss. An empty prediction is none.

Protocols:
- `timechat`: as the script of QVHighlights that TimeChat uses, before it rounds to two digits: only queries with a
  prediction count; `queries` is their number.
- `seq2time`: a query without prediction (`missing`) counts 0.
"""

import numpy as np

from .intervals import means, ratio


PROTOCOLS = ("timechat", "seq2time")
LEVELS = {"fair": 2, "good": 3, "very_good": 4}
CLIP, ANNOTATORS = 2, 3  # seconds; people


def score(predictions: dict, references: dict, protocol: str = PROTOCOLS[0]) -> dict:
    """
    `predictions` are a score per clip, or None; `references` are (duration in seconds, ids of the clips with scores,
    their scores `(clips, annotators)`).
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {protocol!r}")
    predictions = {name: one for name, one in predictions.items() if one is not None and len(one)}
    answered = [name for name in references if name in predictions]
    missing = len(references) - len(answered)
    truth, lengths = _truth([references[name] for name in answered])
    given = [np.asarray(predictions[name], dtype=float) for name in answered]
    scores = np.full(truth.shape[::2], -np.inf)  # clips behind the end come last, where they change nothing
    for row, one, length in zip(scores, given, lengths, strict=True):
        row[:length] = 0
        row[: min(length, len(one))] = one[:length]
    first = np.array([one.argmax() for one in given], dtype=int)
    inside = first < lengths
    columns = {}
    for name, least in LEVELS.items():
        relevant = truth >= least
        columns[f"map_{name}"] = average_precision(scores, relevant).mean(axis=1)
        hit = relevant[np.arange(len(first)), :, np.where(inside, first, 0)].any(axis=1)
        columns[f"hit1_{name}"] = hit & inside
    if protocol == "seq2time":
        columns = {name: np.append(column, np.zeros(missing)) for name, column in columns.items()}
    figures, interval = means(columns)
    queries = len(columns["map_fair"])
    return {**figures, "queries": queries, "missing": missing, "protocol": protocol, "interval": interval}


def clips(duration: float) -> int:
    return int(duration / CLIP)


def _truth(references: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """The annotators' scores, `(queries, annotators, clips)`, and how many clips each video has."""
    lengths = np.array([clips(duration) for duration, *_ in references], dtype=int)
    truth = np.zeros((len(references), ANNOTATORS, max(lengths, default=1)))
    for row, (_, ids, scores) in zip(truth, references, strict=True):
        row[:, np.asarray(ids, dtype=int)] = np.asarray(scores, dtype=float).reshape(-1, ANNOTATORS).T
    return truth, lengths


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """`(queries, annotators)` from scores `(queries, clips)` and relevance `(queries, annotators, clips)`."""
    order = scores.argsort(axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)[:, None]
    hits = np.take_along_axis(relevant, order[:, None], axis=2)[..., ::-1].cumsum(axis=2)[..., ::-1]
    leads = np.ones(ranked.shape, dtype=bool)  # equal scores are one threshold: the first of them stands for all
    leads[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    precision = np.where(leads, hits / np.arange(scores.shape[1], 0, -1), 0)
    precision = np.maximum.accumulate(precision, axis=2)
    hits = np.minimum.accumulate(np.where(leads, hits, np.inf), axis=2)
    last = np.diff(hits, axis=2, append=0) != 0  # of the thresholds with the same recall
    return ratio((precision * last).sum(axis=2), last.sum(axis=2))
