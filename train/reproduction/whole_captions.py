"""
python -m train.reproduction.whole_captions WORLD/videos --skip 80 --output FILE

Captions of whole videos (the paper's MC, from ShareGPT4Video): of each training video of a mini world what happens, one
thing after the other, without a time. Written as ShareGPT4Video's file, so that its reader makes dialogues of it.
"""

import argparse
import json
from pathlib import Path

from dataset_scripts.command import run
from dataset_scripts.fields import read_jsonl
from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError, Problems


def caption(events: list[dict]) -> str:
    first, *others = [event["caption"] for event in sorted(events, key=lambda event: event["start"])]
    return " ".join([f"First, {first}.", *(f"Then {one}." for one in others)])


def write(world: Path, skip: int, output: Path) -> int:
    rows = [row for _, row in read_jsonl(world / "captions.jsonl", Problems()) if row["split"] == "train"][skip:]
    if not rows:
        raise DataError(f"{world}: expected more than the {skip} training videos that are skipped, found none")
    with atomic_writer(output) as lines:
        for row in rows:
            captions = [{"idx": "-1", "content": caption(row["events"])}]
            line = {"video_id": Path(row["file"]).stem, "video_path": row["file"], "captions": captions}
            lines.write(json.dumps(line) + "\n")
    return len(rows)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="folder of a mini world's videos")
    parser.add_argument("--skip", type=int, default=0, help="training videos, which others show with their times")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(arguments)
    print(f"{args.output}: captions of {write(args.world, args.skip, args.output)} whole videos")


if __name__ == "__main__":
    run(main)
