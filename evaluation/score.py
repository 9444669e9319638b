"""
python -m evaluation.score {dvc,tvg,vhd,segmentation,choice} --predictions FILE --references FILE

Scores a file of predictions: dense captioning (dvc), grounding (tvg), highlights (vhd), action segmentation, multiple
choice. Reads the peers' own formats; figures are × 100. docs/evaluation.md defines them, protocol by protocol.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataset_scripts.command import run
from dataset_scripts.items import DataError, Problems

from . import (
    caption_files,
    dense_captioning,
    grounding,
    highlights,
    label_files,
    moment_files,
    multiple_choice,
    segmentation,
)


SHOWN = 3  # problems of a kind that are shown


@dataclass
class Task:
    predictions: Callable
    references: Callable
    metric: object
    lengths: Callable | None = None  # of a reference, in clips or frames


TASKS = {
    "dvc": Task(caption_files.predictions, caption_files.references, dense_captioning),
    "tvg": Task(moment_files.grounding_predictions, moment_files.grounding_references, grounding),
    "vhd": Task(
        moment_files.highlight_predictions,
        moment_files.highlight_references,
        highlights,
        lambda truth: highlights.clips(truth[0]),
    ),
    "segmentation": Task(label_files.segmentation_predictions, label_files.segmentation_references, segmentation, len),
    "choice": Task(label_files.choice_predictions, label_files.choice_references, multiple_choice),
}


def main():
    args = parse_arguments()
    result, problems = score_files(args.task, args.predictions, args.references, **options(args))
    report(problems)
    print(json.dumps(result, indent=1) if args.json else table(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="task", required=True)
    for name, task in TASKS.items():
        summary = task.metric.__doc__.strip().split("\n")[0]
        command = commands.add_parser(
            name, help=summary, description=task.metric.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument("--predictions", type=Path, required=True, help="file; of segmentation also a folder")
        command.add_argument("--references", type=Path, required=True)
        protocols = task.metric.PROTOCOLS
        command.add_argument("--protocol", choices=protocols, default=protocols[0], help=f"default: {protocols[0]}")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "dvc":
            choices = dense_captioning.SODA.values()
            command.add_argument("--soda", choices=choices, help="variant of SODA_c (default: that of the protocol)")
        if name == "segmentation":
            command.add_argument("--background", nargs="*", default=["background"], help="labels that are no action")
    return parser.parse_args()


def options(args: argparse.Namespace) -> dict:
    return {name: value for name, value in vars(args).items() if name in ("protocol", "soda", "background")}


def score_files(name: str, predictions: Path, references: Path, **options) -> tuple[dict, Problems]:
    """The figures of two files, and what is wrong in them."""
    task, problems = TASKS[name], Problems()
    true = task.references(references, problems)
    found = task.predictions(predictions, problems)
    known = moment_files.check_known(found, true, predictions, problems)
    if found and not known:
        raise DataError(
            f"{predictions}: expected ids of {references}, such as {next(iter(true))!r}, found {next(iter(found))!r}"
        )
    if task.lengths:
        lengths = {name: task.lengths(one) for name, one in true.items()}
        moment_files.check_lengths(known, lengths, predictions, problems)
    try:
        return task.metric.score(known, true, **options), problems
    except ValueError as error:
        raise DataError(f"{predictions}: {error}") from error


def report(problems: Problems):
    """Every kind of problem with its number and first examples, on the error stream."""
    for kind, count in problems.counts.items():
        examples = [f"{place}: {detail}" for one, place, detail, _ in problems.found if one == kind][:SHOWN]
        print(f"{kind} ({count}): {'; '.join(examples)}{'; …' if count > SHOWN else ''}", file=sys.stderr)


def table(result: dict) -> str:
    """Figures with their intervals, then counts."""
    interval = result["interval"]
    lines = [f"protocol {result['protocol']}{', SODA_c ' + result['soda'] if 'soda' in result else ''}"]
    for name, value in result.items():
        if name in interval:
            low, high = interval[name]
            lines.append(f"  {name:<18} {value:9.4f}   [{low:.4f}, {high:.4f}]")
    counts = [f"{value} {name}" for name, value in result.items() if isinstance(value, int)]
    return "\n".join([*lines, f"  {', '.join(counts)}; in brackets: 95 % bootstrap intervals"])


if __name__ == "__main__":
    run(main)
