"""
A recipe: what is trained, on what, how. A YAML file whose keys are those of `Recipe` and of TRL's `SFTConfig`; on the
command line `key=value` replaces one, `data.0.count=100` or `optim_args=…` inside another.
"""

import difflib
import json
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import yaml
from trl import SFTConfig

from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError


_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")  # 3e-5, which YAML takes for text


@dataclass
class Source:
    """
    A data set of the mixture: records in a folder or on the Hub.

    Args:
        path: folder or `OWNER/NAME`.
        config: its configurations of records; all of the split if not given.
        split: of them.
        source: only records of this source, such as `valley`.
        folders: where each source's media lie, if not in the set itself.
        count, weight: how many rows, or how often each: 0.5 is half of them, 2 all of them twice. Whole passes first,
            what is left over is drawn at random from the recipe's `seed`.
        expect: rows, tokens and answer tokens of a row, for `--plan` while the data isn't there.
    """

    path: str
    config: list[str] | str | None = None
    split: str = "train"
    source: str | None = None
    folders: dict[str, str] = field(default_factory=dict)
    count: int | None = None
    weight: float = 1.0
    expect: dict[str, float] | None = None


@dataclass
class HeldOut(Source):
    """Groundings that are asked about and scored every `steps` steps; `count` of them, the first ones."""

    count: int | None = 8
    steps: int = 100


@dataclass
class Recipe:
    """
    Args:
        model: folder or Hub repository of a model, or of an adapter that was trained before and is trained on.
        data: the mixture.
        prepare: commands of this repository that make what isn't there: `path: module and its arguments`.
        preset: the architecture that `--plan` assumes while the model isn't there.
        time_notation, time_notation_options: how times are written; the model's own if not given.
        num_frames: of a clip sequence or video; the model's own if not given.
        sampling: frames of videos: `random` within equal intervals, or `uniform`.
        crop: whether each video has one random crop, as TimeChat trains.
        crop_images: whether image sequences have one too, which forbids that they share pictures.
        lora_rank, lora_alpha, lora_dropout, lora_targets: LoRA of the language model.
        quantization: 8 or 4 bits for the frozen language model.
        dtype: of the frozen weights; what is trained is kept in float32.
        attn_implementation: of all parts that have a choice.
        on_problem: `stop` at a sample that can't be read, or `skip` it and count.
        on_long: the same for one longer than `max_length`; nothing is ever cut.
        max_loss: mean loss of a batch at which the run has exploded; twice that of guessing if not given.
        held_out: groundings to ask while training.
    """

    model: str
    data: list[Source]
    prepare: dict[str, str] = field(default_factory=dict)
    preset: str = "timechat"
    time_notation: str | None = None
    time_notation_options: dict | None = None
    num_frames: int | None = None
    sampling: str = "random"
    crop: bool = True
    crop_images: bool = False
    lora_rank: int = 32
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    quantization: int | None = None
    dtype: str = "bfloat16"
    attn_implementation: str = "sdpa"
    on_problem: str = "stop"
    on_long: str = "stop"
    max_loss: float | None = None
    held_out: HeldOut | None = None


CHOICES = {
    "sampling": ("random", "uniform"),
    "quantization": (None, 4, 8),
    "dtype": ("bfloat16", "float16", "float32"),
    "on_problem": ("stop", "skip"),
    "on_long": ("stop", "skip"),
}
# Settings of SFTConfig that differ here: nothing is prepared or cut by TRL, every part is used in every step.
OURS = {
    "max_length": 2048,
    "ddp_find_unused_parameters": False,
    "remove_unused_columns": False,
    "dataset_kwargs": {"skip_prepare_dataset": True},
}
# What would be ignored, because our own sampler, collator or checkpoints take its place.
UNUSED = ("train_sampling_strategy", "packing", "padding_free", "load_best_model_at_end", "eval_strategy", "max_tokens")


def read_recipe(path: str, overrides: list[str] = ()) -> tuple[Recipe, dict]:
    """The recipe, and the settings for `SFTConfig`."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: expected YAML, found: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected `key: value` lines, found {type(found).__name__}")
    found = _floats(found)
    for text in overrides:
        _override(found, text)

    ours = {one.name: one for one in fields(Recipe)}
    trl = {one.name for one in fields(SFTConfig)} - set(UNUSED) - set(OURS) | {"max_length"}
    for key in found:
        if key not in ours and key not in trl:
            near = difflib.get_close_matches(key, [*ours, *trl], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{path}, {key}: expected a key of the recipe or of TRL's SFTConfig{hint}")
    for key, one in ours.items():
        if key not in found and one.default is MISSING and one.default_factory is MISSING:
            raise DataError(f"{path}: expected the key {key!r}, found {', '.join(found)}")
    recipe = Recipe(**{key: value for key, value in found.items() if key in ours})
    for key, allowed in CHOICES.items():
        if getattr(recipe, key) not in allowed:
            raise DataError(f"{path}, {key}: expected one of {allowed}, found {getattr(recipe, key)!r}")
    if not isinstance(recipe.data, list) or not recipe.data:
        raise DataError(f"{path}, data: expected a list of data sets, found {recipe.data!r:.80}")
    recipe.data = [_source(f"{path}, data.{place}", one) for place, one in enumerate(recipe.data)]
    if recipe.held_out is not None:
        recipe.held_out = _source(f"{path}, held_out", recipe.held_out, HeldOut)
    return recipe, OURS | {key: value for key, value in found.items() if key in trl}


def _source(place: str, values, kind: type[Source] = Source) -> Source:
    known = [one.name for one in fields(kind)]
    if not isinstance(values, dict) or "path" not in values or set(values) - set(known):
        raise DataError(f"{place}: expected a `path` and any of {', '.join(known[1:])}, found {values!r:.120}")
    source = kind(**values)
    source.config = [source.config] if isinstance(source.config, str) else source.config
    if source.count is not None and source.weight != 1:
        raise DataError(f"{place}: expected count or weight, found both")
    if not source.weight > 0 or (source.count is not None and source.count < 1):
        raise DataError(f"{place}: expected a weight above 0 and a count from 1, found {source.weight}, {source.count}")
    return source


def _floats(value):
    if isinstance(value, dict):
        return {key: _floats(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_floats(one) for one in value]
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def _override(found: dict, text: str):
    """`key=value` or `data.0.count=100` of the command line."""
    key, equals, value = text.partition("=")
    *outer, last = key.split(".")
    try:
        inner = found
        for name in outer:
            inner = inner[int(name) if isinstance(inner, list) else name]
        inner[int(last) if isinstance(inner, list) else last] = _floats(yaml.safe_load(value))
    except (KeyError, IndexError, ValueError, TypeError, yaml.YAMLError):
        equals = ""
    if not equals:
        raise DataError(f"{text}: expected key=value with a key of the recipe, or a path in it such as data.0.count")


# Settings that may change between a run and its continuation, because what is trained stays the same.
FREE = {
    *("prepare", "held_out", "max_loss", "preset", "report_to", "run_name", "disable_tqdm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "attn_implementation"),
    *("save_steps", "save_total_limit", "save_strategy", "logging_steps", "dataset_num_proc", "use_cpu"),
    *("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers"),
    *("dataloader_pin_memory", "hub_private_repo"),
}


def claim(folder: Path, recipe: Recipe, settings: dict, update_size: int):
    """Notes in the output folder what is trained there, or refuses one where something else was."""
    path = folder / "run.json"
    run = json.loads(json.dumps(asdict(recipe) | settings | {"update_size": update_size}))
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in {**known, **run} if name not in FREE and known.get(name) != run.get(name)]
        if changed:
            listed = "; ".join(f"{name} {known.get(name)!r}, not {run.get(name)!r}" for name in changed)
            raise DataError(f"{folder} holds a run with {listed:.600}. Choose another output_dir, or remove it")
    elif any(folder.glob("checkpoint-*")):
        raise DataError(f"{folder}: expected an empty folder or an earlier run's, found checkpoints without run.json")
    with atomic_writer(path) as lines:
        lines.write(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
