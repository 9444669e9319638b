"""Answers as typed moments: what a model wrote, read into start, end, text and score."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from .time_notation import Notation


_NUMBER = r"\d+(?:\.\d+)?"
_PAIR = re.compile(rf"({_NUMBER})\.?\s*[-–]\s*({_NUMBER})", re.ASCII)
_CLOCK = re.compile(r"\b(?:(\d{1,2}):)?(\d{1,2}):(\d{2}(?:\.\d+)?)\b", re.ASCII)
_IN_WORDS = (
    re.compile(rf"\bstart\D*?({_NUMBER}).*?\bend\D*?({_NUMBER})", re.ASCII | re.IGNORECASE | re.DOTALL),
    re.compile(rf"\bfrom ({_NUMBER})(?: ?s| seconds?)? to ({_NUMBER})", re.ASCII | re.IGNORECASE),
    re.compile(rf"\bbetween ({_NUMBER})(?: ?s| seconds?)? and ({_NUMBER})", re.ASCII | re.IGNORECASE),
)
_BETWEEN = re.compile(r"\s*(?:-|–|to|and)\s*", re.ASCII | re.IGNORECASE)
_AND = re.compile(r"(?: seconds)?(?:,| and|, and) (?:from )?", re.IGNORECASE)  # between the windows of one answer
SHORTEST_PIECE = 6  # TimeChat drops what stands between two times if it is shorter


@dataclass(frozen=True)
class Moment:
    """
    From `start` to `end`: seconds of a video, places (from 1) of an image sequence; `position` is the same as fractions
    of the sequence. `score` is the overlap that `ground` expects, the probability of a caption's times, or a
    highlight's saliency.
    """

    start: float
    end: float
    text: str = ""
    score: float | None = None
    position: tuple[float, float] | None = None

    @classmethod
    def at(cls, positions: tuple[float, float], length: float, text: str = "", score: float | None = None) -> "Moment":
        """The moment at these fractions of a sequence."""
        start, end = (round(position * length, 6) for position in positions)
        return cls(start, end, text, score, positions)

    def moved(self, offset: float, length: float) -> "Moment":
        """A moment of a window that begins at `offset`, as a moment of the whole sequence."""
        start, end = round(self.start + offset, 6), round(self.end + offset, 6)
        return replace(self, start=start, end=end, position=(min(start / length, 1.0), min(end / length, 1.0)))


class Answer(list):
    """
    The moments of one answer. `text` is what the model wrote; `failure` says why no moment could be read from it, if
    none could; `proven` is False where a search stopped before it could show that no better moments exist; `length` is
    that of the sequence, in seconds (`unit="s"`) or images (`"image"`).
    """

    def __init__(
        self,
        moments: Iterable[Moment] = (),
        text: str = "",
        failure: str | None = None,
        proven: bool = True,
        length: float | None = None,
        unit: str = "s",
    ):
        super().__init__(moments)
        self.text, self.failure, self.proven, self.length, self.unit = text, failure, proven, length, unit

    def of(self, moments: Iterable[Moment]) -> "Answer":
        """The same answer with these moments in place of its own."""
        return Answer(moments, self.text, self.failure, self.proven, self.length, self.unit)


def failure_rate(answers: Iterable[Answer]) -> float:
    """The part of these answers from which no moment could be read."""
    failures = [answer.failure is not None for answer in answers]
    return sum(failures) / len(failures) if failures else 0.0


def read_moments(
    text: str, notation: Notation, length: float, unit: str = "s", shortest: int = SHORTEST_PIECE
) -> Answer:
    """
    The events of a free answer, each with the text that follows its times; TimeChat's reading for plain text. Reversed
    times are swapped, pieces with less than `shortest` characters dropped with their times.
    """
    written = _clock_as_seconds(text) if notation.name == "text" else text
    pairs = _pairs(written, notation, length, unit)
    ends = [start for start, _, _ in pairs][1:] + [len(written)] * bool(pairs)
    events = [
        Moment.at(positions, length, caption_of(written[end:following], notation))
        for (_, end, positions), following in zip(pairs, ends, strict=True)
        if following - end >= shortest
    ]
    failure = None if events else "no times with a text behind them" if pairs else "no start and end"
    return Answer(events, text, failure)


def read_grounding(text: str, notation: Notation, length: float, unit: str = "s", query: str = "") -> Answer:
    """The first start and end that a free answer names, and those it lists behind them; swapped if reversed."""
    written = _clock_as_seconds(text) if notation.name == "text" else text
    pairs = _pairs(written, notation, length, unit)
    if not pairs and notation.name == "text":
        found = next((match for pattern in _IN_WORDS if (match := pattern.search(written))), None)
        pairs = [(0, 0, _seconds_of(found, notation, length, unit))] if found else []
    if not pairs:
        return Answer([], text, "no start and end")
    listed = [_AND.fullmatch(written[end:start]) for (_, end, _), (start, _, _) in pairwise(pairs)]
    last = 1 + next((place for place, joined in enumerate(listed) if not joined), len(listed))
    return Answer([Moment.at(positions, length, query) for _, _, positions in pairs[:last]], text)


def read_highlights(text: str, notation: Notation, length: float, unit: str = "s", query: str = "") -> Answer:
    """The times of a free answer with the saliency scores named behind them."""
    times, _, rest = text.partition("score")
    positions = notation.decode(times, length, unit)
    scores = [float(number) for number in re.findall(r"\b\d\.\d\b", rest)]
    if not positions or len(positions) != len(scores):
        return Answer([], text, f"{len(positions)} times and {len(scores)} saliency scores")
    return Answer(
        [Moment.at((place, place), length, query, score) for place, score in zip(positions, scores, strict=True)], text
    )


def caption_of(piece: str, notation: Notation) -> str:
    """The text behind a moment's times, without what belongs to the times around it."""
    piece = re.sub(r"^\s*seconds?\b", "", piece)
    if notation.lead:
        piece = re.sub(rf"{notation.lead.strip()}\s*$", "", piece)
    return notation.unescape(piece.strip(" \t\r\n,;:-–").removeprefix(".").strip())


def _clock_as_seconds(text: str) -> str:
    def seconds(found: re.Match) -> str:
        return f"{int(found[1] or 0) * 3600 + int(found[2]) * 60 + float(found[3]):g}"

    return _CLOCK.sub(seconds, text)


def _seconds_of(found: re.Match, notation: Notation, length: float, unit: str) -> tuple[float, float]:
    return _ordered(*(notation.fraction(round(float(number) * 10, 6), length, unit) for number in found.groups()))


def _ordered(one: float, other: float) -> tuple[float, float]:
    return (one, other) if one <= other else (other, one)


def _pairs(text: str, notation: Notation, length: float, unit: str) -> list[tuple[int, int, tuple[float, float]]]:
    """Where each start and end stand in a text, and their positions."""
    if notation.name == "text":
        return [
            (found.start(), found.end(), _seconds_of(found, notation, length, unit)) for found in _PAIR.finditer(text)
        ]
    times, pairs, place = notation.find(text, unit), [], 0
    while place + 1 < len(times):
        (start, end, code), (other_start, other_end, other) = times[place : place + 2]
        if _BETWEEN.fullmatch(text[end:other_start]):
            positions = _ordered(notation.fraction(code, length, unit), notation.fraction(other, length, unit))
            pairs.append((start, other_end, positions))
            place += 1
        place += 1
    return pairs


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans; equal points overlap fully."""
    union = max(one[1], other[1]) - min(one[0], other[0])
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0])) / union if union else 1.0


def distinct(moments: Iterable, max_overlap: float, span: Callable) -> Iterator:
    """Of moments whose spans overlap more than this only the first."""
    kept: list[tuple[float, float]] = []
    for moment in moments:
        place = span(moment)
        if max_overlap >= 1 or all(overlap(place, other) <= max_overlap for other in kept):
            kept.append(place)
            yield moment


def merge_windows(windows: list[list[Moment]], near: float) -> list[Moment]:
    """
    The moments of overlapping windows, best score first, each once: of two from different windows that share half of
    the shorter one (or are points less than `near` apart), the one with the higher score stays.
    """
    ranked = sorted(
        ((moment, window) for window, moments in enumerate(windows) for moment in moments),
        key=lambda item: (-(item[0].score or 0.0), item[0].start, item[0].end),
    )
    kept: list[tuple[Moment, int]] = []
    for moment, window in ranked:
        if not any(window != other and _same_event(moment, rival, near) for rival, other in kept):
            kept.append((moment, window))
    return [moment for moment, _ in kept]


def _same_event(one: Moment, other: Moment, near: float) -> bool:
    shared = min(one.end, other.end) - max(one.start, other.start)
    shorter = min(one.end - one.start, other.end - other.start)
    return shared >= shorter / 2 if shorter > near else shared > -near
