"""
CPU time of training steps with kept features of the vision tower, relative to decoding and encoding in the same run.

    python -m benchmarks.features [--repeats 7]

A step is all of it: a batch of 16 is read and prepared, then forward, loss, backward. The model is the mini base, whose
tower is small: this says nothing of TimeChat's.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from tqdm import tqdm

from dataset_scripts import annotated_videos, image_sequences
from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from train.collator import Collator
from train.features import fingerprint, keep_features, patches_of
from train.mixture import Mixture
from train.recipe import Source


BASE, BATCH = "examples/seq2time-mini-base", 16
KINDS = {"image sequences": ["iig", "iic", "alr"], "videos": ["video_dense_captioning", "video_grounding"]}


def build(folder: Path):
    common = ["--source", "miniworld?pictures=400&clips=0&videos=30", "--output", str(folder)]
    pools = ["--sequence-length", "32", "--shared-pool", "40", "--questions", "8", "--max-targets", "1"]
    if not (folder / "image_sequences.train.json").exists():
        image_sequences.main([*common, "--num-instances", "160", *pools])
    if not (folder / "annotated_videos.train.json").exists():
        annotated_videos.main(common)


def step(model, mixture: Mixture, rows: range, collator: Collator, features: list) -> float:
    for samples, kept in zip(mixture.sets, features, strict=True):
        samples.features = kept
    began = time.process_time()
    model(**collator([{"epoch": 0, **mixture.rows[row]} for row in rows]), use_cache=False).loss.backward()
    spent = time.process_time() - began
    model.zero_grad()
    return spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.cache"), help="for what is built and kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    build(args.cache / "features-data")
    model, processor = Seq2TimeForConditionalGeneration.from_pretrained(BASE), Seq2TimeProcessor.from_pretrained(BASE)
    tower = model.model.vision_tower
    print("| steps of | from files | with kept features | ratio |\n|---|---|---|---|")
    for kind, tasks in KINDS.items():
        mixture = Mixture.load([Source(str(args.cache / "features-data"), tasks)], processor, "uniform", seed=0)
        batches = [range(first, first + BATCH) for first in range(0, BATCH * args.repeats, BATCH)]
        keep_features(mixture, tower, fingerprint(tower), processor, args.cache / "features", "stop", model.device)
        ways = [
            (Collator(processor, mixture.sets, crop=False), [None] * len(mixture.sets)),
            (
                Collator(processor, mixture.sets, crop=False, patches=patches_of(model.config)),
                [one.features for one in mixture.sets],
            ),
        ]
        step(model, mixture, batches[0], *ways[0])
        seconds = [[step(model, mixture, batch, *way) for way in ways] for batch in tqdm(batches, disable=None)]
        before, after = map(statistics.median, zip(*seconds, strict=True))
        print(f"| {kind} | {before:.2f} s | {after:.2f} s | {after / before:.2f} |", flush=True)


if __name__ == "__main__":
    main()
