"""
CPU of decoding 96 uniform frames at 224 x 224, relative to decord with one thread on the same file in the same run.

    python -m benchmarks.decoding [--seconds 60 600] [--decoders pyav decord torchcodec]

The videos are rendered here with fixed encoder settings (x264's defaults: about half the packets are B frames that no
other frame refers to, which is what the PyAV reader saves), so that the ratio means the same everywhere.
"""

import argparse
import statistics
import time
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from modeling_seq2time.video_decoding import open_video
from modeling_seq2time.video_processing_seq2time import uniform_indices


FPS, SIZE = 30, (360, 480)
OPTIONS = {"preset": "medium", "crf": "23", "x264-params": "keyint=250:bframes=3:b-pyramid=normal:b-adapt=1:threads=2"}


def render(path: Path, seconds: int) -> Path:
    """A panning texture with moving blocks; some motion everywhere, as in filmed video."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (SIZE[0] // 8, SIZE[1] // 2, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    partial = path.with_suffix(".part.mp4")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=OPTIONS)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in tqdm(range(seconds * FPS), desc=f"rendering {path.name}", leave=False):
            left = number * 2 % (texture.shape[1] - SIZE[1])
            picture = texture[:, left : left + SIZE[1]].copy()
            picture[100:180, number * 3 % (SIZE[1] - 80) :][:, :80] = number % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    partial.rename(path)
    return path


def cpu_seconds(path: Path, decoder: str) -> float:
    start = time.process_time()
    video = open_video(path, decoder, size=(224, 224))
    video.read(uniform_indices(video.num_frames, 96))
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 600], help="lengths of the videos")
    parser.add_argument("--decoders", nargs="+", default=["pyav", "decord"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.cache"), help="where rendered videos are kept")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    decoders = list(dict.fromkeys([*args.decoders, "decord"]))
    print("| video | " + " | ".join(f"{decoder} / decord" for decoder in decoders) + " | decord, CPU s |")
    print("|---|" + "---|" * (len(decoders) + 1))
    for seconds in args.seconds:
        path = render(args.cache / f"h264_{seconds}s.mp4", seconds)
        times = {decoder: [] for decoder in decoders}
        for _ in range(args.repeats):  # interleaved, so that a busy machine touches all alike
            for decoder in decoders:
                times[decoder].append(cpu_seconds(path, decoder))
        medians = {decoder: statistics.median(values) for decoder, values in times.items()}
        ratios = " | ".join(f"{medians[decoder] / medians['decord']:.2f}" for decoder in decoders)
        print(f"| H.264, {seconds} s | {ratios} | {medians['decord']:.2f} |")


if __name__ == "__main__":
    main()
