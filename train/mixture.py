"""Which rows of which data sets are trained on: a table, its report, and the order in which batches take its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, get_dataset_config_names, get_dataset_split_names
from datasets.fingerprint import Hasher

from dataset_scripts.items import DataError
from dataset_scripts.record import IMAGE_TASKS, TEXT_TASKS, check
from dataset_scripts.samples import Samples, pool_of
from modeling_seq2time import Seq2TimeProcessor
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata

from .conversation import IGNORED, NOTHING_LEARNED, as_chat, encode
from .recipe import Source


MEASURE = 2  # version of what `measure` says, for its cache
BUCKET = 50  # effective batches that are sorted by length together


@dataclass
class Mixture:
    """
    `rows` has a row per sample of an epoch: `set` and `row` say which record of `sets`, `copy` the how many-th time it
    is there, `pool` which pool its pictures are of, `group` what shares pictures with it (-1: nothing); then its
    `length` in tokens (0 of a record that is no good), its `answers` (tokens that are learned), `frames`, and `source`,
    the number of its data set in the recipe.
    """

    sets: list[Samples]
    rows: Dataset
    sources: list[Source]

    @classmethod
    def load(
        cls,
        sources: list[Source],
        processor: Seq2TimeProcessor,
        sampling: str,
        seed: int,
        num_proc: int | None = None,
        on_problem: str = "stop",
        share_videos: bool = False,
    ) -> "Mixture":
        """
        Of records that are no good the first one is an error; with `skip` the collator leaves them out. Rows of a
        shared pool of pictures are a group, with `share_videos` those about one video, too.
        """
        video = processor.video_processor
        size = (video.size["height"], video.size["width"])
        options = {"num_frames": video.num_frames, "sampling": sampling, "size": size}
        sets, measured, parts, pools, groups = [], [], [], {}, {}
        for number, source in enumerate(sources):
            own = []
            for config in source.config or record_configs(source):
                samples = Samples.load(source.path, config, source.split, source.folders, **options)
                count, found = len(samples), measure(samples, processor, num_proc)
                pool = pools.setdefault((source.path, pool_of(config), source.split), len(pools))
                table = {name: np.array(found[name][:]) for name in ("length", "answers", "frames")}
                table |= {"set": np.full(count, len(sets)), "pool": np.full(count, pool), "row": np.arange(count)}
                table |= {"source": np.full(count, number), "group": np.full(count, -1)}
                shared = []
                if config in IMAGE_TASKS:
                    shared = [None if name == "all" else name for name in samples.records["group"][:]]
                elif share_videos and pool_of(config) == "video_pool":
                    shared = [sequence[0]["clip"] for sequence in samples.records["sequence"][:]]
                if shared:
                    keys = {name: (pool, name) for name in dict.fromkeys(shared) if name is not None}
                    numbers = {name: groups.setdefault(key, len(groups)) for name, key in keys.items()}
                    table["group"] = np.array([numbers.get(name, -1) for name in shared])
                if source.source is not None:
                    table = _taken(table, np.array(samples.records["source"][:]) == source.source)
                sets.append(samples)
                measured.append(found)
                own.append(table)
            parts.append(_chosen(_joined(own), source, np.random.default_rng([seed, number])))
        table = _joined(parts)
        # Copies are groups of their own, or a batch would have a sample twice.
        table["group"] += np.where(table["group"] < 0, 0, table["copy"] * len(groups))
        bad = np.flatnonzero(table["length"] == 0)
        if len(bad) and on_problem == "stop":
            number, row = table["set"][bad[0]], int(table["row"][bad[0]])
            name, problem = sets[number].records[row]["id"], measured[number][row]["problem"]
            raise DataError(f"{len(bad):,} records are no good, the first is sample {name!r}: {problem}")
        return cls(sets, Dataset.from_dict(table), sources)

    def column(self, name: str) -> np.ndarray:
        return np.array(self.rows[name][:])

    def without_long(self, max_length: int) -> tuple["Mixture", list[str]]:
        """Rows that fit, and the names of those that don't."""
        long = self.column("length") > max_length
        if not long.any():
            return self, []
        numbers, rows, names = self.column("set"), self.column("row"), []
        for number, samples in enumerate(self.sets):
            names += samples.records.select_columns("id")[rows[long & (numbers == number)]]["id"]
        fitting = {name: self.column(name)[~long] for name in self.rows.column_names}
        return Mixture(self.sets, Dataset.from_dict(fitting), self.sources), names

    def pools(self) -> list[tuple[list[Samples], list[int]]]:
        """Of each pool the sets that refer to it, and the ids of what their rows show."""
        found, usable = {}, (self.column("length") > 0) & (self.column("frames") > 0)  # text shows nothing
        pools, numbers, rows = (self.column(name) for name in ("pool", "set", "row"))
        for number, samples in enumerate(self.sets):
            mine = usable & (numbers == number)
            if mine.any():
                sets, ids = found.setdefault(int(pools[mine][0]), ([], set()))
                sets.append(samples)
                for sequence in samples.records.select(np.unique(rows[mine]))["sequence"]:
                    ids.update(one["clip"] if isinstance(one, dict) else one for one in sequence)
        return [(sets, sorted(ids)) for sets, ids in found.values()]

    def report(self) -> str:
        """Rows, tokens and frames of each data set and configuration."""
        table = {name: self.column(name) for name in ("source", "length", "answers", "frames")}
        lines = [("data set", "rows", "share", "tokens", "of these learned", "frames")]
        total = len(self.rows)
        for number, source in enumerate(self.sources):
            place = Path(source.path).name if Path(source.path).is_absolute() else source.path
            name = f"{place} {'+'.join(source.config or ['all'])}"
            name += f" ({source.source})" if source.source else ""
            lines.append((name, *_figures(table["source"] == number, table, total)))
        lines.append(("together", *_figures(np.ones(total, dtype=bool), table, total)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_aligned(line, widths) for line in lines)


def _aligned(cells: list[str], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def _figures(mine: np.ndarray, table: dict, total: int) -> list[str]:
    sums = [table[name][mine].sum() for name in ("length", "answers", "frames")]
    return [f"{mine.sum():,}", f"{mine.sum() / total:.1%}", *(f"{number:,}" for number in sums)]


def _taken(table: dict[str, np.ndarray], which: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[which] for name, column in table.items()}


def _joined(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def record_configs(source: Source) -> list[str]:
    """All configurations of records that a set has of the split."""
    try:
        found = [name for name in get_dataset_config_names(source.path) if not name.endswith("_pool")]
        found = [name for name in found if source.split in get_dataset_split_names(source.path, name)]
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{source.path}: {error}") from error
    if not found:
        raise DataError(f"{source.path}: expected configurations of records of split {source.split!r}, found none")
    return found


def _chosen(table: dict[str, np.ndarray], source: Source, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As many rows as the source asks for: whole passes, and a random part of one in which groups stay whole."""
    total, place = len(table["row"]), f"{source.path}, {source.split}"
    if not total:
        raise DataError(f"{place}: expected records of source {source.source!r}, found none")
    count = round(total * source.weight) if source.count is None else source.count
    if not count:
        raise DataError(f"{place}: weight {source.weight} of {total} records is none of them")
    alone = table["group"] < 0
    _, unit = np.unique(np.where(alone, -np.arange(1, total + 1), table["group"]), return_inverse=True)
    some = np.argsort(rng.permutation(total)[unit], kind="stable")[: count % total]
    picks = np.concatenate([np.tile(np.arange(total), count // total), np.sort(some)])
    return _taken(table, picks) | {"copy": np.arange(count) // total}


def measure(samples: Samples, processor: Seq2TimeProcessor, num_proc: int | None = None) -> Dataset:
    """
    `length`, `answers` and `frames` of every record, kept in the cache of `datasets`. A video counts as if it had
    `num_frames` frames, evenly spaced.
    """
    tokenizer = processor.tokenizer
    about = [samples.records._fingerprint, samples.pool._fingerprint, samples.num_frames, MEASURE]
    about += [processor.to_dict(), processor.chat_template, tokenizer.special_tokens_map]
    about.append(tokenizer.backend_tokenizer.to_str())
    return samples.records.map(
        partial(_measured, samples=samples, processor=processor),
        batched=True,
        remove_columns=samples.records.column_names,
        new_fingerprint=Hasher.hash(about),
        num_proc=num_proc,
        desc="lengths",
    )


def _measured(batch: dict, samples: Samples, processor: Seq2TimeProcessor) -> dict:
    count = len(batch["id"])
    found = {name: [0] * count for name in ("length", "answers", "frames")} | {"problem": [""] * count}
    good, chats = [], []
    for place in range(count):
        record = {name: column[place] for name, column in batch.items()}
        try:
            check(record, len(samples.pool))
            metadata = nominal(record, samples)
            chats.append(as_chat(processor, record["messages"], metadata))
            good.append(place)
            found["frames"][place] = len(metadata.positions) if metadata else 0
        except DataError as error:
            found["problem"][place] = str(error)
    for place, (ids, labels) in zip(good, encode(processor, chats) if chats else [], strict=True):
        found["answers"][place] = len(ids) - labels.count(IGNORED)
        if found["answers"][place]:
            found["length"][place] = len(ids)
        else:
            found["problem"][place] = NOTHING_LEARNED
    return found


def nominal(record: dict, samples: Samples) -> Seq2TimeVideoMetadata | None:
    """A sequence's metadata before anything of it is decoded: a clip sequence or video with evenly spaced frames."""
    sequence = record["sequence"]
    if record["task"] in TEXT_TASKS:
        return None
    if record["task"] in IMAGE_TASKS:
        return Seq2TimeVideoMetadata(total_num_frames=len(sequence), frames_indices=list(range(len(sequence))))
    rows = samples.pool[[clip["clip"] for clip in sequence]]
    length = sum(duration * clip["rate"] for duration, clip in zip(rows["duration"], sequence, strict=True))
    count = samples.num_frames
    times = (np.arange(count) * length / count).tolist()
    return Seq2TimeVideoMetadata(
        total_num_frames=count, frames_indices=list(range(count)), times=times, duration=length
    )


class BatchSampler:
    """
    Batches of `(epoch, row)`, all of `batch_size`. An update takes `update_size` rows, over all processes and
    accumulated batches: rows of one shared pool first, then rows of similar length. Which rows an update takes doesn't
    depend on how many processes share it. What doesn't fill an update is left to the other epochs.
    """

    def __init__(self, groups: np.ndarray, lengths: np.ndarray, batch_size: int, update_size: int, seed: int):
        self.groups, self.lengths, self.seed, self.epoch = groups.astype(int), lengths, seed, 0
        self.batch_size, self.update_size, self.drop_last = batch_size, update_size, True

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups) // self.update_size * (self.update_size // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for update in self.updates().tolist():
            for first in range(0, self.update_size, self.batch_size):
                yield [(self.epoch, row) for row in update[first : first + self.batch_size]]

    def updates(self) -> np.ndarray:
        """The rows of each update of an epoch, `(updates, update_size)`."""
        rng = np.random.default_rng([self.seed, self.epoch])
        left, alone = len(self.groups) % self.update_size, self.groups.max(initial=-1) + 1
        # Groups in random order, rows of none behind them; what is left over is cut off the end.
        rank = np.append(rng.permutation(alone), alone)
        order = rng.permutation(len(self.groups))
        order = order[np.argsort(rank[self.groups[order]], kind="stable")][: len(order) - left]
        run = rank[self.groups[order]]
        shared, size = run < alone, np.bincount(run, minlength=1)[run]
        run[~shared] += np.arange((~shared).sum()) // (BUCKET * self.update_size)
        # Full groups before those that lack rows, behind which batches would begin in the middle of a group.
        order = order[np.lexsort((self.lengths[order], run, np.where(shared, -size, 0)))]
        updates = order.reshape(-1, self.update_size)
        return updates[rng.permutation(len(updates))]
