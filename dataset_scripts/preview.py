"""
python -m dataset_scripts.preview DIR CONFIG [--number 0] --output sheet.png

Draws one record: a contact sheet of its sequence with numbered pictures, targets framed, and its questions and answers
below.
"""

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from modeling_seq2time.time_notation import NOTATIONS, render

from .building import media_folders
from .command import run
from .files import replacing
from .items import DataError
from .record import IMAGE_TASKS, TEXT_TASKS
from .samples import Samples


COLUMNS, THUMB, GAP = 12, 96, 4
INK, PAPER, QUIET = "#1b1b1b", "#ffffff", "#8a8a8a"
FRAMES = ("#d1495b", "#00798c", "#edae49", "#6a4c93")  # in turn, so that events that touch can be told apart


def contact_sheet(sample: dict, notation: str = "text") -> Image.Image:
    """The sample as a picture."""
    frames = [frame if isinstance(frame, Image.Image) else Image.fromarray(frame) for frame in sample["frames"]]
    is_image, is_text = sample["task"] in IMAGE_TASKS, sample["task"] in TEXT_TASKS
    names = [str(place) for place in range(1, len(frames) + 1)]
    marked = dict.fromkeys(sample["targets"], FRAMES[0]) if is_image else {}
    if not is_image and not is_text:
        times, length = sample["metadata"]["times"], sample["metadata"]["duration"]
        names = [f"{time:.1f}" for time in times]
        spans = [(target["start"] * length, target["end"] * length) for target in sample["targets"]]
        for number, (start, end) in enumerate(spans):
            inside = [place for place, time in enumerate(times, 1) if start <= time < end]
            marked |= dict.fromkeys(inside, FRAMES[number % len(FRAMES)])
    width = COLUMNS * (THUMB + GAP) + GAP
    label, font, small = 14, ImageFont.load_default(15), ImageFont.load_default(11)
    rows = -(-len(frames) // COLUMNS)
    lines = [f"{sample['id']} · {sample['source']} · group {sample['group']}", ""]
    for message in sample["messages"]:
        text = f"{message['role']}: {render(message['content'], notation)}"
        lines += [part for line in text.split("\n") for part in textwrap.wrap(line, 170) or [""]] + [""]
    sheet = Image.new("RGB", (width, rows * (THUMB + label + GAP) + GAP + 20 * len(lines) + 12), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (frame, name) in enumerate(zip(frames, names, strict=True)):
        x = GAP + place % COLUMNS * (THUMB + GAP)
        y = GAP + place // COLUMNS * (THUMB + label + GAP)
        sheet.paste(ImageOps.pad(frame.convert("RGB"), (THUMB, THUMB), color="#efefef"), (x, y))
        colour = marked.get(place + 1)
        if colour:
            pen.rectangle((x, y, x + THUMB - 1, y + THUMB - 1), outline=colour, width=3)
        pen.text((x + THUMB / 2, y + THUMB + 1), name, fill=colour or QUIET, font=small, anchor="ma")
    y = rows * (THUMB + label + GAP) + GAP + 8
    for line in lines:
        pen.text((GAP + 4, y), line, fill=INK, font=font)
        y += 20
    return sheet


def main(arguments: list[str] | None = None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("set", help="folder or repository of the set")
    options.add_argument("config", help="iig, iic, alr, dense_captioning, grounding, …")
    options.add_argument("--number", type=int, default=0)
    options.add_argument("--split", default="train")
    options.add_argument("--media", action="append", default=[], metavar="NAME=DIR", help="where a source's media lie")
    options.add_argument("--notation", default="text", choices=sorted(NOTATIONS))
    options.add_argument("--output", type=Path, required=True, help="PNG to write")
    args = options.parse_args(arguments)
    samples = Samples.load(args.set, args.config, args.split, media_folders(args.media))
    if not 0 <= args.number < len(samples):
        raise DataError(f"--number {args.number}: {args.config} has records 0 to {len(samples) - 1}")
    sheet = contact_sheet(samples[args.number], args.notation)
    with replacing(args.output) as part:
        sheet.save(part, format="PNG")
    print(args.output)


if __name__ == "__main__":
    run(main)
