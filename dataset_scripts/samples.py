"""
Records with their pictures: `Samples` decodes what a record refers to when it is asked for, and nothing before.

    samples = Samples.load("seq2time-data", "iig", folders={"llava_recap": "LLaVA-ReCap-118K"})
    sample = samples[0]
    inputs = processor(text=…, videos=[sample["frames"]], video_metadata=[sample["metadata"]], do_sample_frames=False)

It is map-style and can be pickled, so a `DataLoader` of any number of workers can have it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset, load_dataset_builder
from PIL import Image

from modeling_seq2time.video_decoding import VideoReader, open_video
from modeling_seq2time.video_processing_seq2time import random_indices, uniform_indices

from .items import DataError
from .media import read_picture, video_path
from .record import IMAGE_TASKS, TEXT_TASKS, check


class Samples:
    """
    Args:
        records: a data set of records.
        pool: the data set that their `sequence` refers to.
        folders: where each source's media lie.
        num_frames: frames of a clip sequence or video; an image sequence has as many as it has.
        sampling: `uniform`, or `random` within equal intervals of the timeline, from `seed` and the sample's number.
        size: (height, width) to which clips' frames are scaled while they are decoded; as they are by default.
    """

    def __init__(
        self,
        records: Dataset,
        pool: Dataset,
        folders: Mapping[str, str | Path],
        num_frames: int = 96,
        sampling: str = "uniform",
        seed: int = 0,
        size: tuple[int, int] | None = None,
    ):
        self.records, self.pool = records, pool
        self.folders = {name: Path(folder) for name, folder in folders.items()}
        self.num_frames, self.sampling, self.seed, self.size = num_frames, sampling, seed, size
        self.features = None  # those of a cache, which are handed out in place of pictures and frames

    @classmethod
    def load(cls, path: str, config: str, split: str = "train", folders: Mapping[str, str | Path] = {}, **options):
        """Of a set in a folder or on the Hub. A source whose media lie in the set itself needs no folder."""
        if config.endswith("_pool"):
            raise DataError(f"{config}: expected a configuration of records, found a pool")
        records = _load(str(path), config, split)
        own = {child.name: child for child in Path(path).iterdir() if child.is_dir()} if Path(path).is_dir() else {}
        pool = _load(str(path), pool_of(config), split)
        return cls(records, pool, own | dict(folders), **options)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> dict:
        """The record with `frames`, pictures or arrays, and `metadata`, their times for the processor; none of text."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"expected a record from 0 to {len(self) - 1}, found {number}")
        number %= len(self)
        record = self.records[number]
        check(record, len(self.pool))
        if record["task"] in TEXT_TASKS:
            return record | {"frames": [], "metadata": None}
        if record["task"] in IMAGE_TASKS:
            return record | {"frames": [self.picture(one) for one in record["sequence"]], "metadata": {}}
        rng = np.random.default_rng([self.seed, number])
        frames, metadata = self.clip_frames(record["sequence"], rng)
        return record | {"frames": frames, "metadata": metadata}

    def picture(self, one: int) -> Image.Image | np.ndarray:
        """A picture of the pool, by its id."""
        if self.features is not None:
            return self.features.picture(one)
        row = self.pool[one]
        return read_picture(self.folder(row["source"]), row["media"])

    def folder(self, source: str) -> Path:
        if source not in self.folders:
            known = ", ".join(self.folders) or "none"
            raise DataError(f"where do the media of {source!r} lie? folders={{{source!r}: DIR}}; known: {known}")
        return self.folders[source]

    def clip_frames(self, sequence: list[dict], rng: np.random.Generator) -> tuple[list[np.ndarray], dict]:
        """Frames of clips on their timeline, each from the clip that is shown at its time."""
        rows = self.pool[[clip["clip"] for clip in sequence]]
        shares = [duration * clip["rate"] for duration, clip in zip(rows["duration"], sequence, strict=True)]
        edges = np.concatenate([[0.0], np.cumsum(shares)])
        if len(sequence) == 1:
            return self._one_clip(rows, sequence[0], edges[-1], rng)
        times = np.arange(self.num_frames) * edges[-1] / self.num_frames
        if self.sampling == "random":
            times += rng.uniform(0, edges[-1] / self.num_frames, self.num_frames)
        owner = np.searchsorted(edges, times, side="right") - 1
        frames = []
        for place, clip in enumerate(sequence):
            mine = times[owner == place]
            if len(mine):
                video, start = self.video(rows, place, clip["clip"]), rows["start"][place]
                frames += shown_at(video, start + (mine - edges[place]) / clip["rate"], self.size)
        return frames, self._metadata(times, edges[-1])

    def _one_clip(self, rows: dict, clip: dict, length: float, rng) -> tuple[list[np.ndarray], dict]:
        """A video as the processor itself would sample it: by its frames, with their own timestamps."""
        reader = open_video(self.video(rows, 0, clip["clip"]), size=self.size)
        inside = reader.shown(rows["start"][0], rows["end"][0])
        if self.sampling == "random":
            picks = random_indices(len(inside), self.num_frames, int(rng.integers(2**31)))
        else:
            picks = uniform_indices(len(inside), self.num_frames)
        frames, times = reader.read(inside[picks])
        return list(frames), self._metadata(np.maximum(np.array(times) - rows["start"][0], 0) * clip["rate"], length)

    def video(self, rows: dict, place: int, one: int) -> Path | VideoReader:
        """What `open_video` takes of one of several rows of the pool, whose id is `one`."""
        return self.path(rows, place) if self.features is None else self.features.video(one)

    def path(self, rows: dict, place: int) -> Path:
        """The file of one of several rows of the pool."""
        return video_path(self.folder(rows["source"][place]), rows["media"][place])

    @staticmethod
    def _metadata(times: np.ndarray, length: float) -> dict:
        places = list(range(len(times)))
        return {
            "times": times.tolist(),
            "duration": float(length),
            "total_num_frames": len(times),
            "frames_indices": places,
        }


def shown_at(video: Path | VideoReader, times: np.ndarray, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """The frames that a video shows at these seconds; one that is shown twice is decoded once."""
    reader = open_video(video, size=size)
    places = [int(reader.between(0.0, max(time, 0.0) + 2e-6)[-1]) for time in times]  # each the last one so far
    unique = sorted(set(places))
    frames = dict(zip(unique, reader.read(unique)[0], strict=True))
    return [frames[place] for place in places]


def _load(path: str, config: str, split: str) -> Dataset:
    """A folder's files as they are now: `datasets` knows a folder by its name, and would give what it once held."""
    try:
        if not Path(path).is_dir():
            return load_dataset(path, config, split=split)
        files = load_dataset_builder(path, config).config.data_files
        if split in files:
            return load_dataset("parquet", data_files=list(files[split]), split="train")
    except (ValueError, FileNotFoundError) as error:  # of what isn't there; both say what is
        raise DataError(f"{path}, {config}, {split}: {error}") from error
    raise DataError(f"{path}, {config}: expected the split {split!r}, found {', '.join(files)}")


def pool_of(config: str) -> str:
    """The configuration of the pool that a configuration's sequences refer to."""
    if config in IMAGE_TASKS:
        return "image_pool"
    if config in TEXT_TASKS:
        return "caption_pool"
    return "video_pool" if config.startswith("video_") else "clip_pool"
