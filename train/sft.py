"""
accelerate launch -m train.sft train/recipes/RECIPE.yaml [key=value …] [--plan] [--push-to-hub]

Trains what a recipe says with TRL's SFTTrainer: both phases of Seq2Time, its baselines, fine-tunes. Keys are the
recipe's own and those of TRL's SFTConfig. A run that was stopped goes on where it was when the same command is given
again. --plan says what it takes, and trains nothing.
"""

import os


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL counts its users otherwise

import argparse
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import get_last_checkpoint, set_seed
from trl import SFTConfig

from dataset_scripts.command import run
from dataset_scripts.items import DataError
from modeling_seq2time.native_video import NativeProcessor

from . import adapter, card, native
from .bill import bill
from .card import describe, publish, write_card
from .collator import Collator
from .features import fingerprint, keep_features, patches_of
from .flops import SHARDINGS
from .mixture import Mixture
from .native import NativeCollator
from .recipe import Recipe, as_run, claim, read_recipe
from .sharding import split_by, unsplit
from .trainer import SKIPPED, SequenceTrainer
from .watching import HeldOutQuestions


# Beginnings of the names by which a launcher tells its processes of each other.
LAUNCHER = ("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "FSDP_", "ACCELERATE_")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the recipe's")
    parser.add_argument("--plan", action="store_true", help="parameters, FLOPs, memory and hours; nothing is trained")
    parser.add_argument("--gpus", default="8xA100", help="of the plan (default: %(default)s)")
    parser.add_argument("--sharding", default="ddp", choices=SHARDINGS, help="of the plan (default: %(default)s)")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the merged model with its card")
    return parser.parse_args(arguments)


@contextmanager
def at_fault(recipe: str):
    """What libraries refuse of a recipe's values, in one line."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise DataError(f"{recipe}: {error}") from error


def prepare(recipe: Recipe):
    """Makes what isn't there, by the recipe's commands, each in a process that is none of this launch."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    for path, command in recipe.prepare.items():
        if not Path(path).exists():
            module, *arguments = command.split()
            print(f"{path}: python -m {command}")
            done = subprocess.run([sys.executable, "-m", module, *arguments], env=alone, check=False)
            if done.returncode or not Path(path).exists():
                raise DataError(
                    f"prepare, {path}: `python -m {command}` didn't make it, it ended with {done.returncode}"
                )


def load(recipe: Recipe, args: SFTConfig, state: PartialState):
    """Model, processor, mixture and what is told about them; the first process makes what the others then find."""
    with state.main_process_first(), unsplit(args):
        kind = native if native.is_native(recipe) else adapter
        base = kind.prepare_base(recipe, Path(args.output_dir))
    set_seed(args.seed)  # LoRA starts at random
    model, processor = kind.load_for_training(recipe, base, state.device)
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
    if recipe.feature_cache:
        if model.config.has_two_streams:
            raise DataError("feature_cache: expected a model with one vision tower, found two streams")
        if not model.config.freeze_vision:
            raise DataError("feature_cache: expected a model with freeze_vision: true, found a vision tower that isn't")
        if is_deepspeed_zero3_enabled():
            raise DataError("feature_cache: expected a vision tower that is whole, found one that ZeRO-3 has split")
        folder, tower = Path(recipe.feature_cache), model.get_base_model().model.vision_tower
        weights = gather_object([fingerprint(tower)])[0]  # FSDP loads them in the first process alone
        with state.main_process_first():
            keep_features(fitting, tower, weights, processor, folder, recipe.on_problem, state.device)
    reports = [kind.parameter_report(model), fitting.report()]
    if left := len(fitting.rows) % size:
        reports.append(f"left out, drawn anew in each epoch, as they don't fill an update of {size}: {left:,}")
    if long:
        reports.append(f"left out, as they are longer than {args.max_length} tokens: {len(long):,}")
    if state.is_main_process:
        print("\n\n".join(reports), flush=True)
    return model, processor, fitting, reports


def main(arguments: list[str] | None = None):
    options = parse_arguments(arguments)
    recipe, settings = read_recipe(options.recipe, options.overrides)
    if options.plan:
        native.refuse_plan(recipe)
        print(bill(recipe, settings, options))
        return
    with at_fault(options.recipe):
        args, state = SFTConfig(**settings), PartialState()
    if recipe.dtype != "float32" and not (args.bf16 or args.fp16):
        raise DataError(f"dtype: {recipe.dtype} needs bf16: true or fp16: true, found neither")
    if args.n_gpu > 1:
        raise DataError(
            f"expected a process for each of the {args.n_gpu} GPUs that are seen: `accelerate launch --multi_gpu` "
            "starts them, CUDA_VISIBLE_DEVICES=0 shows one alone"
        )
    noted = as_run(recipe, settings, SequenceTrainer.update_size(args)) | {"split_by": split_by(args)}
    with state.main_process_first():
        if state.is_main_process:
            prepare(recipe)
            claim(Path(args.output_dir), noted)

    with at_fault(options.recipe):
        model, processor, mixture, reports = load(recipe, args, state)
        held_out = HeldOutQuestions(recipe.held_out, processor) if recipe.held_out else None
    is_native = isinstance(processor, NativeProcessor)
    texts = mixture.column("frames")[mixture.column("length") > 0] == 0
    if texts.any():  # a batch of text alone reaches none of the parts that see
        if not texts.all() and split_by(args):
            raise DataError(
                f"data: text and videos can't be mixed where {split_by(args)} splits the model; use ddp.yaml"
            )
        args.ddp_find_unused_parameters = True
    trainer = SequenceTrainer(
        model=model,
        args=args,
        mixture=mixture,
        data_collator=(NativeCollator if is_native else Collator)(
            processor,
            mixture.sets,
            args.seed,
            args.max_length,
            recipe.crop,
            recipe.crop_images,
            recipe.share_videos,
            recipe.on_problem,
            recipe.on_long,
            patches_of(model.config) if recipe.feature_cache else None,
        ),
        processing_class=processor.native if is_native else processor,
        rates=recipe.learning_rates,
        max_loss=recipe.max_loss,
        held_out=held_out,
    )
    found = gather_object([get_last_checkpoint(args.output_dir)])
    if len(set(found)) > 1:
        raise DataError(f"{args.output_dir}: expected one folder that all processes see, found checkpoints {found}")
    result = trainer.train(resume_from_checkpoint=found[0])
    trainer.save_model()
    if state.is_main_process:
        before = int(found[0].rpartition("-")[2]) if found[0] else 0
        seconds = result.metrics["train_runtime"] if trainer.state.global_step > before else None
        skipped = skipped_samples(Path(args.output_dir))
        if skipped:
            reports.append(f"left out, as they couldn't be read: {skipped:,}")
        description = describe(noted, trainer.state, reports, seconds, state.num_processes)
        about = (native if is_native else card).describe_model(model.config, processor.time_notation, recipe.model)
        finish(Path(args.output_dir), about, description, skipped)
        if options.push_to_hub:
            publish(Path(args.output_dir), options.push_to_hub, about, description, args.hub_private_repo)
            print(f"{options.push_to_hub}: uploaded")


def skipped_samples(folder: Path) -> int:
    """How many samples of a run couldn't be read; each counts once, however often it was met."""
    file = folder / SKIPPED
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return len({json.loads(line)["id"] for line in lines})


def finish(folder: Path, model: str, description: str, skipped: int):
    """The card of what was trained, and what is to be told of it."""
    status = "An adapter that `train.sft` trained; `train.adapter merge` joins it with its base.\n"
    write_card(folder, status, model, description)
    if skipped:
        print(f"skipped {skipped:,} samples, see {folder / SKIPPED}")
    print(f"{folder}: adapter and card")


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # for the whole process, this command's own: on CPUs they cost much of its time
    run(main)
