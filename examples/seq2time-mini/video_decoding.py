"""
Exactly the wanted frames of a video file, with their presentation timestamps.

The PyAV reader demuxes the file once without decoding (the index), then decodes only the groups of pictures that hold
a wanted frame, and of these not the H.264 packets that no other frame refers to. Every frame is identified by its
timestamp, so it returns what a sequential decode of the whole file would return, or one error.
"""

import bisect
import io
import itertools
import os
from contextlib import contextmanager, suppress
from fractions import Fraction

import numpy as np
from huggingface_hub.utils import httpx

from .video_packets import Packet, packet_reader


try:
    import av
except ImportError:  # another decoder may be installed in its place
    av = None

try:
    import decord
except ImportError:
    decord = None

try:
    import torchcodec.decoders as torchcodec
except (ImportError, RuntimeError) as error:  # RuntimeError where the system has no FFmpeg
    torchcodec, _torchcodec_error = None, error


TOLERANCE = 0.5  # seconds by which a container's word on its duration may exceed its frames


class VideoDecodingError(ValueError):
    """The file can't give the wanted frames; the message names the file, what was expected and what was found."""


def is_video_source(source) -> bool:
    """Whether `open_video` takes it."""
    return isinstance(source, (str, os.PathLike, bytes, bytearray, VideoReader, *_foreign_readers())) or (
        hasattr(source, "read") and hasattr(source, "seek")
    )


def open_video(source, decoder: str = "pyav", size: tuple[int, int] | None = None):
    """
    A reader of `source` (path, URL, bytes, binary file, decord or torchcodec reader) with `num_frames`, `duration`,
    `fps` and `read(indices)`, which returns uint8 RGB frames and their times. The decoder scales the frames to `size`
    (height, width) if given and if it can.
    """
    if decoder not in READERS:
        raise ValueError(f"unknown decoder {decoder!r}, expected one of {', '.join(map(repr, READERS))}")
    if isinstance(source, VideoReader):
        return source
    for reader_class, foreign in zip((DecordReader, TorchCodecReader), _foreign_readers(), strict=False):
        if isinstance(source, foreign):
            return reader_class(source, size)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        try:
            answer = httpx.get(source, follow_redirects=True, timeout=60)
        except httpx.HTTPError as error:
            raise VideoDecodingError(f"{source}: the video can't be fetched: {error}") from error
        if answer.is_error:
            raise VideoDecodingError(f"{source}: expected a video, the server answered {answer.status_code}")
        source = answer.content
    if isinstance(source, (str, os.PathLike)):
        source = os.fspath(source)
        if not os.path.isfile(source):
            raise FileNotFoundError(f"{source}: there is no such video file")
    elif hasattr(source, "read"):
        source.seek(0)
        source = source.read()
    return READERS[decoder](source, size)


def _foreign_readers() -> tuple[type, ...]:
    return (decord.VideoReader if decord else (), torchcodec.VideoDecoder if torchcodec else ())


def _describe(source) -> str:
    if isinstance(source, str):
        return source
    return f"video of {len(source)} bytes" if isinstance(source, (bytes, bytearray)) else type(source).__name__


def _seconds(ticks: int, base: Fraction) -> float:
    return ticks * base.numerator / base.denominator  # the nearest float, which a product of floats is not


def _file(source):
    """A path as it is, bytes as a file of their own."""
    return io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else source


class VideoReader:
    """What all decoders share. Time is the presentation timestamp minus the first one, in seconds."""

    num_frames: int
    duration: float
    fps: float

    def __init__(self, source, size):
        self.name, self.source, self.size = _describe(source), source, size

    def between(self, start: float, end: float) -> np.ndarray:
        """Places of the frames shown from second `start` on and before `end`."""
        times = np.asarray(self._times)
        if len(times) < self.num_frames and end > times[-1]:
            raise VideoDecodingError(
                f"{self.name}: seconds {start:.2f} to {end:.2f} were asked for; the file declares {self.num_frames} "
                f"frames, but ends after {len(times)}, at {times[-1]:.2f} s"
            )
        return np.flatnonzero((times >= start - 1e-6) & (times < end - 1e-6))

    def shown(self, start: float, end: float) -> np.ndarray:
        """Places of the frames to be seen in this span; if it holds none, the last one before, which is still shown."""
        inside = self.between(start, end)
        return inside if len(inside) else self.between(0.0, start)[-1:]

    def read(self, indices) -> tuple[np.ndarray, list[float]]:
        """Frames at these places of the display order, `(frames, height, width, 3)`, and their times in seconds."""
        indices = [int(index) for index in indices]
        for index in indices:
            if not 0 <= index < self.num_frames:
                raise VideoDecodingError(
                    f"{self.name}: frame {index} was asked for, the video has {self.num_frames} frames"
                )
        if not indices:
            raise VideoDecodingError(f"{self.name}: no frame was asked for")
        return self._read(indices)

    @contextmanager
    def _errors_named(self, doing: str):
        try:
            yield
        except VideoDecodingError:
            raise
        except Exception as error:  # the decoders raise types of their own
            raise VideoDecodingError(f"{self.name}: {doing} failed: {type(error).__name__}: {error}") from error


class PyAVReader(VideoReader):
    def __init__(self, source, size):
        if av is None:
            raise ImportError("decoder 'pyav' needs the package av")
        super().__init__(source, size)
        with self._errors_named("reading the video's index"), self._open() as container:
            self._index(container)

    @contextmanager
    def _open(self):
        with av.open(_file(self.source)) as container:
            yield container

    def _stream(self, container):
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:  # the cover of a song
            raise VideoDecodingError(f"{self.name}: the file has no video stream")
        return stream

    def _index(self, container):
        stream = self._stream(container)
        read_packet = packet_reader(stream.codec_context)
        self._packets, durations, self._broken = [], {}, None
        try:
            for packet in container.demux(stream):
                if packet.size:
                    self._packets.append(Packet(packet.pts, *read_packet(packet)))
                    durations[packet.pts] = packet.duration
        except av.FFmpegError as error:
            self._broken = str(error)
        self._hide_undecodable()
        shown = sorted(packet.pts for packet in self._packets if packet.is_shown and packet.pts is not None)
        rate, base = float(stream.average_rate or stream.guessed_rate or 0), stream.time_base
        # AVI has no timestamps of its own, MPEG-4 Part 2 may pack two frames in a packet, raw streams repeat or lack
        # timestamps: there frames are counted in a sequential decode.
        self._is_counted = (
            container.format.name == "avi"
            or stream.codec_context.name == "mpeg4"
            or any(packet.pts is None for packet in self._packets)
            or len(set(shown)) < len(shown)
        )
        if self._is_counted:
            self._times = self._count(rate, base)
            self._shown, last = list(range(len(self._times))), 0
        else:
            self._shown, self._times = shown, [_seconds(pts - shown[0], base) for pts in shown]
            last = _seconds(durations[shown[-1]] or 0, base) if shown else 0
        if not self._times:
            raise VideoDecodingError(f"{self.name}: expected a video, found no frame in it")
        if not last:
            last = 1 / rate if rate or len(self._times) == 1 else self._times[-1] / (len(self._times) - 1)
        self.num_frames, self.duration = len(self._times), round(self._times[-1] + last, 9)
        self.fps = rate or self.num_frames / self.duration
        self._expect_declared(container, stream, _seconds(shown[0], base) if shown else 0.0)

    def _count(self, rate: float, base: Fraction) -> list[float]:
        """The times of all frames that a sequential decode shows."""
        found = []
        with self._open() as container:
            try:
                found.extend(frame.pts for frame in container.decode(self._stream(container)))
            except av.FFmpegError as error:
                self._broken = str(error)
        if found and None not in found and len(set(found)) == len(found):
            return [_seconds(pts - min(found), base) for pts in sorted(found)]
        if found and not rate:
            raise VideoDecodingError(f"{self.name}: the file has neither timestamps nor a frame rate")
        return [index / rate for index in range(len(found))]

    def _expect_declared(self, container, stream, start: float):
        """A file that was cut off still says how long it was: frames behind the cut count, but can't be read."""
        missing, duration = 0, self.duration
        if "mp4" in container.format.name:
            missing = stream.frames - len(self._packets)
            duration = float((stream.duration or 0) * stream.time_base)
        elif "matroska" in container.format.name and "DURATION" in stream.metadata:
            hours, minutes, seconds = map(float, stream.metadata["DURATION"].split(":"))
            duration = 3600 * hours + 60 * minutes + seconds - start
            missing = round((duration - self.duration) * self.fps) if duration - self.duration > TOLERANCE else 0
        if missing > 0:
            self.num_frames, self.duration = self.num_frames + missing, duration
        elif self._broken:
            raise VideoDecodingError(
                f"{self.name}: the video is damaged ({self._broken}) after {self.num_frames} frames, and the file does "
                "not say how many it should have"
            )

    def _hide_undecodable(self):
        """A file cut in mid-stream begins with frames whose references are gone: a decoder doesn't show all of them."""
        first = next((place for place, packet in enumerate(self._packets) if packet.is_key), 0)
        timed = [packet for packet in self._packets if packet.pts is not None]
        doubtful = (
            {packet.pts for packet in timed if packet.pts < self._packets[first].pts} if len(timed) > first else ()
        )
        if first or doubtful:
            decoded = set()
            with self._open() as container:
                for packet in container.demux(self._stream(container)):
                    with suppress(av.FFmpegError):
                        decoded.update(frame.pts for frame in packet.decode())
                    if any(pts is None or pts >= self._packets[first].pts for pts in decoded):
                        break
            for place, packet in enumerate(self._packets):
                if (place < first or packet.pts in doubtful) and packet.pts not in decoded:
                    packet.is_shown = False

    def _read(self, indices):
        wanted = sorted(set(indices))
        available = len(self._shown)
        if wanted[-1] >= available:
            raise VideoDecodingError(
                f"{self.name}: frame {wanted[-1]} was asked for; the file declares {self.num_frames} frames, but ends "
                f"after {available}"
            )
        with self._errors_named("decoding"), self._open() as container:
            decode = self._decode_counting if self._is_counted else self._decode_wanted
            frames = decode(container, wanted)
        missing = [index for index in wanted if index not in frames]
        if missing:
            raise VideoDecodingError(
                f"{self.name}: {len(missing)} of {len(wanted)} wanted frames can't be decoded, the first is frame "
                f"{missing[0]} at {self._times[missing[0]]:.2f} s"
            )
        return np.stack([frames[index] for index in indices]), [self._times[index] for index in indices]

    def _decode_wanted(self, container, wanted):
        stream = self._stream(container)
        codec = stream.codec_context
        codec.thread_count = 1  # the cheapest in CPU; workers decode in parallel
        reformatter, frames = av.video.reformatter.VideoReformatter(), {}
        index_of = {self._shown[index]: index for index in wanted}

        place_of = {packet.pts: place for place, packet in enumerate(self._packets)}
        for start, stop in self._segments(sorted(place_of[pts] for pts in index_of)):
            first, expected = self._packets[start].pts, set()

            def collect(decoded, first=first, expected=expected):
                for frame in decoded:
                    if frame.is_corrupt and frame.pts >= first:
                        raise VideoDecodingError(f"{self.name}: the video is damaged near {self._place(frame.pts)}")
                    expected.discard(frame.pts)
                    if frame.pts in index_of:
                        frames[index_of[frame.pts]] = self._to_rgb(reformatter, frame)

            codec.flush_buffers()
            for packet in self._packets_between(container, stream, start, stop, place_of):
                known = self._packets[place_of[packet.pts]]
                if packet.pts in index_of or not known.is_droppable:
                    # What is shown before the key frame may miss its references; nothing wanted depends on it.
                    if known.is_shown and packet.pts >= first:
                        expected.add(packet.pts)
                    collect(codec.decode(packet))
            collect(codec.decode(None))
            if expected:
                raise VideoDecodingError(f"{self.name}: the video is damaged near {self._place(min(expected))}")
        return frames

    def _place(self, pts: int) -> str:
        return f"{self._times[bisect.bisect_left(self._shown, pts)]:.2f} s"

    def _packets_between(self, container, stream, start, stop, place_of):
        """The packets from place `start` to `stop`, matched by their timestamps: seeking may land before `start`."""
        place = -1
        with suppress(av.FFmpegError):  # raw streams can't be sought in
            container.seek(self._packets[start].pts, stream=stream, backward=True)
            for packet in container.demux(stream):
                place = place_of.get(packet.pts, -1) if packet.size else -1
                if start <= place:
                    break
        if place != start:  # or past it, in containers without an index
            with self._open() as rewound:
                packets = (packet for packet in rewound.demux(self._stream(rewound)) if packet.size)
                yield from itertools.islice(packets, start, stop + 1)
            return
        yield packet
        for packet in container.demux(stream):
            if place == stop:
                return
            if packet.size:
                place += 1
                yield packet

    def _segments(self, places):
        """Spans of packets to decode, each from a key frame to the last wanted frame that depends on it."""
        keys = [place for place, packet in enumerate(self._packets) if packet.is_key]
        segments = []
        for place in places:
            key = bisect.bisect_right(keys, place) - 1
            # A frame shown before its key frame refers to the group before as well.
            while key > 0 and self._packets[keys[key]].pts > self._packets[place].pts:
                key -= 1
            start = keys[max(key, 0)] if keys else 0
            if segments and (segments[-1][0] == start or segments[-1][1] >= start):
                segments[-1][1] = max(segments[-1][1], place)
                segments[-1][0] = min(segments[-1][0], start)
            else:
                segments.append([start, place])
        return segments

    def _decode_counting(self, container, wanted):
        reformatter, frames, last = av.video.reformatter.VideoReformatter(), dict.fromkeys(wanted), wanted[-1]
        for index, frame in enumerate(itertools.islice(container.decode(self._stream(container)), last + 1)):
            if index in frames:
                frames[index] = self._to_rgb(reformatter, frame)
        return {index: frame for index, frame in frames.items() if frame is not None}

    def _to_rgb(self, reformatter, frame):
        height, width = self.size or (frame.height, frame.width)
        return reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC").to_ndarray()


class DecordReader(VideoReader):
    """decord as asked for. It returns wrong frames for HEVC with open groups of pictures, so it isn't the default."""

    def __init__(self, source, size):
        if decord is None:
            raise ImportError("decoder 'decord' needs the package decord, which has wheels for few platforms")
        super().__init__(source, size)
        height, width = size or (-1, -1)
        with self._errors_named("opening with decord"):
            if isinstance(source, decord.VideoReader):
                self._reader = source
            else:
                self._reader = decord.VideoReader(_file(source), width=width, height=height, num_threads=1)
            spans = self._reader.get_frame_timestamp(list(range(len(self._reader)))).astype(float)
        self._times = (spans[:, 0] - spans[0, 0]).tolist()
        self.num_frames, self.fps = len(spans), float(self._reader.get_avg_fps())
        self.duration = float(spans[-1, 1] - spans[0, 0])

    def _read(self, indices):
        with self._errors_named("decoding with decord"):
            frames = self._reader.get_batch(indices).asnumpy()
        return frames, [self._times[index] for index in indices]


class TorchCodecReader(VideoReader):
    """torchcodec in its exact seek mode (the approximate one returned wrong frames for variable frame rates)."""

    def __init__(self, source, size):
        if torchcodec is None:
            raise ImportError(f"decoder 'torchcodec' can't be loaded: {_torchcodec_error}")
        super().__init__(source, size)
        with self._errors_named("opening with torchcodec"):
            if isinstance(source, torchcodec.VideoDecoder):
                self._reader = source
            else:
                self._reader = torchcodec.VideoDecoder(_file(source), seek_mode="exact")
        metadata = self._reader.metadata
        self._start = float(metadata.begin_stream_seconds)
        self.num_frames, self.fps = metadata.num_frames, float(metadata.average_fps)
        self.duration = float(metadata.end_stream_seconds) - self._start

    def between(self, start, end):
        raise VideoDecodingError(f"{self.name}: torchcodec has no list of frame times; use decoder 'pyav' or 'decord'")

    def _read(self, indices):
        with self._errors_named("decoding with torchcodec"):
            batch = self._reader.get_frames_at(indices)
        frames = batch.data if batch.data.shape[-1] == 3 else batch.data.permute(0, 2, 3, 1)
        return frames.cpu().numpy(), (batch.pts_seconds - self._start).tolist()


READERS = {"pyav": PyAVReader, "decord": DecordReader, "torchcodec": TorchCodecReader}
