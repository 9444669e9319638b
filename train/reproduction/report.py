"""
The tables: per row the mean and the deviation over the seeds that are finished, as Markdown, JSON and plot. Ours and
the paper's are of other data and other models, so they never share a column.
"""

import json
import re
from pathlib import Path
from statistics import mean, median, stdev

from dataset_scripts.files import atomic_writer
from evaluation.tables import COLUMNS, TITLES

from .declared import BENCHMARKS, TASK_OF, Table
from .plan import RESULTS, Plan, read_results
from .plots import plot


OURS = "miniature, ours (miniworld)"
MOST = 1000  # per cent: what a gain over next to nothing is more than, says nothing
INDEX = re.compile(r"(<!-- tables -->\n).*?(<!-- /tables -->)", re.DOTALL)
README = """\
# The paper's tables, in miniature

`python -m train.reproduce all` makes what is here; [docs/reproduction.md](../../docs/reproduction.md) says how.

<!-- tables -->
<!-- /tables -->

## Reading

Not written yet.
"""


def gather(plan: Plan, name: str) -> dict:
    """All that a table shows."""
    table, rows, baselines = plan.declared.tables[name], [], {}
    for row in table.rows:
        runs = [plan.run(row.run, seed) for seed in plan.shown_seeds] if row.run else []
        found = [result for run in runs if (result := plan.result(run))]
        baselines = found[0]["baselines"] if found else baselines
        figures = {}
        for figure in table.figures if found else ():
            values = [result["figures"][figure] for result in found]
            figures[figure] = {"mean": mean(values), "values": values}
            figures[figure]["deviation"] = stdev(values) if len(values) > 1 else None
        told = {"name": row.name, "run": row.run, "not_run": row.not_run, "x": row.x, "line": row.line}
        told |= {"over": table.gain_over(row), "seeds": [result["seed"] for result in found], "of_seeds": len(runs)}
        told |= {"runs": [result["id"] for result in found], "ours": figures, "paper": table.paper(row)}
        told["seconds"], told["machine"] = ([result[key] for result in found] for key in ("seconds", "machine"))
        rows.append(told)
    for row in rows:
        row.update(gains(row, next((one for one in rows if one["name"] == row["over"]), {"seeds": [], "paper": {}})))
    wanted, done = sum(row["of_seeds"] for row in rows), sum(len(row["seeds"]) for row in rows)
    gathered = {"table": name, "title": table.title, "figures": table.figures, "x": table.x, "rows": rows}
    gathered["baselines"] = {
        one: {figure: figures[figure] for figure in table.figures if figure in figures}
        for one, figures in baselines.items()
    }
    gathered |= {"base": plan.base_digest, "seeds": plan.shown_seeds}
    gathered |= {"runs": wanted, "finished": done, "partial": done < wanted}
    updates = next((plan.run(row.run, plan.seeds[0]).updates for row in table.rows if row.run), [])
    return gathered | {"updates": updates, "labels": {"ours": OURS, **{task: paper(task) for task in table.tasks()}}}


def gains(row: dict, over: dict) -> dict[str, dict[str, float]]:
    """Of a row over another, in per cent; ours of the seeds that both have. Over nothing there is none."""
    both, ours = [seed for seed in row["seeds"] if seed in over["seeds"]], {}
    for name in row["ours"] if both else ():
        own, other = (
            mean(one["ours"][name]["values"][one["seeds"].index(seed)] for seed in both) for one in (row, over)
        )
        ours |= {name: 100 * (own / other - 1)} if other else {}
    known = {name: value for name, value in row["paper"].items() if over["paper"].get(name)}
    stated = {name: 100 * (value / over["paper"][name] - 1) for name, value in known.items()}
    return {"ours_gain": ours, "paper_gain": stated}


def paper(task: str) -> str:
    return f"paper ({BENCHMARKS[task][0]})"


def write(plan: Plan, names: list[str], output: Path):
    """The files of tables of which something is finished, the results of runs, and the index of all."""
    write_results(plan, output / RESULTS)
    for name in names:
        gathered = gather(plan, name)
        if gathered["finished"]:
            with atomic_writer(output / f"{name}.json") as lines:
                lines.write(json.dumps(gathered, indent=1, ensure_ascii=False) + "\n")
            with atomic_writer(output / f"{name}.md") as lines:
                lines.write(markdown(gathered))
            plot(gathered, output / f"{name}.svg")
    readme = output / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else README
    listed = "".join(_line(output, name, table) for name, table in plan.declared.tables.items())
    with atomic_writer(readme) as lines:
        lines.write(INDEX.sub(lambda found: f"{found[1]}{listed}{found[2]}", text))


def write_results(plan: Plan, file: Path):
    """A line for each finished run of any table: what `--known` takes. One that was there stays while its id is one."""
    there = read_results(file) if file.is_file() else {}
    found = [plan.result(run) or there.get(run.id) for run in plan.shown_runs().values()]
    if any(found):
        with atomic_writer(file) as lines:
            for result in filter(None, found):
                told = {name: value for name, value in result.items() if name != "settings"}  # the id stands for them
                lines.write(json.dumps(told) + "\n")


def _line(output: Path, name: str, table: Table) -> str:
    if not (output / f"{name}.json").is_file():
        return f"- {table.title}: not run\n"
    found = json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
    state = f"partial: {found['finished']} of {found['runs']}" if found["partial"] else f"all {found['runs']}"
    return f"- [{table.title}]({name}.md): {state} runs\n"


def markdown(gathered: dict) -> str:
    parts = [f"# {gathered['title']}\n", f"Written by `python -m train.reproduce {gathered['table']}`. {NOTE}"]
    if gathered["partial"]:
        parts.append(f"**Partial: {gathered['finished']} of {gathered['runs']} runs are finished.**\n")
    for task in BENCHMARKS:
        names = [name for name in gathered["figures"] if TASK_OF[name] == task]
        if names:
            parts += [f"## {TITLES[task].capitalize()}\n", _section(gathered, task, names)]
    parts += [f"![{gathered['title']}]({gathered['table']}.svg)\n", "## What it took\n", _cost(gathered)]
    return "\n".join(parts)


NOTE = """\
Mean ± standard deviation over
seeds; in brackets the gain over the row it is compared with, of the seeds that both have. Figures are × 100 except
L_avg. *whole video* and *chance* looked at nothing. The two kinds of columns are of different models, data and tests:
only gains and the order of rows can be compared, with care.
"""


def _section(gathered: dict, task: str, names: list[str]) -> str:
    in_paper = [name for name in names if any(name in row["paper"] for row in gathered["rows"])]
    titles = [f"{OURS}: {COLUMNS[task][name]}" for name in names]
    titles += [f"{paper(task)}: {COLUMNS[task][name]}" for name in in_paper]
    lines = [["row", "seeds", *titles], ["---", "---", *["---:"] * len(titles)]]
    for name, figures in gathered["baselines"].items():
        cells = [_number(figure, figures[figure]) if figure in figures else "" for figure in names]
        if any(cells):
            lines.append([f"*{name}*", "", *cells, *[""] * len(in_paper)])
    for row in gathered["rows"]:
        cells = [_ours(row, name) for name in names] + [_paper(row, name) for name in in_paper]
        lines.append([row["name"], _seeds(row), *cells])
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _seeds(row: dict) -> str:
    count, of = len(row["seeds"]), row["of_seeds"]
    if not count:
        return "not run" + (f": {row['not_run']}" if row["not_run"] else "")
    return f"n = {count}" if count == of else f"partial: {count} of {of} seeds"


def _ours(row: dict, name: str) -> str:
    if name not in row["ours"]:
        return "not run"
    found = row["ours"][name]
    spread = "" if found["deviation"] is None else f" ± {_number(name, found['deviation'])}"
    return f"{_number(name, found['mean'])}{spread}{_gain(row['ours_gain'], name)}"


def _paper(row: dict, name: str) -> str:
    return f"{_number(name, row['paper'][name])}{_gain(row['paper_gain'], name)}" if name in row["paper"] else ""


def _gain(gains: dict, name: str) -> str:
    if gains.get(name, 0) >= MOST:
        return f" (over +{MOST:,} %)"
    return f" ({gains[name]:+z.1f} %)" if name in gains else ""


def _number(name: str, value: float) -> str:
    return f"{value:.{2 if name == 'l_avg' else 1}f}"


def _cost(gathered: dict) -> str:
    phases = "; ".join(
        f"phase {number}: {steps:,} updates of {size} samples"
        for number, (steps, size) in enumerate(gathered["updates"], 1)
    )
    runs = {run: one for row in gathered["rows"] for run, one in zip(row["runs"], row["seconds"], strict=True)}
    steps = dict.fromkeys(step for seconds in runs.values() for step in seconds)
    each = [f"{step} {median(one[step] for one in runs.values() if step in one):,.0f}" for step in steps]
    machines = {json.dumps(one): one for row in gathered["rows"] for one in row["machine"]}
    told = " or ".join(f"{one['cores']} cores, {one['threads'] or 'all'} threads" for one in machines.values())
    hours = sum(sum(seconds.values()) for seconds in runs.values()) / 3600
    return (
        f"The same in each row: {phases}. Seeds change which samples are drawn, their order, and how the adapter\n"
        f"begins; data sets and base stay. {len(runs)} finished runs took {hours:.1f} h on a machine with {told};\n"
        f"seconds of a run, median: {', '.join(each)}.\n"
    )
