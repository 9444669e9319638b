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
            command.add_argument("--videos", type=Path, metavar="FILE", help="only these: MS-TCN's .bundle")
    return parser.parse_args()


def options(args: argparse.Namespace) -> dict:
    return {name: value for name, value in vars(args).items() if name in ("protocol", "soda", "background", "videos")}


def score_files(
    name: str, predictions: Path, references: Path, videos: Path | None = None, **options
) -> tuple[dict, Problems]:
    """The figures of two files, and what is wrong in them; only of those `videos` if a file names some."""
    task, problems = TASKS[name], Problems()
    true = task.references(references, problems)
    found = task.predictions(predictions, problems)
    if videos:
        names = label_files.video_names(videos)
        if strange := sorted(names - true.keys()):
            raise DataError(f"{videos}: expected names of {references}, found {strange[0]!r}")
        true, found = ({key: one for key, one in content.items() if key in names} for content in (true, found))
    known = check_known(found, true, predictions, problems)
    if not known and not found:
        raise DataError(f"{predictions}: expected predictions, found none that can be used" + _first(problems))
    if not known:
        raise DataError(
            f"{predictions}: expected ids of {references}, such as {next(iter(true))!r}, found {next(iter(found))!r}"
        )
    if task.lengths:
        lengths = {name: task.lengths(one) for name, one in true.items()}
        check_lengths(known, lengths, predictions, problems)
    return task.metric.score(known, true, **options), problems


def check_known(predictions: dict, references: dict, path: Path, problems: Problems) -> dict:
    """The predictions that have a reference. The others are named."""
    for name in predictions:
        if name not in references:
            problems.add("unknown id", path.name, f"{name!r} has no reference that can be used")
    return {name: one for name, one in predictions.items() if name in references}


def check_lengths(predictions: dict, lengths: dict[str, int], path: Path, problems: Problems):
    """Names predictions that have more or fewer entries than the reference has clips or frames."""
    for name, one in predictions.items():
        if len(one) != lengths[name]:
            problems.add("length", f"{path.name}: {name}", f"expected {lengths[name]} entries, found {len(one)}")


def _first(problems: Problems) -> str:
    return "".join(f": {place}: {detail}" for _, place, detail, _ in problems.found[:1])


def report(problems: Problems):
    """On the error stream."""
    for line in summary(problems):
        print(line, file=sys.stderr)


def summary(problems: Problems) -> list[str]:
    """Every kind of problem with its number and first examples."""
    lines = []
    for kind, count in problems.counts.items():
        examples = [f"{place}: {detail}" for one, place, detail, _ in problems.found if one == kind][:SHOWN]
        lines.append(f"{kind} ({count}): {'; '.join(examples)}{'; …' if count > SHOWN else ''}")
    return lines


def table(result: dict) -> str:
    """Figures with their intervals, then counts."""
    interval = result["interval"]
    lines = [f"protocol {result['protocol']}{', SODA_c ' + result['soda'] if 'soda' in result else ''}"]
    width = max(map(len, interval), default=0)
    for name, value in result.items():
        if name in interval:
            low, high = interval[name]
            lines.append(f"  {name:<{width}} {value:9.4f}   [{low:.4f}, {high:.4f}]")
    counts = [f"{value} {name}" for name, value in result.items() if isinstance(value, int)]
    return "\n".join([*lines, f"  {', '.join(counts)}; in brackets: 95 % bootstrap intervals"])


if __name__ == "__main__":
    run(main, interrupted="")
