"""
python -m evaluation.baselines results/miniworld-MODEL --output baselines.json

What answers are worth that looked at nothing, to the questions that `evaluation.run` asked and by the same metrics:
without them a figure says little.

- `whole video`: one moment from its start to its end.
- `chance`: moments whose two ends are drawn evenly from the video's length, for dense captioning as many of them as
  there are true events. Each question is answered `DRAWS` times from a fixed seed; figures are means over all answers.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dataset_scripts.command import run
from dataset_scripts.fields import read_json
from dataset_scripts.files import atomic_writer
from dataset_scripts.items import Problems

from . import caption_files, dense_captioning, grounding, moment_files


DRAWS, SEED = 100, 0
GROUNDING = (*(f"r1@{iou}" for iou in grounding.THRESHOLDS), "miou")
CAPTIONING = ("f1", "precision", "recall")  # of the figures, those that no words go into


def grounding_baselines(references: Mapping[str, grounding.Moments], lengths: Mapping[str, float]) -> dict[str, dict]:
    """Figures of `grounding.score` for each baseline; `lengths` of the queries' videos in seconds."""
    rng, drawn, true = np.random.default_rng(SEED), {}, {}
    for name, windows in references.items():
        for draw, (moment,) in enumerate(_draws(rng, lengths[name], 1)):
            drawn[f"{name}/{draw}"], true[f"{name}/{draw}"] = [moment], windows
    whole = {name: [(0.0, lengths[name])] for name in references}
    found = {"whole video": grounding.score(whole, references), "chance": grounding.score(drawn, true)}
    return {name: {figure: figures[figure] for figure in GROUNDING} for name, figures in found.items()}


def captioning_baselines(references: dense_captioning.Events, lengths: Mapping[str, float]) -> dict[str, dict]:
    """The figures of `dense_captioning.score` about places, for each baseline; `lengths` of the videos in seconds."""
    rng, drawn, true = np.random.default_rng(SEED), {}, {}
    for name, events in references.items():
        for draw, moments in enumerate(_draws(rng, lengths[name], len(events))):
            drawn[f"{name}/{draw}"], true[f"{name}/{draw}"] = [(moment, "") for moment in moments], events
    whole = {name: [((0.0, lengths[name]), "")] for name in references}
    found = {"whole video": dense_captioning.score(whole, references), "chance": dense_captioning.score(drawn, true)}
    return {name: {figure: figures[figure] for figure in CAPTIONING} for name, figures in found.items()}


def _draws(rng: np.random.Generator, length: float, count: int) -> list[list[tuple[float, float]]]:
    """`DRAWS` times so many moments of a video."""
    ends = np.sort(rng.uniform(0, length, (DRAWS, count, 2)), axis=2)
    return [[tuple(moment) for moment in moments] for moments in ends.tolist()]


def of_run(folder: Path) -> dict[str, dict[str, dict]]:
    """Figures of both baselines for the questions of a run whose benchmark has dense captioning and grounding."""
    videos, queries = (folder / f"{task}.references.json" for task in ("dvc", "tvg"))
    lengths = {name: video["duration"] for name, video in read_json(videos, dict).items()}
    asked = {str(one["id"]): lengths[one["image_id"]] for one in read_json(queries, dict)["annotations"]}
    return {
        "dvc": captioning_baselines(caption_files.references(videos, Problems()), lengths),
        "tvg": grounding_baselines(moment_files.grounding_references(queries, Problems()), asked),
    }


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that evaluation.run wrote")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON")
    args = parser.parse_args(arguments)
    with atomic_writer(args.output) as lines:
        json.dump(of_run(args.run), lines, indent=1)
    print(args.output)


if __name__ == "__main__":
    run(main)
