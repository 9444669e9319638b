"""
python examples/render_video.py --output video.mp4

Renders a short film of coloured shapes (real H.264, uneven events) and prints when each event happens.
"""

import argparse
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw


EVENTS = [  # seconds, what happens
    (6.0, "a blue square stands still", ("square", "royalblue", False)),
    (4.5, "a red circle crosses the picture", ("circle", "crimson", True)),
    (9.5, "a green square crosses the picture", ("square", "seagreen", True)),
]


def draw(shape: str, colour: str, moves: bool, progress: float, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    picture = Image.new("RGB", (width, height), "whitesmoke")
    radius = height // 5
    x = radius + (width - 2 * radius) * progress if moves else width / 2
    box = (x - radius, height / 2 - radius, x + radius, height / 2 + radius)
    pen = ImageDraw.Draw(picture)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
    return np.asarray(picture)


def render(path: Path, fps: int = 12, size: tuple[int, int] = (180, 240)) -> list[tuple[float, float, str]]:
    """Writes the film and returns its events as (start, end, text)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    events, start = [], 0.0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for seconds, text, look in EVENTS:
            frames = round(seconds * fps)
            for number in range(frames):
                picture = draw(*look, number / frames, size)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            events.append((start, start + seconds, text))
            start += seconds
        container.mux(stream.encode())
    return events


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="mp4 to write")
    args = parser.parse_args()
    print(f"{args.output}:")
    for start, end, text in render(args.output):
        print(f"  {start:5.1f} – {end:4.1f} s  {text}")


if __name__ == "__main__":
    main()
