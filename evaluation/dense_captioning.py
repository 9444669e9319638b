"""
Dense captioning: where events are, and what happens in them.

- `precision@τ`, `recall@τ`: the share of predicted (true) events that meet a true (predicted) one with IoU > τ, at .3,
  .5, .7 and .9; `precision`, `recall`: their means over τ; `f1`: of each video's two means. Means over videos.
- `cider`, `meteor`: at each τ every prediction is scored against every truth that it meets with IoU ≥ τ; one that
  meets none, against a word that no caption holds. CIDEr's document frequencies are those of one video at one τ; METEOR
  adds up what matches before it scores. Means over τ, then over videos.
- `soda_c`: the best chain of pairs in order of time by IoU · METEOR, as F of its gain per prediction and per truth.
- `para_cider`, `para_meteor`: all captions of a video as one text.
- `mean_predictions`: per video; `l_avg`: words per predicted caption; `ttr`: distinct words / words of all captions of
  a video, mean over videos with words (the paper doesn't say over how much text it takes it).

Protocols:
- `seq2time`: a video without prediction scores 0; an event that ends before it starts is turned round; SODA_c `mended`.
- `timechat`: TimeChat's script to the digit, with its errors: in videos with more than ten predictions SODA_c takes
  scores and places in different orders, and behind missing videos paragraphs are compared with those of other videos.
- `vtimellm`: a video without prediction isn't counted; nothing is turned round; letters beyond ASCII are taken away; at
  most 1 000 predictions of a video; `f1` is the mean over τ of the F1 of mean precision and recall; SODA_c `official`.

SODA_c may be chosen apart: `mended` is TimeChat's with each score in its place and events in order of their start;
`official` that of SODA's authors: nothing is turned round, videos without prediction aren't counted, ASCII only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from . import captions, cider, meteor
from .intervals import ratio, summarise


PROTOCOLS = ("seq2time", "timechat", "vtimellm")
SODA = {"seq2time": "mended", "timechat": "timechat", "vtimellm": "official"}  # of each protocol
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
MOST_PREDICTIONS = 1_000  # of VTimeLLM

Events = Mapping[str, Sequence[tuple[tuple[float, float], str]]]  # of each video: (start, end) in seconds, caption


@dataclass
class Video:
    """What is predicted for one video and what is true, in the order of the files."""

    predicted: np.ndarray  # (events, 2)
    true: np.ndarray
    said: list[str]  # captions
    told: list[str]
    iou: np.ndarray  # (predicted, true)
    said_words: list[str] = field(default_factory=list)  # tokenized captions
    told_words: list[str] = field(default_factory=list)
    pairs: list[list[tuple[str, str]]] = field(default_factory=list)  # at each threshold: (prediction, truth) in words


def score(predictions: Events, references: Events, protocol: str = PROTOCOLS[0], soda: str | None = None) -> dict:
    """Figures × 100, counts, `protocol` and an `interval` for each figure."""
    soda = soda or SODA.get(protocol)
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    if soda not in SODA.values():
        raise ValueError(f"unknown SODA_c {soda!r}, expected one of {', '.join(SODA.values())}")
    if empty := [name for name, events in references.items() if not events]:
        raise ValueError(f"expected at least one true event of each video, found none of {empty[0]!r}")

    bare = protocol == "vtimellm"
    counted = [name for name in references if not bare or name in predictions]
    if not counted:
        raise ValueError(f"expected videos to score, found {len(references)} true ones without a prediction")
    chained = [name for name in counted if soda != "official" or name in predictions]
    videos = {name: _video(predictions.get(name, ()), references[name], bare) for name in counted}
    _put_into_words(list(videos.values()), in_order=protocol != "seq2time")
    chains = dict(zip(chained, _chains([videos[name] for name in chained], soda), strict=True))
    paragraphs = _paragraphs(videos, predictions, protocol)
    found = meteor.statistics(
        [
            *(pair for video in videos.values() for pairs in video.pairs for pair in pairs),
            *(pair for _, pairs in chains.values() for row in pairs for pair in row if pair),
            *paragraphs.values(),
        ]
    )
    similar = dict(zip(paragraphs, cider.scores(list(paragraphs.values())), strict=True))
    rows = []
    for name, video in videos.items():
        row = {"videos": 1.0} | _events_row(video) | _captions_row(video, found) | _wealth_row(video)
        row |= {"soda": _soda(*chains[name], found) if name in chains else 0.0, "chained": float(name in chains)}
        row |= {"para_cider": similar.get(name, 0.0), "paragraphs": float(name in paragraphs)}
        matched = meteor.total(found[paragraphs[name]][None]) if name in paragraphs else np.zeros(meteor.WIDTH)
        rows.append(row | {f"paragraph {at}": value for at, value in enumerate(matched)})
    values, interval = _figures(rows, bare)
    missing = sum(name not in predictions for name in references)
    counts = {"videos": len(videos), "missing": missing}
    return values | counts | {"protocol": protocol, "soda": soda, "interval": interval}


def iou(predicted: np.ndarray, true: np.ndarray, turned: bool = True) -> np.ndarray:
    """(predicted, true), as all published scripts divide; `turned`: an end before its start changes places with it."""
    if turned:
        predicted, true = np.sort(predicted, axis=1), np.sort(true, axis=1)
    (start, end), (true_start, true_end) = predicted.T[:, :, None], true.T[:, None, :]
    shared = np.maximum(np.minimum(end, true_end) - np.maximum(start, true_start), 0)
    hull = np.maximum(end, true_end) - np.minimum(start, true_start)
    return shared / (np.minimum(hull, end - start + true_end - true_start) + 1e-8)


def _video(predicted: Sequence, true: Sequence, bare: bool) -> Video:
    predicted = predicted[: MOST_PREDICTIONS if bare else None]
    spans = [spans_of(predicted), spans_of(true)]
    said, told = ([_ascii(text) if bare else text for _, text in events] for events in (predicted, true))
    return Video(*spans, said, told, iou(*spans, turned=not bare))


def spans_of(events: Sequence) -> np.ndarray:
    """(events, 2)"""
    return np.array([span for span, _ in events], dtype=float).reshape(-1, 2)


def _ascii(text: str) -> str:
    return "".join(letter if letter.isascii() else " " for letter in text)


def _paragraphs(videos: dict[str, Video], predictions: Events, protocol: str) -> dict[str, tuple[str, str]]:
    """(prediction, truth) of each video."""
    true = [captions.letters_only(" ".join(video.told)) for video in videos.values()]
    said = [captions.letters_only(". ".join(video.said)) for video in videos.values()]
    if protocol == "timechat":  # leaves out missing videos among the predictions only, so that the others move up
        said = [text for text, name in zip(said, videos, strict=True) if name in predictions]
    return dict(zip(videos, zip(said, true, strict=False), strict=False))


def _put_into_words(videos: list[Video], in_order: bool):
    """Fills in `said_words`, `told_words` and `pairs`, from lists in the order in which the scripts have them."""
    lists = [[text for video in videos for text in video.said], [text for video in videos for text in video.told]]
    matches = [[_matches(video, threshold) for threshold in THRESHOLDS] for video in videos]
    for at in range(len(THRESHOLDS)):
        lists += ([pair[side] for own in matches for pair in own[at]] for side in (0, 1))
    if in_order:
        made = captions.tokenize_in_order(lists)
    else:
        words = captions.tokenize(text for one in lists for text in one)
        made = [[words[text] for text in one] for one in lists]
    said, told, *sides = map(iter, made)
    for video, own in zip(videos, matches, strict=True):
        video.said_words, video.told_words = list(islice(said, len(video.said))), list(islice(told, len(video.told)))
        for pairs, predicted, true in zip(own, sides[::2], sides[1::2], strict=True):
            count = len(pairs)
            video.pairs.append(list(zip(islice(predicted, count), islice(true, count), strict=True)))


def _matches(video: Video, threshold: float) -> list[tuple[str, str]]:
    """(prediction, truth) of all that meet; a word that no caption holds for predictions that meet nothing."""
    return [
        (text, truth)
        for text, met in zip(video.said, video.iou >= threshold, strict=True)
        for truth in [video.told[at] for at in np.flatnonzero(met)] or [meteor.NO_WORD]
    ]


def _events_row(video: Video) -> dict[str, float]:
    row, means = {}, []
    for threshold in THRESHOLDS:
        met = video.iou > threshold
        row[f"precision@{threshold}"] = met.any(axis=1).sum() / max(len(video.predicted), 1)
        row[f"recall@{threshold}"] = met.any(axis=0).sum() / len(video.true)
    for name in ("precision", "recall"):
        means.append(sum(row[f"{name}@{threshold}"] for threshold in THRESHOLDS) / len(THRESHOLDS))
    precision, recall = means
    both = precision + recall
    return row | {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}


def _captions_row(video: Video, found: dict) -> dict[str, float]:
    if not video.said:
        return {"cider": 0.0, "meteor": 0.0}
    meteors = [meteor.score(meteor.total(np.array([found[pair] for pair in pairs]))) for pairs in video.pairs]
    return {"cider": np.mean([np.mean(cider.scores(pairs)) for pairs in video.pairs]), "meteor": np.mean(meteors)}


def _chains(videos: list[Video], soda: str) -> list[tuple[np.ndarray, list[list]]]:
    """Of each video IoU (true, predicted), and for each the pair for METEOR, `None` where nothing can be won."""
    overlaps, said, told = [], [], []
    for video in videos:
        order, true_order = _order(video.predicted, soda), _order(video.true, soda)
        overlaps.append(iou(video.predicted, video.true, turned=soda != "official")[order][:, true_order].T)
        # TimeChat's scores come in the order of the places' names: "0", "1", "10", "2" …
        scored = sorted(order.tolist(), key=str) if soda == "timechat" else order
        said.append([(video.said if soda == "official" else video.said_words)[at] for at in scored])
        told.append([(video.told if soda == "official" else video.told_words)[at] for at in true_order])
    if soda == "official":
        made = captions.tokenize_in_order([[_ascii(text) for own in side for text in own] for side in (said, told)])
        said, told = (
            [list(islice(words, len(own))) for own in side]
            for words, side in zip(map(iter, made), (said, told), strict=True)
        )
    # Both SODA codes call the prediction the reference.
    pairs = [
        [[(truth, text) if value > 0 else None for text, value in zip(ours, row, strict=True)]
         for truth, row in zip(theirs, overlap, strict=True)]
        for overlap, ours, theirs in zip(overlaps, said, told, strict=True)
    ]  # fmt: skip
    return list(zip(overlaps, pairs, strict=True))


def _order(spans: np.ndarray, soda: str) -> np.ndarray:
    """Places of events as the chain goes through them: by their start, or as in TimeChat's file."""
    if soda == "timechat":
        return np.arange(len(spans))
    return np.argsort((np.sort(spans, axis=1) if soda == "mended" else spans)[:, 0], kind="stable")


def _soda(overlap: np.ndarray, pairs: list[list], found: dict) -> float:
    true, predicted = overlap.shape
    if not predicted:
        return 0.0
    gains = np.zeros(overlap.shape)
    if wanted := [found[pair] for row in pairs for pair in row if pair]:
        gains[overlap > 0] = meteor.score(np.array(wanted))
    best = longest_chain(overlap * gains)
    precision, recall = best / predicted, best / true
    return 2 * precision * recall / (precision + recall) if best > 0 else 0.0


def longest_chain(gains: np.ndarray) -> float:
    """The most that pairs (row, column) can give together if both only ever go forward."""
    best = np.zeros(gains.shape[1] + 1)
    for row in gains:
        best[1:] = np.maximum(best[1:], best[:-1] + row)
        best = np.maximum.accumulate(best)
    return float(best[-1])


def _wealth_row(video: Video) -> dict[str, float]:
    used = [word for words in video.said_words for word in words.split()]
    wealth = len(set(used)) / len(used) if used else 0.0
    return {"predictions": len(video.said), "words": len(used), "ttr": wealth, "with_words": float(bool(used))}


def _figures(rows: list[dict], bare: bool) -> tuple[dict, dict]:
    names = {name: at for at, name in enumerate(rows[0])}
    columns = np.array([[row[name] for name in names] for row in rows])

    def figures(sums: np.ndarray) -> dict[str, np.ndarray]:
        def mean(name: str, of: str = "videos", scale: float = 100.0) -> np.ndarray:
            return scale * ratio(sums[..., names[name]], sums[..., names[of]])

        made = {name: mean(name) for name in ("f1", "precision", "recall")}
        for threshold in THRESHOLDS:
            made |= {f"{name}@{threshold}": mean(f"{name}@{threshold}") for name in ("precision", "recall")}
        if bare:
            both = [(made[f"precision@{threshold}"], made[f"recall@{threshold}"]) for threshold in THRESHOLDS]
            made["f1"] = np.mean([2 * ratio(one * two, one + two) for one, two in both], axis=0)
        paragraph = sums[..., [names[f"paragraph {at}"] for at in range(meteor.WIDTH)]]
        return made | {
            "soda_c": mean("soda", "chained"),
            "cider": mean("cider"),
            "meteor": mean("meteor"),
            "para_cider": mean("para_cider", "paragraphs"),
            "para_meteor": 100 * meteor.score(paragraph),
            "mean_predictions": mean("predictions", scale=1.0),
            "l_avg": mean("words", "predictions", scale=1.0),
            "ttr": mean("ttr", "with_words"),
        }

    return summarise(columns, figures)
