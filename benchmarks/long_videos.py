"""
Peak memory of grounding in windows, for a long video relative to a short one; each in a process of its own.

    python -m benchmarks.long_videos [--minutes 5 30]

A tiny model with random weights, so that frames, packets and windows are what can be seen.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.decoding import render
from examples.make_tiny_model import make_tiny_model


def measure(path: str):
    """Prints peak memory in MB before and after, and the seconds that it took."""
    torch.set_num_threads(1)
    model, processor = make_tiny_model("timechat")
    model.ground(processor, path, "a block", search_steps=16)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    model.ground(processor, path, "a block", window=60.0, search_steps=16)
    print(before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 30])
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.cache"), help="where rendered videos are kept")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure)
    args.cache.mkdir(parents=True, exist_ok=True)
    first = None
    print("| video | peak MB, whole video at once | peak MB, windows of a minute | relative to the first | seconds |")
    print("|---|---|---|---|---|")
    for minutes in args.minutes:
        path = render(args.cache / f"h264_{60 * minutes}s.mp4", 60 * minutes)
        command = [sys.executable, "-m", "benchmarks.long_videos", "--measure", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, peak, seconds = map(float, done.stdout.split())
        first = first or peak
        print(f"| {minutes} min | {before:.0f} | {peak:.0f} | {peak / first:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
