"""Lists of pictures for the language model to look things up in, and when each is seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dataset_scripts.sources.miniworld_drawing import BACKGROUNDS

from .views import MIDDLE, SMALL, View, draw_view


DIGITS = 4  # of a time: those behind the point of a position, or hundreds to tenths of seconds and images
KINDS, SHARES = ("image", "s", "position"), (0.2, 0.25, 0.55)  # of times, and how often each is drawn


class Time(NamedTuple):
    kind: str  # how it is asked for
    written: str
    digits: str


class Stay(NamedTuple):
    """A thing that is on all pictures of a list from the first to the last of these."""

    pair: tuple[str, str]
    first: int
    last: int


def draw_time(rng: np.random.Generator) -> Time:
    kind = KINDS[rng.choice(3, p=SHARES)]
    if kind == "position":
        return position(int(rng.integers(10**DIGITS)))
    tenths = int(rng.integers(1, 97)) * 10 if kind == "image" else int(rng.integers(1500))
    return Time(kind, f"{tenths // 10}" if kind == "image" else f"{tenths / 10:.1f}", f"{tenths:0{DIGITS}d}")


def draw_times(rng: np.random.Generator, count: int) -> list[Time]:
    """Of pictures one after the other, all of a kind."""
    kind = KINDS[rng.choice(3, p=SHARES)]
    if kind == "image":
        return [Time(kind, f"{number}", f"{10 * number:0{DIGITS}d}") for number in range(1, count + 1)]
    places = np.arange(count) + (rng.random(count) if rng.random() < 0.5 else rng.integers(2))
    if kind == "position":
        return [position(min(round(place / count * 10**DIGITS), 10**DIGITS - 1)) for place in places]
    tenths = np.round(places / count * rng.uniform(100, 1300)).astype(int)
    return [Time(kind, f"{tenth / 10:.1f}", f"{tenth:0{DIGITS}d}") for tenth in tenths]


def position(code: int) -> Time:
    return Time("position", f"0.{code:0{DIGITS}d}", f"{code:0{DIGITS}d}")


def draw_pictures(rng: np.random.Generator, count: int, pairs: Sequence) -> list[View]:
    """
    Each of another pair of colour and shape. In half of the lists a few colours and shapes come again and again: it
    takes both then to tell one from the others.
    """
    order = [pairs[one] for one in rng.permutation(len(pairs))]
    if rng.random() < 0.5:
        colours, shapes = {colour for colour, _ in order[:3]}, {shape for _, shape in order[:4]}
        order.sort(key=lambda pair: pair[0] not in colours or pair[1] not in shapes)
    return [draw_view(rng, order[one]) for one in rng.permutation(count)]


def draw_stays(rng: np.random.Generator, count: int, pairs: Sequence) -> tuple[list[View], list[Stay]]:
    """
    Pictures of a place to which things come, one after the other; each stays for one picture or for many. Between them
    there may be none, or one that isn't among those that are told.
    """
    wanted = int(rng.integers(1, max(2, min(9, count // 2))))
    lengths, gaps = np.exp(rng.uniform(0.7, 3.2, wanted)), np.exp(rng.uniform(-0.7, 2.3, wanted + 1))
    gaps[[0, -1]] *= rng.random(2) < 0.8
    lasting = np.concatenate([np.stack([gaps[:-1], lengths], axis=1).flatten(), gaps[-1:]])
    parts = np.searchsorted(np.cumsum(lasting)[:-1], (np.arange(count) + rng.random()) / count * lasting.sum(), "right")
    order = [pairs[one] for one in rng.permutation(len(pairs))]
    background, views, stays = BACKGROUNDS[rng.integers(len(BACKGROUNDS))], [], []
    for number, pair in enumerate(order[: 2 * wanted + 1]):
        seen, told = int((parts == number).sum()), number % 2
        if seen and told:
            stays.append(Stay(pair, len(views), len(views) + seen - 1))
        if told or rng.random() < 0.35:
            views += _one_thing(rng, pair, background, seen)
        else:
            views += seen * [View("", "", MIDDLE, MIDDLE, SMALL, background)]
    return views, stays


def _one_thing(rng: np.random.Generator, pair: tuple[str, str], background: str, count: int) -> list[View]:
    """It stays as it is, goes steadily from how it is to another size and place, or jumps about; some are faint."""
    one, other = (draw_view(rng, pair)._replace(background=background) for _ in range(2))
    way = rng.integers(3)
    there = [0.0] * count if way == 0 else np.linspace(0, 1, count) if way == 1 else rng.random(count)
    mixed = lambda name, share: (1 - share) * getattr(one, name) + share * getattr(other, name)  # noqa: E731
    return [one._replace(**{name: mixed(name, at) for name in ("x", "y", "radius", "opacity")}) for at in there]
