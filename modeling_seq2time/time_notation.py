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
    seeds = tuple(str(digit) for digit in range(10))  # the plain text whose embedding each token starts from

    # The BERT vocabulary of the image Q-Former gains no tokens: its sentence carries the decimal (inferred, the paper
    # is silent). One template serves videos and image sequences alike.
    frame_template = dict.fromkeys(("s", "image"), "This frame is at position {position:.4f}.")
    sequence_template = dict.fromkeys(("s", "image"), "The video contains {count} frames sampled at {times}. ")

    def encode(self, position: float, length: float | None = None, unit: str = "s") -> str:
        return "".join(f"<{digit}>" for digit in f"{min(round(_fraction(position) * 10_000), 9_999):04d}")

    def decode(self, text: str, length: float | None = None) -> list[float]:
        return [int(re.sub("[<>]", "", time)) / 10_000 for time in re.findall(r"(?:<\d>){4}", text)]


class TextTime:
    """TimeChat's notation, "without RPT": seconds with one decimal, or the plain index of an image."""

    name = "text"
    tokens = seeds = ()

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


def seed_ids(notation, tokenizer) -> list[int]:
    """For each of the notation's tokens the id of the plain token whose embedding it starts from."""
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
