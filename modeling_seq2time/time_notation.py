"""How a position in a sequence is written for the language model, and read back."""

import re

from tokenizers import AddedToken


class RelativePositionTokens:
    """
    Seq2Time's unified relative position tokens: four digits of ten new tokens `<0>` … `<9>`, the same for an image
    index, a clip boundary and a second. The last position, 1.0000, takes the largest value that four digits can say.
    """

    name = "rpt"
    tokens = tuple(f"<{digit}>" for digit in range(10))

    # The BERT vocabulary of the image Q-Former gains no tokens: its sentence carries the decimal (inferred, the paper
    # is silent). One template serves videos and image sequences alike.
    frame_template = {unit: "This frame is at position {position:.4f}." for unit in ("s", "image")}
    sequence_template = {unit: "The video contains {count} frames sampled at {times}. " for unit in ("s", "image")}

    def encode(self, position: float, length: float | None = None, unit: str = "s") -> str:
        return "".join(f"<{digit}>" for digit in f"{min(round(_fraction(position) * 10_000), 9_999):04d}")

    def decode(self, text: str, length: float | None = None) -> list[float]:
        return [int(re.sub("[<>]", "", time)) / 10_000 for time in re.findall(r"(?:<\d>){4}", text)]

    def seed_text(self, token: str) -> str:
        """The plain text whose embedding a new token starts from."""
        return token.strip("<>")


class TextTime:
    """TimeChat's notation, "without RPT": seconds with one decimal, or the plain index of an image."""

    name = "text"
    tokens = ()

    frame_template = {"s": "This frame is sampled at {time} second.", "image": "This frame is number {time}."}
    sequence_template = {
        "s": "The video contains {count} frames sampled at {times} seconds. ",
        "image": "The video contains {count} frames numbered {times}. ",
    }

    def encode(self, position: float, length: float | None = None, unit: str = "s") -> str:
        place = round(_fraction(position) * _given(length), 9)  # 1.25 of 5.0 s is 1.25, not 1.2500000000000002
        return str(round(place)) if unit == "image" else str(round(place, 1))

    def decode(self, text: str, length: float | None = None) -> list[float]:
        return [float(number) / _given(length) for number in re.findall(r"\d+(?:\.\d+)?", text)]


_NOTATIONS = {notation.name: notation for notation in (RelativePositionTokens, TextTime)}


def get_notation(name: str):
    """The notation of this name. A position is a fraction of its sequence, in [0, 1], everywhere."""
    if name not in _NOTATIONS:
        raise ValueError(f"unknown time notation {name!r}, expected one of {', '.join(map(repr, _NOTATIONS))}")
    return _NOTATIONS[name]()


def time_tokens(notation) -> list[AddedToken]:
    """The notation's tokens for a tokenizer. Not special ones: those vanish from decoded answers."""
    return [AddedToken(token, special=False, normalized=False) for token in notation.tokens]


def _fraction(position: float) -> float:
    if not 0 <= position <= 1:
        raise ValueError(f"a position is a fraction between 0 and 1, found {position}")
    return position


def _given(length: float | None) -> float:
    if not length:
        raise ValueError("this notation counts seconds or images: `length`, the duration or the count, is missing")
    return length
