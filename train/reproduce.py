"""
python -m train.reproduce table2 [table3 …] [--plan]

The paper's tables in miniature: trains and evaluates what `reproduction.toml` declares of a table (or `all`) and writes
it beside the paper's numbers. Runs that are finished are kept, also for other tables; one that was stopped goes on with
the same command. Tables are written anew after each run and say what they lack. Several of these commands at a time
share the runs.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from filelock import FileLock, Timeout

from dataset_scripts.command import run as run_command
from dataset_scripts.items import DataError

from .reproduction import report
from .reproduction.plan import Plan, Run
from .reproduction.running import TimeIsUp, carry_out


FILE = Path(__file__).with_name("reproduction.toml")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="names of the file's tables, or all")
    parser.add_argument("--seeds", type=int, nargs="+", help="to run now; all of the file if not given")
    parser.add_argument("--base", type=Path, default=Path("examples/seq2time-mini-base"), metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("examples/reproduction"), metavar="DIR", help="of tables")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduction"), metavar="DIR", help="of what is made")
    parser.add_argument("--known", type=Path, metavar="JSONL", help="runs.jsonl of tables: runs finished elsewhere")
    parser.add_argument("--file", type=Path, default=FILE, metavar="TOML", help="other tables than the paper's")
    parser.add_argument("--plan", action="store_true", help="which runs there are, and hours; nothing is run")
    parser.add_argument(
        "--limit-hours", type=float, default=float("inf"), metavar="H", help="stop then; 0 only writes the tables"
    )
    return parser.parse_args(arguments)


def hours(plan: Plan, runs: list[Run]) -> list[float]:
    """Of the runs that are finished."""
    results = [plan.result(run) for run in runs]
    return [sum(result["seconds"].values()) / 3600 for result in results if result]


def left(plan: Plan, runs: list[Run]) -> str:
    """How much is to be done, as far as finished runs tell."""
    known, missing = hours(plan, runs), sum(plan.result(run) is None for run in runs)
    if not missing:
        return f"all {len(runs)} runs are finished"
    # The first run also fills the cache of features: the median passes over it.
    estimate = f"about {median(known) * missing:.1f} h" if known else "hours are known when one is finished"
    return f"{missing} of {len(runs)} runs are left, {estimate}"


def tell_plan(plan: Plan, runs: dict[str, Run], tables: list[str]):
    for run in runs.values():
        shown = [
            name
            for name in tables
            if any(row.run and plan.run(row.run, run.seed).id == run.id for row in plan.declared.tables[name].rows)
        ]
        folder, result = plan.run_folder(run), plan.result(run)
        state = f"finished, {hours(plan, [run])[0]:.2f} h" if result else "begun" if folder.exists() else "to do"
        print(f"{run.id}  {run}: {state}  ({', '.join(shown)})")
    print(left(plan, list(runs.values())))


def carry_out_all(plan: Plan, runs: dict[str, Run], args, tables: list[str], failed: list[str]):
    """Trains what is missing. A run that fails is noted with the reason, and the others go on."""
    began, until = time.monotonic(), time.monotonic() + args.limit_hours * 3600
    for number, run in enumerate(runs.values(), 1):
        if plan.result(run):
            continue
        if time.monotonic() >= until:
            raise TimeIsUp
        print(f"run {number} of {len(runs)}: {run} ({run.id})", flush=True)
        folder = plan.run_folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / "lock", timeout=0):
                if not plan.result(run):
                    carry_out(plan, run, until)
        except Timeout:
            print("  another process runs it")
            continue
        except (DataError, OSError) as error:
            failed.append(f"{run}: {error}")
            print(f"  failed: {error}", file=sys.stderr, flush=True)
            continue
        report.write(plan, tables, args.output)
        print(f"  {(time.monotonic() - began) / 3600:.2f} h so far; {left(plan, list(runs.values()))}", flush=True)


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    plan = Plan(args.file, args.base, args.runs, args.seeds, args.known)
    known = plan.declared.tables
    tables = list(known) if args.tables == ["all"] else list(dict.fromkeys(args.tables))
    if strange := [name for name in tables if name not in known]:
        raise DataError(f"expected tables of {', '.join(known)}, or all; found {', '.join(strange)}")
    runs = plan.runs(tables)
    if args.plan:
        tell_plan(plan, runs, tables)
        return
    failed: list[str] = []
    try:
        carry_out_all(plan, runs, args, tables, failed)
    except TimeIsUp:
        print(f"the time is up; the same command goes on. {left(plan, list(runs.values()))}")
    report.write(plan, tables, args.output)
    print(f"{args.output}: {', '.join(tables)}")
    if failed:
        raise DataError(f"{len(failed)} of {len(runs)} runs failed:\n  " + "\n  ".join(failed))


if __name__ == "__main__":
    run_command(main)
