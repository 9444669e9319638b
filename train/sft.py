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
from accelerate.utils import gather_object
from transformers.trainer_utils import get_last_checkpoint, set_seed
from trl import SFTConfig

from dataset_scripts.command import run
from dataset_scripts.items import DataError

from .adapter import load_for_training, parameter_report, prepare_base
from .bill import bill
from .card import describe, publish, write_card
from .collator import Collator
from .mixture import Mixture
from .plan import SHARDINGS
from .recipe import Recipe, as_run, claim, read_recipe
from .sharding import unsplit
from .trainer import SKIPPED, SequenceTrainer
from .watching import HeldOutQuestions


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the recipe's")
    parser.add_argument("--plan", action="store_true", help="parameters, FLOPs, memory and hours; nothing is trained")
    parser.add_argument("--gpus", default="8xA100", help="of the plan (default: %(default)s)")
    parser.add_argument("--sharding", default="ddp", choices=SHARDINGS, help="of the plan (default: %(default)s)")
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
    with state.main_process_first(), unsplit(args):
        base = prepare_base(recipe, Path(args.output_dir))
    set_seed(args.seed)  # LoRA starts at random
    model, processor = load_for_training(recipe, base, state.device)
    with state.main_process_first():
        mixture = Mixture.load(
            recipe.data,
            processor,
            recipe.sampling,
            args.seed,
            args.dataset_num_proc,
            recipe.on_problem,
            recipe.share_videos,
        )
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
    if options.plan:
        print(bill(recipe, settings, options))
        return
    args, state = SFTConfig(**settings), PartialState()
    if recipe.dtype != "float32" and not (args.bf16 or args.fp16):
        raise DataError(f"dtype: {recipe.dtype} needs bf16: true or fp16: true, found neither")
    noted = as_run(recipe, settings, SequenceTrainer.update_size(args))
    with state.main_process_first():
        if state.is_main_process:
            prepare(recipe)
            claim(Path(args.output_dir), noted)

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
            recipe.share_videos,
            recipe.on_problem,
            recipe.on_long,
        ),
        processing_class=processor,
        max_loss=recipe.max_loss,
        held_out=HeldOutQuestions(recipe.held_out, processor) if recipe.held_out else None,
    )
    found = gather_object([get_last_checkpoint(args.output_dir)])
    if len(set(found)) > 1:
        raise DataError(f"{args.output_dir}: expected one folder that all processes see, found checkpoints {found}")
    result = trainer.train(resume_from_checkpoint=found[0])
    trainer.save_model()
    if state.is_main_process:
        seconds = result.metrics["train_runtime"]
        description = describe(noted, trainer.state, reports, seconds, state.num_processes)
        finish(Path(args.output_dir), description)
        if options.push_to_hub:
            publish(Path(args.output_dir), options.push_to_hub, description, args.hub_private_repo)
            print(f"{options.push_to_hub}: uploaded")


def finish(folder: Path, description: str):
    """The card of what was trained, and what is to be told of it."""
    status = "An adapter that `train.sft` trained; `train.adapter merge` joins it with its base.\n"
    write_card(folder, status, description)
    skipped = folder / SKIPPED
    if skipped.exists():  # a run that went on after a kill may have met a sample twice
        print(f"skipped {len(set(skipped.read_text(encoding='utf-8').splitlines())):,} samples, see {skipped}")
    print(f"{folder}: adapter and card")


if __name__ == "__main__":
    run(main)
