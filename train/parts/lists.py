"""Lists of pictures for the language model to look things up in, and when each is seen."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dataset_scripts.sources.miniworld import draw_actor
from dataset_scripts.sources.miniworld_drawing import ACTIONS, BACKGROUNDS, STILL, can, pose

from .views import MIDDLE, SMALL, View, draw_fill, draw_view


DIGITS = 4  # of a time: those behind the point of a position, or hundreds to tenths of seconds and images
AGAIN = 0.6  # how often a thing comes back
DOING = 0.3  # of the lists of pictures say what things do
SURE = 0.1  # at least, of what is done, where a whole window tells it
BARE = 0.6  # how often times are digits alone in the phases' words
KINDS, SHARES = ("image", "s", "position"), (0.2, 0.25, 0.55)  # of times, and how often each is drawn


class Time(NamedTuple):
    kind: str  # how it is asked for
    written: str
    digits: str
    bare: bool  # in the phases' words digits stand for it

    @property
    def told(self) -> str:
        return self.digits if self.bare else self.written


class Stay(NamedTuple):
    """
    A thing that does something on all pictures of a list from the first to the last of these. It came somewhen behind
    the picture before and went somewhen before the next: both are places on the way from one picture to another.
    """

    pair: tuple[str, str]
    action: str
    first: int
    last: int
    came: float
    went: float
    once: bool = True  # nothing else in the list is of its colour and shape


def draw_time(rng: np.random.Generator) -> Time:
    kind = KINDS[rng.choice(3, p=SHARES)]
    code = 10 * rng.integers(1, 97) if kind == "image" else rng.integers(1500 if kind == "s" else 10**DIGITS)
    return as_time(kind, int(code), rng.random() < BARE)


def draw_times(rng: np.random.Generator, count: int) -> list[Time]:
    """Of pictures one after the other, all of a kind."""
    kind, bare = KINDS[rng.choice(3, p=SHARES)], rng.random() < BARE
    if kind == "image":
        return [as_time(kind, 10 * number, bare) for number in range(1, count + 1)]
    places = np.arange(count) + (rng.random(count) if rng.random() < 0.5 else rng.integers(2))
    whole = 10**DIGITS if kind == "position" else rng.uniform(100, 1300)
    return [as_time(kind, min(round(place / count * whole), 10**DIGITS - 1), bare) for place in places]


def as_time(kind: str, code: int, bare: bool) -> Time:
    digits = f"{code:0{DIGITS}d}"
    written = {"image": f"{round(code / 10)}", "s": f"{code / 10:.1f}", "position": f"0.{digits}"}[kind]
    return Time(kind, written, digits, bare)


def draw_pictures(rng: np.random.Generator, count: int, pairs: Sequence, sure: float = SURE) -> list[View]:
    """
    Each of another pair of colour and shape. In half of the lists a few colours and shapes come again and again: it
    takes both then to tell one from the others. In some, a few pairs do, and it takes what they do as well.
    """
    order = [pairs[one] for one in rng.permutation(len(pairs))]
    if rng.random() < DOING:
        few = order[: max(1, math.ceil(count / rng.integers(2, 9)))]
        happenings = [(pair, action) for pair in few for action in ACTIONS if can(pair[1], action)]
        happenings = [happenings[one] for one in rng.permutation(len(happenings))[:count]]
        guesses = [_guess(rng, action, int(rng.integers(3, 10)), sure) for _, action in happenings]
        return [
            draw_view(rng, pair)._replace(doing=doing) for (pair, _), doing in zip(happenings, guesses, strict=True)
        ]
    if rng.random() < 0.5:
        colours, shapes = {colour for colour, _ in order[:3]}, {shape for _, shape in order[:4]}
        order.sort(key=lambda pair: pair[0] not in colours or pair[1] not in shapes)
    return [draw_view(rng, order[one]) for one in rng.permutation(count)]


def draw_stays(
    rng: np.random.Generator, count: int, pairs: Sequence, window: int = 0, sure: float = SURE
) -> tuple[list[View], list[Stay]]:
    """
    Pictures of a place to which things come, one after the other; each does something, for one picture or for many. Now
    and then one comes back and does something else. Between them there may be none, or one that isn't told. What they
    do is said of every picture: as it is, or as sure as can be told from its window of so many pictures.
    """
    wanted = int(rng.integers(1, max(2, min(9, count // 2))))
    lengths, gaps = np.exp(rng.uniform(0.7, 3.2, wanted)), np.exp(rng.uniform(-0.7, 2.3, wanted + 1))
    gaps[[0, -1]] *= rng.random(2) < 0.8
    lasting = np.concatenate([np.stack([gaps[:-1], lengths], axis=1).flatten(), gaps[-1:]])
    begin = -rng.random()  # in pictures, as all that follows; the first picture is at 0
    ends = (begin + np.cumsum([0, *lasting]) / lasting.sum() * count).tolist()
    others, happenings = iter([pairs[one] for one in rng.permutation(len(pairs))]), []
    while len(happenings) < wanted:
        again = happenings and rng.random() < AGAIN
        pair = happenings[rng.integers(len(happenings))][0] if again else next(others)
        happening = pair, [*ACTIONS][rng.integers(len(ACTIONS))]
        if can(pair[1], happening[1]) and happening not in happenings:
            happenings.append(happening)
    background, views, stays = BACKGROUNDS[rng.integers(len(BACKGROUNDS))], [], []
    for number, ((came, went), seconds) in enumerate(zip(pairwise(ends), lasting, strict=True)):
        first, after = len(views), count if number == 2 * wanted else min(count, max(0, math.ceil(went)))
        told = number % 2 == 1
        shown = told or rng.random() < 0.35
        pair, action = happenings[number // 2] if told else (next(others) if shown else None, STILL)
        if told and after > first:
            once = sum(pair == one for one, _ in happenings) == 1
            stays.append(Stay(pair, action, first, after - 1, came, went, once))
        if shown:
            actor, doing = draw_actor(rng, *pair), ((action, 1.0),) if told else ()
            for place in range(first, after):
                there = min(max((place - came) / (went - came), 0.0), 1.0)
                seen = pose(actor, action, there, seconds)
                if told and window and (place == first or place % window == 0):
                    doing = _guess(rng, action, min(after, place - place % window + window) - place, sure)
                views.append(View(*pair, *seen[:3], background, *seen[3:], doing=doing))
        else:
            views += (after - first) * [View("", "", MIDDLE, MIDDLE, SMALL, background)]
    return views, stays


def draw_films(rng: np.random.Generator, count: int, pairs: Sequence, any_colour: bool = False) -> list[View]:
    """Frames of films, one film after the other; things are of named colours, or of any."""
    drawn = []
    while len(drawn) < count:
        views, _ = draw_stays(rng, int(rng.integers(16, 97)), pairs)
        fills = {view[:2]: draw_fill(rng) for view in views}
        drawn += [view._replace(fill=fills[view[:2]]) for view in views] if any_colour else views
    return drawn[:count]


def _guess(rng: np.random.Generator, action: str, shown: int, least: float) -> tuple[tuple[str, float], ...]:
    """What is done, as sure as so many pictures of it make one, first: of a single one nothing can be told."""
    sure, share = (1 - 0.5 ** (shown - 1)) * rng.uniform(least, 1), rng.random()
    other, another = [one for one in rng.permutation([*ACTIONS])[:3].tolist() if one != action][:2]
    return () if shown < 2 else ((action, sure), (other, (1 - sure) * share), (another, (1 - sure) * (1 - share)))


def between(digits: list[str], place: float) -> int:
    """The time of a place on the way from one picture to another, or as far before and behind all as between them."""
    codes = [int(time) for time in digits]
    before, behind = (codes[1] - codes[0], codes[-1] - codes[-2]) if len(codes) > 1 else (0, 0)
    codes = [codes[0] - before, *codes, codes[-1] + behind]
    code = round(float(np.interp(place, np.arange(-1, len(digits) + 1), codes)))
    return min(max(code, 0), 10**DIGITS - 1)
