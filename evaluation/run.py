"""
python -m evaluation.run --model DIR_OR_REPO --benchmark youcook2 --data DIR [--videos DIR]
accelerate launch -m evaluation.run …

Asks a model about every video of a benchmark and scores what it answers. Each video is decoded and encoded once, for
all of its queries. Answers are appended to the output folder as they come: after a kill the same command goes on, with
any number of processes. At the end the folder holds predictions and references in the peers' file formats,
results.json and results.md.

Videos that are missing or can't be decoded are named. Figures are those of the videos that were answered, and labelled
as partial; the next call of the same command asks about those that have come since.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from dataset_scripts.command import run
from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError, Item
from dataset_scripts.judging import locate
from dataset_scripts.media import Finder, Found

from .answer_log import AnswerLog, claim
from .asking import Asker, answer_all
from .benchmarks import BENCHMARKS, open_benchmark, queries, read_items
from .report import write_results
from .run_settings import PROMPTS, fingerprint, model_folder, read_settings
from .score import TASKS
from .tables import TITLES, terminal


SHOWN = 20  # problems on the terminal


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR_OR_REPO", help="folder, or OWNER/NAME[@REVISION]")
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder or file of its annotations")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="folder of its videos, if they aren't below DATA")
    parser.add_argument("--task", action="append", choices=TITLES, help="may be repeated")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="the benchmark's own if not given")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: results/BENCHMARK-MODEL")
    parser.add_argument("--protocol", default="seq2time", help="of the metrics (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="videos at a time (default: %(default)s)")
    parser.add_argument("--num-frames", type=int, help="per video or window; the model's own if not given")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="see longer videos in windows of this length")
    parser.add_argument("--free", action="store_true", help="let the model write freely, and read what it wrote")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, metavar="TOML", help="other words for the tasks")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="of an answer (default: %(default)s)")
    parser.add_argument(
        "--search-steps", type=int, help="ground by the most probable answers, of a search of so many steps"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N videos")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--device", help="such as cpu or cuda:1; each process has its own GPU if not given")
    args = parser.parse_args(arguments)
    least = dict.fromkeys(("batch_size", "num_frames", "search_steps", "limit", "window"), 1)
    for name, bound in (least | {"max_new_tokens": 32}).items():
        if getattr(args, name) is not None and not getattr(args, name) >= bound:
            parser.error(f"--{name.replace('_', '-')}: expected at least {bound}, found {getattr(args, name)}")
    known = BENCHMARKS[args.benchmark]
    args.task = tuple(dict.fromkeys(args.task or known.tasks))
    args.split = args.split or known.split
    for task in args.task:
        if task not in known.tasks + known.on_demand:
            parser.error(f"--task {task}: {args.benchmark} has {', '.join(known.tasks + known.on_demand)}")
        protocols = TASKS[task].metric.PROTOCOLS
        if args.protocol not in protocols:
            parser.error(f"--protocol {args.protocol}: {task} has {', '.join(protocols)}")
    local = Path(args.model).is_dir()
    args.name = Path(args.model).resolve().name if local else args.model.partition("@")[0].rpartition("/")[2]
    args.output = args.output or Path("results") / f"{args.benchmark}-{args.name}"
    return args


class Plan:
    """What is to be asked: the same in every process."""

    def __init__(self, args):
        self.args = args
        self.source = open_benchmark(args.benchmark, args.data, args.split)
        items, problems = read_items(self.source, args.split)
        expected = [item for item in items if any(queries(task, item) for task in args.task)]
        self.all, self.expected = expected, expected[: args.limit]
        if args.videos and not args.videos.is_dir():
            raise DataError(f"--videos {args.videos}: there is no such folder")
        self.finder = Finder(args.videos or self.source.folder)
        self.model = model_folder(args.model)
        self.settings = read_settings(args, self.source, self.model)
        self.present = [(item, found) for item in self.expected if (found := locate(item, self.finder, problems))]
        self.problems = [self.as_line(kind, place, detail) for kind, place, detail, _ in problems.found]

    def as_line(self, kind: str, place: str, detail: str) -> str:
        """A problem in a line, without paths of this machine."""
        folder = str(self.finder.folder)
        return f"{kind}: {place}: " + detail.replace(f"{folder}/", "").replace(f" below {folder}", "")

    def batches(self, done: set[tuple[str, str]]) -> list[list[tuple[Item, Found, list[str]]]]:
        """Batches of all videos, whoever asks about them, without what is done."""
        size, batches = self.args.batch_size, []
        for first in range(0, len(self.present), size):
            batch = []
            for item, found in self.present[first : first + size]:
                tasks = [task for task in self.args.task if queries(task, item) and (item.key, task) not in done]
                if tasks:
                    batch.append((item, found, tasks))
            batches.append(batch)
        return batches


def agreed(state: PartialState, prepare: Callable):
    """What every process prepares. Bad news from any is told once, and ends all."""
    made, error = None, []
    try:
        made = prepare()
    except (DataError, OSError) as found:
        error = [str(found)]
    errors = gather_object(error)
    if errors and state.is_main_process:
        raise DataError(errors[0])
    if errors:
        sys.exit(1)
    return made


def ask(plan: Plan, log: AnswerLog, state: PartialState) -> list[str]:
    """Asks what isn't answered yet, this process its share of it. Returns what all found wrong with videos."""
    agreed(state, lambda: log.open(state.process_index))
    done = agreed(state, lambda: set(log.read()))  # the same for all: nobody appends before all have read
    if not plan.present and not done:
        nothing = "none of its videos is there" if plan.expected else "nothing can be asked about its videos"
        raise DataError(f"{plan.args.benchmark}, {plan.args.split}: {nothing}, looked for below {plan.finder.folder}")
    todo = [batch for batch in plan.batches(done) if batch][state.process_index :: state.num_processes]
    planned = {(item.key, task) for item, _ in plan.present for task in plan.args.task if queries(task, item)}
    began, unusable = time.perf_counter(), []
    hidden = not state.is_main_process or None  # None: hidden where no terminal is
    with tqdm(total=len(planned), initial=len(planned & done), unit="answer", disable=hidden) as bar:

        def tell():
            if not bar.disable:
                bar.update(log.count())

        if todo:
            asker = Asker(plan.args, plan.model, plan.settings, state.device)
            began = time.perf_counter()
            unusable = answer_all(todo, asker, plan.source, plan.finder, log, tell)
        asked = sum(map(len, todo)) - len(unusable)
        shares = gather_object([(asked, time.perf_counter() - began)])
        tell()  # what the others answered meanwhile
    if state.is_main_process and sum(count for count, _ in shares):
        seconds = max(spent for _, spent in shares)
        speed = {"videos": sum(count for count, _ in shares), "seconds": round(seconds, 1), "processes": len(shares)}
        with atomic_writer(log.folder / "speed.json") as lines:
            json.dump(speed | {"videos_per_second": round(speed["videos"] / seconds, 3)}, lines, indent=1)
    return [plan.as_line(*one) for one in sorted(gather_object(unusable))]


def evaluate(args, state: PartialState):
    def prepare() -> tuple[Plan, AnswerLog]:
        plan = Plan(args)
        if state.is_main_process:
            plan.settings["weights"] = fingerprint(plan.model)  # takes a while; only this process needs it
            claim(args.output, plan.settings)
        return plan, AnswerLog(args.output)

    plan, log = agreed(state, prepare)
    if state.is_main_process:
        limited = f" (of {len(plan.all):,}: --limit)" if len(plan.expected) < len(plan.all) else ""
        found = f"{len(plan.present):,} of {len(plan.expected):,} videos are there"
        print(f"{args.benchmark}, {args.split}: {found}{limited}")
    with closing(log):
        unusable = ask(plan, log, state)
    if state.is_main_process:
        problems = plan.problems + unusable
        for problem in problems[:SHOWN]:
            print(problem, file=sys.stderr)
        if len(problems) > SHOWN:
            print(f"… and {len(problems) - SHOWN} more, all in results.json", file=sys.stderr)
        results = write_results(plan, log, problems)
        print(f"{terminal([results])}\n{args.output / 'results.md'}")


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    # Without `cpu`, processes on CPUs don't know of each other. The fastest waits for the slowest, for hours.
    cpu = args.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=timedelta(days=7))
    try:
        if args.device not in (None, "cpu") and state.num_processes > 1:
            raise DataError(f"--device {args.device}: {state.num_processes} processes have a device each, name none")
        evaluate(args, state)
    finally:
        state.destroy_process_group()


if __name__ == "__main__":
    run(main)
