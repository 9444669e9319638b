"""Which rows of which data sets are trained on: a table, its report, and the order in which batches take its rows."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets, get_dataset_config_names
from datasets.fingerprint import Hasher

from dataset_scripts.items import DataError
from dataset_scripts.record import IMAGE_TASKS
from dataset_scripts.samples import Samples, pool_of
from modeling_seq2time import Seq2TimeProcessor
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata

from .conversation import IGNORED, as_chat, tokenized
from .recipe import Source


MEASURE = 1  # version of what `measure` says, for its cache
BUCKET = 50  # effective batches that are sorted by length together


@dataclass
class Mixture:
    """
    `rows` has a row per sample of an epoch: `set` and `row` say which record of `sets`, `pool` which pool its pictures
    are of, `group` what shares a pool of pictures with it (-1: nothing); then its `length` in tokens, its `answers`
    (tokens that are learned), `frames`, and `source`, the number of its data set in the recipe.
    """

    sets: list[Samples]
    rows: Dataset
    sources: list[Source]

    @classmethod
    def load(
        cls, sources: list[Source], processor: Seq2TimeProcessor, sampling: str, seed: int, num_proc: int | None = None
    ) -> "Mixture":
        video = processor.video_processor
        size = (video.size["height"], video.size["width"])
        options = {"num_frames": video.num_frames, "sampling": sampling, "size": size}
        sets, parts, pools, groups = [], [], {}, {}
        for number, source in enumerate(sources):
            own = []
            for config in source.config or record_configs(source):
                samples = Samples.load(source.path, config, source.split, source.folders, **options)
                pool = pools.setdefault((source.path, pool_of(config), source.split), len(pools))
                names = samples.records["group"] if config in IMAGE_TASKS else ()
                shared = [groups.setdefault((pool, name), len(groups)) if name != "all" else -1 for name in names]
                rows = measure(samples, processor, num_proc)
                count = len(rows)
                columns = {
                    "set": [len(sets)] * count,
                    "pool": [pool] * count,
                    "source": [number] * count,
                    "row": list(range(count)),
                    "group": shared or [-1] * count,
                }
                rows = concatenate_datasets([Dataset.from_dict(columns), rows], axis=1)
                if source.source is not None:
                    wanted = np.array(samples.records["source"]) == source.source
                    rows = rows.select(np.flatnonzero(wanted))
                sets.append(samples)
                own.append(rows)
            table = concatenate_datasets(own)
            if not len(table):
                raise DataError(f"{source.path}, {source.split}: no records of source {source.source!r}")
            parts.append(table.select(chosen(len(table), source, np.random.default_rng([seed, number]))))
        return cls(sets, concatenate_datasets(parts).flatten_indices(), sources)

    def without_long(self, max_length: int) -> tuple["Mixture", list[str]]:
        """Rows that fit, and the names of those that don't."""
        lengths = np.array(self.rows["length"])
        long = self.rows.select(np.flatnonzero(lengths > max_length))
        names = [self.sets[row["set"]].records[row["row"]]["id"] for row in long]
        fitting = self.rows.select(np.flatnonzero(lengths <= max_length))
        return Mixture(self.sets, fitting, self.sources), names

    def report(self) -> str:
        """Rows, tokens and frames of each data set and configuration."""
        table = {name: np.array(self.rows[name]) for name in ("source", "length", "answers", "frames", "set")}
        lines = [("data set", "rows", "share", "tokens", "of these learned", "frames")]
        total = len(self.rows)
        for number, source in enumerate(self.sources):
            mine = table["source"] == number
            place = Path(source.path).name if Path(source.path).is_absolute() else source.path
            name = f"{place} {'+'.join(source.config or ['all'])}"
            name += f" ({source.source})" if source.source else ""
            lines.append((name, *_figures(mine, table, total)))
        lines.append(("together", *_figures(np.ones(total, dtype=bool), table, total)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_aligned(line, widths) for line in lines)


def _aligned(cells: list[str], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def _figures(mine: np.ndarray, table: dict, total: int) -> list[str]:
    sums = [table[name][mine].sum() for name in ("length", "answers", "frames")]
    return [f"{mine.sum():,}", f"{mine.sum() / total:.1%}", *(f"{number:,}" for number in sums)]


def record_configs(source: Source) -> list[str]:
    """All configurations of records of a set."""
    try:
        found = [name for name in get_dataset_config_names(source.path) if not name.endswith("_pool")]
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{source.path}: {error}") from error
    if not found:
        raise DataError(f"{source.path}: expected configurations of records, found none")
    return found


def chosen(total: int, source: Source, rng: np.random.Generator) -> np.ndarray:
    """Which of so many rows: whole passes, and a random part of one."""
    count = round(total * source.weight) if source.count is None else source.count
    passes = [np.arange(total)] * (count // total)
    return np.concatenate([*passes, np.sort(rng.choice(total, count % total, replace=False))]).astype(int)


def measure(samples: Samples, processor: Seq2TimeProcessor, num_proc: int | None = None) -> Dataset:
    """`length`, `answers` and `frames` of every record, kept in the cache of `datasets`."""
    about = [samples.records._fingerprint, samples.pool._fingerprint, samples.num_frames, processor.to_dict(), MEASURE]
    about.append(processor.tokenizer.backend_tokenizer.to_str())
    return samples.records.map(
        partial(_measured, samples=samples, processor=processor),
        batched=True,
        remove_columns=samples.records.column_names,
        new_fingerprint=Hasher.hash(about),
        num_proc=num_proc,
        desc="lengths",
    )


def _measured(batch: dict, samples: Samples, processor: Seq2TimeProcessor) -> dict:
    found = {"length": [], "answers": [], "frames": []}
    chats, saved = [], []
    for task, sequence, messages in zip(batch["task"], batch["sequence"], batch["messages"], strict=True):
        metadata = nominal(task, sequence, samples)
        text = processor._video_text(metadata)
        placeholders = text.count(processor.video_token)
        # One placeholder stands for all: they are tokens of their own.
        short = text.replace(processor.video_token * placeholders, processor.video_token)
        chats.append(as_chat(processor, messages, short))
        saved.append(placeholders - 1)
        found["frames"].append(len(metadata.positions))
    for (ids, labels), more in zip(tokenized(processor, chats), saved, strict=True):
        found["length"].append(len(ids) + more)
        found["answers"].append(sum(label != IGNORED for label in labels))
    return found


def nominal(task: str, sequence: list, samples: Samples) -> Seq2TimeVideoMetadata:
    """A sequence's metadata before anything of it is decoded: a clip sequence or video with evenly spaced frames."""
    if task in IMAGE_TASKS:
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
        self.groups, self.lengths, self.seed, self.epoch = groups, lengths, seed, 0
        self.batch_size, self.update_size, self.drop_last = batch_size, update_size, True

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups) // self.update_size * (self.update_size // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for update in self.updates():
            for first in range(0, self.update_size, self.batch_size):
                yield [(self.epoch, int(row)) for row in update[first : first + self.batch_size]]

    def updates(self) -> np.ndarray:
        """The rows of each update of an epoch, `(updates, update_size)`."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.groups))
        members = defaultdict(list)
        for row in order:
            members[int(self.groups[row])].append(row)
        left = len(order) % self.update_size
        alone = np.array(members.pop(-1, [])[left:], dtype=int)
        width = BUCKET * self.update_size
        buckets = [alone[first : first + width] for first in range(0, len(alone), width)]
        runs = [np.array(own)[np.argsort(self.lengths[own], kind="stable")] for own in [*members.values(), *buckets]]
        rows = np.concatenate(runs)
        updates = rows[: len(rows) // self.update_size * self.update_size].reshape(-1, self.update_size)
        return updates[rng.permutation(len(updates))]
