"""Real videos whose pixels say which frame they are, in the codecs and containers that users bring."""

from fractions import Fraction

import av
import numpy as np


COLUMNS, ROWS = 4, 3  # twelve black or white blocks say a number below 4096


def _block(bit: int, height: int, width: int, margin: int) -> tuple[slice, slice]:
    row, column = divmod(bit, COLUMNS)
    high, wide = height // ROWS, width // COLUMNS
    return (
        slice(row * high + margin, (row + 1) * high - margin),
        slice(column * wide + margin, (column + 1) * wide - margin),
    )


def numbered_frame(number: int, height: int, width: int) -> np.ndarray:
    """A moving grey background and the frame's number in blocks."""
    y, x = np.mgrid[:height, :width]
    grey = 96 + 48 * np.sin((x + 3 * number) / 17) * np.cos((y - 2 * number) / 13)
    for bit in range(COLUMNS * ROWS):
        grey[_block(bit, height, width, 4)] = 255 if number >> bit & 1 else 0
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    blocks = (frame[_block(bit, *frame.shape[:2], 10)].mean() > 127 for bit in range(COLUMNS * ROWS))
    return sum(int(white) << bit for bit, white in enumerate(blocks))


def write_video(path, num_frames=120, *, codec="libx264", fps=25, options=None, times=None, size=(96, 128)):
    """Encodes numbered frames; `times` in milliseconds gives each its own timestamp (variable frame rate)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def with_index_in_front(path, target):
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return target.read_bytes()
