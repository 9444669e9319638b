"""What the builders share: options, numbering of instances, and shards written in parallel, atomically, once."""

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .card import write_card
from .files import atomic_writer, replacing
from .items import DataError
from .parallel import each
from .pools import CONFIGS, Ingredient, Pool, discard, ingredient, publish_pool
from .sources import miniworld, parse_source
from .wording import TEMPLATES_FILE


VERSION = 2  # of what the builders write: raise it when the same seed gives other records
ROW_GROUP = 1_000


def parser(doc: str) -> argparse.ArgumentParser:
    """With the options that all builders have."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="SOURCE=PATH",
        help="may be repeated; 'miniworld' alone renders one",
    )
    options.add_argument(
        "--media", action="append", default=[], metavar="NAME=DIR", help="where a source's media lie, if not below PATH"
    )
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--split", default="train", choices=("train", "validation", "test"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--num-proc", type=int, default=os.cpu_count())
    options.add_argument("--shard-size", type=int, default=10_000, help="instances of a Parquet file")
    options.add_argument(
        "--on-problem", choices=("stop", "skip"), default="stop", help="what to do about unusable items"
    )
    options.add_argument("--overwrite", action="store_true", help="replace what another build left in --output")
    options.set_defaults(unchecked=False)  # only pictures can do without a lock file
    return options


def media_folders(texts: list[str]) -> dict[str, Path]:
    """`NAME=DIR` of the command line."""
    folders = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not Path(folder).is_dir():
            raise DataError(f"--media {text}: expected NAME=DIR with a folder that exists")
        folders[name] = Path(folder)
    return folders


def ingredients(args) -> list[Ingredient]:
    """The sources that the options name."""
    if args.seed < 0:
        raise DataError(f"--seed: expected at least 0, found {args.seed}")
    if set("[]*?") & set(str(args.output.resolve())):
        raise DataError(f"--output {args.output}: expected a path without [ ] * ?, which `datasets` takes for patterns")
    folders, found = media_folders(args.media), []
    for text in args.source:
        if text.partition("?")[0] == "miniworld":
            folder = args.output / "miniworld"
            miniworld.build(folder, **_counts(text), num_proc=args.num_proc)
            source = parse_source(f"miniworld={folder}")
        else:
            source = parse_source(text)
        if any(one.source.name == source.name for one in found):
            raise DataError(
                f"--source {text}: {source.name} was named before; {source.reader}:ALIAS=PATH tells two apart"
            )
        found.append(ingredient(source, folders.pop(source.name, None), args))
    if folders:
        raise DataError(f"--media names {', '.join(folders)}, which is no --source")
    return found


def _counts(text: str) -> dict[str, int]:
    """`miniworld?pictures=1000&clips=100` renders a smaller world."""
    found = dict(parse_qsl(text.partition("?")[2]))
    if set(found) - {"pictures", "clips", "videos", "seed", "size"} or not all(map(str.isdecimal, found.values())):
        raise DataError(f"--source {text}: expected whole numbers of pictures, clips, videos, a seed and a size")
    return {name: int(value) for name, value in found.items()}


def expect_positive(args, *names: str):
    """Whole numbers that must be at least 1."""
    for name in names:
        if getattr(args, name) < 1:
            raise DataError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(args, name)}")


def shares(mix: dict[str, float], total: int) -> dict[str, int]:
    """How many of `total` instances each task gets: in proportion, what is left over to the largest remainders."""
    whole = sum(mix.values())
    exact = {task: total * weight / whole for task, weight in mix.items()}
    counts = {task: int(share) for task, share in exact.items()}
    for task in sorted(exact, key=lambda task: counts[task] - exact[task])[: total - sum(counts.values())]:
        counts[task] += 1
    return counts


def numbering(counts: dict[str, int]) -> dict[str, np.ndarray]:
    """
    The instances of each task among all, tasks mixed evenly: instance n is the same in a set of any shard size, and
    consecutive instances, which share a pool, are of all tasks.
    """
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts.values()])
    order = np.empty(len(places), dtype=np.int64)
    order[np.argsort(places, kind="stable")] = np.arange(len(places))
    edges = np.cumsum([0, *counts.values()])
    return {task: order[start:end] for task, start, end in zip(counts, edges[:-1], edges[1:], strict=True)}


def parse_mix(text: str, known: tuple[str, ...]) -> dict[str, float]:
    """`iig,iic,alr` in equal parts, or `iig:2,iic:1`."""
    mix = {}
    for part in text.split(","):
        task, colon, weight = part.strip().partition(":")
        try:
            mix[task] = float(weight) if colon else 1.0
        except ValueError:
            mix[task] = 0.0
        if task not in known or not 0 < mix[task] < float("inf"):
            raise DataError(
                f"--tasks {text}: expected tasks of {', '.join(known)}, each with a weight above 0: iig:2,iic:1"
            )
    return mix


@dataclass(slots=True)
class Shard:
    """A Parquet file to write, and the instances that go into it."""

    path: Path
    task: str
    numbers: np.ndarray  # of its instances among those of all tasks
    first: int  # instance among those of its task


def build(
    name: str,
    args,
    pool: Pool,
    counts: dict[str, int],
    options: dict,
    make_shard: Callable[[Path, Shard, dict], pa.Table],
    prefix: str = "",
):
    """
    Writes the shards that aren't there yet, then the pool, the description of the build and the card. `make_shard` is
    called in other processes with the pool's folder, a shard and the options. A task's configuration is named like it,
    behind the `prefix` that keeps sets with other pools apart.
    """
    facts = {
        "builder": name,
        "version": VERSION,
        "split": args.split,
        "seed": args.seed,
        "counts": counts,
        "options": options,
    }
    facts["shard_size"] = args.shard_size
    facts["configs"] = {task: f"{prefix}{task}" for task in counts}
    facts["pool_config"] = CONFIGS[pool.facts["inputs"]["kind"]]
    facts["pool"] = pool.facts
    templates = hashlib.sha256(TEMPLATES_FILE.read_bytes()).hexdigest()
    identity = json.dumps([facts | {"pool": pool.facts["hash"]}, templates], sort_keys=True)
    # Names of files carry it: the card's patterns then tell builds apart.
    facts["fingerprint"] = hashlib.sha256(identity.encode()).hexdigest()[:16]
    description = args.output / f"{name}.{args.split}.json"
    unfinished = args.output / f".{name}.{args.split}.unfinished"
    _refuse_other(args, (description, unfinished), facts["fingerprint"], pool)

    numbers = numbering(counts)
    shards = []
    for task, count in counts.items():
        parts = -(-count // args.shard_size)
        for part, first in enumerate(range(0, count, args.shard_size)):
            file = f"{args.split}-{part:05d}-of-{parts:05d}-{facts['fingerprint'][:8]}.parquet"
            own = numbers[task][first : first + args.shard_size]
            shards.append(Shard(args.output / facts["configs"][task] / file, task, own, first))
    with atomic_writer(unfinished) as lines:
        json.dump(facts, lines)
    for config in facts["configs"].values():  # what a killed build had begun to write
        for part in (args.output / config).glob(f".{args.split}-*.part"):
            part.unlink()
    todo = [shard for shard in shards if not shard.path.exists()]
    with tqdm(total=sum(counts.values()), desc="instances", unit_scale=True, disable=None) as bar:
        bar.update(sum(len(shard.numbers) for shard in shards if shard.path.exists()))
        for rows in each(partial(_write, pool.work, options, make_shard), todo, args.num_proc, in_order=False):
            bar.update(rows)
    publish_pool(pool, args.output / facts["pool_config"], args.split)
    packages = ("seq2time", "datasets", "numpy", "pyarrow")
    facts["versions"] = {"python": platform.python_version()} | {package: version(package) for package in packages}
    with atomic_writer(description) as lines:
        json.dump(facts, lines, indent=1, ensure_ascii=False)
    unfinished.unlink()
    discard(pool.work)
    write_card(args.output)
    listed = ", ".join(f"{count:,} {task}" for task, count in counts.items())
    print(f"{args.output}: {listed}, pool of {len(pool):,}")


def _refuse_other(args, known: tuple[Path, Path], fingerprint: str, pool: Pool):
    """A build goes on where the same one stopped; another one's files are an error, or removed if so told."""
    for file in known:
        facts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"fingerprint": fingerprint}
        if facts["fingerprint"] == fingerprint:
            continue
        if not args.overwrite:
            discard(pool.work)
            raise DataError(
                f"{args.output} holds a {args.split} set of other sources or options ({facts['fingerprint']}, this one "
                f"is {fingerprint}): choose another --output, or replace it with --overwrite"
            )
        for config in (*facts["configs"].values(), facts["pool_config"]):
            for shard in (args.output / config).glob(f"{args.split}-*.parquet"):
                shard.unlink()
        file.unlink()


def _write(pool: Path, options: dict, make_shard, shard: Shard) -> int:
    table = make_shard(pool, shard, options)
    with replacing(shard.path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=ROW_GROUP)
    return len(table)
