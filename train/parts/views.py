"""Pictures of the miniworld, and what there is to say about one, as weights of words."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dataset_scripts.parallel import each
from dataset_scripts.sources import miniworld
from dataset_scripts.sources.miniworld_drawing import (
    ACTIONS,
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Actor,
    Pose,
    paint,
    paint_background,
)


PAIRS, UNSEEN = (miniworld.pairs(split) for split in ("train", "test"))
READ = [*PAIRS, *UNSEEN]  # in words
EMPTY = 0.06  # of drawn pictures
SMALL, LARGE = SIZES.values()
FIRST, MIDDLE, LAST = sorted({x for x, _ in PLACES.values()})
SIDES = ("top", "bottom", "left", "centre", "right")
WORDS = (
    *(*COLOURS, *SHAPES, *SIZES, *SIDES),
    *dict.fromkeys(word for name in BACKGROUNDS for word in name.split() if word not in ("on", "in", "the", "a")),
)
POSE = slice(len(COLOURS) + len(SHAPES), len(COLOURS) + len(SHAPES) + len(SIZES) + len(SIDES))
ALIKE = {"circle": 0, "ring": 0, "square": 4, "cross": 4, "triangle": 3, "star": 5}  # times in a turn; others once
_PLACE_OF = {word: place for place, word in enumerate((*WORDS, *ACTIONS))}


class View(NamedTuple):
    """A picture: an object somewhere, of some size, turned somehow; or nothing (`shape` is empty)."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    background: str
    angle: float = 0.0
    opacity: float = 1.0
    fill: tuple[int, int, int] | None = None  # any colour, in place of the named one
    doing: tuple[tuple[str, float], ...] = ()  # actions, and how sure each is

    @property
    def size(self) -> str:
        return "small" if self.radius < math.sqrt(SMALL * LARGE) else "large"

    @property
    def place(self) -> str:
        return min(PLACES, key=lambda word: math.dist(PLACES[word], (self.x, self.y)))

    def weights(self) -> np.ndarray:
        """How much each of `WORDS` and of `ACTIONS` says about it. Between two places or sizes it is some of both."""
        said = {word: 1.0 for word in self.background.split() if word in _PLACE_OF}
        if self.shape:
            across, down = (max(-1.0, min(1.0, (at - MIDDLE) / (LAST - MIDDLE))) for at in (self.x, self.y))
            large = max(-0.7, min(1.7, (self.radius - SMALL) / (LARGE - SMALL)))
            there = {self.colour: 1.0, self.shape: 1.0, "large": large, "small": 1 - large}
            there |= {"right": max(across, 0.0), "left": max(-across, 0.0), "centre": 1 - abs(across)}
            there |= {"bottom": max(down, 0.0), "top": max(-down, 0.0)}
            said |= {word: weight * self.opacity for word, weight in there.items()}
        weights = np.zeros(len(_PLACE_OF), np.float32)
        for word, weight in (said | dict(self.doing)).items():
            weights[_PLACE_OF[word]] = weight
        return weights

    def pose(self) -> np.ndarray:
        """Weights of `POSE` and how it is turned, which no word says: a point on a circle, alike where it looks so."""
        turned = ALIKE.get(self.shape, 1) * math.radians(self.angle)
        around = self.opacity * np.array([math.cos(turned), math.sin(turned)], np.float32) * bool(self.shape)
        return np.concatenate([self.weights()[POSE], around])


def draw_view(rng: np.random.Generator, pair: tuple[str, str]) -> View:
    """Half of them as in captioned pictures, half as an object may be seen while it moves."""
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    if rng.random() < 0.5:
        x, y = list(PLACES.values())[rng.integers(len(PLACES))]
        x, y = x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02)
        radius = (SMALL, LARGE)[rng.integers(2)] * rng.uniform(0.93, 1.07)
        return View(*pair, x, y, radius, background, rng.uniform(-9, 9))
    radius = math.exp(rng.uniform(math.log(0.07), math.log(0.25)))
    near = 1.18 * radius + 0.03
    x, y = rng.uniform(near, 1 - near, 2)
    angle = rng.uniform(-180, 180) if rng.random() < 0.4 else rng.uniform(-12, 12)
    return View(*pair, x, y, radius, background, angle, rng.uniform(0.25, 1) if rng.random() < 0.15 else 1.0)


def draw_views(rng: np.random.Generator, count: int, pairs: Sequence, any_colour: bool = False) -> list[View]:
    """Some show nothing. Objects are of the colours that captions name, or of any."""
    views = []
    for _ in range(count):
        view = draw_view(rng, pairs[rng.integers(len(pairs))])
        if rng.random() < EMPTY:
            view = View("", "", MIDDLE, MIDDLE, SMALL, view.background)
        views.append(view._replace(fill=draw_fill(rng)) if any_colour else view)
    return views


def draw_fill(rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(rng.integers(0, 256, 3).tolist())


def describe(rng: np.random.Generator, view: View) -> str:
    captions = miniworld.picture_captions(view.colour, view.shape, view.size, view.place, view.background)
    return captions[rng.integers(len(captions))]


def paint_views(views: list[View], seed: int, side: int, patch: int, num_proc: int = 2):
    """Pictures `(views, side, side, 3)`, and which of their patches show the object, `(views, patches)`."""
    drawing = each(partial(_painted, seed=seed, side=side, patch=patch), [*enumerate(views)], num_proc)
    drawn = [*tqdm(drawing, desc="pictures", total=len(views), disable=None)]
    pictures, shown = zip(*drawn, strict=True)
    return np.stack(pictures), np.stack(shown)


def _painted(numbered: tuple[int, View], seed: int, side: int, patch: int) -> tuple[np.ndarray, np.ndarray]:
    number, view = numbered
    rng = np.random.default_rng([seed, 7, number])
    empty, grid = paint_background(view.background, side, rng), side // patch
    if not view.shape:
        return empty.clip(0, 255).round().astype(np.uint8), np.zeros(grid * grid, bool)
    actor = Actor(view.colour, view.shape, view.radius, view.x, view.y, rng.uniform(0.92, 1.06))
    colours = None if view.fill is None else (view.fill, tuple(0.35 * part for part in view.fill))
    picture = paint(empty, actor, Pose(view.x, view.y, view.radius, view.angle, view.opacity), colours)
    changed = np.abs(picture - empty.clip(0, 255)).max(axis=-1) > 12 * view.opacity
    return picture, changed.reshape(grid, patch, grid, patch).mean(axis=(1, 3)).flatten() > 0.15
