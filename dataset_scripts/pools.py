"""
Pools: the pictures, clips or videos that sequences refer to, one row each, numbered from 0.

A pool is published as Parquet beside the sequences. While sequences are built its captions lie in a memory-mapped
Arrow file, so that millions of them need no memory, and a hash of each in an array, so that no sequence holds a
caption twice.
"""

import hashlib
import json
import shutil
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .doctor import examine, lock_header, lock_lines
from .files import atomic_writer, replacing
from .items import DataError, Item, Problems
from .judging import locate
from .media import Finder
from .record import clip_pool_features, image_pool_features
from .sources import Source


BATCH = 65_536  # rows of a record batch of the mapped file; all but the last are full
SHARD = 8 * BATCH
CONFIGS = {"pictures": "image_pool", "clips": "clip_pool", "videos": "video_pool", "captions": "caption_pool"}


@dataclass(slots=True)
class Ingredient:
    """A source with the place of its media and its lock file."""

    source: Source
    folder: Path
    lock: Path | None  # None: unchecked, every picture that the annotations name is taken

    @property
    def provenance(self) -> dict:
        """What went in, without any path of this machine."""
        facts = {
            "source": self.source.name,
            "reader": self.source.reader,
            "licence": self.source.module.LICENCE,
            "options": self.source.options,
        }
        facts |= {"repository": self.source.repository, "revision": self.source.revision}
        if self.lock is None:
            return facts | {"checked": False, "annotations": self.source.annotations}
        header = lock_header(self.lock)
        with self.lock.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return facts | {"checked": True, "lock": digest, **{name: header[name] for name in ("annotations", "counts")}}

    def items(self, kind: str, split: str, problems: Problems) -> Iterator[tuple[Item, dict]]:
        """
        The usable items of a kind and split with their entries of the lock file, in the source's order. Captions are of
        items of any kind, whose media need not be there.
        """
        if self.lock is None or kind == "captions":
            yield from self._unchecked(kind, split, problems)
            return
        entries = lock_lines(self.lock)
        next(entries)
        entry = next(entries, None)
        for item in self.source.read(Problems()):
            if entry is not None and (entry["split"], entry["key"]) == (item.split, item.key):
                if item.split == split and self.source.kind(item) == kind:
                    yield item, entry
                entry = next(entries, None)
        if entry is not None:
            raise DataError(f"{self.lock}: {entry['key']!r} is no longer in the source; run the doctor again")

    def _unchecked(self, kind: str, split: str, problems: Problems) -> Iterator[tuple[Item, dict]]:
        if kind not in ("pictures", "captions"):
            raise DataError(f"{self.source.name}: {kind} need a lock file, which knows their durations: run the doctor")
        finder, keys = Finder(self.folder) if kind == "pictures" else None, set()  # captions need no files
        for item in self.source.read(problems):
            other = item.events or item.turns if kind == "captions" else self.source.kind(item) != kind
            if item.split != split or other:
                continue
            media = item.names[0]
            if finder is not None:
                found = locate(item, finder, problems)
                if found is None:
                    continue
                media = found.media
            if not item.caption:
                problems.add("empty caption", item.place, f"{item.key!r}: expected a caption, found none")
            elif hash(item.key) in keys:
                problems.add("duplicate id", item.place, f"{item.key!r} was there before")
            else:
                keys.add(hash(item.key))
                yield item, {"key": item.key, "media": media}


def ingredient(source: Source, folder: Path | None, args) -> Ingredient:
    """With its lock file: the one beside the annotations, or one made now in the set's own folder."""
    folder = folder or source.folder
    if args.unchecked:
        return Ingredient(source, folder, None)
    lock = _lock_beside(source)
    if lock is None:  # what the doctor found unchanged it doesn't examine again
        print(f"{source.name}: no {source.name}.lock.jsonl beside {source.path}; examining it now")
        digest = hashlib.sha256(json.dumps([source.annotations, source.options]).encode()).hexdigest()[:8]
        # A set may be of several places of one source.
        lock = examine(source, args.output / "locks", folder, args.num_proc, name=f"{source.name}-{digest}")
    counts = lock_header(lock)["counts"]
    mine, general = counts.get(args.split, {}), counts.get("", {})
    counted = {kind: mine.get(kind, 0) + general.get(kind, 0) for kind in (*mine, *general)}
    faults = {kind: count for kind, count in counted.items() if kind not in _NO_FAULTS and count}
    listed = ", ".join(f"{count:,} {kind}" for kind, count in faults.items())
    if faults and args.on_problem == "stop":
        report = lock.with_name(lock.name.replace("lock.jsonl", "report.txt"))
        raise DataError(
            f"{source.name}, {args.split}: {counted.get('usable', 0):,} of {counted['expected']:,} can be used; "
            f"problems: {listed}. {report} names each. --on-problem skip builds without them."
        )
    if faults:
        print(f"{source.name}: skipped {listed}")
    return Ingredient(source, folder, lock)


def _lock_beside(source: Source) -> Path | None:
    """What the doctor was told to write. One about other files isn't meant; one about older ones is an error."""
    for name in dict.fromkeys((source.name, source.reader)):
        lock = source.folder / f"{name}.lock.jsonl"
        if not lock.exists():
            continue
        header, annotations = lock_header(lock), source.annotations
        if set(header["annotations"]) != set(annotations):
            continue
        if header["annotations"] != annotations or header["options"] != source.options:
            raise DataError(f"{lock}: the annotations or options changed since; run the doctor again")
        return lock
    return None


_NO_FAULTS = {"expected", "present", "usable", "events", "usable events", "other duration"}


class Pool:
    """A finished pool, memory-mapped: `len(pool)`, `pool.caption(id)`, `pool.caption_keys`, `pool.column(name)`."""

    def __init__(self, work: Path):
        self.work = work
        self.facts = json.loads((work / "pool.json").read_text())

    def __len__(self) -> int:
        return self.facts["rows"]

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        file = pa.ipc.open_file(pa.memory_map(str(self.work / "pool.arrow")))
        return [file.get_batch(number) for number in range(file.num_record_batches)]

    def caption(self, row: int) -> str:
        batch = self._batches[row // BATCH]
        return batch.column("caption")[row % BATCH].as_py()

    @cached_property
    def caption_keys(self) -> np.ndarray:
        """A hash of every caption: pictures of equal captions have equal ones."""
        return np.load(self.work / "caption_keys.npy", mmap_mode="r")

    def column(self, name: str) -> list:
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]


def build_pool(
    ingredients: list[Ingredient],
    kind: str,
    split: str,
    work: Path,
    on_problem: str,
    caption_of: Callable[[Item], str] = attrgetter("caption"),
    facts: dict | None = None,
) -> Pool:
    """
    The usable items of all sources as one pool in the folder `work`, unless it is there already. `caption_of` may take
    captions from elsewhere; `facts` tells such a pool from others.
    """
    inputs = {"kind": kind, "split": split, "sources": [one.provenance for one in ingredients], **(facts or {})}
    if (work / "pool.json").exists():
        pool = Pool(work)
        if pool.facts["inputs"] == inputs:
            return pool
    work.mkdir(parents=True, exist_ok=True)
    (work / "pool.json").unlink(missing_ok=True)  # of another pool; it comes back last, when all of this one is there
    open_pool.cache_clear()
    features = image_pool_features() if kind in ("pictures", "captions") else clip_pool_features()
    problems, digest, keys, rows = Problems(), hashlib.blake2b(digest_size=16), array("Q"), 0
    counts = dict.fromkeys((one.source.name for one in ingredients), 0)
    with (
        replacing(work / "pool.arrow") as part,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, features.arrow_schema) as writer,
        tqdm(desc=f"{kind} of the pool", unit_scale=True, disable=None) as bar,
    ):
        for batch in _batched(_rows(ingredients, kind, split, problems, caption_of, counts), BATCH):
            for row in batch:
                row["id"], rows = rows, rows + 1
                caption = hashlib.blake2b(row["caption"].encode(), digest_size=8)
                keys.append(int.from_bytes(caption.digest(), "little"))
                digest.update(repr(row).encode())
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=features.arrow_schema))
            bar.update(len(batch))
    if problems.found and on_problem == "stop":
        discard(work)
        kind_of, place, detail, _ = problems.found[0]
        raise DataError(
            f"{kind_of}: {place}: {detail} (and {len(problems.found) - 1} more). --on-problem skip leaves them out."
        )
    if problems.found:
        print("skipped " + ", ".join(f"{count:,} {name}" for name, count in problems.counts.items()), file=sys.stderr)
    if not rows:
        discard(work)
        listed = ", ".join(f"{one.source.name} at {one.source.path}" for one in ingredients)
        raise DataError(f"expected {kind} of split {split!r} in {listed}; found none that can be used")
    with replacing(work / "caption_keys.npy") as part, part.open("wb") as file:
        np.save(file, np.frombuffer(keys, dtype=np.uint64))
    facts = {"rows": rows, "counts": counts, "skipped": problems.counts, "hash": digest.hexdigest(), "inputs": inputs}
    with atomic_writer(work / "pool.json") as lines:
        json.dump(facts, lines, indent=1, ensure_ascii=False)
    return Pool(work)


def discard(work: Path):
    """A pool's folder, and the one above if nothing else is in it."""
    open_pool.cache_clear()
    shutil.rmtree(work)
    if not any(work.parent.iterdir()):
        work.parent.rmdir()


@lru_cache(maxsize=1)
def open_pool(work: Path) -> Pool:
    """Once in each process."""
    return Pool(work)


def publish_pool(pool: Pool, folder: Path, split: str):
    """The pool as Parquet shards in `folder`, unless they are there already."""
    shards = max(1, -(-len(pool) // SHARD))
    per_shard = SHARD // BATCH
    for number in range(shards):
        name = f"{split}-{number:05d}-of-{shards:05d}-{pool.facts['hash'][:8]}.parquet"
        if (folder / name).exists():
            continue
        batches = pool._batches[number * per_shard : (number + 1) * per_shard]
        schema = batches[0].schema
        with replacing(folder / name) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch, row_group_size=8_192)


def _rows(ingredients, kind, split, problems, caption_of, counts) -> Iterator[dict]:
    for one in ingredients:
        for item, entry in one.items(kind, split, problems):
            caption = caption_of(item)
            if not caption and kind != "videos":
                problems.add("empty caption", item.place, f"{item.key!r}: expected a caption, found none")
                continue
            counts[one.source.name] += 1
            row = {"source": one.source.name, "key": item.key, "media": entry["media"], "caption": caption}
            if kind not in ("pictures", "captions"):
                row |= {"label": item.label} | {name: entry[name] for name in ("start", "end", "duration")}
            yield row


def _batched(rows: Iterator[dict], size: int) -> Iterator[list[dict]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
