"""
python -m dataset_scripts.clip_sequences --source kinetics=DIR --captions CAPTIONS --num-instances 100000 --output DIR

Builds the clip sequences of Seq2Time: 2 to 10 clips of different classes, one after the other on a virtual timeline,
and questions about what happens when (`dense_captioning`) or when something happens (`grounding`). Each clip has a
rate of its own and takes its duration × rate of the timeline, so that events are of uneven length. CAPTIONS is the
folder that caption_clips wrote. --render also writes the first sequences as mp4 files to look at.
"""

import hashlib
import json
import math
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_seq2time.time_notation import escape, mark

from .building import Shard, build, expect_positive, ingredients, parse_mix, parser, shares
from .command import run
from .items import DataError, Item
from .pools import Pool, build_pool, open_pool
from .record import CLIP_TASKS, check, clip_features
from .rendering import render_sequences
from .wording import TEMPLATES, fill, pick


def timeline(durations: list[float], rates: list[float]) -> tuple[list[float], float]:
    """The clips' boundaries on the virtual timeline, in hundredths of a second, from 0 to its whole length."""
    edges = [0.0, *np.cumsum([duration * rate for duration, rate in zip(durations, rates, strict=True)]).tolist()]
    edges = [round(edge, 2) for edge in edges]
    return edges, edges[-1]


def converse(
    task: str,
    rng: np.random.Generator,
    spans: list[tuple[float, float]],
    length: float,
    captions: list[str],
    questions: int,
):
    """
    Targets and messages about events at these seconds of a video of this length. Of grounding, there are at most so
    many questions, none about a neighbour of another's event, which would give away where it starts or ends.
    """
    times = [(mark(start, length, "s"), mark(end, length, "s")) for start, end in spans]
    targets = [{"start": start / length, "end": end / length} for start, end in spans]
    words = TEMPLATES[task]
    if task == "grounding":
        asked = []
        for one in rng.permutation(len(spans)).tolist():
            if len(asked) < questions and not {one - 1, one + 1} & set(asked):
                asked.append(one)
        turns = [
            (fill(pick(rng, words["questions"]), captions[one]), fill(words["answer"], " - ".join(times[one])))
            for one in asked
        ]
        targets = [targets[one] for one in asked]
    else:
        told = zip(times, captions, strict=True)
        events = [fill(words["event"], start, end, caption) for (start, end), caption in told]
        turns = [(pick(rng, words["questions"]), " ".join(events))]
    roles = ("user", "assistant")
    return targets, [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]


def make_shard(work: Path, shard: Shard, options: dict) -> pa.Table:
    """The records of one shard."""
    pool = open_pool(work)
    durations, _ = _classes(pool)
    records = []
    for number in shard.numbers.tolist():
        rng = np.random.default_rng([options["seed"], 3, number])
        count = int(rng.integers(options["min_clips"], options["max_clips"] + 1))
        clips, group = _draw(rng, count, number, pool, options)
        spread = math.log(options["max_rate"])
        rates = [round(math.exp(rng.uniform(-spread, spread)), 4) for _ in clips]
        edges, length = timeline([durations[clip] for clip in clips], rates)
        captions = [escape(pool.caption(clip)) for clip in clips]
        spans = list(pairwise(edges))
        targets, messages = converse(shard.task, rng, spans, length, captions, options["questions"])
        record = {"id": f"{shard.task}-{number:07d}", "source": options["sources"], "group": group, "task": shard.task}
        record["sequence"] = [{"clip": clip, "rate": rate} for clip, rate in zip(clips, rates, strict=True)]
        record |= {"targets": targets, "messages": messages}
        check(record, len(pool))
        records.append(record)
    return pa.Table.from_pylist(records, schema=clip_features().arrow_schema)


def _draw(rng: np.random.Generator, count: int, number: int, pool: Pool, options: dict) -> tuple[list[int], str]:
    """Clips of different classes and captions: a class at random, then one of its clips."""
    group, (_, classes) = "all", _classes(pool)
    if options["shared_pool"]:
        group_number = number // options["shared_sequences"]
        group = f"shared-{group_number:07d}"
        classes = _shared_pool(pool, group_number, options["seed"], options["shared_pool"])
    clips, keys = [], set()
    for label in rng.permutation(len(classes)):
        clip = int(rng.choice(classes[label]))
        if pool.caption_keys[clip] not in keys:
            keys.add(pool.caption_keys[clip])
            clips.append(clip)
        if len(clips) == count:
            return clips, group
    raise DataError(f"a sequence needs {count} clips of different classes and captions, the pool has {len(clips)}")


@lru_cache(maxsize=1)
def _classes(pool: Pool) -> tuple[list[float], list[np.ndarray]]:
    """Every clip's duration, and the clips of each class. A clip without a label is a class of its own."""
    labels = [label or f"#{clip}" for clip, label in enumerate(pool.column("label"))]
    _, inverse = np.unique(labels, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    return pool.column("duration"), np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)


@lru_cache(maxsize=4)
def _shared_pool(pool: Pool, number: int, seed: int, size: int) -> list[list[int]]:
    """The clips of a shared pool, by class: drawn like a sequence, so that a sequence of them is like any other."""
    rng, (_, classes) = np.random.default_rng([seed, 4, number]), _classes(pool)
    order, drawn = rng.permutation(len(classes)), [[] for _ in range(min(size, len(classes)))]
    for place in range(size):
        left = np.setdiff1d(classes[order[place % len(order)]], drawn[place % len(order)])
        if len(left):
            drawn[place % len(order)].append(int(rng.choice(left)))
    return drawn


def read_captions(path: Path) -> dict[str, str]:
    """Captions by the clips' keys, as caption_clips writes them."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    captions = {}
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: there is no such file of captions")
        names = pq.read_schema(file).names
        for column in ("key", "caption"):
            if column not in names:
                raise DataError(f"{file}: expected a column {column!r}, found {', '.join(names)}")
        rows = pq.read_table(file, columns=["key", "caption"]).to_pylist()
        captions |= {row["key"]: row["caption"] for row in rows if row["caption"]}
    if not captions:
        raise DataError(f"{path}: expected captions that caption_clips wrote, found none")
    return captions


def caption_of(item: Item, captions: dict[str, str], use_labels: bool) -> str:
    """What was generated for the clip, else the source's own, else its label if so told."""
    return captions.get(item.key) or item.caption or (item.label if use_labels else "")


def main(arguments: list[str] | None = None):
    options = parser(__doc__)
    options.add_argument("--captions", type=Path, help="folder that caption_clips wrote")
    options.add_argument(
        "--labels-as-captions", action="store_true", help="where a clip has no caption, take its class"
    )
    options.add_argument("--num-instances", type=int, default=100_000)
    options.add_argument("--tasks", default=",".join(CLIP_TASKS), help="equal parts, or weights: grounding:2")
    options.add_argument("--min-clips", type=int, default=2)
    options.add_argument("--max-clips", type=int, default=10)
    questions_help = "of grounding: about each sequence, in one dialogue; fewer where their events would be neighbours"
    options.add_argument("--questions", type=int, default=1, metavar="N", help=questions_help)
    options.add_argument("--max-rate", type=float, default=2.0, help="rates are log-uniform from 1/RATE to RATE")
    options.add_argument("--shared-pool", type=int, default=0, metavar="CLIPS", help="draw groups from small pools")
    options.add_argument("--shared-sequences", type=int, default=8, metavar="N", help="sequences of a group")
    render_help = "write the first N sequences (10) as mp4 files to look at"
    options.add_argument("--render", type=int, nargs="?", const=10, default=0, metavar="N", help=render_help)
    args = options.parse_args(arguments)

    mix = parse_mix(args.tasks, CLIP_TASKS)
    expect_positive(args, "num_instances", "shard_size", "min_clips", "questions", "shared_sequences")
    if not args.min_clips <= args.max_clips or not args.max_rate >= 1:
        found = f"{args.min_clips}, {args.max_clips}, {args.max_rate}"
        raise DataError(f"expected --min-clips ≤ --max-clips and --max-rate ≥ 1, found {found}")
    sources = ingredients(args)
    captions = read_captions(args.captions) if args.captions else {}
    describe = partial(caption_of, captions=captions, use_labels=args.labels_as_captions)
    digest = hashlib.sha256(json.dumps([captions, args.labels_as_captions], sort_keys=True).encode()).hexdigest()
    work = args.output / ".work" / f"clips.{args.split}"
    pool = build_pool(sources, "clips", args.split, work, args.on_problem, describe, {"captions": digest})
    classes = len(_classes(pool)[1])
    if classes < args.max_clips or 0 < args.shared_pool < args.max_clips:
        raise DataError(
            f"--max-clips {args.max_clips}: a sequence's clips are of different classes, the pool has {classes} "
            f"of them in {len(pool)} clips" + (f" and --shared-pool is {args.shared_pool}" if args.shared_pool else "")
        )
    chosen = {"min_clips": args.min_clips, "max_clips": args.max_clips, "max_rate": args.max_rate, "seed": args.seed}
    chosen |= {"questions": args.questions, "sources": "+".join(pool.facts["counts"]), "shared_pool": args.shared_pool}
    chosen["shared_sequences"] = args.shared_sequences if args.shared_pool else 0
    build("clip_sequences", args, pool, shares(mix, args.num_instances), chosen, make_shard)
    if args.render:
        folders = {one.source.name: one.folder for one in sources}
        render_sequences(args.output, args.split, args.render, folders, args.num_proc)


if __name__ == "__main__":
    run(main)
