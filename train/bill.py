"""`--plan` of a recipe: its data's lengths where the data is, else what the recipe expects of it."""

from dataclasses import fields

from trl import SFTConfig

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeConfig, Seq2TimeProcessor
from modeling_seq2time.time_notation import get_notation

from .adapter import IN_FULL, base_of, folder_of
from .flops import Load, Setup, projections
from .mixture import BatchSampler, Mixture
from .plan import report
from .recipe import Recipe, Source


BATCHES = 100  # that are looked at for how many pictures they share


def bill(recipe: Recipe, settings: dict, options) -> str:
    known = {one.name: one.default for one in fields(SFTConfig)} | settings
    gpus, _, kind = options.gpus.partition("x")
    if not gpus.isdecimal() or int(gpus) < 1:
        raise DataError(f"--gpus {options.gpus}: expected a number and a kind, such as 8xA100")
    config, processor, notes = _model(recipe)
    notation = recipe.time_notation or config.time_notation
    size = known["per_device_train_batch_size"]
    targets = recipe.lora_targets if recipe.lora_rank else []
    if strange := set(targets) - projections(config.text_config).keys():
        known = ", ".join(projections(config.text_config))
        raise DataError(f"lora_targets: expected some of {known}, found {', '.join(sorted(strange))}")
    setup = Setup(
        trained_parts=tuple(IN_FULL if recipe.trained_parts is None else recipe.trained_parts),
        epochs=known["num_train_epochs"],
        batch=size,
        accumulation=known["gradient_accumulation_steps"],
        gpus=int(gpus),
        gpu=kind,
        sharding=options.sharding,
        checkpointing=known["activation_checkpointing"],
        lora_rank=recipe.lora_rank,
        lora_targets=tuple(targets),
        trained_rows=len(get_notation(notation, **recipe.time_notation_options or {}).tokens),
        bits=recipe.quantization,
        longest=known["max_length"],
    )
    frames = recipe.num_frames or config.num_frames
    loads = [_load(one, processor, recipe, frames, size, known["seed"]) for one in recipe.data]
    return "\n".join([report(config, loads, setup, known["output_dir"]), *notes])


def _model(recipe: Recipe) -> tuple[Seq2TimeConfig, Seq2TimeProcessor | None, list[str]]:
    try:
        folder = base_of(folder_of(recipe.model))
        return Seq2TimeConfig.from_pretrained(folder), Seq2TimeProcessor.from_pretrained(folder), []
    except (DataError, OSError):  # it needn't be there yet
        note = f"{recipe.model} isn't there: the preset {recipe.preset} is assumed."
        return Seq2TimeConfig.from_preset(recipe.preset), None, [note]


def _load(source: Source, processor, recipe: Recipe, frames: int, batch: int, seed: int) -> Load:
    name = "+".join([source.path, *(source.config or [])]) + (f" ({source.source})" if source.source else "")
    if processor is not None:
        processor.video_processor.num_frames = frames
        try:
            mixture = Mixture.load([source], processor, recipe.sampling, seed, share_videos=recipe.share_videos)
            table = {column: mixture.column(column) for column in ("length", "answers", "frames")}
            means = {column: float(values.mean()) for column, values in table.items()}
            squares = float((table["length"].astype(float) ** 2).mean())
            pictures = shared_pictures(mixture, batch, seed)
            return Load(
                name, len(mixture.rows), means["frames"], pictures, means["length"], squares, means["answers"], True
            )
        except (DataError, OSError) as error:
            problem = f": {error}"
    else:
        problem = f", and {recipe.model}, whose tokenizer measures it, isn't there"
    if source.expect is None:
        raise DataError(f"--plan: {name} can't be measured{problem}; `expect` may say its rows, tokens and answers")
    told = source.expect
    frames = told.get("frames", frames)
    rows, tokens = round(told["rows"]), told["tokens"]
    return Load(name, rows, frames, told.get("pictures", frames), tokens, tokens**2, told["answers"], False)


def shared_pictures(mixture: Mixture, batch: int, seed: int) -> float:
    """Pictures of a row that pass the vision tower, each once a batch."""
    groups, lengths = mixture.column("group"), mixture.column("length")
    seen = rows = 0
    for _, places in zip(range(BATCHES), BatchSampler(groups, lengths, batch, batch, seed), strict=False):
        unique = set()
        for _, place in places:
            row = mixture.rows[place]
            rows += 1
            if not row["frames"]:
                continue
            sequence = mixture.sets[row["set"]].records[row["row"]]["sequence"]
            if isinstance(sequence[0], dict):  # a video: its own, or that of other rows, too
                owner = (row["pool"], sequence[0]["clip"]) if row["group"] >= 0 else (row["set"], place, row["row"])
                unique.update((owner, frame) for frame in range(row["frames"]))
            else:
                unique.update((row["pool"], one) for one in sequence)
        seen += len(unique)
    return seen / rows
