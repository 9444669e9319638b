"""
python -m evaluation.model_card --results RESULTS.json [RESULTS.json …] --card README.md [--dry-run]

Writes results of `evaluation.run` into a model card: the `model-index` of its YAML head, which the Hub shows as the
model's evaluation. A figure that stands there already is replaced; figures of others stay, and all else in the file, to
the byte. Between the lines `<!-- evaluation -->` and `<!-- /evaluation -->`, if the card has them, go the tables.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import eval_results_to_model_index
from huggingface_hub.utils import yaml_dump

from dataset_scripts.command import run
from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError

from .tables import COLUMNS, TITLES, coverage, is_partial, markdown, read_results


TASK_TYPE = "video-text-to-text"  # as the Hub calls it
KEY = "model-index"
_SECTION = re.compile(r"(<!-- evaluation -->\r?\n).*?(<!-- /evaluation -->)", re.DOTALL)


def eval_results(results: dict) -> list[EvalResult]:
    """The figures of a benchmark as the Hub keeps them. What they cover stands in their names if it isn't all."""
    found = []
    for task, scored in results["tasks"].items():
        figures, covered = scored["figures"], scored["coverage"]
        note = f" ({coverage(covered)})" if is_partial(covered) else ""
        for name, title in COLUMNS[task].items():
            if name in figures:
                found.append(
                    EvalResult(
                        task_type=TASK_TYPE,
                        task_name=TITLES[task],
                        dataset_type=results["benchmark"],
                        dataset_name=results["title"],
                        dataset_config=TITLES[task],
                        dataset_split=results["split"],
                        metric_type=name,
                        metric_name=title + note,
                        metric_value=round(figures[name], 3),
                        metric_args={"protocol": figures["protocol"]},
                    )
                )
    return found


def merged(index: list[dict], found: list[EvalResult], name: str) -> list[dict]:
    """
    A model index with these figures in the entry of this name: in the place of the same ones, else behind the others.
    Other names keep theirs. The Hub reads all entries, and calls the model as the last.
    """
    (ours,) = eval_results_to_model_index(name, found)
    if all(entry["name"] != name for entry in index):
        index = [*index, {"name": name, "results": []}]
    known = next(entry for entry in index if entry["name"] == name)["results"]
    for result in ours["results"]:
        same = [one for one in known if _identity(one) == _identity(result)]
        if not same:
            known.append(result)
            continue
        new = [(metric["type"], metric["args"]) for metric in result["metrics"]]
        kept = [metric for metric in same[0]["metrics"] if (metric["type"], metric.get("args")) not in new]
        same[0]["metrics"] = kept + result["metrics"]
    return index


def _identity(result: dict) -> tuple:
    dataset = result["dataset"]
    return result["task"]["type"], dataset["type"], *(dataset.get(name) for name in ("config", "split", "revision"))


def _span(text: str) -> tuple[int, int]:
    """
    Where the key `model-index` and its value stand in a YAML mapping, or else its end, twice. What follows up to the
    next key, as comments, is no part of it.
    """
    root = yaml.compose(text)
    keys = [key for key, _ in root.value] if root else []
    starts = [key.start_mark.index for key in keys if key.value == KEY]
    if not starts:
        return len(text), len(text)
    following = min((key.start_mark.index for key in keys if key.start_mark.index > starts[-1]), default=len(text))
    inside = [token for token in yaml.scan(text) if starts[-1] <= token.start_mark.index < following]
    end = max(token.end_mark.index for token in inside)
    return starts[-1], len(text[:end].rstrip())


def _compared(data: dict) -> str:
    """As a text: there a NaN equals itself."""
    return json.dumps(data, sort_keys=True, default=str)


def updated(card: str, results: list[dict], place: str) -> str:
    """The text of a card with these results."""
    head = REGEX_YAML_BLOCK.match(card)
    text = head[2] if head else ""
    newline = "\r\n" if "\r\n" in card else "\n"
    try:
        data = yaml.safe_load(text) or {}
        found = [one for result in results for one in eval_results(result)]
        data[KEY] = merged(data.get(KEY) or [], found, results[0]["model"])
        block = yaml_dump({KEY: data[KEY]}).strip().replace("\n", newline)
        start, end = _span(text)
        new = text[:start] + (newline if start == end and text else "") + block + text[end:]
        if _compared(yaml.safe_load(new)) != _compared(data):
            raise ValueError(f"{KEY} can't be written without a change of the rest")
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place}: expected a YAML head with a {KEY} as the Hub's: {error!r}") from error
    before, after = f"---{newline}", f"{newline}---{newline}{card}"
    if head:
        before, after = card[: head.start(2)], card[head.end(2) :]
    tables = markdown(results).replace("\n", newline)
    return _SECTION.sub(lambda found: found[1] + tables + found[2], before + new + after)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", nargs="+", type=Path, required=True, help="results.json of evaluation.run")
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true", help="print the card instead of writing it")
    args = parser.parse_args(arguments)
    results = [read_results(path) for path in args.results]
    if len(names := sorted({one["model"] for one in results})) > 1:
        raise DataError(f"--results: expected those of one model, found {', '.join(names)}")
    try:
        content = args.card.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{args.card}: expected text in UTF-8: {error}") from error
    card = updated(content, results, str(args.card))
    if args.dry_run:
        sys.stdout.write(card)
    elif card != content:
        with atomic_writer(args.card) as lines:
            lines.write(card)


if __name__ == "__main__":
    run(main, interrupted="")
