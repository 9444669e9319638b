"""
python -m dataset_scripts.annotated_videos --source timeit=DIR --source youcook2=DIR --output DIR

Turns annotated videos into records: dialogues (TimeIT, Valley, ShareGPT4Video) as they are, with their seconds as
time marks; events (YouCook2, Charades-STA, ActivityNet Captions, …) as questions about what happens when, about when
something happens, and about highlights. One record per question or dialogue, and a configuration of each task,
`video_grounding` and so on.
"""

import hashlib
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_seq2time.time_notation import escape, mark, marks

from .building import Shard, build, ingredients, parser
from .command import run
from .files import replacing
from .items import INTERIM_MARK, DataError, Event, Item, Problems
from .pools import Ingredient, build_pool
from .record import VIDEO_TASKS, check, clip_features
from .wording import TEMPLATES, fill, listed, pick


_TIMES = re.compile(r"\[\[[0-9./]+ s\]\](?: - \[\[[0-9./]+ s\]\])?")  # a mark, or two as a span


def records(ingredient: Ingredient, first: int, split: str, tasks: tuple[str, ...], seed: int) -> Iterator[dict]:
    """Every question about the videos of a source, which are in the pool from number `first` on."""
    name, known = ingredient.source.name, ingredient.source.module.TASKS
    for clip, (item, entry) in enumerate(ingredient.items("videos", split, Problems()), first):
        common = {"source": name, "group": "all", "sequence": [{"clip": clip, "rate": 1.0}]}
        if item.turns and item.task in tasks:
            targets, messages = dialogue(item, entry["duration"])
            yield {"id": f"{name}/{item.key}", "task": item.task, **common, "targets": targets, "messages": messages}
        events = usable_events(item, entry)
        for task in tasks:
            if task not in known or not events:
                continue
            for about, asked in [("", events)] if task == "dense_captioning" else _one_by_one(events):
                if task == "highlights" and not asked[0].saliency:
                    continue
                rng = np.random.default_rng([seed, 5, zlib.crc32(f"{name}/{item.key}{about}/{task}".encode())])
                targets, question, answer = ask(task, rng, asked, entry["duration"])
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                record = {"id": f"{name}/{item.key}{about}", "task": task, **common}
                yield record | {"targets": targets, "messages": messages}


def usable_events(item: Item, entry: dict) -> list[Event]:
    """Those that the doctor left, in order of time, cut at the end of the video."""
    without, duration = set(entry.get("without", ())), entry["duration"]
    kept = []
    for number, event in enumerate(item.events):
        if number not in without and event.windows:
            windows = [(start, min(end, duration)) for start, end in event.windows]
            kept.append(Event(event.caption, windows, event.id or str(number), event.saliency))
    return kept


def ask(task: str, rng: np.random.Generator, events: list[Event], duration: float) -> tuple[list[dict], str, str]:
    """Targets, question and answer about events of a video."""
    words = TEMPLATES[task]
    question = pick(rng, words["questions"])
    if task == "dense_captioning":
        spans = sorted((start, end, event.caption) for event in events for start, end in event.windows)
        told = [fill(words["event"], *_marks(start, end, duration), escape(caption)) for start, end, caption in spans]
        return [_target(start, end, duration) for start, end, _ in spans], question, " ".join(told)
    (event,) = events
    question = fill(question, escape(event.caption))
    if task == "grounding":
        times = listed([" - ".join(_marks(start, end, duration)) for start, end in event.windows])
        return [_target(*window, duration) for window in event.windows], question, fill(words["answer"], times)
    times = [min(time, duration) for time, _ in event.saliency]
    scores = listed([f"{score:.1f}" for _, score in event.saliency])
    answer = fill(words["answer"], listed([mark(time, duration, "s") for time in times]), scores)
    return [_target(time, time, duration) for time in times], question, answer


def dialogue(item: Item, duration: float) -> tuple[list[dict], list[dict]]:
    """Targets and messages of an item's turns: its seconds become marks; pairs of them are spans."""

    def timed(found) -> str:
        return mark(min(float(found[1]), duration), duration, "s")

    messages = [{"role": role, "content": INTERIM_MARK.sub(timed, text)} for role, text in item.turns]
    targets = []
    for message in messages:
        if message["role"] == "assistant":
            for found in _TIMES.finditer(message["content"]):
                places = [place for place, _, _ in marks(found[0])]
                targets.append(_target(places[0], places[-1], duration))
    return targets, messages


def _one_by_one(events: list[Event]) -> list[tuple[str, list[Event]]]:
    return [(f"#{event.id}", [event]) for event in events]


def _marks(start: float, end: float, duration: float) -> tuple[str, str]:
    return mark(start, duration, "s"), mark(end, duration, "s")


def _target(start: float, end: float, duration: float) -> dict:
    return {"start": start / duration, "end": end / duration}


def write_records(sources: list[Ingredient], pool_counts: dict, work: Path, args, tasks) -> tuple[Counter, str]:
    """All records, checked, by task in the folder `work`; how many there are, and their hash."""
    digest, first, schema = hashlib.blake2b(digest_size=16), 0, clip_features().arrow_schema
    found, total = defaultdict(list), sum(pool_counts.values())
    for one in sources:
        for record in records(one, first, args.split, tasks, args.seed):
            check(record, total)
            digest.update(json.dumps(record, sort_keys=True).encode())
            found[record["task"]].append(record)
        first += pool_counts[one.source.name]
    for task, rows in found.items():
        with replacing(work / f"{task}.parquet") as part:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
    return Counter({task: len(found[task]) for task in VIDEO_TASKS if found[task]}), digest.hexdigest()


def make_shard(work: Path, shard: Shard, options: dict) -> pa.Table:
    """The records of one shard."""
    return _records(work, shard.task).slice(shard.first, len(shard.numbers))


@lru_cache(maxsize=2)
def _records(work: Path, task: str) -> pa.Table:
    return pq.read_table(work / f"{task}.parquet", schema=clip_features().arrow_schema)


def main(arguments: list[str] | None = None):
    options = parser(__doc__)
    options.add_argument("--tasks", default=",".join(VIDEO_TASKS), help="of those that the sources have")
    args = options.parse_args(arguments)
    tasks = tuple(args.tasks.split(","))
    if set(tasks) - set(VIDEO_TASKS):
        raise DataError(f"--tasks {args.tasks}: expected tasks of {', '.join(VIDEO_TASKS)}")
    sources = ingredients(args)
    work = args.output / ".work" / f"videos.{args.split}"
    pool = build_pool(sources, "videos", args.split, work, args.on_problem)
    counts, digest = write_records(sources, pool.facts["counts"], work, args, tasks)
    if not counts:
        raise DataError(f"the sources have no {args.tasks} of split {args.split!r}")
    build("annotated_videos", args, pool, dict(counts), {"tasks": list(tasks), "records": digest}, make_shard, "video_")


if __name__ == "__main__":
    run(main)
