"""
python -m examples.fine_tune --videos FOLDER --output DIR

Trains a model on your own annotated videos and asks it afterwards. FOLDER holds them and one file, `captions.jsonl`:
{"file": "a.mp4", "events": [{"start": 3.5, "end": 9.0, "caption": "a door opens"}]}, a line for each.
"""

import argparse
import json
from pathlib import Path

import torch
import yaml

from dataset_scripts import annotated_videos
from dataset_scripts.command import run
from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from train import adapter, sft


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default="examples/seq2time-mini-base", help="to start from (%(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="updates of 8 samples (%(default)s)")
    args = parser.parse_args(arguments)

    data = str(args.output / "data")
    annotated_videos.main(["--source", f"folder={args.videos}", "--output", data])

    recipe = {  # what isn't said is TimeChat's; all keys: train/recipe.py, and those of TRL's SFTConfig
        "model": args.model,
        "time_notation": "rpt",
        "data": [{"path": data, "folders": {"folder": str(args.videos)}}],
        "output_dir": str(args.output / "run"),
        "max_steps": args.steps,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-4,
        "dtype": "float32",  # on a GPU leave out this line and those below
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "report_to": "none",
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    sft.main([str(args.output / "recipe.yaml")])  # on several GPUs: accelerate launch -m train.sft recipe.yaml
    adapter.merge(args.output / "run", args.output / "model")

    model = Seq2TimeForConditionalGeneration.from_pretrained(args.output / "model").eval()
    processor = Seq2TimeProcessor.from_pretrained(args.output / "model")
    with open(args.videos / "captions.jsonl", encoding="utf-8") as lines:
        video = json.loads(next(lines))
    for event in video["events"]:
        (moment,) = model.ground(processor, str(args.videos / video["file"]), event["caption"])
        print(f"{event['caption']}: {moment.start:.1f} – {moment.end:.1f} s, is {event['start']} – {event['end']} s")


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # for the whole process, this command's own: on CPUs they cost much of its time
    run(main)
