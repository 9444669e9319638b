"""
python -m dataset_scripts.sources.miniworld --output miniworld

Renders a small world from a seed, for trying and testing everything without a download: captioned pictures, clips of
actions and long videos with events, each with a `captions.jsonl` whose annotations are true to the frame. Some pairs of
a colour and a shape are kept for the test split: nothing of the training split shows them.
"""

import argparse
import functools
import itertools
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..command import run
from ..files import atomic_writer, replacing
from ..items import DataError
from ..media import SAME_BYTES
from ..parallel import each
from .folder import FILES, KIND, TASKS, read
from .miniworld_drawing import ACTIONS, BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Actor, Scene, Segment, can, frames


__all__ = ["FILES", "KIND", "LICENCE", "TASKS", "build", "read"]  # it is read as any user's own folder

LICENCE = "Apache-2.0, as the program that renders it"
VERSION = 1  # of the world: another one gives other files for the same seed
KINDS = ("pictures", "clips", "videos")
SPLITS = ("train", "test")
RATES = (Fraction(8), Fraction(10), Fraction(12), Fraction(25, 2))
H264 = {"g": "48", "crf": "20", "preset": "veryfast", **SAME_BYTES}
PICTURE_WORDINGS = (  # every one names all attributes
    "a {size} {colour} {shape} {place} {background}",
    "{background}, a {size} {colour} {shape} {place}",
    "{place}, a {size} {colour} {shape} {background}",
    "a {size} {colour} {shape} {background}, {place}",
)
CLIP_WORDINGS = ("{event} {background}", "{background}, {event}")


def pair_split(colour: str, shape: str) -> str:
    """One pair in five is for testing; each colour and each shape is in pairs of both splits."""
    return SPLITS[(list(COLOURS).index(colour) + 2 * list(SHAPES).index(shape)) % 5 == 0]


def pairs(split: str) -> list[tuple[str, str]]:
    return [pair for pair in itertools.product(COLOURS, SHAPES) if pair_split(*pair) == split]


def picture_combinations(split: str) -> list[tuple]:
    """(colour, shape, size, place, background) of all pictures there can be."""
    return [(*pair, *rest) for pair in pairs(split) for rest in itertools.product(SIZES, PLACES, BACKGROUNDS)]


def clip_combinations(split: str) -> list[tuple]:
    """(colour, shape, action, background) of all clips there can be."""
    rest = itertools.product(ACTIONS, BACKGROUNDS)
    return [(*pair, *more) for more in rest for pair in pairs(split) if can(pair[1], more[0])]


def picture_captions(colour: str, shape: str, size: str, place: str, background: str) -> list[str]:
    words = {"size": size, "colour": colour, "shape": shape, "place": place, "background": background}
    return [wording.format(**words) for wording in PICTURE_WORDINGS]


def event_captions(colour: str, shape: str, action: str) -> list[str]:
    article = "an" if colour[0] in "aeiou" else "a"
    return [f"{article} {colour} {shape} {does}" for does in ACTIONS[action]]


def clip_captions(colour: str, shape: str, action: str, background: str) -> list[str]:
    events = event_captions(colour, shape, action)
    return [wording.format(event=event, background=background) for event in events for wording in CLIP_WORDINGS]


def _draw(rng: np.random.Generator, choices):
    choices = list(choices)
    return choices[rng.integers(len(choices))]


def draw_actor(rng: np.random.Generator, colour: str, shape: str, size: str = "", place: str = "") -> Actor:
    x, y = PLACES[place or _draw(rng, PLACES)]
    return Actor(
        colour,
        shape,
        radius=SIZES[size or _draw(rng, SIZES)] * rng.uniform(0.93, 1.07),
        x=x + rng.uniform(-0.02, 0.02),
        y=y + rng.uniform(-0.02, 0.02),
        shade=rng.uniform(0.92, 1.06),
        angle=rng.uniform(-9, 9),
        turn=_draw(rng, (1, -1)),
        tempo=rng.uniform(0.85, 1.15),
        phase=rng.random(),
        stride=_draw(rng, (2, 4, 5, 7)),
    )


def _seconds(frames: int, rate: Fraction) -> float:
    return round(float(frames / rate), 9)


def plan_picture(rng: np.random.Generator, index: int, split: str, combination: tuple) -> tuple[Scene, dict]:
    file, (colour, shape, size, place, background) = f"{split}/{index:06}.jpg", combination
    segment = Segment(1, draw_actor(rng, colour, shape, size, place))
    row = {"file": file, "split": split, "caption": _draw(rng, picture_captions(*combination))}
    return Scene(file, background, int(rng.integers(2**32)), (segment,)), row


def plan_clip(rng: np.random.Generator, index: int, split: str, combination: tuple) -> tuple[Scene, dict]:
    colour, shape, action, background = combination
    file, rate = f"{split}/{action}/{index:06}.mp4", _draw(rng, RATES)
    segment = Segment(round(rng.uniform(2, 6) * rate), draw_actor(rng, colour, shape), action)
    row = {"file": file, "split": split, "caption": _draw(rng, clip_captions(*combination)), "label": action}
    row["duration"] = _seconds(segment.frames, rate)
    return Scene(file, background, int(rng.integers(2**32)), (segment,), rate), row


def plan_video(rng: np.random.Generator, index: int, split: str, combination: tuple = ()) -> tuple[Scene, dict]:
    file, rate = f"{split}/{index:06}.mp4", _draw(rng, RATES)
    while True:  # until the video is 20 to 120 seconds long and its events are uneven
        count = int(rng.integers(2, 9))
        lengths, gaps = np.exp(rng.uniform(np.log(2), np.log(25), count)), np.exp(rng.uniform(-0.7, 2.3, count + 1))
        gaps[[0, -1]] *= rng.random(2) < 0.8  # some videos begin or end with an event
        lengths, gaps = ([int(np.ceil(seconds * float(rate))) for seconds in row] for row in (lengths, gaps))
        if 20 * rate <= sum(lengths) + sum(gaps) <= 120 * rate and max(lengths) >= 1.5 * min(lengths):
            break
    happenings = []  # (colour, shape, action), no two alike
    while len(happenings) < count:
        # Now and then an object comes back and does something else: then it takes the action to tell the events apart.
        again = happenings and rng.random() < 0.3
        colour, shape = _draw(rng, happenings)[:2] if again else _draw(rng, pairs(split))
        happening = (colour, shape, _draw(rng, ACTIONS))
        if can(shape, happening[2]) and happening not in happenings:
            happenings.append(happening)
    bystanders = [pair for pair in pairs(split) if pair not in {happening[:2] for happening in happenings}]
    segments, events, now = [], [], 0
    for gap, length, happening in itertools.zip_longest(gaps, lengths, happenings):
        if gap:
            segments.append(Segment(gap, draw_actor(rng, *_draw(rng, bystanders)) if rng.random() < 0.35 else None))
            now += gap
        if happening:
            segments.append(Segment(length, draw_actor(rng, *happening[:2]), happening[2]))
            events.append({"start": _seconds(now, rate), "end": _seconds(now + length, rate)})
            events[-1]["caption"] = _draw(rng, event_captions(*happening))
            now += length
    scene = Scene(file, _draw(rng, BACKGROUNDS), int(rng.integers(2**32)), tuple(segments), rate)
    return scene, {"file": file, "split": split, "duration": _seconds(now, rate), "events": events}


def plan(kind: str, count: int, seed: int, only: str | None = None) -> list[tuple[Scene, dict]]:
    """
    What each file of a kind shows, and its row of captions.jsonl: training first, then about a fifth for testing, if
    not all is of `only` one split.
    """
    combinations = {"pictures": picture_combinations, "clips": clip_combinations}.get(kind)
    planner = {"pictures": plan_picture, "clips": plan_clip, "videos": plan_video}[kind]
    number, planned = KINDS.index(kind), []
    in_test = {"train": 0, "test": count, None: (count + 2) // 5}[only]
    for split, wanted in zip(SPLITS, (count - in_test, in_test), strict=True):
        chosen = [()] * wanted
        if combinations:
            chosen = combinations(split)
            np.random.default_rng([seed, number, SPLITS.index(split), 1]).shuffle(chosen)
            if kind == "clips":  # the classes in turn, so that all are there and even
                classes = ([row for row in chosen if row[2] == action] for action in ACTIONS)
                chosen = [row for turn in itertools.zip_longest(*classes) for row in turn if row]
        for combination in chosen[:wanted]:
            rng = np.random.default_rng([seed, number, len(planned)])
            planned.append(planner(rng, len(planned), split, combination))
    return planned


def render(job: tuple[Scene, Path], size: int):
    """Writes one file below a folder, whole or not at all."""
    scene, folder = job
    with replacing(folder / scene.file) as part:
        if scene.rate is None:
            Image.fromarray(next(frames(scene, size))).save(part, "JPEG", quality=92, subsampling=0)
            return
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=scene.rate, options=H264)
            stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
            for picture in frames(scene, size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def _settings(seed: int, size: int, counts: dict[str, int], only: str | None) -> dict:
    """What miniworld.json holds, or one error that names what can't be."""
    for name, value, least in (("seed", seed, 0), ("size", size, 32), *((kind, counts[kind], 0) for kind in KINDS)):
        if not isinstance(value, int) or value < least:
            raise DataError(f"{name}: expected a whole number from {least}, found {value!r}")
    if only not in (None, *SPLITS):
        raise DataError(f"only: expected one of {', '.join(SPLITS)}, found {only!r}")
    if size % 2:
        raise DataError(f"size: expected an even number, as H.264 stores colours for blocks of 2 × 2, found {size}")
    for kind, combinations in (("pictures", picture_combinations), ("clips", clip_combinations)):
        available = sum(len(combinations(split)) for split in SPLITS if only in (None, split))
        if counts[kind] > available:
            raise DataError(f"{kind}: this world has {available} combinations, {counts[kind]} were asked for")
    return {"version": VERSION, "seed": seed, "size": size, **counts} | ({"only": only} if only else {})


def _claim(output: Path, settings: dict):
    """Notes the settings in the folder, or refuses a folder that holds something else."""
    path = output / "miniworld.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise DataError(f"{output}: expected an empty folder or a mini world of {settings}, found one of {found}")
        return
    for kind in KINDS:
        if (output / kind).exists():
            raise DataError(f"{output}: expected an empty folder, found {kind!r} without a miniworld.json")
    with atomic_writer(path) as lines:
        lines.write(json.dumps(settings, indent=2) + "\n")


def build(
    output,
    pictures: int = 4000,
    clips: int = 400,
    videos: int = 60,
    seed: int = 0,
    size: int = 112,
    num_proc: int = 2,
    only: str | None = None,
):
    """
    Renders the world into the folder `output`; counts are totals of both splits, about four to one, or of `only` one.
    Files that are there from an interrupted call with the same settings are kept. The bytes do not depend on
    `num_proc`.
    """
    output, counts = Path(output), {"pictures": pictures, "clips": clips, "videos": videos}
    if not isinstance(num_proc, int) or num_proc < 1:
        raise DataError(f"num_proc: expected a whole number from 1, found {num_proc!r}")
    _claim(output, _settings(seed, size, counts, only))
    planned = {kind: plan(kind, count, seed, only) for kind, count in counts.items()}
    jobs = [(scene, output / kind) for kind in reversed(KINDS) for scene, _ in planned[kind]]  # the longest first
    missing = [job for job in jobs if not (job[1] / job[0].file).is_file()]
    work = each(functools.partial(render, size=size), missing, num_proc, in_order=False)
    for _ in tqdm(work, desc="mini world", total=len(missing), unit="file", disable=None):
        pass
    for kind, rows in planned.items():
        with atomic_writer(output / kind / "captions.jsonl") as lines:
            lines.writelines(json.dumps(row) + "\n" for _, row in rows)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to render into")
    for kind, count in (("pictures", 4000), ("clips", 400), ("videos", 60)):
        parser.add_argument(f"--{kind}", type=int, default=count, help="of both splits (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=112, help="pixels on each side (default: %(default)s)")
    parser.add_argument("--only", choices=SPLITS, help="render this split alone")
    parser.add_argument("--num-proc", type=int, default=2)
    build(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    run(main)
