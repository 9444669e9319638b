"""
python -m train.parts --output runs/mini/base

Trains the mini base from scratch on pictures and frames of films of the miniworld: what stands in for EVA-CLIP,
InstructBLIP, Video-LLaMA's video Q-Former and LLaMA, on which Seq2Time builds. One after the other:

- language: the language model reads a picture as one token; it notes down what is there and when, and looks up in lists
  what is there by its time, its time by what is there, and when a thing that does something came and went, as LLaMA can
  in a text.
- sight: the vision tower tells, patch by patch, which words a picture's description has.
- frames: Q-Formers and projector hand on each frame as the token that the language model reads.
- motion: so that it also says what is done, as far as a window tells, a video Q-Former and a projector learn anew, from
  frames of films, as Video-LLaMA's have seen clips.
- speech: the language model goes on, above all with what is to be said in words; their embeddings stay.

So it was never asked about more than the frames of a window, and has no time tokens. The language model has read
of all pairs of colour and shape, as LLaMA has of everything; no other part was shown one of the test split. Parts that
are finished are kept when the command is given again.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from dataset_scripts.command import run
from dataset_scripts.files import atomic_writer, replacing
from dataset_scripts.items import DataError

from .asking import corpus
from .fitting import in_bfloat16
from .frames import learn_frames
from .language import learn_language
from .lists import draw_films
from .model import make_model
from .motion import learn_motion
from .sight import Album, learn_sight
from .speech import learn_speech
from .views import PAIRS, UNSEEN, View, draw_views


PARTS = {  # what each part trains
    "language": ("model.language_model.", "lm_head."),
    "sight": ("model.vision_tower.",),
    "frames": ("model.image_qformer.", "model.video_qformer.", "model.projector."),
    "motion": ("model.video_qformer.", "model.projector."),
    "speech": ("model.language_model.", "lm_head."),
}
STEPS = {"language": 2200, "sight": 4500, "frames": 900, "motion": 1500, "speech": 2000}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    parser.add_argument(
        "--pictures", type=int, default=40_000, help="that are painted of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--film-frames", type=int, default=60_000, help="that are painted of each kind (default: %(default)s)"
    )
    for name, count in STEPS.items():
        parser.add_argument(f"--{name}-steps", type=int, default=count, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bf16", action="store_true", help="multiply matrices in bfloat16: faster where the processor does (AMX)"
    )
    args = parser.parse_args(arguments)
    if args.output.exists():
        raise DataError(f"{args.output}: expected a folder that isn't there yet")
    for name in ("pictures", "film_frames"):
        if (count := getattr(args, name)) < 200:
            raise DataError(f"--{name.replace('_', '-')}: expected at least 200, found {count}")

    finished = args.output.with_name(f".{args.output.name}.parts")
    settings = {name: value for name, value in vars(args).items() if name != "output"}
    took = _claim(finished / "settings.json", settings)
    model, processor = make_model(corpus(), args.seed)
    model.train()
    for number, name in enumerate(STEPS):
        file = finished / f"{name}.safetensors"
        if file.is_file():
            model.load_state_dict(load_file(file), strict=False)
            continue
        steps, rng, began = getattr(args, f"{name}_steps"), np.random.default_rng([args.seed, number]), time.time()
        torch.manual_seed(args.seed)  # whatever was learned before in this process
        with in_bfloat16(model, args.bf16):
            if name in ("language", "speech"):
                learn = learn_language if name == "language" else learn_speech
                learn(model, processor, steps, rng)
            elif name == "motion":
                films = _albums(model, processor, draw_films, args.seed + 3, args.film_frames)
                learn_motion(model, processor, films, steps, rng)
            else:
                pictures = _albums(model, processor, draw_views, args.seed, args.pictures)
                learn = learn_sight if name == "sight" else learn_frames
                learn(model, processor, pictures, steps, rng)
        with replacing(file) as new:
            own = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith(PARTS[name])}
            save_file(own, new)
        took |= {name: round(time.time() - began)}
        _note(finished / "settings.json", settings, took)
    with replacing(args.output) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)
        facts = settings | {"seconds": took, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
        (new / "parts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(finished)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    print(f"{args.output}: {model.num_parameters():,} parameters, {size / 1e6:.1f} MB")


def _albums(model, processor, draw: Callable[..., list[View]], seed: int, count: int) -> Iterator[Album]:
    """Of things in the colours that captions name, of such in any colour, and, to ask about, of the test split's."""
    patch = model.config.vision_config.patch_size
    for number, kind in enumerate(((count, PAIRS, False), (count, PAIRS, True), (min(count, 1000), UNSEEN, False))):
        views = draw(np.random.default_rng([seed + number, 8]), *kind)
        yield Album(processor, patch, seed + number, views)


def _claim(path: Path, settings: dict) -> dict[str, int]:
    """Seconds that finished parts took. Those that were finished with other settings are none of this run's."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"settings": settings, "seconds": {}}
    if known["settings"] != settings:
        raise DataError(
            f"{path.parent} holds parts of {known['settings']}, not of {settings}; remove it, or give those settings"
        )
    _note(path, **known)
    return known["seconds"]


def _note(path: Path, settings: dict, seconds: dict[str, int]):
    with atomic_writer(path) as lines:
        lines.write(json.dumps({"settings": settings, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # for the whole process, which is this command's own
    run(main)
