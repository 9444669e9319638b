"""How the mini world looks and moves: its words, shapes, backgrounds and motions. Lengths are parts of a side."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw


COLOURS = {  # fill, outline: the outline keeps every object visible on every background
    "red": ((222, 28, 36), (92, 0, 8)),
    "orange": ((255, 136, 0), (120, 54, 0)),
    "yellow": ((255, 228, 20), (128, 104, 0)),
    "green": ((16, 168, 52), (0, 66, 18)),
    "turquoise": ((0, 214, 206), (0, 88, 92)),
    "blue": ((24, 72, 236), (0, 14, 96)),
    "purple": ((132, 30, 178), (50, 0, 76)),
    "pink": ((255, 138, 190), (140, 32, 88)),
    "white": ((252, 252, 252), (84, 84, 88)),
    "black": ((14, 14, 16), (186, 186, 190)),
}
SIZES = {"small": 0.115, "large": 0.2}  # radius
PLACES = {
    word: (0.24 + 0.26 * column, 0.24 + 0.26 * row)
    for row, words in enumerate(
        (
            ("at the top left", "at the top centre", "at the top right"),
            ("on the left", "in the centre", "on the right"),
            ("at the bottom left", "at the bottom centre", "at the bottom right"),
        )
    )
    for column, word in enumerate(words)
}
BACKGROUNDS = ("on grass", "on sand", "on water", "on snow", "in the night sky", "on a brick wall")
ACTIONS = {  # the action class and the ways to say it
    "slides left": ("slides to the left", "moves from right to left"),
    "slides right": ("slides to the right", "moves from left to right"),
    "rises": ("rises", "moves up"),
    "falls": ("falls", "moves down"),
    "grows": ("grows", "gets larger"),
    "shrinks": ("shrinks", "gets smaller"),
    "fades away": ("fades away", "slowly vanishes"),
    "appears slowly": ("appears slowly", "slowly fades in"),
    "spins": ("spins", "turns round and round"),
    "blinks": ("blinks", "flashes on and off"),
    "bounces": ("bounces", "bounces up and down"),
    "circles": ("circles", "moves in a circle"),
    "zigzags": ("zigzags", "moves in a zigzag"),
    "shakes": ("shakes", "trembles"),
    "jumps about": ("jumps about", "jumps from place to place"),
    "swings": ("swings", "swings like a pendulum"),
}
STILL = "stands still"  # of pictures and of what stands about between the events of a video
_SUPERSAMPLING = 3


class Actor(NamedTuple):
    """An object, where it is at home and how it moves."""

    colour: str
    shape: str
    radius: float
    x: float
    y: float
    shade: float = 1.0  # times the colour, so that no two objects are quite the same
    angle: float = 0.0  # degrees
    turn: int = 1  # 1 or -1: the way it spins, circles or zigzags
    tempo: float = 1.0
    phase: float = 0.0  # where on its way it begins, from 0 to 1
    stride: int = 2  # from place to place when it jumps


class Pose(NamedTuple):
    x: float
    y: float
    radius: float
    angle: float
    opacity: float = 1.0


class Segment(NamedTuple):
    """A stretch of frames in which one object does one thing, or nothing is there."""

    frames: int
    actor: Actor | None
    action: str = STILL


class Scene(NamedTuple):
    """All there is to render one file."""

    file: str
    background: str
    texture: int
    segments: tuple[Segment, ...]
    rate: Fraction | None = None  # frames per second; a picture has none


def can(shape: str, action: str) -> bool:
    """Whether the action can be seen: a round object looks the same however it is turned."""
    return action != "spins" or shape not in ("circle", "ring")


def _within(place: float, near: float) -> float:
    return min(max(place, near), 1 - near)


def pose(actor: Actor, action: str, progress: float, seconds: float) -> Pose:
    """Where the actor is at `progress` (0 at the first frame, 1 at the last) of an action that takes `seconds`."""
    x, y, radius, angle = actor.x, actor.y, actor.radius, actor.angle
    near = 1.18 * radius + 0.03  # the centre of an object that all but touches the left or upper edge
    x, y = _within(x, near), _within(y, near)
    there, opacity = near + (1 - 2 * near) * progress, 1.0

    def times(period: float, least: int = 1) -> int:
        """How often something with this period happens in all, so that it ends as it began."""
        return max(least, round(actor.tempo * seconds / period))

    match action:
        case "slides left":
            x = 1 - there
        case "slides right":
            x = there
        case "rises":
            y = 1 - there
        case "falls":
            y = there
        case "grows" | "shrinks":
            radius = 0.06 + 0.2 * (progress if action == "grows" else 1 - progress)
            x, y = _within(x, 0.33), _within(y, 0.33)
        case "fades away" | "appears slowly":  # the last trace can still be seen
            opacity = 0.25 + 0.75 * (progress if action == "appears slowly" else 1 - progress)
        case "spins":
            angle += actor.turn * 360 * times(2.6) * progress
        case "blinks":  # half a cycle more: it begins and ends with the object
            opacity = float((times(1.1, least=2) + 0.5) * progress % 1 < 0.5 or progress == 1)
        case "bounces":
            y = 1 - near - (1 - 2 * near) * abs(math.sin(math.pi * times(1.5, least=2) * progress))
        case "circles":
            turned = 2 * math.pi * (actor.phase + actor.turn * times(2.8) * progress)
            x, y = 0.5 + (0.5 - near) * math.cos(turned), 0.5 + (0.5 - near) * math.sin(turned)
        case "zigzags":
            x = there if actor.turn > 0 else 1 - there
            wave = min(times(1.2, least=3), 6) * progress % 1
            y = near + (1 - 2 * near) * abs(2 * wave - 1)
        case "shakes":
            swing = math.sin(2 * math.pi * 1.9 * actor.tempo * seconds * progress)
            x, angle = _within(x, near + 0.08) + 0.08 * swing, angle + 14 * swing
        case "jumps about":  # the stride shares no factor with nine, so it visits every place before one comes again
            hop = min(int(times(0.9, least=3) * progress), times(0.9, least=3) - 1)
            x, y = list(PLACES.values())[(int(9 * actor.phase) + actor.stride * hop) % 9]
            x, y = _within(x, near), _within(y, near)
        case "swings":
            swing = 0.8 * math.cos(2 * math.pi * times(2.0) * progress)
            length = (0.5 - near) / math.sin(0.8)  # from edge to edge
            x, y, angle = 0.5 + length * math.sin(swing), 0.3 + length * math.cos(swing), angle - math.degrees(swing)
        case _:
            if action != STILL:
                raise ValueError(f"unknown action {action!r}, expected {STILL!r} or one of {', '.join(ACTIONS)}")
    return Pose(x, y, radius, angle, opacity)


def _arc(start: float, stop: float, radius: float = 1.0, x: float = 0.0, points: int = 40) -> np.ndarray:
    turned = np.radians(np.linspace(start, stop, points))
    return np.stack([x + radius * np.cos(turned), radius * np.sin(turned)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2.5], axis=1) / 15.5


def _star() -> np.ndarray:
    points = _arc(-90, 234, 1.15, points=10)
    points[1::2] *= 0.45
    return points


_ARM = 0.36
SHAPES = {  # the outline of each, and its hole; about as far across as a circle of radius 1
    "circle": (_arc(0, 351, 0.95),),
    "square": (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.82,),
    "triangle": (_arc(-90, 150, 1.15, points=3),),
    "star": (_star(),),
    "heart": (_heart(),),
    "cross": (
        np.array([(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1), (-_ARM, 1),
                  (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)]),
    ),
    "ring": (_arc(0, 351), _arc(0, 351, 0.56)),
    # a disc of which another, further to the right, is cut away
    "moon": (np.concatenate([_arc(51.3, 308.7), _arc(282.6, 77.4, 0.8, 0.45)]) + np.array((0.12, 0)),),
}  # fmt: skip


def _stencils(actor: Actor, pose: Pose, size: int) -> list[np.ndarray]:
    """How much of each pixel the object covers, with its outline and without it."""
    canvas, stencils = size * _SUPERSAMPLING, []
    cosine, sine = math.cos(math.radians(pose.angle)), math.sin(math.radians(pose.angle))
    centre, turned = np.array([pose.x, pose.y]), np.array([[cosine, sine], [-sine, cosine]])
    paths = [
        [tuple(point) for point in (centre + pose.radius * (path @ turned)) * canvas] for path in SHAPES[actor.shape]
    ]
    for width in (round(0.028 * canvas), 0):
        stencil = Image.new("L", (canvas, canvas))
        pen = ImageDraw.Draw(stencil)
        for path, ink in zip(paths, (255, 0), strict=False):
            pen.polygon(path, fill=ink)
        for path in paths if width else ():
            pen.line([*path, *path[:2]], fill=255, width=width, joint="curve")
        stencils.append(np.asarray(stencil.reduce(_SUPERSAMPLING), np.float32)[..., None] / 255)
    return stencils


def paint(background: np.ndarray, actor: Actor | None, pose: Pose | None, colours: tuple | None = None) -> np.ndarray:
    """A picture, uint8 RGB: the background and one object, or none; in its own colours, or in these (fill, outline)."""
    picture = background
    if actor is not None and pose.opacity:
        fill, outline = colours or COLOURS[actor.colour]
        outlined, filled = _stencils(actor, pose, len(background))
        picture = background + pose.opacity * outlined * (np.array(outline, np.float32) - background)
        picture = picture + pose.opacity * filled * (actor.shade * np.array(fill, np.float32) - picture)
    return picture.clip(0, 255).round().astype(np.uint8)


def paint_background(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A quiet texture, float32 RGB."""
    y, x = np.mgrid[:size, :size] / size
    noise = rng.normal(size=(size, size))
    light = rng.uniform(-6, 6)
    match name:
        case "on grass":
            base, relief = (118, 138, 92), 9 * sum(np.roll(noise, step, axis=0) for step in range(5)) / 5**0.5
        case "on sand":
            dunes = np.sin(2 * np.pi * (7 * y + 0.5 * np.sin(2 * np.pi * (x + rng.random()))))
            base, relief = (208, 186, 150), 4 * noise + 5 * dunes
        case "on water":
            waves = np.sin(2 * np.pi * (10 * y + 0.35 * np.sin(2 * np.pi * (3 * x + rng.random()) + 9 * y)))
            base, relief = (112, 142, 164), 10 * waves
        case "on snow":
            base, relief = (220, 224, 232), 3 * noise
        case "in the night sky":
            base, relief = (36, 40, 66), 90.0 * (noise > 2.8) - 14 * y
        case "on a brick wall":
            row = np.floor(9 * y)
            mortar = (9 * y % 1 < 0.16) | ((4.5 * x + 0.5 * (row % 2)) % 1 < 0.08)
            base, relief = (146, 108, 94), 3 * noise + 40 * mortar
        case _:
            raise ValueError(f"unknown background {name!r}, expected one of {', '.join(BACKGROUNDS)}")
    return (np.array(base) + light + relief[..., None]).clip(0, 255).astype(np.float32)


def frames(scene: Scene, size: int) -> Iterator[np.ndarray]:
    """The pictures of a scene, one after the other."""
    background = paint_background(scene.background, size, np.random.default_rng(scene.texture))
    for count, actor, action in scene.segments:
        if action == STILL:  # painted once
            yield from [paint(background, actor, actor and pose(actor, STILL, 0.0, 0.0))] * count
            continue
        for number in range(count):
            now = pose(actor, action, number / (count - 1), float(count / scene.rate))
            yield paint(background, actor, now)
