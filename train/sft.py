"""
accelerate launch -m train.sft train/recipes/RECIPE.yaml [key=value …] [--plan] [--push-to-hub]

Trains what a recipe says with TRL's SFTTrainer: both phases of Seq2Time, its baselines, fine-tunes. Keys are the
recipe's own and those of TRL's SFTConfig. A run that was stopped goes on where it was when the same command is given
again. --plan says what it takes, and trains nothing.
"""

import os


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL counts its users otherwise

import argparse
import subprocess
import sys
from pathlib import Path

from accelerate import PartialState
from transformers.trainer_utils import get_last_checkpoint, set_seed
from trl import SFTConfig

from dataset_scripts.command import run
from dataset_scripts.items import DataError

from .adapter import load_for_training, parameter_report, prepare_base
from .card import describe, publish, write_card
from .collator import Collator
from .mixture import Mixture
from .recipe import Recipe, claim, read_recipe
from .trainer import SKIPPED, SequenceTrainer
from .watching import HeldOutQuestions


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the recipe's")
    parser.add_argument("--plan", action="store_true", help="parameters, FLOPs, memory and hours; nothing is trained")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the merged model with its card")
    return parser.parse_args(arguments)


def prepare(recipe: Recipe):
    """Makes what isn't there, by the recipe's commands."""
    for path, command in recipe.prepare.items():
        if not Path(path).exists():
            module, *arguments = command.split()
            print(f"{path}: python -m {command}")
            done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
            if done.returncode or not Path(path).exists():
                raise DataError(
                    f"prepare, {path}: `python -m {command}` didn't make it, it ended with {done.returncode}"
                )


def load(recipe: Recipe, args: SFTConfig, state: PartialState):
    """Model, processor, mixture and what is told about them; the first process makes what the others then find."""
    with state.main_process_first():
        base = prepare_base(recipe, Path(args.output_dir))
    set_seed(args.seed)  # LoRA starts at random
    model, processor = load_for_training(recipe, base, state.device)
    with state.main_process_first():
        mixture = Mixture.load(recipe.data, processor, recipe.sampling, args.seed, args.dataset_num_proc)
    fitting, long = mixture.without_long(args.max_length or sys.maxsize)
    if long and recipe.on_long == "stop":
        raise DataError(
            f"{len(long):,} samples are longer than max_length={args.max_length}, such as {', '.join(long[:3])}; a "
            "larger max_length takes them, on_long=skip leaves them out"
        )
    if len(fitting.rows) < (size := SequenceTrainer.update_size(args)):
        raise DataError(
            f"expected at least one update of {size} samples, found {len(fitting.rows)}, and {len(long)} that are "
            f"longer than max_length={args.max_length}"
        )
    reports = [parameter_report(model), fitting.report()]
    if long:
        reports.append(f"left out, as they are longer than {args.max_length} tokens: {len(long):,}")
    if state.is_main_process:
        print("\n\n".join(reports), flush=True)
    return model, processor, fitting, reports


def main(arguments: list[str] | None = None):
    options = parse_arguments(arguments)
    recipe, settings = read_recipe(options.recipe, options.overrides)
    args, state = SFTConfig(**settings), PartialState()
    if recipe.dtype != "float32" and not (args.bf16 or args.fp16):
        raise DataError(f"dtype: {recipe.dtype} needs bf16: true or fp16: true, found neither")
    with state.main_process_first():
        if state.is_main_process:
            prepare(recipe)
            claim(Path(args.output_dir), recipe, settings, SequenceTrainer.update_size(args))

    model, processor, mixture, reports = load(recipe, args, state)
    trainer = SequenceTrainer(
        model=model,
        args=args,
        mixture=mixture,
        data_collator=Collator(
            processor,
            mixture.sets,
            args.seed,
            args.max_length,
            recipe.crop,
            recipe.crop_images,
            recipe.on_problem,
            recipe.on_long,
        ),
        processing_class=processor,
        max_loss=recipe.max_loss,
        held_out=HeldOutQuestions(recipe.held_out, processor) if recipe.held_out else None,
    )
    result = trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir))
    trainer.save_model()
    state.wait_for_everyone()
    if state.is_main_process:
        finish(args, reports, result.metrics["train_runtime"], state, options.push_to_hub)


def finish(args: SFTConfig, reports: list[str], seconds: float, state: PartialState, repository: str | None):
    """The card of what was trained, and its upload."""
    folder = Path(args.output_dir)
    (folder / "training_args.bin").unlink()  # a pickle, with paths of this machine
    description = describe(folder, reports, seconds, state.num_processes)
    write_card(
        folder, "An adapter that `train.sft` trained; `train.adapter merge` joins it with its base.\n", description
    )
    skipped = folder / SKIPPED
    if skipped.exists():
        unique = set(skipped.read_text(encoding="utf-8").splitlines())
        print(f"skipped {len(unique):,} samples, see {skipped}")
    print(f"{folder}: adapter and card")
    if repository:
        publish(folder, repository, description, args.hub_private_repo)
        print(f"{repository}: uploaded")


if __name__ == "__main__":
    run(main)
