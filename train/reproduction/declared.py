"""What `reproduction.toml` declares, and one error that names what in it can't be."""

import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from dataset_scripts.items import DataError
from evaluation.run_settings import PROMPTS
from evaluation.tables import COLUMNS, published


TASK_OF = {name: task for task in ("dvc", "tvg") for name in COLUMNS[task]}
BENCHMARKS = {"dvc": ("YouCook2", "youcook2", "validation"), "tvg": ("Charades-STA", "charades_sta", "test")}


@dataclass
class Build:
    commands: list[str]
    done: str


@dataclass
class Phase:
    recipe: str
    set: dict = field(default_factory=dict)


@dataclass
class Evaluation:
    world: str
    arguments: str = ""
    prompts: str = str(PROMPTS)


@dataclass
class Settings:
    notation: str
    phase1: list[str]
    phase2: list[str]
    base: str | None = None
    num_frames: int | None = None
    trained_parts: list[str] | None = None
    change: dict = field(default_factory=dict)


@dataclass
class Row:
    name: str
    run: str | None = None
    paper: str | None = None
    over: str | None = None
    x: float | None = None
    line: str = ""
    not_run: str = ""


@dataclass
class Table:
    title: str
    rows: list
    figures: list[str]
    over: str | None = None
    x: str | None = None

    def gain_over(self, row: Row) -> str | None:
        """The row that a row's gains are relative to."""
        over = row.over or self.over or self.rows[0].name
        return None if over == row.name else over

    def tasks(self) -> list[str]:
        return [task for task in BENCHMARKS if any(TASK_OF[name] == task for name in self.figures)]

    def paper(self, row: Row) -> dict[str, float]:
        """The paper's figures of a row, on the paper's benchmarks."""
        found = {}
        for task in self.tasks() if row.paper else ():
            for one in published(*BENCHMARKS[task][1:], task, ablations=True):
                found |= one["figures"] if one["model"] == row.paper else {}
        return {name: found[name] for name in self.figures if name in found}


class Declared:
    """
    Of the file: `phases`, `parts` of the mixture, `builds` of data, `settings` of runs, `tables` by name, `seeds`.
    """

    def __init__(self, file: Path):
        self.file = file
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: expected TOML: {error}") from error
        keys = {"seeds", "figures", "phase1", "phase2", "evaluation", "builds", "parts", "default", "runs", "tables"}
        if set(content) != keys:
            raise DataError(f"{file}: expected {', '.join(sorted(keys))}, found {', '.join(sorted(content))}")
        self.seeds, self.parts = content["seeds"], content["parts"]
        self.phases = [self._made(Phase, name, content[name]) for name in ("phase1", "phase2")]
        self.evaluation = self._made(Evaluation, "evaluation", content["evaluation"])
        self.builds = {name: self._made(Build, f"builds.{name}", one) for name, one in content["builds"].items()}
        self.settings = {
            name: self._made(Settings, f"runs.{name}", content["default"] | one)
            for name, one in content["runs"].items()
        }
        for name, one in self.settings.items():
            self._check_run(name, one)
        self.tables = {name: self._table(name, {"figures": content["figures"]} | content["tables"][name])
                       for name in content["tables"]}  # fmt: skip

    def data(self, settings: Settings, parts: list[str]) -> list[dict]:
        """A phase's mixture, with names of builds."""
        return [self.parts[part] | settings.change.get(part, {}) for part in parts]

    def _made(self, kind: type, place: str, values: dict):
        known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(kind)}
        wrong = [f"no {name}" for name in known if known[name] and name not in values]
        wrong += sorted(set(values) - set(known))
        if wrong:
            raise DataError(f"{self.file}, {place}: expected keys of {', '.join(known)}; found {', '.join(wrong)}")
        return kind(**values)

    def _check_run(self, name: str, settings: Settings):
        place, parts = f"{self.file}, runs.{name}", [*settings.phase1, *settings.phase2]
        if strange := {*parts, *settings.change} - set(self.parts):
            raise DataError(f"{place}: expected parts of {', '.join(self.parts)}; found {', '.join(sorted(strange))}")
        builds = [one.get("build") for one in self.data(settings, parts)] + [self.evaluation.world]
        builds += [settings.base] if settings.base else []
        for build in builds:
            if build not in self.builds:
                raise DataError(f"{place}: expected builds of {', '.join(self.builds)}; found {build}")

    def _table(self, name: str, values: dict) -> Table:
        table = self._made(Table, f"tables.{name}", values)
        table.rows = [self._made(Row, f"tables.{name}.rows", one) for one in table.rows]
        names = [row.name for row in table.rows]
        if strange := set(table.figures) - set(TASK_OF):
            raise DataError(f"{self.file}, tables.{name}: expected figures of {', '.join(TASK_OF)}; found {strange}")
        for row in table.rows:
            place = f"{self.file}, tables.{name}, {row.name}"
            if (row.run is None) != bool(row.not_run) or row.run not in (None, *self.settings):
                raise DataError(f"{place}: expected a run that is declared, or why it is `not_run`; found {row.run}")
            if table.gain_over(row) not in (None, *names) or names.count(row.name) > 1:
                raise DataError(f"{place}: expected rows of different names, of which `over` is one; found {row.over}")
            if row.paper and not table.paper(row):
                raise DataError(f"{place}: expected a row of evaluation/paper.toml, found {row.paper!r}")
        return table
