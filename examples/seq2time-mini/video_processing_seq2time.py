"""Frames of a video or of a list of images, each with its time."""

import math
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
    load_image,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .video_decoding import is_video_source, open_video


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass
class Seq2TimeVideoMetadata(VideoMetadata):
    """
    `times` are the sampled frames' presentation timestamps in seconds, the first frame of the video at 0; `None` for
    image sequences and for arrays that come without a frame rate: those have places, not seconds.
    """

    times: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        return super().timestamps if self.times is None else self.times

    @property
    def unit(self) -> str:
        return "image" if self.times is None else "s"

    @property
    def length(self) -> float:
        """The sequence's duration in seconds, or its number of images."""
        return self.total_num_frames if self.times is None else self.duration

    @property
    def positions(self) -> list[float]:
        """Each sampled frame's place as a fraction of its sequence; images count from 1."""
        if self.times is None:
            return [(int(index) + 1) / self.total_num_frames for index in self.frames_indices]
        return [min(time / self.duration, 1.0) for time in self.times]


class Seq2TimeVideoProcessorKwargs(VideosKwargs, total=False):
    r"""
    decoder (`str`, *optional*, defaults to `"pyav"`):
        What decodes files: `"pyav"` (exact on every format tried, and the fastest), `"decord"` or `"torchcodec"`.
    sampling (`str`, *optional*, defaults to `"uniform"`):
        `"uniform"` takes the left edge of `num_frames` equal intervals (evaluation), `"random"` a random frame of each
        interval (training).
    seed (`int`, *optional*):
        Seed of random sampling. A video gets the same frames whatever batch it is in.
    """

    decoder: Literal["pyav", "decord", "torchcodec"]
    sampling: Literal["uniform", "random"]
    seed: int | None


def uniform_indices(total: int, count: int) -> np.ndarray:
    """TimeChat's evaluation frames: the left edges of `count` equal intervals; all frames of a shorter video."""
    count = min(count, total)
    return np.arange(0, total, total / count).astype(int)[:count]


def random_indices(total: int, count: int, seed: int | None = None) -> np.ndarray:
    """TimeChat's training frames: one of each of `count` equal intervals, but its last one; sorted."""
    count, rng = min(count, total), np.random.default_rng(seed)
    edges = np.linspace(0, total, count + 1).astype(int)
    if (edges[1:] - edges[:-1] < 2).any():
        return np.sort(rng.choice(total, count, replace=False))
    return rng.integers(edges[:-1], edges[1:] - 1)


def window_spans(duration: float, length: float) -> list[tuple[float, float]]:
    """Windows of this length that cover a video, evenly spaced, neighbours sharing at least half of it."""
    if duration <= length:
        return [(0.0, duration)]
    last = duration - length
    count = math.ceil(last / (length / 2)) + 1
    return [(start, start + length) for start in (last * number / (count - 1) for number in range(count))]


class Seq2TimeVideoProcessor(BaseVideoProcessor):
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 96
    decoder = "pyav"
    sampling = "uniform"
    seed = None
    return_metadata = True
    valid_kwargs = Seq2TimeVideoProcessorKwargs
    model_input_names = ["pixel_values_videos", "video_frame_mask"]

    def __init__(self, **kwargs: Unpack[Seq2TimeVideoProcessorKwargs]):
        super().__init__(**kwargs)
        # Saving adds these; having them from the start keeps a saved and a fresh processor equal.
        self.auto_map = {
            "AutoProcessor": "processing_seq2time.Seq2TimeProcessor",
            "AutoVideoProcessor": "video_processing_seq2time.Seq2TimeVideoProcessor",
        }

    def preprocess(self, videos, **kwargs: Unpack[Seq2TimeVideoProcessorKwargs]) -> BatchFeature:
        """
        Args:
            videos: one or more of: a path, a URL, bytes or a binary file of a video; a 4-dimensional array or tensor;
                a decord or torchcodec reader; a list of images (PIL, arrays, paths, URLs) of any sizes.

        Returns:
            `pixel_values_videos` `(videos, frames, 3, height, width)`, shorter videos filled up with zeros,
            `video_frame_mask` `(videos, frames)`, and a `Seq2TimeVideoMetadata` for each video.
        """
        videos = self.flatten_videos(videos)
        known = _one_per_video(kwargs.pop("video_metadata", None), len(videos))
        picked = [
            (self._from_file if is_video_source(video) else self._from_frames)(video, dict(metadata or {}), **kwargs)
            for video, metadata in zip(videos, known, strict=True)
        ]
        frames, metadata = (list(column) for column in zip(*picked, strict=True))
        return super().preprocess(frames, **kwargs, video_metadata=metadata)

    def _decode_and_sample_videos(self, videos, video_metadata, **kwargs):
        return videos, video_metadata  # `preprocess` did, for more kinds of videos

    @staticmethod
    def flatten_videos(videos) -> list:
        """A flat list of single videos out of whatever nesting users and chat templates hand over."""
        if _is_picture(videos) and not str(videos).lower().endswith(".gif"):  # alone, an animation
            return [[videos]]
        if _is_single_video(videos):
            return [videos]
        if (isinstance(videos, (list, tuple)) and len(videos)) or getattr(videos, "ndim", 0) == 5:
            own = [item for item in videos if not isinstance(item, (list, tuple)) or item]  # a prompt may have none
            if own:
                return [video for item in own for video in Seq2TimeVideoProcessor.flatten_videos(item)]
        shape = f" of shape {tuple(videos.shape)}" if hasattr(videos, "shape") else ""
        raise ValueError(
            "expected a video: a path, URL, bytes, binary file, array (frames, height, width, 3), decord or torchcodec "
            f"reader, or a non-empty list of images; found {type(videos).__name__}{shape}"
        )

    @staticmethod
    def is_single(video) -> bool:
        """Whether this is one video, or one image sequence, and not a list of several."""
        return _is_picture(video) or _is_single_video(video)

    def windows(self, video, length: float, decoder: str | None = None, num_frames: int | None = None):
        """
        A long video file piece by piece: how many windows of `length` seconds, which overlap by half or more, and an
        iterator over them. It gives a window's frames, decoded when it is asked for, their metadata with times from the
        window's start, that start, and the duration of the video.
        """
        if not is_video_source(video):
            raise ValueError(f"windows are cut out of a video file or reader, found {type(video).__name__}")
        if not length > 0:
            raise ValueError(f"a window's length must be above 0 seconds, found {length}")
        reader = open_video(video, decoder or self.decoder, (self.size["height"], self.size["width"]))
        spans = window_spans(reader.duration, length)
        return len(spans), (self._window(reader, *span, num_frames or self.num_frames) for span in spans)

    def _window(self, reader, start: float, end: float, num_frames: int):
        inside = reader.shown(start, end)
        picks = inside[uniform_indices(len(inside), num_frames)]
        frames, times = reader.read(picks)
        metadata = {
            "total_num_frames": len(inside),
            "fps": reader.fps,
            "duration": end - start,
            "frames_indices": (picks - inside[0]).tolist(),
            "times": [max(time - start, 0.0) for time in times],
        }
        return frames, metadata, start, reader.duration

    def _picks(self, total: int, own_fps: float | None, **kwargs) -> np.ndarray:
        if not total:
            raise ValueError("a video must have at least one frame, found an empty one")
        if not kwargs.get("do_sample_frames", self.do_sample_frames):
            return np.arange(total)
        options = {name: kwargs.get(name) for name in ("num_frames", "fps", "sampling", "seed")}
        return self.sample_frames(VideoMetadata(total_num_frames=total, fps=own_fps), **options)

    def _from_file(self, video, known: dict, **kwargs):
        """The wanted frames of a file or reader, decoding no others, and their metadata."""
        decoder = kwargs.get("decoder") or self.decoder
        size = kwargs.get("size", self.size) if kwargs.get("do_resize", self.do_resize) else {}
        fixed = isinstance(size, (dict, SizeDict)) and "height" in size and "width" in size
        reader = open_video(video, decoder, (size["height"], size["width"]) if fixed else None)
        picks = self._picks(reader.num_frames, reader.fps, **kwargs)
        frames, times = reader.read(picks)
        return frames, Seq2TimeVideoMetadata(
            total_num_frames=reader.num_frames,
            fps=reader.fps,
            duration=known.get("duration") or reader.duration,
            video_backend=decoder,
            frames_indices=picks.tolist(),
            times=times,
        )

    def _from_frames(self, video, known: dict, **kwargs):
        """The wanted ones of decoded frames or of images. Those picked before say in `known` where they come from."""
        is_list, total, fps = isinstance(video, (list, tuple)), len(video), known.get("fps")
        if is_list and isinstance(video[0], (str, os.PathLike)):
            if kwargs.get("do_sample_frames"):
                # transformers' words for what no video processor does: files of images are the chosen frames
                raise ValueError(
                    "Sampling frames from a list of images is not supported! Set `do_sample_frames=False`."
                )
            kwargs["do_sample_frames"] = False
        picks = self._picks(total, fps, **kwargs).tolist()
        wanted = kwargs.get("num_frames") or 0
        if kwargs.get("do_sample_frames", self.do_sample_frames) and not is_list and wanted > total:
            raise ValueError(f"num_frames={wanted} frames were asked for of an array that has {total}")
        frames = [_load_picture(video[pick]) for pick in picks] if is_list else video[picks]

        total = known.get("total_num_frames") or total
        places = known.get("frames_indices")
        indices = picks if places is None else [int(places[pick]) for pick in picks]
        if known.get("times") is not None:
            times = [float(known["times"][pick]) for pick in picks]
        else:
            times = [index / fps for index in indices] if fps else None
        duration = known.get("duration") or (total / fps if fps else None)
        if times is not None and duration is None:
            raise ValueError("frames with times need the video's duration or fps in video_metadata, found neither")
        return frames, Seq2TimeVideoMetadata(
            total_num_frames=total, fps=fps, duration=duration, frames_indices=indices, times=times
        )

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        sampling: str | None = None,
        seed: int | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Which frames to take. A video shorter than `num_frames` gives all of its frames."""
        total = metadata.total_num_frames
        if not (num_frames is None or num_frames >= 1) or not (fps is None or fps > 0):
            raise ValueError(f"num_frames must be at least 1 and fps above 0, found {num_frames} and {fps}")
        if fps is not None:
            if num_frames is not None:
                raise ValueError(f"num_frames and fps exclude each other, found num_frames={num_frames}, fps={fps}")
            if metadata.fps is None:
                raise ValueError(f"sampling at fps={fps} needs the video's own frame rate in its metadata, found none")
            num_frames = max(1, int(total / metadata.fps * fps))
        num_frames = num_frames or self.num_frames
        if (sampling or self.sampling) == "random":
            return random_indices(total, num_frames, self.seed if seed is None else seed)
        return uniform_indices(total, num_frames)

    def _prepare_input_videos(self, videos, do_convert_rgb=None, input_data_format=None, device=None) -> list:
        """Channels first and RGB; images of different sizes stay a list."""
        prepared = []
        for video in videos:
            if isinstance(video, list):
                images = self._prepare_input_videos(
                    [image[None] for image in video], do_convert_rgb, input_data_format, device
                )
                same_size = len({image.shape for image in images}) == 1
                prepared.append(torch.cat(images) if same_size else images)
                continue
            frames = torch.as_tensor(video)
            if (input_data_format or infer_channel_dimension_format(frames, (1, 3, 4))) == ChannelDimension.LAST:
                frames = frames.permute(0, 3, 1, 2).contiguous()
            prepared.append((self.convert_to_rgb(frames) if do_convert_rgb else frames).to(device))
        return prepared

    def _preprocess(self, videos, do_resize, size, resample, return_tensors=None, **kwargs) -> BatchFeature:
        for place, video in enumerate(videos):
            if isinstance(video, list):
                if not do_resize:
                    sizes = sorted({tuple(image.shape[-2:]) for image in video})
                    raise ValueError(f"images of different sizes {sizes} need do_resize=True to become one sequence")
                videos[place] = torch.cat([self.resize(image, size=size, resample=resample) for image in video])
        batch = super()._preprocess(videos, do_resize=do_resize, size=size, resample=resample, **kwargs)
        videos = batch["pixel_values_videos"]
        longest = max(len(video) for video in videos)
        if len({video.shape[1:] for video in videos}) == 1:
            videos = [torch.cat([video, video.new_zeros(longest - len(video), *video.shape[1:])]) for video in videos]
        mask = [[frame < len(video) for frame in range(longest)] for video in batch["pixel_values_videos"]]
        return BatchFeature({"pixel_values_videos": videos, "video_frame_mask": mask}, tensor_type=return_tensors)


def _is_picture(item) -> bool:
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item).split("?")[0].lower().endswith(_IMAGE_SUFFIXES)
    return isinstance(item, Image.Image) or (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 3)


def _is_single_video(video) -> bool:
    if isinstance(video, (list, tuple)):
        return len(video) > 0 and all(map(_is_picture, video))
    return getattr(video, "ndim", 0) == 4 or is_video_source(video)


def _load_picture(picture) -> np.ndarray | torch.Tensor:
    if isinstance(picture, (np.ndarray, torch.Tensor)):
        return picture
    try:
        return np.array(load_image(os.fspath(picture) if isinstance(picture, os.PathLike) else picture))
    except (OSError, ValueError) as error:
        raise ValueError(f"{picture}: expected a readable image, found: {error}") from error


def _one_per_video(metadata, num_videos: int) -> list:
    if metadata is None:
        return [None] * num_videos
    if not isinstance(metadata, list):
        metadata = [metadata]
    metadata = [single for item in metadata for single in (item if isinstance(item, list) else [item])]
    if len(metadata) != num_videos:
        raise ValueError(f"expected one video_metadata per video, found {len(metadata)} for {num_videos} videos")
    return metadata


Seq2TimeVideoProcessor.register_for_auto_class()
