"""
A run, step by step, each in a process of its own: data, phases, merge, evaluation. What is finished is kept, what was
begun goes on; the last thing a run writes is its result.json.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError
from evaluation.baselines import of_run

from .declared import BENCHMARKS
from .plan import Plan, Run, as_arguments


PATIENCE = 120  # seconds that a process has to tidy up


class TimeIsUp(Exception):
    """The hours that were given are over."""


def carry_out(plan: Plan, run: Run, until: float, tell=print) -> dict:
    """Whatever of a run isn't there yet; its result."""
    folder = plan.run_folder(run)
    for build in run.builds:
        make(plan, build, until)
    for name, done, command in steps(plan, run, folder):
        if not done.exists():
            tell(f"  {name}: {folder / 'log.txt'}")
            with spent(folder, name):
                call(command, folder / "log.txt", until)
    result = read_result(plan, run, folder)
    with atomic_writer(folder / "result.json") as lines:
        json.dump(result, lines, indent=1)
    for phase in folder.glob("phase*"):  # each holds the optimizer's state, which nothing needs any more
        for checkpoint in phase.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return result


def make(plan: Plan, build: str, until: float):
    """Data, by its commands, once."""
    folder, declared = plan.data_folder(build), plan.declared.builds[build]
    for name in plan.needs(build):
        make(plan, name, until)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / declared.done).exists():
            return
        for command in declared.commands:
            call([plan.fill(word, here=folder) for word in command.split()], Path(f"{folder}.log"), until)
        if not (folder / declared.done).exists():
            raise DataError(f"builds.{build}: expected its commands to make {folder / declared.done}, found none")


def steps(plan: Plan, run: Run, folder: Path) -> list[tuple[str, Path, list[str]]]:
    """Name, what is there when it is done, and the command."""
    found, model = [], plan.data_folder(run.base) if run.base else plan.base
    for number, (recipe, values) in enumerate(run.phases, 1):
        output = folder / f"phase{number}"
        data = [
            one
            | {"path": str(plan.data_folder(one["path"]))}
            | {"folders": {name: plan.fill(place) for name, place in one.get("folders", {}).items()}}
            for one in values["data"]
        ]
        ours = {"model": str(model), "data": data, "output_dir": str(output), "prepare": {}, "held_out": None}
        ours["feature_cache"] = str(plan.folder / "features")
        command = ["train.sft", recipe, *as_arguments(values | ours)]
        found.append((f"phase {number}", output / "adapter_config.json", command))
        model = output
    merged, answers = folder / "model", folder / "evaluation"
    found.append(("merge", merged / "config.json", ["train.adapter", "merge", str(model), "--output", str(merged)]))
    declared = plan.declared.evaluation
    command = ["evaluation.run", "--model", str(merged), "--benchmark", "miniworld", "--output", str(answers)]
    command += ["--data", str(plan.data_folder(declared.world)), "--prompts", declared.prompts]
    command += declared.arguments.split()
    found.append(("evaluation", folder / "result.json", command))  # which asks again about what couldn't be read
    return found


def read_result(plan: Plan, run: Run, folder: Path) -> dict:
    """Figures, what they cover, and what the run took."""
    results = json.loads((folder / "evaluation" / "results.json").read_text(encoding="utf-8"))
    for task in BENCHMARKS:
        if task not in results["tasks"] or results["problems"]:
            raise DataError(f"{folder / 'evaluation'}: expected answers about all videos, found {results['problems']}")
    figures, tasks = {}, {}
    for task, found in results["tasks"].items():
        figures |= {name: value for name, value in found["figures"].items() if isinstance(value, (int, float))}
        tasks[task] = {"coverage": found["coverage"], "malformed": found["malformed"]}
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    result = {"run": run.name, "seed": run.seed, "id": run.id, "figures": figures, "tasks": tasks, "seconds": seconds}
    result["machine"] = {"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")}
    result["baselines"] = baselines(plan, folder / "evaluation")
    return result | {"settings": run.settings}


def baselines(plan: Plan, answers: Path) -> dict[str, dict]:
    """What the same questions give without a look at the videos; found once for all runs that were asked the same."""
    events, queries = (answers / f"{task}.references.json" for task in ("dvc", "tvg"))
    digest = hashlib.sha256(events.read_bytes() + queries.read_bytes()).hexdigest()
    known = plan.folder / f"baselines-{digest[:12]}.json"
    if not known.exists():
        captioned, grounded = of_run(answers).values()
        with atomic_writer(known) as lines:
            json.dump({name: captioned[name] | grounded[name] for name in captioned}, lines)
    return json.loads(known.read_text(encoding="utf-8"))


def call(command: list[str], log: Path, until: float):
    """
    A module of this repository, as `python -m`; what it says goes to the log. When time is up or this process is asked
    to end, it is asked to end, too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        out.write(f"$ python -m {' '.join(command)}\n")
        out.flush()
        # In a session of its own, so that Ctrl-C reaches it once: from here.
        child = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = child.wait(None if until == float("inf") else max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired as error:
            raise TimeIsUp from error
        finally:
            _end(child)
    if code:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        raise DataError(f"python -m {command[0]} ended with {code}: {last[-300:]} (all that it said: {log})")


def _end(child: subprocess.Popen):
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextmanager
def spent(folder: Path, step: str):
    """Notes the seconds of a step, over all calls."""
    began, file = time.monotonic(), folder / "seconds.json"
    try:
        yield
    finally:
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        known[step] = round(known.get(step, 0) + time.monotonic() - began, 1)
        with atomic_writer(file) as lines:
            json.dump(known, lines)
