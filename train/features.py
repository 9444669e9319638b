"""
What the frozen vision tower makes of pictures and frames, kept in a folder: each is decoded and encoded once, before
the first run that needs it.

    KIND-KEY-PART.json   {id of the pool: {stamp, offset, times}} of what is kept
    KIND-KEY-PART.npy    float16 (frames, patches, width), memory-mapped; gets its name when all of it is there

KEY says of which weights, settings and pool they are, PART which frames of which files. What was begun is gone on with.
"""

import copy
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import nn
from tqdm import tqdm

from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError
from dataset_scripts.media import parquet_cell
from dataset_scripts.samples import Samples
from modeling_seq2time import Seq2TimeConfig, Seq2TimeProcessor
from modeling_seq2time.video_decoding import VideoDecodingError, VideoReader, open_video

from .collator import UNREADABLE, as_pixels
from .mixture import Mixture


VERSION = 1  # of what is kept
BATCH, CHUNK = 64, 512  # frames that are encoded, and decoded, at a time
# Settings that don't change what the tower is given of a frame, or makes of it.
NOT_OF_PIXELS = {"num_frames", "fps", "sampling", "seed", "do_sample_frames", "return_metadata", "auto_map"}
NOT_OF_WEIGHTS = {"transformers_version", "dtype", "_name_or_path", "architectures"}


@dataclass
class Features:
    """Of a pool, as `Samples` asks for them."""

    file: Path
    rows: dict[int, dict]  # by ids of the pool

    def video(self, one: int) -> "Part":
        if one not in self.rows:
            raise DataError(f"{self.file}: expected features of all that is trained on, found none of {one}")
        return Part(str(self.file), self.rows[one])

    def picture(self, one: int) -> np.ndarray:
        return self.video(one).read([0])[0][0]


class Part(VideoReader):
    """A reader whose frames are features; their places count from the first one that is kept."""

    def __init__(self, file: str, row: dict):
        super().__init__(file, None)
        self._offset, self._times, self.num_frames = row["offset"], row["times"], len(row["times"])
        if not self.num_frames:
            self._refuse()

    def _read(self, indices):
        found = _opened(self.name)[[self._offset + index for index in indices]]
        if np.isnan(found[:, 0, 0]).any():
            self._refuse()
        return found, [self._times[index] for index in indices]

    def _refuse(self):
        raise VideoDecodingError(f"{self.name}: no features, as the picture or video couldn't be read")


@lru_cache(maxsize=64)
def _opened(file: str) -> np.ndarray:
    """Once in each process."""
    return np.load(file, mmap_mode="r")


def patches_of(config: Seq2TimeConfig) -> tuple[int, int]:
    """Patches of a picture and their width."""
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size


def fingerprint(tower: nn.Module) -> str:
    config = {name: value for name, value in tower.config.to_dict().items() if name not in NOT_OF_WEIGHTS}
    digest = hashlib.blake2b(_digest([config, tower.post_layernorm.eps]).encode(), digest_size=16)
    for name, value in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(value.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def keep_features(
    mixture: Mixture,
    tower: nn.Module,
    weights: str,
    processor: Seq2TimeProcessor,
    folder: Path,
    on_problem: str,
    device: torch.device,
):
    """
    Has the mixture's sets hand out features, and makes those that aren't in the folder yet; `weights` is the tower's
    fingerprint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {name: value for name, value in processor.video_processor.to_dict().items() if name not in NOT_OF_PIXELS}
    for sets, ids in mixture.pools():
        samples, pool = sets[0], sets[0].pool
        for one in sets:
            one.features = None
        stamps = _stamps(samples, ids)
        kind = "videos" if "start" in pool.column_names else "pictures"
        key = f"{kind}-{_digest([VERSION, weights, pixels, pool._fingerprint])[:16]}"
        with FileLock(folder / f"{key}.lock"):  # several runs may begin at once
            features = _found(folder, key, stamps)
            if features is None:
                exact = copy.deepcopy(tower).eval().to(device, torch.float32)
                exact.set_attn_implementation("sdpa")  # flash attention takes no float32
                features = _made(folder, key, samples, stamps, exact, processor, on_problem)
        for one in sets:
            one.features = features


def _digest(value) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _stamps(samples: Samples, ids: list[int]) -> dict[int, list]:
    """What tells a row's file from another one in its place: size and time of change."""

    @cache
    def stamp(source: str, media: str) -> list | None:
        cell = parquet_cell(media)
        file = samples.folder(source) / (cell[0] if cell else media)
        found = file.stat() if file.is_file() else None
        return found and [found.st_size, found.st_mtime_ns]

    rows = samples.pool.select_columns(["source", "media"])[ids]
    return {one: stamp(*of) for one, *of in zip(ids, rows["source"], rows["media"], strict=True)}


def _found(folder: Path, key: str, stamps: dict[int, list]) -> Features | None:
    for index in sorted(folder.glob(f"{key}-*.json")):
        file, rows = index.with_suffix(".npy"), json.loads(index.read_text())
        rows = {int(one): row for one, row in rows.items()}
        if file.is_file() and all(one in rows and rows[one]["stamp"] == stamp for one, stamp in stamps.items()):
            return Features(file, rows)
    return None


def _made(folder: Path, key: str, samples: Samples, stamps: dict, tower, processor, on_problem: str) -> Features:
    places, rows, count = {}, {}, 0
    for one, stamp in tqdm(stamps.items(), desc="frames to encode", disable=None):
        try:
            first, times = _span(samples, one)
        except UNREADABLE as error:
            _stop_or_tell(error, on_problem)
            first, times = 0, []
        places[one], rows[one] = range(first, first + len(times)), {"stamp": stamp, "offset": count, "times": times}
        count += len(times)
    file = folder / f"{key}-{_digest([rows, [span.start for span in places.values()]])[:8]}.npy"
    shape = (count, tower.embeddings.num_positions, tower.config.hidden_size)
    buffer, size = BytesIO(), 2 * shape[1] * shape[2]
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": shape})
    header, unfinished = buffer.getvalue(), file.with_suffix(".npy.part")
    unfinished.touch()
    done = max(unfinished.stat().st_size - len(header), 0) // size  # by an earlier process
    if (needed := (count - done) * size) > (free := shutil.disk_usage(folder).free):
        raise DataError(f"{folder}: {count:,} frames need {needed / 1e9:.1f} GB more, found {free / 1e9:.1f} GB free")
    with (
        unfinished.open("r+b") as out,
        tqdm(desc=file.stem, total=count, initial=done, unit="frame", disable=None) as bar,
    ):
        out.write(header)
        out.seek(done * size, os.SEEK_CUR)
        out.truncate()
        frames = _frames(samples, places, done, on_problem)
        while batch := list(itertools.islice(frames, BATCH)):
            out.write(_encoded(batch, shape[1:], tower, processor).data)
            bar.update(len(batch))
        out.flush()
        os.fsync(out.fileno())
    with atomic_writer(file.with_suffix(".json")) as lines:
        json.dump(rows, lines)
    os.replace(unfinished, file)
    return Features(file, rows)


def _span(samples: Samples, one: int) -> tuple[int, list[float]]:
    """The frames that `Samples` may pick of a row of the pool: the first one's place in its file, and their times."""
    if "start" not in samples.pool.column_names:
        return 0, [0.0]
    rows = samples.pool[[one]]
    reader, start = open_video(samples.path(rows, 0)), rows["start"][0]
    inside = reader.shown(start, rows["end"][0])
    # As `shown_at` asks; a timeline goes by the duration, which the part itself may not have.
    first = reader.between(0.0, max(start, 0.0) + 2e-6)[-1]
    last = reader.between(0.0, start + rows["duration"][0] + 1e-5)[-1]
    first, last = int(min(first, inside[0])), int(max(last, inside[-1]))
    return first, [float(time) for time in reader._times[first : last + 1]]


def _frames(samples: Samples, places: dict[int, range], done: int, on_problem: str) -> Iterator:
    """All frames but the first `done`, as they are decoded; `None` for what can't be read."""
    for one, span in places.items():
        left, done = span[done:], max(done - len(span), 0)
        for first in range(0, len(left), CHUNK):
            chunk = left[first : first + CHUNK]
            try:
                if "start" in samples.pool.column_names:
                    video = samples.path(samples.pool[[one]], 0)
                    frames = open_video(video, size=samples.size).read(chunk)[0]
                else:
                    frames = [samples.picture(one)]
            except UNREADABLE as error:
                _stop_or_tell(error, on_problem)
                frames = [None] * len(chunk)
            yield from frames


def _stop_or_tell(error: Exception, on_problem: str):
    if on_problem == "stop":
        raise DataError(f"{error} (on_problem=skip leaves such samples out)") from error
    print(f"no features: {error}", file=sys.stderr)


def _encoded(batch: list, shape: tuple[int, int], tower, processor: Seq2TimeProcessor) -> np.ndarray:
    """Features of frames; of what couldn't be read they are no numbers."""
    found = np.full((len(batch), *shape), np.nan, dtype="<f2")
    seen = [place for place, frame in enumerate(batch) if frame is not None]
    if seen:
        pixels = as_pixels(processor, [batch[place] for place in seen])
        with torch.inference_mode():
            found[seen] = tower(pixels.to(tower.device), return_dict=True).last_hidden_state.half().cpu().numpy()
        if not np.isfinite(found[seen]).all():
            raise DataError("feature_cache: expected features that fit into float16, found ones that aren't finite")
    return found
