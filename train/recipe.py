"""
A recipe: what is trained, on what, how. A YAML file whose keys are those of `Recipe` and of TRL's `SFTConfig`; on the
command line `key=value` replaces one, `data.0.count=100` or `optim_args=…` inside another.
"""

import difflib
import json
import re
import shutil
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from trl import SFTConfig

from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError


class _Loader(yaml.SafeLoader):
    """YAML in which 3e-5 is a number, as in its later version."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@strict
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
            what is left over is drawn at random from the recipe's `seed`, shared pools as wholes.
        expect: rows, tokens and answer tokens of a row, for `--plan` while the data isn't there; frames where they
            are others, 0 of text.
    """

    path: str
    config: list[str] | str | None = None
    split: str = "train"
    source: str | None = None
    folders: dict[str, str] = field(default_factory=dict)
    count: int | None = None
    weight: float | int = 1.0
    expect: dict[str, float | int] | None = None


@strict
@dataclass
class HeldOut:
    """Groundings that are asked about and scored every `steps` steps; `count` of them, the first ones."""

    path: str
    config: list[str] | str | None = None
    split: str = "train"
    folders: dict[str, str] = field(default_factory=dict)
    count: int = 8
    steps: int = 100


@strict
@dataclass
class Recipe:
    """
    Args:
        model: folder or Hub repository of a model, or of an adapter that was trained before and is trained on.
        data: the mixture.
        prepare: commands of this repository that make what isn't there: `path: module and its arguments`.
        preset: the architecture that `--plan` assumes while the model isn't there; `native` if it is none of ours.
        time_notation, time_notation_options: how times are written; the model's own if not given.
        num_frames: of a clip sequence or video; the model's own if not given.
        frame_size: side in pixels of the frames of a model that isn't of this package; its own, or 224, if not given.
        sampling: frames of videos: `random` within equal intervals, or `uniform`.
        crop: whether each video has one random crop, as TimeChat trains.
        share_videos: whether rows about one video come together, with the same frames and crop: faster, less varied.
        crop_images: whether image sequences have one too, which forbids that they share pictures.
        feature_cache: folder where the frozen vision tower's features of all pictures and frames are kept, so that
            each is decoded and encoded once for all runs; needs `crop: false`.
        lora_rank, lora_alpha, lora_dropout, lora_targets: LoRA of the language model; none with rank 0.
        trained_parts: what trains in full beside it: all between vision tower and language model if not given, else
            some of `image_qformer`, `video_qformer`, `aggregator`, `projector`, `spatial_projector` and
            `temporal_projector`, and of the language model's own `embeddings` and `head`, of which else only the
            notation's rows train.
        learning_rates: of `lora`, `time_tokens` and trained parts, where they are others than `learning_rate`.
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
    frame_size: int | None = None
    sampling: Literal["random", "uniform"] = "random"
    crop: bool = True
    crop_images: bool = False
    share_videos: bool = False
    feature_cache: str | None = None
    lora_rank: int = 32
    lora_alpha: int = 32
    lora_dropout: float | int = 0.1
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    trained_parts: list[str] | None = None
    learning_rates: dict[str, float] | None = None
    quantization: Literal[None, 4, 8] = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    attn_implementation: str = "sdpa"
    on_problem: Literal["stop", "skip"] = "stop"
    on_long: Literal["stop", "skip"] = "stop"
    max_loss: float | int | None = None
    held_out: HeldOut | None = None


# Settings of SFTConfig that differ here: nothing is prepared or cut by TRL, every part is used in every step.
OURS = {
    "max_length": 2048,
    "activation_checkpointing": True,
    "ddp_find_unused_parameters": False,
    "remove_unused_columns": False,
    "dataset_kwargs": {"skip_prepare_dataset": True},
}
# What would be ignored, because our own sampler, collator or checkpoints take its place.
UNUSED = {
    *("train_sampling_strategy", "length_column_name", "dataloader_drop_last", "data_seed", "auto_find_batch_size"),
    *("packing", "packing_strategy", "eval_packing", "padding_free", "pad_to_multiple_of", "truncation_mode"),
    *("assistant_only_loss", "completion_only_loss", "dataset_text_field", "chat_template_path", "shuffle_dataset"),
    *("eos_token", "pad_token", "model_init_kwargs", "load_best_model_at_end", "eval_strategy"),
    *("resume_from_checkpoint", "save_only_model", "push_to_hub", "hub_model_id", "hub_strategy", "hub_revision"),
}
SETTINGS = {one.name for one in fields(SFTConfig)} - UNUSED - set(OURS) | {"max_length", "activation_checkpointing"}
RENAMED = {  # in transformers, which warns of the names that TRL documents
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def read_recipe(path: str, overrides: list[str] = ()) -> tuple[Recipe, dict]:
    """The recipe, and the settings for `SFTConfig`."""
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected YAML, found: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected `key: value` lines, found {type(found).__name__}")
    for old, new in RENAMED.items():
        if old in found and new in found:
            raise DataError(f"{path}: expected {new} or its old name {old}, found both")
    found = {RENAMED.get(key, key): value for key, value in found.items()}
    for text in overrides:
        _override(found, text)
    _expect_keys(path, Recipe, found, SETTINGS)
    if not isinstance(found["data"], list) or not found["data"]:
        raise DataError(f"{path}, data: expected a list of data sets, found {found['data']!r:.80}")
    found["data"] = [_source(f"{path}, data.{place}", one, Source) for place, one in enumerate(found["data"])]
    if found.get("held_out") is not None:
        found["held_out"] = _source(f"{path}, held_out", found["held_out"], HeldOut)
    settings = {key: found.pop(key) for key in list(found) if key in SETTINGS}
    _expect_types(path, settings)
    recipe = _made(path, Recipe, found)
    for part, rate in (recipe.learning_rates or {}).items():
        if not 0 < rate < float("inf"):
            raise DataError(f"{path}, learning_rates.{part}: expected a number above 0, found {rate}")
    if recipe.feature_cache is not None and (recipe.crop or recipe.crop_images):
        raise DataError(
            f"{path}, feature_cache: expected crop: false and crop_images: false, as a crop is new in each epoch and "
            f"its features can't be kept; found crop: {recipe.crop}, crop_images: {recipe.crop_images}"
        )
    return recipe, OURS | settings


def _source(place: str, values, kind: type):
    if not isinstance(values, dict):
        raise DataError(f"{place}: expected a mapping with a `path`, found {values!r:.80}")
    _expect_keys(place, kind, values)
    source = _made(place, kind, values)
    source.config = [source.config] if isinstance(source.config, str) else source.config
    if values.get("count") is not None and values.get("weight", 1) != 1:
        raise DataError(f"{place}: expected count or weight, found both")
    for key in ("count", "weight", "steps"):
        if values.get(key) is not None and not 0 < values[key] < float("inf"):
            raise DataError(f"{place}, {key}: expected a number above 0, found {values[key]}")
    return source


def _expect_keys(place: str, kind: type, values: dict, more: set[str] = frozenset()):
    ours = {one.name: one for one in fields(kind)}
    for key in values:
        if key not in ours and key not in more:
            near = difflib.get_close_matches(str(key), [*ours, *more], 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(ours)}"
            of_trl = " or of TRL's SFTConfig, as far as it is used here" if more else ""
            raise DataError(f"{place}, {key}: expected a key of a {kind.__name__}{of_trl}; {hint}")
    for key, one in ours.items():
        if key not in values and one.default is MISSING and one.default_factory is MISSING:
            raise DataError(f"{place}: expected the key {key!r}, found {', '.join(map(str, values))}")


def _made(place: str, kind: type, values: dict):
    try:
        return kind(**values)
    except StrictDataclassError as error:
        raise DataError(f"{place}: {error.__cause__}") from error


def _expect_types(path: str, settings: dict):
    """Of settings whose values TRL would take as they are."""
    for one in fields(SFTConfig):
        value = settings.get(one.name)
        if value is False and one.name.endswith("_strategy"):  # what YAML makes of `no`
            settings[one.name] = "no"
        elif one.name in settings and one.type in (bool, bool | None) and not isinstance(value, bool):
            raise DataError(f"{path}, {one.name}: expected true or false, found {value!r}")
        elif isinstance(value, str) and one.type in (int, float, int | None, float | None):
            raise DataError(f"{path}, {one.name}: expected a number, found {value!r}")
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "save_steps", "logging_steps"):
        if not settings.get(name, 1) > 0:
            raise DataError(f"{path}, {name}: expected a number above 0, found {settings[name]}")


def _override(found: dict, text: str):
    """`key=value` or `data.0.count=100` of the command line."""
    key, equals, value = text.partition("=")
    *outer, last = RENAMED.get(key, key).split(".")
    try:
        inner = found
        for name in outer:
            inner = inner[int(name) if isinstance(inner, list) else name]
        inner[int(last) if isinstance(inner, list) else last] = yaml.load(value, _Loader)
    except (KeyError, IndexError, ValueError, TypeError, yaml.YAMLError):
        equals = ""
    if not equals:
        raise DataError(f"{text}: expected key=value with a key of the recipe, or a path in it such as data.0.count")


# Beginnings of the names of settings that may change between a run and its continuation, because what is trained stays
# the same.
FREE = (
    *("output_dir", "prepare", "held_out", "max_loss", "preset", "attn_implementation", "use_cpu"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "dataset_num_proc"),
    *("gradient_checkpointing", "activation_checkpointing", "on_problem", "on_long", "feature_cache"),
    *("save_", "log_", "logging_", "dataloader_", "hub_", "push_to_hub", "report_to", "run_name", "project"),
    *("trackio_", "disable_tqdm", "ddp_", "torch_empty_cache_steps", "skip_memory_metrics"),
)


def as_run(recipe: Recipe, settings: dict, update_size: int) -> dict:
    """What a run is, as its folder notes it."""
    run = json.loads(json.dumps(asdict(recipe) | settings | {"update_size": update_size}))
    run.pop("hub_token", None)  # the card of the run shows the rest
    run["feature_cache"] = recipe.feature_cache is not None  # where it lies is this machine's matter
    return run


def claim(folder: Path, run: dict):
    """
    Notes in the output folder what is trained there, or refuses one where something else was. Of a run that never came
    to a checkpoint nothing is kept.
    """
    path = folder / "run.json"
    began = any(folder.glob("checkpoint-*")) or (folder / "adapter_config.json").is_file()
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        before, now = _fixed(known), _fixed(run)
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed and began:
            listed = "; ".join(f"{name} {before.get(name)!r}, not {now.get(name)!r}" for name in changed)
            raise DataError(f"{folder} holds a run with {listed:.600}. Choose another output_dir, or remove it")
        if changed:
            shutil.rmtree(folder / "base", ignore_errors=True)
            (folder / "skipped.jsonl").unlink(missing_ok=True)
    elif began:
        raise DataError(f"{folder}: expected an empty folder or an earlier run's, found a model without run.json")
    with atomic_writer(path) as lines:
        lines.write(json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def _fixed(run: dict) -> dict:
    """What a continuation may not change. Where media lie is this machine's matter, `expect` is the plan's."""
    data = [{name: one[name] for name in one if name not in ("folders", "expect")} for one in run["data"]]
    return {name: value for name, value in (run | {"data": data}).items() if not name.startswith(FREE)}
