"""Small sources in the formats that users have: pictures, clips and videos whose content says which they are."""

import json
from pathlib import Path

import av
import numpy as np
from PIL import Image


ACTIONS = ("abseiling", "baking cookies", "clay pottery", "drop kicking", "egg hunting", "fencing")


def colour(number: int) -> tuple[int, int, int]:
    """Of picture or clip `number`, told apart after JPEG and H.264."""
    return (40 + number % 6 * 40, 40 + number // 6 % 6 * 40, 40 + number // 36 % 6 * 40)


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pictures(folder: Path, count: int, caption="The image shows thing {}. It stands there.") -> Path:
    """`captions.jsonl` beside plain pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (24, 16), colour(number)).save(folder / f"{number}.png")
    rows = [{"file": f"{number}.png", "caption": caption.format(number)} for number in range(count)]
    write_lines(folder / "captions.jsonl", rows)
    return folder


def write_clip(path: Path, number: int, seconds: float, fps: int = 10, size=(48, 64)) -> Path:
    """One plain colour for so many seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = np.broadcast_to(np.array(colour(number), dtype=np.uint8), (*size, 3)).copy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(round(seconds * fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_clips(folder: Path, count: int = 12) -> Path:
    """Clips of six classes, 1.0 to 2.1 seconds long."""
    rows = []
    for number in range(count):
        write_clip(folder / f"{number}.mp4", number, 1.0 + number % 12 / 10)
        label = ACTIONS[number % len(ACTIONS)]
        rows.append({"file": f"{number}.mp4", "label": label, "caption": f"Someone is {label}, take {number}."})
    write_lines(folder / "captions.jsonl", rows)
    return folder


def is_colour(frame, number: int) -> bool:
    """Whether a frame shows clip or picture `number`."""
    return bool(np.abs(np.asarray(frame, dtype=float).mean((0, 1)) - colour(number)).max() < 12)
