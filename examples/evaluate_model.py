"""
python -m examples.evaluate_model --model DIR_OR_REPO --output DIR

Renders videos of things that no training data shows, asks a model about them and scores its answers, beside what
answers are worth that looked at nothing. With another benchmark's folder it is `python -m evaluation.run` alone.
"""

import argparse
import json
from pathlib import Path

from dataset_scripts.command import run
from dataset_scripts.sources import miniworld
from evaluation import baselines
from evaluation import run as evaluation


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR_OR_REPO")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--videos", type=int, default=20, help="that are rendered (%(default)s)")
    parser.add_argument("--seed", type=int, default=1000, help="of the videos (%(default)s)")
    args = parser.parse_args(arguments)

    world, results = args.output / "world", args.output / "results"
    miniworld.build(world, pictures=0, clips=0, videos=args.videos, seed=args.seed, only="test")
    asked = ["--model", args.model, "--benchmark", "miniworld", "--data", str(world), "--output", str(results)]
    evaluation.main(asked)

    of_nothing = baselines.of_run(results)
    figures = json.loads((results / "results.json").read_text(encoding="utf-8"))["tasks"]
    for task, name in (("tvg", "r1@0.5"), ("tvg", "miou"), ("dvc", "f1")):
        others = ", ".join(f"{one} {values[name]:.1f}" for one, values in of_nothing[task].items())
        print(f"{name}: {figures[task]['figures'][name]:.1f} ({others})")


if __name__ == "__main__":
    run(main)
