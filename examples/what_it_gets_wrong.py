"""
python -m examples.what_it_gets_wrong --model examples/seq2time-mini --films films/videos

What the figures of films of the miniworld hide: which words of its captions are wrong, whether it can tell events apart
by what is done alone, and whether its scores tell what isn't there.
"""

import argparse
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset_scripts.command import run
from dataset_scripts.items import DataError
from dataset_scripts.sources import miniworld
from dataset_scripts.sources.miniworld_drawing import ACTIONS, COLOURS, SHAPES, can
from evaluation.run_settings import model_folder, read_prompts
from modeling_seq2time.moments import Answer, overlap
from modeling_seq2time.native_video import load


KINDS = ("colour", "shape", "action")
ACTION_OF = {wording: action for action, wordings in ACTIONS.items() for wording in wordings}
CAPTION = re.compile(rf"an? ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(ACTION_OF)})\.?")
RIGHT = 0.5  # intersection over union from which a moment is where the event is
BOUNDS = (0.3, 0.5)  # of scores


def content(caption: str) -> tuple[str, str, str] | None:
    """Colour, shape and action, if it is a caption of this world."""
    found = CAPTION.fullmatch(caption)
    return (found[1], found[2], ACTION_OF[found[3]]) if found else None


def films_of(folder: Path) -> list[dict]:
    """Rows of the world's videos."""
    file = folder / "captions.jsonl"
    films = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for caption in (event["caption"] for film in films for event in film.get("events", ())):
        if not content(caption):
            raise DataError(f"{file}: expected captions of the miniworld's videos, found {caption!r}")
    return films


def absent(events: list[dict], rng: np.random.Generator) -> list[str]:
    """As many captions, of pairs of colour and shape that do nothing in the film."""
    there = {content(event["caption"])[:2] for event in events}
    pairs = [pair for split in miniworld.SPLITS for pair in miniworld.pairs(split) if pair not in there]
    drawn = []
    while len(drawn) < len(events):
        pair, action = pairs[rng.integers(len(pairs))], list(ACTIONS)[rng.integers(len(ACTIONS))]
        if can(pair[1], action):
            drawn.append(miniworld.event_captions(*pair, action)[rng.integers(2)])
    return drawn


def span(event: dict) -> tuple[float, float]:
    return event["start"], event["end"]


def told_words(films: list[tuple[list[dict], Answer]]) -> str:
    """Of dense captions: (true events, told ones) of each film."""
    told = [(moment, content(moment.text), events) for events, answer in films for moment in answer]
    strange, right = sum(said is None for _, said, _ in told), []
    for moment, said, events in told:
        nearest = max(events, key=lambda event: overlap((moment.start, moment.end), span(event)))
        if said and overlap((moment.start, moment.end), span(nearest)) >= RIGHT:
            right.append([one == other for one, other in zip(said, content(nearest["caption"]), strict=True)])
    shares = ", ".join(f"{kind} {share(column)}" for kind, column in zip(KINDS, zip(*right, strict=True), strict=False))
    return (
        f"captions: {len(told)} events told, {strange} of them in words that no caption of this world has; "
        f"{len(right)} are where one is (IoU ≥ {RIGHT}), and right in {shares or 'nothing'}"
    )


def told_apart(films: list[tuple[list[dict], list[Answer]]]) -> str:
    """R@1 of events that share their pair with another one of the film, and of the others."""
    found = {True: [], False: []}
    for events, answers in films:
        pairs = [content(event["caption"])[:2] for event in events]
        for event, pair, (best, *_) in zip(events, pairs, answers, strict=True):
            hit = overlap((best.start, best.end), span(event)) >= RIGHT
            found[pairs.count(pair) > 1].append(hit)
    return (
        f"questions: found (IoU ≥ {RIGHT}) {share(found[True])} of {len(found[True])} events that only what is done "
        f"tells from another one of the film, {share(found[False])} of {len(found[False])} others"
    )


def told_absent(there: list[float], missing: list[float]) -> list[str]:
    """How well scores tell events that are there from such that aren't."""
    ordered = sorted(missing)
    ranked = [(bisect_left(ordered, score) + bisect_right(ordered, score)) / 2 / len(ordered) for score in there]
    lines = [
        f"what isn't there, as many questions: a lower score in {np.mean(ranked):.0%} of all pairs with one that is"
    ]
    for bound in BOUNDS:
        kept, left_out = share(one >= bound for one in there), share(one < bound for one in missing)
        lines.append(f"  min_score={bound} keeps {kept} of what is there, leaves out {left_out} of what isn't")
    return lines


def share(right: Iterable[bool]) -> str:
    right = list(right)
    return f"{np.mean(right):.0%}" if right else "none"


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR_OR_REPO")
    parser.add_argument("--films", type=Path, required=True, metavar="DIR", help="the world's folder videos")
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("mini_prompts.toml"), metavar="TOML")
    parser.add_argument("--num-frames", type=int, default=48, help="of a film (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what isn't there (%(default)s)")
    args = parser.parse_args(arguments)

    model, processor = load(model_folder(args.model), dtype="float32")
    rng, prompts = np.random.default_rng(args.seed), read_prompts(args.prompts)
    captioned, grounded, there, missing = [], [], [], []
    for film in tqdm(films_of(args.films), unit="film", disable=None):
        events, path = film["events"], str(args.films / film["file"])
        watched = model.watch(processor, path, video_kwargs={"num_frames": args.num_frames})
        told = model.dense_caption(processor, watched, prompt=prompts["dvc"], max_new_tokens=256, do_sample=False)
        asked = [event["caption"] for event in events] + absent(events, rng)
        answers = model.ground(processor, watched, asked, prompt=prompts["tvg"])
        captioned.append((events, told))
        grounded.append((events, answers[: len(events)]))
        scores = [answer[0].score for answer in answers]
        there += scores[: len(events)]
        missing += scores[len(events) :]
    print(f"{args.films}: {len(captioned)} films, {len(there)} events")
    print("\n".join([told_words(captioned), told_apart(grounded), *told_absent(there, missing)]))


if __name__ == "__main__":
    run(main)
