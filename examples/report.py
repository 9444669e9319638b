"""
python -m examples.report quickstart

Writes quickstart/report.html of what `examples.quickstart` left: figures before and after beside baselines, loss
curves, a sequence with its question, timelines of queries. One file that needs nothing else, not even a network.
"""

import argparse
import base64
import json
import math
import os
import platform
from html import escape
from importlib.metadata import version
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_scripts.command import run
from dataset_scripts.files import atomic_writer
from dataset_scripts.preview import contact_sheet
from dataset_scripts.samples import Samples, shown_at
from modeling_seq2time.moments import distinct, overlap
from modeling_seq2time.time_notation import marks, render


FIGURES = (("tvg", "r1@0.5"), ("tvg", "miou"), ("dvc", "f1"))
TASK = "loss/task/"  # as train.watching names them
PLACES = ("1st", "2nd", "3rd")  # of the answers to a query that are shown
MAX_OVERLAP = 0.5  # of two that overlap more the better one is
FRAMES, THUMB, GAP = 10, 112, 2  # of a filmstrip
WIDTH, HEIGHT, LEFT, BOTTOM = 460, 250, 38, 26  # of a chart
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
STYLE = Path(__file__).with_name("report.css")


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def picture(image: Image.Image, alt: str) -> str:
    content = BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=82)
    source = base64.b64encode(content.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img alt="{escape(alt)}" {size} src="data:image/jpeg;base64,{source}">'


def headline(folder: Path) -> str:
    """What came of it in a sentence, and the table."""
    names = ("before", "after", "before-free", "after-free")
    before, after, *free = (read(folder / name / "results.json")["tasks"] for name in names)
    unread = [f"{tasks['tvg']['malformed']:.1f}" for tasks in free]
    baselines = read(folder / "baselines.json")
    rows = {
        "mini base": [*(_cell(before[task]["figures"], figure) for task, figure in FIGURES), unread[0]],
        "after both phases": [*(_cell(after[task]["figures"], figure) for task, figure in FIGURES), unread[1]],
    }
    for name in ("whole video", "chance"):
        rows[name] = [*(f"{baselines[task][name][figure]:.1f}" for task, figure in FIGURES), "–"]
    body = "".join(
        f'<tr{" class=after" * (name == "after both phases")}><th scope="row">{name}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        for name, cells in rows.items()
    )
    right = [tasks["tvg"]["figures"]["r1@0.5"] for tasks in (before, after)]
    coverage, chance = after["tvg"]["coverage"], baselines["tvg"]["chance"]["r1@0.5"]
    return f"""
<p class="lead">Asked {coverage["queries"]} times when something happens, in {coverage["videos"]} videos of things that
it was never trained on, the model finds the moment (IoU of ½ or more) for <strong>{right[0]:.0f} %</strong> of the
questions before training and for <strong>{right[1]:.0f} %</strong> after; chance finds {chance:.0f} %. All of it took
{sum(seconds(folder).values()) / 60:.1f} minutes.</p>
<p>This is a miniature: a toy world, a model of a few million parameters, minutes of training. It shows how all parts
work together, not how good Seq2Time is at real videos.</p>
<h2>Before and after</h2>
<div class="scroll" tabindex="0"><table>
<caption>All × 100; in brackets 95 % bootstrap intervals.</caption>
<thead><tr><th scope="col">answers of</th><th scope="col">R@1, IoU ≥ .5</th><th scope="col">mIoU</th>
<th scope="col">dense captions, F1</th><th scope="col">malformed, free</th></tr></thead>
<tbody>{body}</tbody></table></div>
<p class="quiet">Answers are held to their form, so that none is malformed; the last column is the share that can't be
read when the model writes freely. Whole video: one moment from start to end. Chance: both ends drawn evenly, as many
moments as there are events.</p>"""


def seconds(folder: Path) -> dict[str, float]:
    """Of each stage but this one."""
    return {title: spent for title, spent in read(folder / "seconds.json").items() if title != "report"}


def _cell(figures: dict, name: str) -> str:
    low, high = figures["interval"][name]
    return f"{figures[name]:.1f}<small>[{low:.0f}, {high:.0f}]</small>"


def losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, loss) of each task, as the last checkpoint has them."""
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in read(last / "trainer_state.json")["log_history"]:
        for name, value in entry.items():
            if name.startswith(TASK):
                found.setdefault(name.removeprefix(TASK).replace("_", " "), []).append((entry["step"], value))
    return found


def chart(title: str, tasks: dict[str, list[tuple[int, float]]], top: float, names: list[str]) -> str:
    """Losses of a phase; in all phases to the same height and in the same colours."""
    last = max(step for points in tasks.values() for step, _ in points)

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 8) * step / last, 1)

    def y(loss: float) -> float:
        return round(8 + (HEIGHT - BOTTOM - 8) * (1 - loss / top), 1)

    drawn, legend = [], []
    for loss in ticks(top):
        drawn.append(f'<line x1="{LEFT}" x2="{x(last)}" y1="{y(loss)}" y2="{y(loss)}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y(loss)}" dy="4" text-anchor="end">{loss:g}</text>')
    for step in ticks(last):
        anchor = "end" if step > 0.95 * last else "middle"
        drawn.append(f'<text x="{x(step)}" y="{HEIGHT - 6}" text-anchor="{anchor}">{step:g}</text>')
    for name, points in sorted(tasks.items()):
        colour, line = f"var(--c{names.index(name)})", " ".join(f"{x(step)},{y(loss)}" for step, loss in points)
        drawn.append(f'<polyline stroke="{colour}" points="{line}"/>')
        (*_, (step, loss)) = points
        drawn.append(f'<circle fill="{colour}" cx="{x(step)}" cy="{y(loss)}" r="3"/>')
        fallen = f"{points[0][1]:.2f} → {points[-1][1]:.2f}"
        legend.append(f'<li><i style="background:{colour}"></i>{name} <span class="quiet">{fallen}</span>')
    return f"""
<figure><svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}: loss of each task over {last}
updates; the list below has the first and the last of each">{"".join(drawn)}</svg>
<ul class="legend">{"".join(legend)}</ul><figcaption>{title}: loss of each task over updates</figcaption></figure>"""


def ticks(top: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to `top`, about so many."""
    unit = 10 ** math.floor(math.log10(top / most))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * most >= 0.999 * top)
    return [round(step * number, 10) for number in range(int(top / step + 1e-9) + 1)]


def sequence(data: Path) -> str:
    """A contact sheet with the first of its questions."""
    sample = Samples.load(str(data), "iig")[0]
    question, answer = (message["content"] for message in sample["messages"][:2])
    asked = sample["targets"][: len(marks(answer))]
    sheet = contact_sheet(sample | {"targets": asked, "messages": []})
    places, more = ", ".join(map(str, asked)), len(sample["messages"]) // 2 - 1
    alt = f"{len(sample['frames'])} numbered pictures of one sequence; number {places} is framed"
    return f"""
<h2>What it learns from</h2>
<p>No video, but a sequence of captioned pictures whose places stand for time. The model answers in the same ten tokens
with which it writes the times of a video.</p>
<blockquote><p>{escape(render(question, "text"))}</p><p>{escape(render(answer, "text"))}<br>
<code>{escape(render(answer, "rpt"))}</code></p></blockquote>
<figure>{picture(sheet, alt)}
<figcaption>Number {places} is the answer. {more} more questions follow about the same.</figcaption></figure>"""


def timelines(answers: dict) -> str:
    """Of each query what is seen, what is true, what the model says, and how sure it is of each instant."""
    length, made = answers["duration"], []
    film = filmstrip(Path(answers["video"]), length)
    axis = "".join(f'<span style="left:{100 * tick / length:.2f}%">{tick:g}</span>' for tick in ticks(0.93 * length))
    axis += f'<span style="left:100%">{length:.1f} s</span>'
    for one in answers["queries"]:
        event, moments = one["event"], one["moments"]
        best = list(islice(distinct(moments, MAX_OVERLAP, _span), len(PLACES)))
        heat, peak = warmth(moments, length)
        rows = {"": film, "true": _bar(event, length, "true")}
        for place, moment in zip(PLACES, best, strict=False):
            rows[place] = _bar(moment, length, opacity=moment["score"] / (best[0]["score"] or 1))
        rows |= {"score": heat, "time": f'<div class="axis">{axis}</div>'}
        listed = "; ".join(f"{_said(moment)} ({moment['score']:.2g})" for moment in best)
        made.append(f"""
<article class="query"><h3>{escape(event["caption"])}</h3>
<div class="rows">{"".join(f"<span>{name}</span>{row}" for name, row in rows.items())}</div>
<p class="quiet">True: {_said(event)}. Answers, and the overlap to expect of each: {listed}. IoU of the first:
{overlap(_span(event), _span(best[0])):.2f}. Peak of the sum: {peak:.2g}.</p></article>""")
    ranked = max(len(one["moments"]) for one in answers["queries"])
    return f"""
<h2>When does it happen?</h2>
<p>A film of a seed of its own, and {len(made)} questions. Below its frames: when it is true; the model's best answers,
paler the less overlap it expects; its score of each instant, the sum of the scores of those of its {ranked} best
moments that cover it.</p>{"".join(made)}"""


def filmstrip(video: Path, length: float) -> str:
    strip = Image.new("RGB", (FRAMES * (THUMB + GAP) - GAP, THUMB), "#8a8f96")
    for place, frame in enumerate(shown_at(video, (np.arange(FRAMES) + 0.5) * length / FRAMES, (THUMB, THUMB))):
        strip.paste(Image.fromarray(frame), (place * (THUMB + GAP), 0))
    return picture(strip, f"{FRAMES} frames of the film in their order")


def _span(moment: dict) -> tuple[float, float]:
    return moment["start"], moment["end"]


def _said(moment: dict) -> str:
    return f"{moment['start']:.1f} – {moment['end']:.1f} s"


def _bar(moment: dict, length: float, kind: str = "", opacity: float = 1.0) -> str:
    left, right = (100 * time / length for time in _span(moment))
    style = f"left:{min(left, 99.5):.2f}%;width:{right - left:.2f}%;opacity:{max(opacity, 0.25):.2f}"
    return f'<div class="track"><b class="{kind}" style="{style}" title="{_said(moment)}"></b></div>'


def warmth(moments: list[dict], length: float) -> tuple[str, float]:
    """The row of scores, and the largest of them. A moment without length is drawn as a thin one."""
    spans = [(one["start"], max(one["end"], one["start"] + length / 200), one["score"]) for one in moments]
    edges = sorted({0.0, length, *(min(edge, length) for start, end, _ in spans for edge in (start, end))})
    pieces = list(pairwise(edges))
    sums = [sum(score for first, last, score in spans if first <= start and end <= last) for start, end in pieces]
    peak, drawn = max(sums), []
    for (start, end), value in zip(pieces, sums, strict=True):
        place = f'x="{1000 * start / length:.2f}" width="{1000 * (end - start) / length:.2f}"'
        drawn.append(f'<rect {place} height="1" fill-opacity="{value / (peak or 1):.3f}"/>')
    label = 'viewBox="0 0 1000 1" preserveAspectRatio="none" role="img" aria-label="score over time"'
    return f'<svg class="heat" {label}>{"".join(drawn)}</svg>', peak


def facts(folder: Path) -> str:
    settings = read(folder / "quickstart.json")
    counts = {path.name.partition(".")[0]: read(path)["counts"] for path in (folder / "data").glob("*.train.json")}
    listed = ", ".join(f"{sum(of.values())} {name.replace('_', ' ')}" for name, of in sorted(counts.items()))
    trained = []
    for number in (1, 2):
        run = read(folder / f"phase{number}" / "run.json")
        trained.append(f"phase {number}: {run['max_steps']} updates of {run['update_size']} samples")
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    rows = {
        "Base": f"{settings['base']}, weights {settings['weights']}",
        "Data": f"{listed}; world {settings['world']}, seeds {', '.join(map(str, settings['seeds']))}",
        "Training": "; ".join(trained),
        "Seconds": "; ".join(f"{title}: {spent:.0f}" for title, spent in seconds(folder).items()),
        "Machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Versions": f"Python {platform.python_version()}, {packages}",
    }
    listed = "".join(f"<dt>{name}<dd>{escape(text)}" for name, text in rows.items())
    return f"<h2>How it was made</h2><dl>{listed}</dl>"


def page(folder: Path) -> str:
    runs = {f"Phase {number}": losses(folder / f"phase{number}") for number in (1, 2)}
    top = max(loss for tasks in runs.values() for points in tasks.values() for _, loss in points)
    names = sorted({name for tasks in runs.values() for name in tasks})
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Seq2Time: quickstart</title><style>{STYLE.read_text(encoding="utf-8")}</style></head>
<body><main><h1>Seq2Time, from pictures to moments</h1>{headline(folder)}
<h2>Both phases</h2><div class="charts">{"".join(chart(*run, top, names) for run in runs.items())}</div>
{sequence(folder / "data")}{timelines(read(folder / "answers.json"))}{facts(folder)}</main></body></html>
"""


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that examples.quickstart filled")
    folder = parser.parse_args(arguments).folder
    with atomic_writer(folder / "report.html") as lines:
        lines.write(page(folder))
    print(folder / "report.html")


if __name__ == "__main__":
    run(main)
