"""
Rows of a mixture to a batch, in the data loader's workers: pictures are decoded here and nowhere before.

Every picture of a batch is there once; `video_picture_index` says which frames show it. Sequences that were drawn from
a shared pool thus cost the vision tower one pass a picture, whatever their number.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from dataset_scripts.items import DataError
from dataset_scripts.record import IMAGE_TASKS, TEXT_TASKS, check, is_video
from dataset_scripts.samples import Samples
from modeling_seq2time import Seq2TimeProcessor
from modeling_seq2time.video_decoding import VideoDecodingError
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata

from .conversation import IGNORED, NOTHING_LEARNED, as_chat, encode


UNREADABLE = (DataError, VideoDecodingError, OSError)
CROP_SCALE, CROP_RATIO = (0.5, 1.0), (3 / 4, 4 / 3)  # TimeChat's


class TooLong(DataError):
    pass


@dataclass
class Seen:
    """A sample as the model is given it."""

    record: dict
    metadata: Seq2TimeVideoMetadata | None  # of text nothing is seen
    pictures: list[int]  # places among those of the batch
    ids: list[int]
    labels: list[int]


@dataclass
class Pictures:
    """The pictures of a batch, each once."""

    places: dict = field(default_factory=dict)
    pixels: list[torch.Tensor] = field(default_factory=list)
    decoded: dict = field(default_factory=dict)

    def frames_of(self, owner, decode: Callable[[], tuple[list, dict]]) -> tuple[list, dict]:
        """A video's frames and what is known of them, decoded once."""
        if owner not in self.decoded:
            self.decoded[owner] = decode()
        return self.decoded[owner]

    def places_of(self, owner, names: list, load: Callable[[list], torch.Tensor]) -> list[int]:
        """Where the pictures are that `owner`, a pool or a sample, knows by these names; what is missing is loaded."""
        missing = [name for name in names if (owner, name) not in self.places]
        if missing:
            self.pixels.append(load(missing))
            self.places |= {(owner, name): place for place, name in enumerate(missing, len(self.places))}
        return [self.places[owner, name] for name in names]


@dataclass
class Collator:
    """
    Args:
        sets: the mixture's data sets; a row names one, and a record in it.
        crop, crop_images: whether videos, and image sequences, have one random crop each.
        share_videos: whether rows about one video have the same frames and crop in an epoch.
        on_problem, on_long: `stop` or `skip`. What was skipped stands in the batch's `about`; a batch of which nothing
            is left is one blank sample without labels, so that all processes keep step.
        patches: (patches, width) of a picture where the sets have features of a cache, which then are what it batches.
    """

    processor: Seq2TimeProcessor
    sets: list[Samples]
    seed: int = 0
    max_length: int | None = None
    crop: bool = True
    crop_images: bool = False
    share_videos: bool = False
    on_problem: str = "stop"
    on_long: str = "stop"
    patches: tuple[int, int] | None = None

    def __call__(self, rows: list[dict]) -> dict:
        pictures, seen, skipped = Pictures(), [], []
        for row in rows:
            try:
                seen.append(self.sample(row, pictures))
            except UNREADABLE as error:
                key = "on_long" if isinstance(error, TooLong) else "on_problem"
                name = self.sets[row["set"]].records[row["row"]]["id"]
                if getattr(self, key) == "stop":
                    raise DataError(f"sample {name!r}: {error} ({key}=skip leaves such samples out)") from error
                skipped.append({"id": name, "epoch": row["epoch"], "why": str(error)})
        batch = self.batch(seen or [self.blank(pictures)], pictures)
        names = [{name: one.record[name] for name in ("id", "task", "source")} for one in seen]
        batch["about"] = {"samples": names, "skipped": skipped}
        return batch

    def sample(self, row: dict, pictures: Pictures) -> Seen:
        samples: Samples = self.sets[row["set"]]
        record = samples.records[row["row"]]
        check(record, len(samples.pool))
        is_image, is_text = record["task"] in IMAGE_TASKS, record["task"] in TEXT_TASKS
        sequence = record["sequence"]
        own = (0, row["set"], row["row"], row["copy"])
        if self.share_videos and is_video(record):
            own = (1, row["pool"], sequence[0]["clip"], row["copy"])
        sampling, cropping = np.random.default_rng([self.seed, row["epoch"], *own]).spawn(2)
        if is_text:
            known = None
        elif is_image:
            known = {"total_num_frames": len(sequence), "frames_indices": list(range(len(sequence)))}
        else:
            frames, known = pictures.frames_of(own, lambda: samples.clip_frames(sequence, sampling))
        metadata = Seq2TimeVideoMetadata(**known) if known else None
        ((ids, labels),) = encode(self.processor, [as_chat(self.processor, record["messages"], metadata)])
        if labels.count(IGNORED) == len(labels):
            raise DataError(NOTHING_LEARNED)
        if self.max_length and len(ids) > self.max_length:
            raise TooLong(f"expected at most max_length={self.max_length} tokens, found {len(ids)}")
        if is_text:
            return Seen(record, None, [], ids, labels)
        crop = cropping if (self.crop_images if is_image else self.crop) else None
        if is_image:  # a crop is the sequence's own, so its pictures are, too
            owner = row["pool"] if crop is None else own
            places = pictures.places_of(
                owner, sequence, lambda ids: self.pixels([samples.picture(one) for one in ids], crop)
            )
        else:
            places = pictures.places_of(own, range(len(frames)), lambda _: self.pixels(frames, crop))
        return Seen(record, metadata, places, ids, labels)

    def pixels(self, frames: list, rng: np.random.Generator | None) -> torch.Tensor:
        """Pictures as the vision tower takes them, all with the same crop, if any; or what it made of them."""
        if self.patches:
            return torch.from_numpy(np.stack(frames))
        if rng is not None:
            size = self.processor.video_processor.size
            side = (size["height"], size["width"])
            corner = random_crop(rng, *side)
            cropped = [torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames]
            squeezed = [transforms.resize(frame, side, InterpolationMode.BICUBIC, antialias=True) for frame in cropped]
            frames = transforms.resized_crop(torch.stack(squeezed), *corner, side, InterpolationMode.BICUBIC)
        return as_pixels(self.processor, frames)

    def blank(self, pictures: Pictures) -> Seen:
        size = self.processor.video_processor.size
        metadata = Seq2TimeVideoMetadata(total_num_frames=1, frames_indices=[0])
        chat = as_chat(self.processor, [{"role": "user", "content": ""}], metadata)
        ((ids, labels),) = encode(self.processor, [chat])
        shape = self.patches or (3, size["height"], size["width"])
        places = pictures.places_of("blank", [0], lambda _: torch.zeros(1, *shape))
        return Seen({}, metadata, places, ids, labels)

    def batch(self, seen: list[Seen], pictures: Pictures) -> dict:
        def padded(rows: list[list[int]], value: int) -> torch.Tensor:
            return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

        batch = {
            "input_ids": padded([one.ids for one in seen], self.processor.tokenizer.pad_token_id),
            "attention_mask": padded([[1] * len(one.ids) for one in seen], 0),
            "labels": padded([one.labels for one in seen], IGNORED),
        }
        watched = [one for one in seen if one.pictures]
        return batch | self.videos(watched, torch.cat(pictures.pixels)) if watched else batch

    def videos(self, watched: list[Seen], pixels: torch.Tensor) -> dict:
        """What the model is given of the samples that show something, out of the pictures of the batch."""
        places = [torch.tensor(one.pictures) for one in watched]
        batch = {
            "video_patches" if self.patches else "pixel_values_videos": pixels,
            "video_picture_index": pad_sequence(places, batch_first=True, padding_value=-1),
        }
        if self.processor.qformer_reads_time:
            time = self.processor._time_inputs([one.metadata for one in watched])
            batch |= {name: torch.tensor(value) for name, value in time.items()}
        return batch


def as_pixels(processor: Seq2TimeProcessor, frames: list) -> torch.Tensor:
    """Pictures as the vision tower takes them."""
    processed = processor.video_processor([frames], do_sample_frames=False, return_tensors="pt")
    return processed["pixel_values_videos"][0]


def random_crop(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of `CROP_SCALE` of the area; the largest one in the middle if none fits."""
    for _ in range(10):
        area = height * width * rng.uniform(*CROP_SCALE)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        wide, high = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if wide <= width and high <= height:
            return int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1)), high, wide
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
