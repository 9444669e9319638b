"""
Action segmentation: a label for every frame of a video.

`mof` is the share of frames with the right label, of all videos together. A segment is a longest run of one label;
segments of `background` are left out of what follows. `edit` is the mean over videos of 1 - (Levenshtein distance of
the two series of segment labels) / (length of the longer one). `f1@10`, `f1@25` and `f1@50`: each predicted segment
looks for the true segment of its label with the highest IoU; if that is at least 10, 25 or 50 %, and no earlier segment
has taken it, the two are a hit. Hits, other predictions and other truths of all videos together give F1. IoU is the
shared length divided by the length from the earlier start to the later end.

A video without prediction (`missing`), or with an empty one, is all wrong. If prediction and truth both have no segment
but background, `edit` is 100 for that video, where MS-TCN's script divides by zero.

Protocols, which differ only where a prediction has more frames than the truth:
- `seq2time`: all frames that only one of the two has are wrong.
- `ms_tcn`: as MS-TCN's script: the frames behind the truth's end don't count in `mof`; they do in segments. The script
  stops at a prediction that is too short; here the frames that it lacks are wrong.
"""

from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np

from .intervals import ratio, summarise


PROTOCOLS = ("seq2time", "ms_tcn")
OVERLAPS = (10, 25, 50)


def score(
    predictions: dict[str, Sequence],
    references: dict[str, Sequence],
    protocol: str = PROTOCOLS[0],
    background: Collection = ("background",),
) -> dict:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {protocol!r}")
    predictions = {name: one for name, one in predictions.items() if one is not None}
    rows = [_row(predictions.get(name, ()), truth, protocol, background) for name, truth in references.items()]
    figures, interval = summarise(np.array(rows, dtype=float).reshape(len(rows), 4 + 2 * len(OVERLAPS)), _figures)
    missing = sum(name not in predictions for name in references)
    return {**figures, "videos": len(rows), "missing": missing, "protocol": protocol, "interval": interval}


def _figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    right, frames, edit, videos, *pairs = np.moveaxis(sums, -1, 0)
    found = {"mof": 100 * ratio(right, frames), "edit": 100 * ratio(edit, videos)}
    for overlap, hits, total in zip(OVERLAPS, pairs[::2], pairs[1::2], strict=True):
        found[f"f1@{overlap}"] = 100 * ratio(2 * hits, total)
    return found


def _row(predicted: Sequence, truth: Sequence, protocol: str, background: Collection) -> list[float]:
    """Right frames, frames, edit score, 1; then per overlap the hits and the segments of both sides."""
    right = sum(one == other for one, other in zip(predicted, truth, strict=False))
    frames = max(len(truth), len(predicted) if protocol == "seq2time" else 0)
    ours, theirs = segments(predicted, background), segments(truth, background)
    edit = edit_score([label for label, *_ in ours], [label for label, *_ in theirs]) if len(predicted) else 0.0
    best, iou = _best(ours, theirs)
    row = [right, frames, edit, 1]
    for overlap in OVERLAPS:
        row += [len(set(best[iou >= overlap / 100].tolist())), len(ours) + len(theirs)]
    return row


def segments(labels: Sequence, background: Collection = ()) -> list[tuple]:
    """(label, first frame, frame behind the last) of each run of a label that isn't background."""
    found, at = [], 0
    for label, run in groupby(labels):
        end = at + sum(1 for _ in run)
        if label not in background:
            found.append((label, at, end))
        at = end
    return found


def _best(ours: list[tuple], theirs: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """For each of our segments the one of theirs, with its label, that it meets best, and their IoU."""
    if not ours or not theirs:
        return np.zeros(0, dtype=int), np.zeros(0)
    starts, ends = (np.array([one[place] for one in ours])[:, None] for place in (1, 2))
    their_starts, their_ends = (np.array([one[place] for one in theirs]) for place in (1, 2))
    shared = np.minimum(ends, their_ends) - np.maximum(starts, their_starts)
    hull = np.maximum(ends, their_ends) - np.minimum(starts, their_starts)
    same = np.array([[one[0] == other[0] for other in theirs] for one in ours])
    iou = np.where(same, shared / hull, 0)
    return iou.argmax(axis=1), iou.max(axis=1)


def edit_score(ours: Sequence, theirs: Sequence) -> float:
    """1 - Levenshtein distance / longer length; 1 if both are empty."""
    if not ours and not theirs:
        return 1.0
    above = list(range(len(theirs) + 1))
    for number, one in enumerate(ours, 1):
        row = [number]
        for place, other in enumerate(theirs):
            row.append(min(above[place] + (one != other), above[place + 1] + 1, row[place] + 1))
        above = row
    return 1 - above[-1] / max(len(ours), len(theirs))
