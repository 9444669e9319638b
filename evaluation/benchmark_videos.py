"""Videos of a benchmark: found and judged as the data set builders do it, and decoded once."""

import numpy as np

from dataset_scripts.items import Item, Problems
from dataset_scripts.judging import Judge
from dataset_scripts.media import Finder, Found
from dataset_scripts.sources import Source
from modeling_seq2time.video_decoding import VideoReader, open_video
from modeling_seq2time.video_processing_seq2time import uniform_indices


class Unusable(ValueError):
    """A video that is there, but can't be asked about; `kind` is the doctor's word for it."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


class Part(VideoReader):
    """
    A part of a video as a video of its own, as long as its annotation says. Frames that `fetch` decoded, perhaps in
    another thread, `read` gives without decoding again.
    """

    def __init__(self, whole: VideoReader, start: float, end: float, duration: float):
        super().__init__(whole.source, whole.size)
        inside = whole.shown(start, end)
        self.whole, self.first, self.num_frames = whole, int(inside[0]), len(inside)
        self._times = np.maximum(np.asarray(whole._times)[inside] - start, 0.0).tolist()
        self.duration, self.fps = duration, len(inside) / (end - start)
        self._fetched: dict[tuple[int, ...], np.ndarray] = {}

    def fetch(self, num_frames: int):
        indices = tuple(uniform_indices(self.num_frames, num_frames).tolist())
        self._fetched[indices] = self._read(list(indices))[0]

    def _read(self, indices: list[int]) -> tuple[np.ndarray, list[float]]:
        frames = self._fetched.pop(tuple(indices), None)
        if frames is None:
            frames, _ = self.whole.read([self.first + index for index in indices])
        return frames, [self._times[index] for index in indices]


def open_part(source: Source, finder: Finder, item: Item, found: Found, size: tuple[int, int]) -> Part:
    """
    The video that an item is about. Its events are not judged: they are the benchmark's, whatever they are; but a file
    of another length than its annotation says is another cut, and `Unusable`.
    """
    problems = Problems()
    try:
        whole = open_video(str(finder.folder / found.media), size=size)
        judge = Judge(source, finder, {found.media: {"duration": whole.duration}}, problems)
        length = judge.length(item, found, "videos")
        if length:
            return Part(whole, **length)
    except (ValueError, OSError) as error:
        raise Unusable("corrupt", str(error)) from error
    kind, _, detail, _ = problems.found[0]
    raise Unusable(kind, detail)
