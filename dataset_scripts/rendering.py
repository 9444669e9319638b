"""Clip sequences as mp4 files to look at, with their answers as subtitles."""

from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from modeling_seq2time.time_notation import render

from .card import configs
from .files import atomic_writer, replacing
from .media import SAME_BYTES
from .parallel import each
from .samples import Samples, shown_at


FPS = 10
SIZE = (320, 240)


def render_sequences(folder: Path, split: str, count: int, folders: dict[str, Path], num_proc: int):
    """Writes the first `count` dense-captioning sequences (else grounding ones) to `folder/rendered`."""
    found = [config for config in ("dense_captioning", "grounding") if split in configs(folder).get(config, {})]
    samples = Samples.load(str(folder), found[0], split, folders)
    numbers = list(range(min(count, len(samples))))
    work = each(partial(_render, samples, folder / "rendered"), numbers, num_proc)
    for _ in tqdm(work, desc="rendering", total=len(numbers), disable=None):
        pass
    print(f"{folder / 'rendered'}: {len(numbers)} videos")


def _render(samples: Samples, folder: Path, number: int):
    record = samples.records[number]
    rows = samples.pool[[clip["clip"] for clip in record["sequence"]]]
    with (
        replacing(folder / f"{record['id']}.mp4") as part,
        av.open(str(part), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libx264", rate=FPS, options=SAME_BYTES)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        cues, edge, shown = [], 0.0, 0
        for place, clip in enumerate(record["sequence"]):
            end = edge + rows["duration"][place] * clip["rate"]
            times = np.arange(shown, round(end * FPS)) / FPS
            if len(times):
                for frame in shown_at(
                    samples.path(rows, place), rows["start"][place] + np.maximum(times - edge, 0) / clip["rate"]
                ):
                    picture = ImageOps.pad(Image.fromarray(frame), SIZE)
                    container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            cues.append(f"{_clock(edge)} --> {_clock(end)}\n{rows['caption'][place]}\n")
            edge, shown = end, round(end * FPS)
        container.mux(stream.encode())
    with atomic_writer(folder / f"{record['id']}.vtt") as lines:
        lines.write("WEBVTT\n\n" + "\n".join(cues))
    with atomic_writer(folder / f"{record['id']}.txt") as lines:
        lines.writelines(f"{message['role']}: {render(message['content'], 'text')}\n" for message in record["messages"])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(seconds, 60)
    return f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}:{seconds:06.3f}"
