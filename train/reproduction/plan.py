"""
What is declared, as runs. A run is known by its content: whatever changes what is trained or asked changes its id, and
rows of different tables that mean the same share one.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataset_scripts.building import VERSION as BUILDERS
from dataset_scripts.items import DataError
from dataset_scripts.sources.miniworld import VERSION as WORLD
from evaluation.run_settings import VERSION as RUNNER
from evaluation.run_settings import fingerprint, read_prompts
from train.recipe import FREE, as_run, read_recipe

from .declared import BENCHMARKS, Declared


RESULTS = "runs.jsonl"
VERSION = 1  # of the runs: raise it when the same settings give other figures


@dataclass
class Run:
    name: str
    seed: int
    id: str
    phases: list[tuple[str, dict]]  # recipe, and what replaces its values; data by names of builds
    builds: list[str]
    base: str | None  # a build
    settings: dict  # what the id is of

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def updates(self) -> list[tuple[int, int]]:
        """How many updates of how many samples each phase has."""
        return [(one["max_steps"], one["update_size"]) for one in self.settings["phases"]]


class Plan:
    """The runs of a file's tables, from a base, and where they lie."""

    def __init__(self, file: Path, base: Path, folder: Path, seeds: list[int] | None = None, known: Path | None = None):
        if not (base / "config.json").is_file():
            raise DataError(f"--base {base}: expected a model's folder, with a config.json; found none")
        self.declared, self.base, self.folder = Declared(file), base, folder
        self.seeds, self.base_digest = seeds or self.declared.seeds, fingerprint(base)
        self.shown_seeds = list(dict.fromkeys([*self.declared.seeds, *self.seeds]))  # a part of them is partial
        self.run, self.known = cache(self._run), read_results(known) if known else {}

    def data_folder(self, build: str) -> Path:
        """It tells other commands, another base and other builders apart."""
        one = self.declared.builds[build]
        places = {name: self.data_folder(name).name for name in self.needs(build)}
        commands = [command.format(here="", base=self.base_digest, **places) for command in one.commands]
        return self.folder / "data" / f"{build}-{_digest([BUILDERS, WORLD, commands])[:8]}"

    def fill(self, text: str, **more) -> str:
        """With the folders of builds, and of the base, that it names."""
        places = {name: self.data_folder(name) for name in self.declared.builds}
        return text.format(base=self.base, **places, **more)

    def needs(self, build: str) -> list[str]:
        """The builds that a build's commands name."""
        commands = self.declared.builds[build].commands
        return [name for name in self.declared.builds if any(f"{{{name}}}" in command for command in commands)]

    def _run(self, name: str, seed: int) -> Run:
        declared, settings, phases, told = self.declared, self.declared.settings[name], [], []
        builds = [declared.evaluation.world, *([settings.base] if settings.base else [])]
        for phase, parts in zip(declared.phases, (settings.phase1, settings.phase2), strict=True):
            if not parts:
                continue
            data = declared.data(settings, parts)
            builds += [one["build"] for one in data]
            data = [{"path": one["build"]} | {key: one[key] for key in one if key != "build"} for one in data]
            values = phase.set | {"data": data, "seed": seed, "time_notation": settings.notation}
            own = {"num_frames": settings.num_frames, "trained_parts": settings.trained_parts}
            values |= {key: value for key, value in own.items() if value is not None}
            phases.append((phase.recipe, values))
            told.append(self._as_trained(phase.recipe, values))
        identity = {"version": VERSION, "phases": told, "world": self.data_folder(declared.evaluation.world).name}
        identity["base"] = self.data_folder(settings.base).name if settings.base else self.base_digest
        identity |= {"evaluation": declared.evaluation.arguments, "tasks": list(BENCHMARKS), "runner": RUNNER}
        identity["prompts"] = read_prompts(Path(declared.evaluation.prompts))
        builds = list(dict.fromkeys(builds))
        return Run(name, seed, _digest(identity)[:12], phases, builds, settings.base, identity)

    def _as_trained(self, recipe: str, values: dict) -> dict:
        """All that a phase's weights depend on."""
        data = [one | {"path": self.data_folder(one["path"]).name, "folders": {}} for one in values["data"]]
        elsewhere = {"model": "", "output_dir": "", "feature_cache": ""}  # known by what is in it, not by its name
        read, settings = read_recipe(recipe, as_arguments(values | elsewhere | {"data": data}))
        if settings.get("max_steps", -1) < 1:
            raise DataError(f"{recipe}: expected max_steps, or rows of a table differ in updates, too; found none")
        size = settings.get("per_device_train_batch_size", 8) * settings.get("gradient_accumulation_steps", 1)
        return {key: value for key, value in as_run(read, settings, size).items() if not key.startswith(FREE)}

    def runs(self, tables: list[str]) -> dict[str, Run]:
        """The runs of tables, each once: of all rows with the first seed, then with the next."""
        for name in tables:
            self._expect_equal(name)
        return self._runs(tables, self.seeds)

    def shown_runs(self) -> dict[str, Run]:
        """Of all tables and of every seed that they show."""
        return self._runs(list(self.declared.tables), self.shown_seeds)

    def _runs(self, tables: list[str], seeds: list[int]) -> dict[str, Run]:
        rows, found = [row for name in tables for row in self.declared.tables[name].rows if row.run], {}
        for seed in seeds:
            for run in (self.run(row.run, seed) for row in rows):
                found.setdefault(run.id, run)
        return found

    def _expect_equal(self, table: str):
        rows = [row for row in self.declared.tables[table].rows if row.run]
        found = {row.name: self.run(row.run, self.seeds[0]).updates for row in rows}
        if any(updates != found[rows[0].name] for updates in found.values()):
            raise DataError(
                f"{self.declared.file}, tables.{table}: expected as many updates in each row, found "
                + "; ".join(f"{name}: {updates}" for name, updates in found.items())
            )

    def run_folder(self, run: Run) -> Path:
        """It keeps the name that the run was begun under."""
        return next(self.folder.glob(f"*-{run.id}"), self.folder / f"{run.name}-{run.seed}-{run.id}")

    def result(self, run: Run) -> dict | None:
        """Of a run that is finished, here or elsewhere."""
        file = self.run_folder(run) / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else self.known.get(run.id)


def read_results(file: Path) -> dict[str, dict]:
    """Of finished runs by their ids, as `report.write` keeps them."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {row["id"]: row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: expected results of runs, as {RESULTS} beside tables has them: {error}") from error


def as_arguments(values: dict) -> list[str]:
    """As `train.sft` takes them: JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
