"""
python -m evaluation.tables RESULTS.json [RESULTS.json …] [--ablations]

Results of `evaluation.run` as tables, beside the figures that papers state for the same benchmark. Each row says where
it is from: measured here, on how many of the benchmark's videos, or a paper's table.
"""

import argparse
import sys
import tomllib
from pathlib import Path

from dataset_scripts.command import run
from dataset_scripts.fields import Malformed, get, read_json
from dataset_scripts.items import DataError


PAPER = Path(__file__).with_name("paper.toml")
TITLES = {"dvc": "dense captioning", "tvg": "grounding", "vhd": "highlights", "choice": "multiple choice"}
COLUMNS = {
    "dvc": {"soda_c": "SODA_c", "cider": "CIDEr", "meteor": "METEOR", "f1": "F1", "l_avg": "L_avg", "ttr": "TTR"},
    "tvg": {"r1@0.3": "R@1 (IoU .3)", "r1@0.5": "R@1 (IoU .5)", "r1@0.7": "R@1 (IoU .7)", "miou": "mIoU"},
    "vhd": {"map_very_good": "mAP", "hit1_very_good": "HIT@1"},
    "choice": {"accuracy": "accuracy"}
    | {f"accuracy_{name}": name for name in ("action", "direction", "speed", "order", "attribute_change")},
}


def read_results(path: Path) -> dict:
    """What `evaluation.run` wrote."""
    results = read_json(path, dict)
    try:
        for name in ("benchmark", "title", "split", "model"):
            get(results, name, str)
        for task in get(results, "tasks", dict).values():
            for name in ("figures", "coverage"):
                get(task, name, dict)
            get(task, "malformed", (int, float))
    except Malformed as error:
        raise DataError(f"{path}: expected results of evaluation.run: {error}") from error
    return results


def published(benchmark: str, split: str, task: str, ablations: bool = False) -> list[dict]:
    """What papers state of this split: `model`, `source` and `figures` of each row."""
    tables = tomllib.loads(PAPER.read_text(encoding="utf-8"))["table"]
    return [
        {"model": model, "source": one["source"], "figures": dict(zip(one["figures"], figures, strict=True))}
        for one in tables
        if (one["benchmark"], one["split"], one["task"]) == (benchmark, split, task)
        if ablations or one["shown"]
        for model, *figures in one["rows"]
    ]


def coverage(found: dict) -> str:
    """`396 of 415 videos, partial`."""
    return f"{found['videos']:,} of {found['of_videos']:,} videos" + ", partial" * is_partial(found)


def is_partial(found: dict) -> bool:
    return found["queries"] < found["of_queries"]


def table(results: list[dict], task: str, ablations: bool = False) -> list[list[str]]:
    """Head and rows: the papers' first, then ours, each figure of ours with its interval."""
    names = COLUMNS[task]
    head, rows = ["model", "from", "videos", "protocol", "malformed", *names.values()], []
    for row in published(results[0]["benchmark"], results[0]["split"], task, ablations):
        figures = [_number(name, row["figures"][name]) if name in row["figures"] else "" for name in names]
        rows.append([row["model"], f"paper: {row['source']}", "not stated", "", "", *figures])
    for result in results:
        found = result["tasks"][task]
        figures = [_figure(found["figures"], name) for name in names]
        how = [coverage(found["coverage"]), found["figures"]["protocol"], f"{found['malformed']:.1f} %"]
        rows.append([result["model"], "measured here", *how, *figures])
    return [head, *rows]


def _figure(figures: dict, name: str) -> str:
    if name not in figures:
        return ""
    low, high = figures["interval"].get(name, (None, None))
    spread = "" if low is None else f" [{_number(name, low)}, {_number(name, high)}]"
    return f"{_number(name, figures[name])}{spread}"


def _number(name: str, value: float) -> str:
    """With as many digits as papers print: two of L_avg, one of all others."""
    return f"{value:.{2 if name == 'l_avg' else 1}f}"


def titled(results: list[dict], ablations: bool = False) -> list[tuple[str, list[list[str]]]]:
    """A title and a table for each benchmark and task."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for result in results:
        for task in result["tasks"]:
            groups.setdefault((result["benchmark"], result["split"], task), []).append(result)
    return [
        (f"{group[0]['title']}, {split}: {TITLES[task]}", table(group, task, ablations))
        for (_, split, task), group in groups.items()
    ]


def markdown(results: list[dict], ablations: bool = False) -> str:
    parts = []
    for title, (head, *rows) in titled(results, ablations):
        lines = [head, ["---"] * 4 + ["---:"] * (len(head) - 4), *rows]
        escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
        parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n")
    parts.append(NOTE)
    return "\n".join(parts)


NOTE = """\
Figures are × 100 except L_avg; in brackets the middle 95 % of a bootstrap. *malformed*: answers that can't be read.
*paper* rows were measured by others, on the videos that they had. A *partial* row holds the figures of the videos that
were asked about and answered, which are not those of the whole benchmark.
"""


def terminal(results: list[dict], ablations: bool = False) -> str:
    parts = []
    for title, (head, *rows) in titled(results, ablations):
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        parts.append("\n".join([title, *(f"  {line.rstrip()}" for line in lines)]))
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of evaluation.run")
    parser.add_argument("--ablations", action="store_true", help="with all rows of the papers")
    args = parser.parse_args(arguments)
    sys.stdout.write(markdown([read_results(path) for path in args.results], args.ablations))


if __name__ == "__main__":
    run(main, interrupted="")
