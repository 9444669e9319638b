"""Real videos whose pixels say which frame they are, in the codecs and containers that users bring."""

import av
import numpy as np

BITS = 12


def numbered_frame(number: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A moving grey background and the frame's number as twelve black or white blocks."""
    y, x = np.mgrid[:height, :width]
    background = 96 + 48 * np.sin((x + 3 * number) / 17) * np.cos((y - 2 * number) / 13)
    frame = np.repeat(background[:, :, None], 3, axis=2)
    block_height, block_width = height // 3, width // 4
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        value = 255 if number >> bit & 1 else 0
        frame[
            row * block_height + 4 : (row + 1) * block_height - 4, column * block_width + 4 : (column + 1) * block_width - 4
        ] = value
    return frame.astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    height, width = frame.shape[0] // 3, frame.shape[1] // 4
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        centre = frame[row * height + height // 2 - 3 : row * height + height // 2 + 3]
        centre = centre[:, column * width + width // 2 - 3 : column * width + width // 2 + 3]
        number |= int(centre.mean() > 127) << bit
    return number


def write_video(path, num_frames=120, codec="libx264", fps=25, options=None, times=None, size=(96, 128), **stream):
    """Encodes numbered frames; `times` in milliseconds gives each its own timestamp (variable frame rate)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=options or {})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        for name, value in stream.items():
            setattr(video.codec_context, name, value)
        if times is not None:
            from fractions import Fraction

            video.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], video.codec_context.time_base
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path
