"""
How a position in a sequence is written for the language model, and read back.

A position is a fraction of its sequence, in [0, 1]. A notation writes it as a whole number, its *code*, in its own
tokens or digits. Stored text keeps positions as *time marks* with numerator and denominator, `[[12.3/60.5 s]]` and
`[[7/96 image]]`, so that one data set serves every notation: `render` writes them, `parse` brings them back.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

from tokenizers import AddedToken


UNITS = ("s", "image")
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_MARK = re.compile(rf"\[\[({_NUMBER})/({_NUMBER}) (s|image)\]\]")
_MARK_AND_UNIT = re.compile(rf"{_MARK.pattern}((?<= s\]\]) seconds?\b)?")


class Notation(ABC):
    """What all notations share: positions to text and back through codes."""

    name: str
    tokens: tuple[str, ...] = ()  # what it adds to a vocabulary
    seeds: tuple[str, ...] | None = ()  # the plain text whose embedding each token starts from; None: the mean row
    literal: str | None = None  # pattern of what stands between `<` and `>` in its tokens
    width: int = 1  # tokens of a time

    # How answers are worded around the times.
    opening = "The given query happens in "
    lead = ""
    separator = " - "
    unit_words: dict[str, str] = {"s": "", "image": ""}

    # The sentence for the image Q-Former, whose vocabulary gains no tokens (inferred: the paper is silent), and the one
    # behind the video.
    frame_template = dict.fromkeys(UNITS, "This frame is at position {position:.4f}.")
    sequence_template = dict.fromkeys(UNITS, "The video contains {count} frames sampled at {times}. ")

    @property
    def options(self) -> dict:
        """What `get_notation` needs besides the name to make it again."""
        return {}

    def encode(self, position: float, length: float | None = None, unit: str = "s") -> str:
        """A position in words; `length`, the duration or the number of images, where the notation counts them."""
        return self.write(self.code(_fraction(position), length, unit), unit)

    def decode(self, text: str, length: float | None = None, unit: str = "s") -> list[float]:
        """The positions of all times in a text."""
        return [self.fraction(code, length, unit) for _, _, code in self.find(text, unit)]

    @abstractmethod
    def code(self, position: float, length: float | None = None, unit: str = "s") -> int:
        """The code nearest to a position, as this notation rounds."""

    @abstractmethod
    def fraction(self, code: float, length: float | None = None, unit: str = "s") -> float:
        """The position that a code stands for."""

    @abstractmethod
    def write(self, code: int, unit: str = "s") -> str:
        """A code in the notation's tokens or characters."""

    @abstractmethod
    def resolution(self, length: float | None = None, unit: str = "s") -> float:
        """The step between neighbouring codes, as a fraction of the sequence."""

    def legal_codes(self, length: float, unit: str = "s") -> Sequence[int]:
        """The codes of times within a sequence, ascending: of its images, or of any instant up to its end."""
        if unit == "image":
            return sorted({self.code(place / length, length, unit) for place in range(1, round(length) + 1)})
        return range(self._last_code(length) + 1)

    @abstractmethod
    def _last_code(self, length: float) -> int:
        """Of a sequence's end."""

    def symbols(self, code: int, unit: str = "s") -> list[str]:
        """A written time piece by piece: a token of the notation's own, or a character."""
        return re.findall(r"<\w+>", self.write(code, unit)) if self.tokens else list(self.write(code, unit))

    def find(self, text: str, unit: str = "s") -> list[tuple[int, int, float]]:
        """Start, end and code of each time in a text. Runs of tokens that are no whole times are none."""
        found = []
        for run in re.finditer(rf"<{self.literal}>(?: ?<{self.literal}>)*", text):
            tokens = list(re.finditer(r"<\w+>", run[0]))
            times = [tokens[place : place + self.width] for place in range(0, len(tokens), self.width)]
            codes = [self.read([token[0] for token in time]) for time in times]
            if self.width == 1 or None not in codes:
                found += [
                    (run.start() + time[0].start(), run.start() + time[-1].end(), code)
                    for time, code in zip(times, codes, strict=True)
                    if code is not None
                ]
        return found

    def read(self, tokens: list[str]) -> int | None:
        """The code that the tokens of one time write, if they do. Plain text is read by `find`."""
        return None

    def escape(self, text: str) -> str:
        """Plain text that the tokenizer would take for a time token gets a backslash: `<7>` becomes `<\\7>`."""
        return re.sub(rf"<(\\*)(?={self.literal}>)", r"<\1\\", text) if self.literal else text

    def unescape(self, text: str) -> str:
        return re.sub(rf"<(\\*)\\(?={self.literal}>)", r"<\1", text) if self.literal else text


class RelativePositionTokens(Notation):
    """
    Seq2Time's unified relative position tokens: four digits of ten new tokens `<0>` … `<9>`, the same for an image
    index, a clip boundary and a second. The last position, 1.0000, takes the largest value that four digits can say.
    """

    name = "rpt"
    tokens = tuple(f"<{digit}>" for digit in range(10))
    seeds = tuple(str(digit) for digit in range(10))
    literal = "[0-9]"
    width = 4

    def code(self, position, length=None, unit="s"):
        return min(round(round(position, 4) * 10_000), 9_999)

    def fraction(self, code, length=None, unit="s"):
        # Four digits tell up to 5 000 places apart: there a place's own digits mean exactly that place.
        return _place(self, code, code / 10_000, length, unit, whole=(length or 0) <= 5_000)

    def write(self, code, unit="s"):
        return "".join(f"<{digit}>" for digit in f"{code:04d}")

    def read(self, tokens):
        return int("".join(token[1] for token in tokens)) if len(tokens) == self.width else None

    def resolution(self, length=None, unit="s"):
        return 1e-4

    def _last_code(self, length):
        return 9_999


class RelativeBins(Notation):
    """
    Grounded-VideoLLM's M + 1 relative tokens, M·t/D rounded as in its paper or cut off as in its code
    (`rounding="floor"`). Named `<bin_k>`, since its own `<k>` collide with Seq2Time's digits.
    """

    name = "bins"
    seeds = None
    literal = "bin_[0-9]+"
    opening = lead = "From "
    separator = " to "

    def __init__(self, num_bins: int = 300, rounding: str = "nearest"):
        if not isinstance(num_bins, int) or num_bins < 1:
            raise ValueError(f"num_bins must be a whole number of at least 1, found {num_bins!r}")
        if rounding not in ("nearest", "floor"):
            raise ValueError(f"rounding must be 'nearest' (the paper) or 'floor' (its code), found {rounding!r}")
        self.num_bins, self.rounding = num_bins, rounding
        self.tokens = tuple(f"<bin_{number}>" for number in range(num_bins + 1))

    @property
    def options(self):
        return {"num_bins": self.num_bins, "rounding": self.rounding}

    def code(self, position, length=None, unit="s"):
        scaled = round(position * self.num_bins, 9)  # 0.29 · 100 is 29, not 28.999999999999996
        return math.floor(scaled) if self.rounding == "floor" else math.floor(scaled + 0.5)

    def fraction(self, code, length=None, unit="s"):
        return _place(self, code, code / self.num_bins, length, unit, whole=False)

    def write(self, code, unit="s"):
        return self.tokens[code]

    def read(self, tokens):
        return self.tokens.index(tokens[0]) if tokens[0] in self.tokens else None

    def resolution(self, length=None, unit="s"):
        return 1 / self.num_bins

    def _last_code(self, length):
        return self.num_bins


class PercentTime(Notation):
    """VTimeLLM's two digits in plain text, 00 to 99, cut off; read back as k/100."""

    name = "percent"
    _time = r"(?<![\d.])\d\d(?!\d|\.\d)"
    opening = lead = "From "
    separator = " to "
    frame_template = dict.fromkeys(UNITS, "This frame is at position {position:.2f}.")

    def code(self, position, length=None, unit="s"):
        return min(math.floor(round(position * 100, 9)), 99)

    def fraction(self, code, length=None, unit="s"):
        return _place(self, code, code / 100, length, unit, whole=False)

    def write(self, code, unit="s"):
        return f"{code:02d}"

    def find(self, text, unit="s"):
        """The numbers of pairs (`05 to 12`); where there is no pair, all numbers of two digits."""
        pairs = rf"{self._time}\s*(?:to|and|-|–)\s*{self._time}"
        return _first_found(text, (pairs, self._time), r"\d\d", int)

    def resolution(self, length=None, unit="s"):
        return 0.01

    def _last_code(self, length):
        return 99


class _SecondsAndPlaces(Notation):
    """Notations that count: tenths of a second, or images. Their codes are tenths of either."""

    unit_words = {"s": " seconds", "image": ""}
    frame_template = {"s": "This frame is sampled at {plain} second.", "image": "This frame is number {plain}."}
    sequence_template = {
        "s": "The video contains {count} frames sampled at {times} seconds. ",
        "image": "The video contains {count} frames numbered {times}. ",
    }

    def code(self, position, length=None, unit="s"):
        place = round(position * _given(length), 9)  # 1.25 of 5.0 s is 1.25, not 1.2500000000000002
        return round(round(place, 0 if unit == "image" else 1) * 10)

    def fraction(self, code, length=None, unit="s"):
        place, length = code / 10, _given(length)
        # One decimal may round the end of a sequence up; what a model writes beyond that is not hidden.
        return 1.0 if 0 <= place - length <= 0.05 + 1e-6 else place / length

    def resolution(self, length=None, unit="s"):
        return (1 if unit == "image" else 0.1) / _given(length)

    def _last_code(self, length):
        return self.code(1.0, length)  # read back as the end, even where it is rounded up


class TextTime(_SecondsAndPlaces):
    """TimeChat's notation, "without RPT": seconds with one decimal, or the plain index of an image."""

    name = "text"
    # A number in plain text is a time only where the grammar of answers says so; the first pattern that is found holds.
    _seconds = (
        rf"{_NUMBER}\s*[-–]\s*{_NUMBER}\s*seconds?\b|\d+\.\d(?:(?:, and |, | and | to )\d+\.\d)*\s*seconds?\b"
        rf"|(?<![\d.]){_NUMBER}\s*seconds?\b",
        r"\d+\.\d+\s*[-–]\s*\d+\.\d+",
        rf"{_NUMBER}\s*(?:[-–]|to)\s*{_NUMBER}",
        r"\d+\.\d+",
        _NUMBER,
    )
    _places = (
        r"(?i:\b(?:images?|index|indices|numbers?|numbered|indexed)(?: is| are| at| as)? )\d+\b"
        r"(?:(?:, and |, | and )\d+\b)*",
        r"\b\d+\b",
    )

    def write(self, code, unit="s"):
        return str(code // 10) if unit == "image" else f"{code // 10}.{code % 10}"

    def find(self, text, unit="s"):
        patterns = self._places if unit == "image" else self._seconds
        return _first_found(text, patterns, _NUMBER, lambda number: round(float(number) * 10, 6))


class AbsoluteTimeTokens(_SecondsAndPlaces):
    """VTG-LLM's eleven tokens: seconds (or the index of an image) as four digits, a dot and one digit."""

    name = "absolute"
    _words = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "DOT")
    tokens = tuple(f"<TIME_{word}>" for word in _words)
    seeds = tuple("0123456789.")
    literal = "TIME_[A-Z]+"
    width = 6

    def code(self, position, length=None, unit="s"):
        code = super().code(position, length, unit)
        if code > 99_999:
            raise ValueError(f"notation 'absolute' has four digits before the dot, found {code / 10:.1f}")
        return code

    def write(self, code, unit="s"):
        digits = [self.tokens[int(digit)] for digit in f"{code:05d}"]
        return "".join([*digits[:4], self.tokens[10], digits[4]])

    def read(self, tokens):
        digits = [self.tokens.index(token) for token in tokens if token in self.tokens]
        if len(digits) != self.width or [place for place, digit in enumerate(digits) if digit == 10] != [4]:
            return None
        return int("".join(str(digit) for digit in digits if digit < 10))

    def _last_code(self, length):
        return super().code(1.0, length) if length < 10_000 else 99_999


NOTATIONS = {
    notation.name: notation
    for notation in (RelativePositionTokens, TextTime, RelativeBins, AbsoluteTimeTokens, PercentTime)
}


def get_notation(name: str, **options) -> Notation:
    """The notation of this name. A position is a fraction of its sequence, in [0, 1], everywhere."""
    if name not in NOTATIONS:
        raise ValueError(f"unknown time notation {name!r}, expected one of {', '.join(map(repr, NOTATIONS))}")
    try:
        return _make(name, tuple(sorted(options.items())))
    except TypeError as error:
        raise ValueError(f"time notation {name!r} does not take the options {options}: {error}") from error


@lru_cache
def _make(name: str, options: tuple) -> Notation:
    return NOTATIONS[name](**dict(options))


def mark(numerator: float, denominator: float, unit: str) -> str:
    """A time mark for stored text: second 12.3 of 60.5 is `[[12.3/60.5 s]]`, image 7 of 96 `[[7/96 image]]`."""
    if unit not in UNITS:
        raise ValueError(f"a time mark's unit must be 's' or 'image', found {unit!r}")
    if not (0 <= numerator <= denominator and 0 < denominator < math.inf):
        raise ValueError(f"a time mark needs 0 ≤ numerator ≤ denominator, found {numerator}/{denominator} {unit}")
    if unit == "image" and not (numerator >= 1 and float(numerator).is_integer() and float(denominator).is_integer()):
        raise ValueError(f"images are counted from 1 in whole numbers, found {numerator}/{denominator}")
    numbers = (int(number) if unit == "image" else number for number in (numerator, denominator))
    return "[[{}/{} {}]]".format(*(format(Decimal(str(number)), "f") for number in numbers), unit)


def marks(text: str) -> list[tuple[float, float, str]]:
    """Numerator, denominator and unit of every time mark in stored text."""
    return [(float(found[1]), float(found[2]), found[3]) for found in _MARK.finditer(text)]


def escape(text: str) -> str:
    """Any text as stored text: what looks like a time mark gets a backslash, `[\\[7/96 image]]`, and stays text."""
    return _LITERAL_MARK.sub(r"[\1\\", text)


def unescape(text: str) -> str:
    return _ESCAPED_MARK.sub(r"[\1", text)


def render(text: str, notation: Notation | str) -> str:
    """
    Stored text as the language model reads it: every time mark in the notation, everything else as plain text. The
    unit's name right behind a mark, `[[12.3/60.5 s]] seconds`, stays only where the notation writes seconds.
    """
    notation = get_notation(notation) if isinstance(notation, str) else notation
    return _translate(
        text,
        [(found.start(), found.end(), _written(found, notation)) for found in _MARK_AND_UNIT.finditer(text)],
        lambda plain: notation.escape(unescape(plain)),
    )


def worded(text: str, notation: Notation | str) -> str:
    """
    An answer as stored text, its spans in the words of the notation's answers: `From … to …, … to ….` in place of `The
    given query happens in … - …, … - ….` and of `… - …`. Its marks stay marks.
    """
    notation = get_notation(notation) if isinstance(notation, str) else notation

    def spans(found: re.Match) -> str:
        lead = notation.opening if found["opening"] else notation.lead
        return lead + found["spans"].replace("]] - [[", f"]]{notation.separator}[[")

    return _SPANS.sub(spans, text)


def parse(text: str, notation: Notation | str, length: float, unit: str = "s") -> str:
    """
    What a language model wrote as stored text: every time a mark out of `length`, the sequence's duration or its number
    of images. Undoes `render` up to the notation's resolution; in plain-text notations inside the grammar of answers.
    """
    notation = get_notation(notation) if isinstance(notation, str) else notation
    found = [
        (start, end, _mark_of(notation.fraction(code, length, unit), length, unit))
        for start, end, code in notation.find(text, unit)
    ]
    return _translate(text, found, lambda plain: escape(notation.unescape(plain)))


_SPAN = r"\[\[[^\[\]]+\]\] - \[\[[^\[\]]+\]\]"
_SPANS = re.compile(rf"(?P<opening>{Notation.opening})?(?P<spans>{_SPAN}(?:, {_SPAN})*)")
_LITERAL_MARK = re.compile(rf"\[(\\*)(?=\[{_NUMBER}/{_NUMBER} (?:s|image)\]\])")
_ESCAPED_MARK = re.compile(rf"\[(\\*)\\(?=\[{_NUMBER}/{_NUMBER} (?:s|image)\]\])")


def _written(found: re.Match, notation: Notation) -> str:
    numerator, denominator, unit = float(found[1]), float(found[2]), found[3]
    if numerator > denominator or not denominator:
        raise ValueError(f"{found[0]}: a time mark needs 0 ≤ numerator ≤ denominator")
    unit_word = (found[4] or "") if notation.unit_words[unit] else ""
    return notation.encode(numerator / denominator, denominator, unit) + unit_word


def _mark_of(fraction: float, length: float, unit: str) -> str:
    place = round(fraction * length, 0 if unit == "image" else 6)
    return mark(min(place, length) if fraction <= 1 else place, length, unit)


def _translate(text: str, replaced: list[tuple[int, int, str]], rest) -> str:
    pieces, last = [], 0
    for start, end, new in replaced:
        pieces += [rest(text[last:start]), new]
        last = end
    return "".join([*pieces, rest(text[last:])])


def _first_found(text: str, patterns, number: str, read) -> list[tuple[int, int, float]]:
    """The numbers inside the matches of the first pattern that matches at all."""
    for pattern in patterns:
        found = [
            (run.start() + one.start(), run.start() + one.end(), read(one[0]))
            for run in re.finditer(pattern, text, re.ASCII)
            for one in re.finditer(number, run[0], re.ASCII)
        ]
        if found:
            return found
    return []


def _place(notation: Notation, code: int, fraction: float, length: float | None, unit: str, whole: bool) -> float:
    """The image that a code stands for, if images are counted; else the fraction itself."""
    if not length or not (unit == "image" or (whole and float(length).is_integer())):
        return fraction
    near = fraction * length
    for place in (round(near), math.ceil(near), math.floor(near)):
        if (unit == "image") <= place <= length and notation.code(place / length, length, unit) == code:
            return place / length
    return max(round(near), 1) / length if unit == "image" else fraction


def time_tokens(notation: Notation) -> list[AddedToken]:
    """The notation's tokens for a tokenizer. Not special ones: those vanish from decoded answers."""
    return [AddedToken(token, special=False, normalized=False) for token in notation.tokens]


def seed_ids(notation: Notation, tokenizer) -> list[int] | None:
    """For each of the notation's tokens the id of the plain token whose embedding it starts from; None: their mean."""
    if notation.seeds is None:
        return None
    ids = []
    for text in notation.seeds:
        token_id = tokenizer.convert_tokens_to_ids(text)
        if token_id is None or token_id == tokenizer.unk_token_id:
            pieces = tokenizer.encode(text, add_special_tokens=False)
            if len(pieces) != 1:
                raise ValueError(f"the tokenizer has no single token for {text!r} to start a time token from: {pieces}")
            token_id = pieces[0]
        ids.append(token_id)
    return ids


def _fraction(position: float) -> float:
    if not 0 <= position <= 1:
        raise ValueError(f"a position is a fraction between 0 and 1, found {position}")
    return position


def _given(length: float | None) -> float:
    if not length:
        raise ValueError("this notation counts seconds or images: `length`, the duration or the count, is missing")
    return length
