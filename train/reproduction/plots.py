"""A table as a picture: a panel for each figure, ours above (dotted: chance), the paper's below, no axis shared."""

from collections.abc import Iterable
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataset_scripts.files import replacing
from evaluation.tables import COLUMNS

from .declared import TASK_OF


STABLE = {"svg.hashsalt": "seq2time", "svg.fonttype": "none", "font.size": 8}  # the same results, the same bytes


def plot(gathered: dict, file: Path):
    kinds = ["ours", *(["paper"] if any(row["paper"] for row in gathered["rows"]) else [])]
    names, count = gathered["figures"], len(gathered["rows"])
    with rc_context(STABLE):
        tall = 1.3 + (1.2 if gathered["x"] else 0.2 * count)
        figure = Figure(figsize=(1.2 + 2.1 * len(names), 0.5 + tall * len(kinds)), layout="constrained")
        partial = f" (partial: {gathered['finished']} of {gathered['runs']} runs)" if gathered["partial"] else ""
        figure.suptitle(gathered["title"] + partial)
        panels = figure.subplots(len(kinds), len(names), squeeze=False)
        for kind, line in zip(kinds, panels, strict=True):
            for name, panel in zip(names, line, strict=True):
                task = TASK_OF[name]
                if kind == "paper" and not any(name in row["paper"] for row in gathered["rows"]):
                    panel.set_axis_off()
                    continue
                label = gathered["labels"]["ours" if kind == "ours" else task].replace(" (", "\n(")
                panel.set_title(f"{COLUMNS[task][name]}\n{label}")
                (_curve if gathered["x"] else _bars)(panel, gathered, kind, name)
                if kind == "ours" and name in gathered["baselines"].get("chance", {}):
                    draw = panel.axhline if gathered["x"] else panel.axvline
                    draw(gathered["baselines"]["chance"][name], color="k", linestyle=":", linewidth=0.8)
            if not gathered["x"]:
                for panel in line[1:]:
                    panel.set_yticklabels([])
        _legend(figure, panels[0])
        with replacing(file) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})


def _legend(figure: Figure, panels: Iterable[Axes]):
    """One of all panels, beside them, of what has a name of its own."""
    named = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if len(named) > 1:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named))


def _points(rows: list[dict], kind: str, name: str) -> list[tuple[int, dict, float, float, list[float]]]:
    """Place, row, mean, deviation and single values, of rows that have the figure."""
    found = []
    for place, row in enumerate(rows):
        if name in row[kind]:
            one = row[kind][name]
            one = one if kind == "ours" else {"mean": one, "deviation": None, "values": []}
            found.append((place, row, one["mean"], one["deviation"] or 0.0, one["values"]))
    return found


def _bars(panel: Axes, gathered: dict, kind: str, name: str):
    rows, colour = gathered["rows"], "C0" if kind == "ours" else "C7"
    for place, _, value, spread, values in _points(rows, kind, name):
        panel.barh(place, value, xerr=spread or None, color=colour, alpha=0.6)
        panel.plot(values, [place] * len(values), "k.", markersize=3)
    panel.set_yticks(range(len(rows)), [row["name"] for row in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)


def _curve(panel: Axes, gathered: dict, kind: str, name: str):
    found, lines = _points(gathered["rows"], kind, name), dict.fromkeys(row["line"] for row in gathered["rows"])
    for number, line in enumerate(lines):
        own = [point for point in found if point[1]["line"] == line]
        if own:
            _, rows, values, spreads, _ = zip(*own, strict=True)
            colour = f"C{number}" if kind == "ours" else "C7"
            panel.errorbar(
                [row["x"] for row in rows], values, spreads, fmt="o-", ms=3, capsize=2, color=colour, label=line
            )
    panel.set_xscale("symlog" if any(row["x"] == 0 for row in gathered["rows"]) else "log", base=2)
    ticks = sorted({row["x"] for row in gathered["rows"]})
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel(gathered["x"])
