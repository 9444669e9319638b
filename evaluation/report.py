"""What a run leaves: predictions and references in the peers' file formats, figures as JSON and as a table."""

import json
from pathlib import Path

from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError

from .answer_log import AnswerLog
from .benchmarks import BENCHMARKS, as_files, queries
from .score import score_files, summary
from .tables import markdown


def write_results(plan, log: AnswerLog, problems: list[str]) -> dict:
    """
    Scores what was answered and writes all files; nothing in them changes from call to call. Figures are those of the
    videos that were answered; how many of the benchmark's these are stands beside them.
    """
    args, rows, tasks = plan.args, log.read(), {}
    for task in args.task:
        answers = {item.key: rows[item.key, task] for item in plan.expected if (item.key, task) in rows}
        if not answers:
            continue
        files = [log.folder / f"{task}.{name}.json" for name in ("predictions", "references")]
        for file, content in zip(files, as_files(task, plan.source, plan.all, answers, args.protocol), strict=True):
            _write(file, content)
        figures, found = score_files(task, *files, protocol=args.protocol)
        found.found = [one for one in found.found if one[1].startswith(files[1].name) and one[0] != "non-ASCII"]
        problems = problems + [f"{task}, {line}" for line in summary(found)]  # of the annotations
        given = [answer for row in answers.values() for answer in row["answers"]]
        counts = [count for item in plan.all if (count := len(queries(task, item)))]
        coverage = {"videos": len(answers), "of_videos": len(counts), "queries": len(given), "of_queries": sum(counts)}
        unread = figures["unparsed"] if task == "choice" else sum(one["failure"] is not None for one in given)
        tasks[task] = {"coverage": coverage, "malformed": 100 * unread / len(given), "figures": figures}
    if not tasks:
        raise DataError(f"no video could be asked about: {'; '.join(problems[:3])}")
    results = {"benchmark": args.benchmark, "title": BENCHMARKS[args.benchmark].title, "split": args.split}
    results |= {"model": args.name, "tasks": tasks, "problems": problems, "settings": plan.settings}
    _write(log.folder / "results.json", results)
    with atomic_writer(log.folder / "results.md") as lines:
        lines.write(markdown([results]))
    return results


def _write(path: Path, content: dict | list):
    with atomic_writer(path) as lines:
        json.dump(content, lines, indent=1, ensure_ascii=False)
        lines.write("\n")
