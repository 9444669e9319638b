"""
What trains: LoRA in the language model, all between vision tower and language model in full (the Q-Formers, frame
positions and projector), and exactly the rows of the notation's own tokens. All of it is one PEFT adapter.

    python -m train.adapter merge RUN --output DIR

makes a Hub folder of an adapter and its base, which loads by `trust_remote_code` without PEFT.
"""

import argparse
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import snapshot_download
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils import load_peft_weights
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from dataset_scripts.command import run
from dataset_scripts.files import remove_parts, replacing
from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from modeling_seq2time.native_video import NativeProcessor, is_native
from modeling_seq2time.time_notation import get_notation

from .recipe import Recipe


# Of a model what it has of these.
TOWERS = ("vision_tower", "temporal_tower")
QFORMERS = ("image_qformer", "video_qformer", "aggregator", "projector")
IN_FULL = (*QFORMERS, "spatial_projector", "temporal_projector")
BOTH_ENDS = ("embeddings", "head")  # of the language model, where a recipe names them
PARTS = {  # of the table: the first that a parameter's name holds
    "LoRA": "lora_",
    "time tokens": "trainable_tokens_delta",
    "vision tower": "vision_tower",
    "video encoder": "temporal_tower",
    "image Q-Former": "image_qformer",
    "video Q-Former": "video_qformer",
    "aggregator": "aggregator",
    "spatial projector": "spatial_projector",
    "temporal projector": "temporal_projector",
    "projector": "projector",
    "language model": "",
}


def folder_of(path: str) -> Path:
    """A model's folder: itself, or what the Hub has of `OWNER/NAME[@REVISION]`."""
    if Path(path).is_dir():
        return Path(path)
    name, _, revision = path.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(f"model {path}: there is no such folder")
    return Path(snapshot_download(name, revision=revision or None))


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def base_of(folder: Path) -> Path:
    """The folder of the weights that an adapter belongs to; a converted TimeChat keeps both in one."""
    if not is_adapter(folder) or any(folder.glob("model*.safetensors")):
        return folder
    return folder_of(base_name(folder))


def base_name(folder: Path) -> str:
    """The base as an adapter names it: a folder, or `OWNER/NAME[@REVISION]`."""
    config = PeftConfig.from_pretrained(folder)
    return config.base_model_name_or_path + (f"@{config.revision}" if config.revision else "")


def prepare_base(recipe: Recipe, output: Path) -> Path:
    """
    The folder of the frozen weights. They must know the recipe's notation, so that an adapter of them loads by
    itself: where they don't, a copy that does is written to `output/base`.
    """
    if recipe.frame_size is not None:
        raise DataError(f"frame_size: expected none for a model of this package, found {recipe.frame_size}")
    start = folder_of(recipe.model)
    folder, ours = base_of(start), output / "base"
    if recipe.time_notation is None:
        return folder
    notation = get_notation(recipe.time_notation, **recipe.time_notation_options or {})
    config = Seq2TimeConfig.from_pretrained(folder)
    known = get_notation(config.time_notation, **config.time_notation_options or {})
    same = (known.name, known.options) == (notation.name, notation.options)
    if same and (config.time_token_ids or not notation.tokens):
        return folder
    if (ours / "config.json").is_file():
        return ours
    remove_parts(ours)
    model = load_weights(folder)
    processor = Seq2TimeProcessor.from_pretrained(start)
    model.add_time_tokens(processor.tokenizer, notation.name, **notation.options)
    processor.time_notation, processor.time_notation_options = notation.name, notation.options or None
    with replacing(ours) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
    return ours


def load_weights(folder: Path, **options) -> PreTrainedModel:
    """The model of a folder without the adapter that may lie beside its weights, which transformers would load, too."""
    kind = AutoModelForImageTextToText if is_native(folder) else Seq2TimeForConditionalGeneration
    if not is_adapter(folder):
        return kind.from_pretrained(folder, **options)
    with TemporaryDirectory() as plain:
        for file in folder.iterdir():
            if not file.name.startswith("adapter_"):
                (Path(plain) / file.name).symlink_to(file.resolve())
        model = kind.from_pretrained(plain, **options)
    model.name_or_path = str(folder)  # which PEFT notes as the adapter's base
    return model


def lora_config(recipe: Recipe, model: Seq2TimeForConditionalGeneration) -> LoraConfig:
    """The one description of what trains."""
    parts, rows, ends = in_full(recipe, model), model.config.time_token_ids, ends_of(model)
    inside = rf"(model\.)?language_model\..*\.({'|'.join(map(re.escape, recipe.lora_targets))})"
    by_row = [module for end, module in ends.items() if end not in parts]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank or 1,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=inside if recipe.lora_rank else DUMMY_TARGET_MODULES,
        modules_to_save=[ends.get(part, part) for part in parts],
        trainable_token_indices=dict.fromkeys(by_row, rows) if rows and by_row else None,
    )


def ends_of(model: Seq2TimeForConditionalGeneration) -> dict[str, str]:
    """Where a language model reads and says its words; the head has no weights of its own where both are tied."""
    names = {module: name for name, module in model.named_modules()}
    ends = {"embeddings": names[model.get_input_embeddings()], "head": names[model.get_output_embeddings()]}
    return {end: name for end, name in ends.items() if end == "embeddings" or not model.config.tie_word_embeddings}


def in_full(recipe: Recipe, model: Seq2TimeForConditionalGeneration) -> list[str]:
    """The parts that train without LoRA: all between vision tower and language model, or those that are named."""
    there = [part for part in IN_FULL if getattr(model.model, part) is not None]
    could = [*there, *ends_of(model)]
    if strange := set(recipe.trained_parts or ()) - set(could):
        raise DataError(f"trained_parts: expected some of {', '.join(could)}, found {', '.join(sorted(strange))}")
    parts = there if recipe.trained_parts is None else [part for part in could if part in recipe.trained_parts]
    if not parts and not recipe.lora_rank:
        raise DataError("lora_rank: expected LoRA or trained_parts, found 0 and none, so that nothing would train")
    trained = {"lora"} if recipe.lora_rank else set()
    if model.config.time_token_ids and ends_of(model).keys() - set(parts):
        trained.add("time_tokens")
    if strange := (recipe.learning_rates or {}).keys() - trained - set(parts):
        known = ", ".join([*sorted(trained), *parts])
        raise DataError(f"learning_rates: expected some of {known}, which train, found {', '.join(sorted(strange))}")
    return parts


def load_for_training(recipe: Recipe, base: Path, device: torch.device | None = None):
    """PEFT's model and the processor; where the recipe starts from an adapter, with its weights."""
    start = folder_of(recipe.model)
    options = {"dtype": recipe.dtype, "attn_implementation": recipe.attn_implementation}
    if recipe.quantization:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=recipe.quantization == 8,
            load_in_4bit=recipe.quantization == 4,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["lm_head", *(f"model.{part}" for part in (*TOWERS, *IN_FULL))],
        )
        options["device_map"] = {"": device}
    base_model = load_weights(base, **options)
    processor = Seq2TimeProcessor.from_pretrained(start if base == base_of(start) else base)
    if recipe.num_frames:
        base_model.config.num_frames = processor.video_processor.num_frames = recipe.num_frames
        try:
            base_model.config.validate_time()
        except ValueError as error:
            raise DataError(f"num_frames: {error}") from error
    return adapted(recipe, base, base_model, lora_config(recipe, base_model)), processor


def adapted(recipe: Recipe, base: Path, base_model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """A model with an adapter of what trains; where the recipe starts from an adapter, with its weights."""
    start = folder_of(recipe.model)
    if base == base_of(start):  # as it was named, not where the Hub's copy of it lies on this machine
        name = recipe.model if base == start else base_name(start)
        base_model.name_or_path, _, revision = name.partition("@")
        config.revision = revision or None
    model = get_peft_model(base_model, config, autocast_adapter_dtype=False)
    keep_exact(model)
    if is_adapter(start):
        restore(model, start)
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):  # PEFT's wrapper of the token rows; TRL's loss asks for it
        head.register_parameter("bias", None)
    return model


def keep_exact(model: nn.Module):
    """What trains is kept in float32. ZeRO-3 wants one dtype, and has its own float32 copies of what trains."""
    if not is_deepspeed_zero3_enabled():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def restore(model: PeftModel, folder: Path):
    """The weights of an adapter that was trained before, all of which must fit."""
    before, now = PeftConfig.from_pretrained(folder), model.peft_config["default"]
    for name in ("r", "lora_alpha"):
        if getattr(before, name) != getattr(now, name):
            raise DataError(
                f"{folder}: its adapter has {name}={getattr(before, name)}, the recipe {getattr(now, name)}; set the "
                "recipe's lora_rank and lora_alpha, or start from merged weights (python -m train.adapter merge)"
            )
    known, found = get_peft_model_state_dict(model), load_peft_weights(folder, device="cpu")
    if strange := sorted(found.keys() - known.keys()):
        raise DataError(
            f"{folder}: {len(strange)} weights of its adapter have no place in this recipe's, such as {strange[0]}; "
            "is it of another notation, are lora_targets others, or does trained_parts leave out what it trained? "
            "Merged weights (python -m train.adapter merge) can be trained on in any part"
        )
    set_peft_model_state_dict(model, known | found)


def parameter_table(model: nn.Module, parts: dict[str, str] = PARTS) -> list[tuple[str, int, int]]:
    """Part, parameters, and how many of them train."""
    counts = {part: [0, 0] for part in parts}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # PEFT's untouched copy of what trains in full
            continue
        part = next(part for part, piece in parts.items() if piece in name)
        counts[part][0] += size(parameter)
        counts[part][1] += size(parameter) * parameter.requires_grad
    return [(part, *numbers) for part, numbers in counts.items() if any(numbers) or part in ("LoRA", "time tokens")]


def size(parameter: nn.Parameter) -> int:
    """Numbers in a parameter, also where ZeRO-3 has split it or bitsandbytes has packed two into a byte."""
    if hasattr(parameter, "ds_numel"):
        return parameter.ds_numel
    return parameter.quant_state.shape.numel() if hasattr(parameter, "quant_state") else parameter.numel()


def parameter_report(model: nn.Module, parts: dict[str, str] = PARTS) -> str:
    rows = parameter_table(model, parts)
    total = ("together", sum(row[1] for row in rows), sum(row[2] for row in rows))
    lines = [f"{part:<16} {all_of_them:>15,} {trained:>13,}" for part, all_of_them, trained in [*rows, total]]
    return "\n".join([f"{'part':<16} {'parameters':>15} {'trained':>13}", *lines])


def merge(folder: Path, output: Path, dtype: str = "auto"):
    """Writes a Hub folder of an adapter and its base."""
    if not is_adapter(folder):
        raise DataError(f"{folder}: expected an adapter with an adapter_config.json")
    if output.exists():
        raise DataError(f"{output}: expected a folder that isn't there yet")
    remove_parts(output)
    base = load_weights(base_of(folder), dtype=dtype)
    if hasattr(base.config, "quantization_config"):
        raise DataError(f"{base_of(folder)}: expected weights of full precision to merge with, found quantized ones")
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    if is_native(base_of(folder)):
        processor = NativeProcessor.from_pretrained(folder)
    else:
        processor = Seq2TimeProcessor.from_pretrained(folder)
        merged.config.num_frames = processor.video_processor.num_frames
    with replacing(output) as part:
        merged.save_pretrained(part)
        processor.save_pretrained(part)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("merge",))
    parser.add_argument("adapter", type=Path, help="folder that train.sft wrote, or a checkpoint in it")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    args = parser.parse_args(arguments)
    merge(args.adapter, args.output, args.dtype)
    print(f"{args.output}: merged")


if __name__ == "__main__":
    run(main)
