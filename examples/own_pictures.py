"""
python -m examples.own_pictures --pictures FOLDER --output DIR

Builds image sequences of your own pictures. FOLDER holds them and one file, `captions.jsonl`, a line for each:
{"file": "a.jpg", "caption": "a red kite over a beach"}.
"""

import argparse

from datasets import load_dataset

from dataset_scripts import image_sequences
from dataset_scripts.command import run
from dataset_scripts.samples import Samples
from modeling_seq2time.time_notation import render


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", required=True, metavar="FOLDER")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--length", default="16", help="pictures of a sequence (%(default)s; the paper has 96)")
    parser.add_argument("--instances", default="300", help="sequences (%(default)s)")
    args = parser.parse_args(arguments)

    built = ["--source", f"folder={args.pictures}", "--output", args.output, "--sequence-length", args.length]
    image_sequences.main([*built, "--num-instances", args.instances])

    records = load_dataset(args.output, "iig", split="train")  # as anybody loads it, from here or from the Hub
    print(records)
    for message in records[0]["messages"]:
        print(f"{message['role']:>9}: {render(message['content'], 'rpt')}")

    samples = Samples.load(args.output, "iig", folders={"folder": args.pictures})  # with the pictures themselves
    print(f"its pictures: {len(samples[0]['frames'])}, the first {samples[0]['frames'][0].size}")


if __name__ == "__main__":
    run(main)
