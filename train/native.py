"""
Training of any video language model of transformers: LoRA in its language model, exactly the rows of the notation's
tokens, and its projector if the recipe names it. What is saved and merged loads without this package.
"""

import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from dataset_scripts.files import remove_parts, replacing
from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeForConditionalGeneration, get_notation, native_video
from modeling_seq2time.native_video import NativeProcessor, config_of

from . import adapter
from .adapter import adapted, base_of, ends_of, folder_of, load_weights
from .collator import Collator, Seen
from .recipe import Recipe


PROJECTORS = ("multi_modal_projector", "deepstack_merger_list", "merger")  # as transformers calls them
PRESET = "native"  # of a recipe whose model isn't of this package, for `--plan`
# What belongs to Seq2Time's own encoder and batches, and the value of not asking for it.
NOT_HERE = {"crop_images": False, "share_videos": False}
NOT_HERE |= dict.fromkeys(("feature_cache", "learning_rates", "quantization"))


def is_native(recipe: Recipe) -> bool:
    try:
        return native_video.is_native(base_of(folder_of(recipe.model)))
    except ValueError as error:
        raise DataError(str(error)) from error


def refuse_plan(recipe: Recipe):
    """`--plan` counts what Seq2Time's own parts do."""
    try:
        found = recipe.preset == PRESET or is_native(recipe)
    except (DataError, OSError):  # it needn't be there yet: the recipe's preset is planned for
        found = False
    if found:
        raise DataError(f"--plan: expected a model of this package, whose parts it knows, found {recipe.model}")


def prepare_base(recipe: Recipe, output: Path) -> Path:
    """As `adapter.prepare_base`. A notation without tokens needs no copy: the processor keeps it."""
    for name, absent in NOT_HERE.items():
        if (found := getattr(recipe, name)) != absent:
            raise DataError(f"{name}: expected {absent} for a model that isn't of this package, found {found!r}")
    start = folder_of(recipe.model)
    folder, ours = base_of(start), output / "base"
    processor = load_processor(recipe, start)
    told, notation = vars(config_of(folder)), processor.notation
    known = get_notation(told.get("time_notation", "text"), **told.get("time_notation_options") or {})
    if not notation.tokens or (known.name, known.options) == (notation.name, notation.options):
        return folder
    if (ours / "config.json").is_file():
        return ours
    remove_parts(ours)
    model = load_weights(folder)
    model.config.time_token_ids = None
    # The rule of this package's own model, which asks for nothing that others haven't.
    Seq2TimeForConditionalGeneration.add_time_tokens(model, processor.tokenizer, notation.name, **notation.options)
    with replacing(ours) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
    return ours


def load_processor(recipe: Recipe, folder: Path) -> NativeProcessor:
    """The model's own, with what the recipe says of times and frames."""
    processor = NativeProcessor.from_pretrained(folder)
    settings = processor.settings
    if recipe.time_notation:
        notation = get_notation(recipe.time_notation, **recipe.time_notation_options or {})
        settings |= {"time_notation": notation.name, "time_notation_options": notation.options or None}
    said = {"num_frames": recipe.num_frames, "frame_size": recipe.frame_size}
    return NativeProcessor(processor.native, **settings | {name: value for name, value in said.items() if value})


def load_for_training(recipe: Recipe, base: Path, device: torch.device | None = None):
    """As `adapter.load_for_training`."""
    start = folder_of(recipe.model)
    processor = load_processor(recipe, start if base == base_of(start) else base)
    model = load_weights(base, dtype=recipe.dtype, attn_implementation=recipe.attn_implementation)
    config = lora_config(recipe, model, processor)
    if not config.modules_to_save:  # what is in front of the language model runs without a graph
        core = model.base_model
        core.get_video_features = torch.no_grad()(core.get_video_features)
    return adapted(recipe, base, model, config), processor


def lora_config(recipe: Recipe, model: PreTrainedModel, processor: NativeProcessor) -> LoraConfig:
    """The one description of what trains."""
    names = {module: name for name, module in model.named_modules()}
    parts, ends = projector_of(model), ends_of(model).values()
    if strange := set(recipe.trained_parts or ()) - ({"projector"} if parts else set()):
        known = "projector" if parts else "none"
        raise DataError(f"trained_parts: expected {known} of {recipe.model}, found {', '.join(sorted(strange))}")
    targets = "|".join(map(re.escape, recipe.lora_targets))
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=rf"{re.escape(names[model.get_decoder()])}\..*\.({targets})",
        modules_to_save=parts if recipe.trained_parts else None,
        trainable_token_indices=dict.fromkeys(ends, model.config.time_token_ids) if processor.notation.tokens else None,
    )


def projector_of(model: PreTrainedModel) -> list[str]:
    """The modules that hand on what was seen to the language model."""
    found = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in PROJECTORS:
            lists = isinstance(module, nn.ModuleList)  # which PEFT doesn't take as one
            found += [f"{name}.{number}" for number in range(len(module))] if lists else [name]
    return found


def parameter_report(model: PeftModel) -> str:
    base = model.get_base_model()
    names = {module: name for name, module in base.named_modules()}
    parts = {"LoRA": "lora_", "time tokens": "trainable_tokens_delta"} | {part: part for part in PROJECTORS}
    parts |= {"vision tower": names[base.get_encoder("video")], "language model": ""}
    return adapter.parameter_report(model, parts)


def describe_model(config: PreTrainedConfig, notation: str, base: str) -> str:
    """What was trained, for its card."""
    text = config.text_config
    start = f" It was trained from `{base}`." if not Path(base).is_absolute() else ""
    return (
        f"A video language model of transformers (`{config.model_type}`: {text.num_hidden_layers} layers of "
        f"{text.hidden_size}) that was taught temporal grounding and dense captioning after "
        f"[Seq2Time](https://arxiv.org/abs/2411.16932); times are written in the notation `{notation}`.{start}\n"
    )


class NativeCollator(Collator):
    """Batches as the model's own processor makes them, of the same frames as everywhere."""

    def batch(self, seen: list[Seen], pictures) -> dict:
        batch, native = super().batch(seen, pictures), self.processor.native
        if native.return_mm_token_type_ids:
            batch["mm_token_type_ids"] = torch.tensor(native.create_mm_token_type_ids(batch["input_ids"].tolist()))
        return batch

    def videos(self, watched: list[Seen], pixels: torch.Tensor) -> dict:
        frames = [pixels[one.pictures] for one in watched]
        try:
            return self.processor.inputs(frames, [one.metadata for one in watched])
        except ValueError as error:
            counts = sorted({len(one) for one in frames})
            if len(counts) == 1:
                raise
            raise DataError(
                f"expected videos of as many frames in a batch of this model, found {counts}; "
                "per_device_train_batch_size: 1 takes any"
            ) from error
