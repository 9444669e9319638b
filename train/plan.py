"""
What a run costs, before it: parameters, FLOPs of a row, memory of a GPU, hours. No weights are needed.

FLOPs are those of matrix products, as `torch.utils.flop_counter` counts them in a training step: attention as a full
square, its scores a second time on the way back. Hours assume a share of the GPU's peak, and that padding and input
cost nothing. Bytes are those of bf16 autocast and fp32 AdamW, without what CUDA, its allocator and NCCL take. Nothing
of it was ever compared with a real GPU.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration

from .adapter import IN_FULL


PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "RTX 4090": 165e12}  # dense bf16, FLOP/s
SIZES = {"A100": 80, "H100": 80, "H200": 140, "L40S": 45, "RTX 4090": 24}  # GiB
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHARDINGS = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "FSDP2, ZeRO-3"}
FROZEN_BYTES = {None: 2, 8: 1, 4: 0.5 + 4 / 64}  # a linear layer's weight; 64 weights of 4 bits share a float


@dataclass(frozen=True)
class Load:
    """A data set of the mixture. Lengths are means over its rows, and may be the recipe's expectation."""

    name: str
    rows: int  # of one epoch
    frames: float  # that the Q-Formers see
    pictures: float  # that pass the vision tower: fewer than frames where the sequences of a batch share them
    tokens: float  # of the language model
    tokens_squared: float  # the mean of their squares, with which attention grows
    answers: float  # tokens with a label; on a GPU, TRL's fused head scores no others
    measured: bool
    time_tokens: float = 15  # of a frame's time sentence, where the image Q-Former reads it


@dataclass(frozen=True)
class Setup:
    epochs: float = 1
    batch: int = 1
    accumulation: int = 1
    gpus: int = 8
    gpu: str = "A100"
    sharding: str = "ddp"
    checkpointing: bool = True
    lora_rank: int = 32
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    trained_parts: tuple[str, ...] = IN_FULL
    trained_rows: int = 10  # the notation's own tokens
    bits: int | None = None  # of the language model's matrices
    longest: int | None = 2048  # tokens that a row may have
    utilisation: float = 0.5  # share of the GPU's peak, assumed

    def __post_init__(self):
        choices = [("gpu", self.gpu, PEAKS), ("sharding", self.sharding, SHARDINGS), ("bits", self.bits, FROZEN_BYTES)]
        choices += [("trained_parts", name, IN_FULL) for name in self.trained_parts]
        for key, found, allowed in choices + [("lora_targets", name, MATRICES) for name in self.lora_targets]:
            if found not in allowed:
                raise DataError(f"--plan, {key}: expected one of {', '.join(map(str, allowed))}, found {found!r}")


def projections(text) -> dict[str, tuple[int, int]]:
    """Widths of input and output of a layer's matrices, in any language model built like LLaMA."""
    width, inner = text.hidden_size, text.intermediate_size
    head = text.to_dict().get("head_dim") or width // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    attention = [(width, queries), (width, keys), (width, keys), (queries, width)]
    return dict(zip(MATRICES, [*attention, (width, inner), (width, inner), (inner, width)], strict=True))


def lora_size(text, setup: Setup) -> int:  # parameters of a layer
    return setup.lora_rank * sum(sum(projections(text)[name]) for name in setup.lora_targets)


def parameters(config: Seq2TimeConfig, setup: Setup) -> dict[str, tuple[int, int]]:
    """Of each part all parameters and those that train. The model is built without its memory, and counted."""
    with torch.device("meta"):
        model = Seq2TimeForConditionalGeneration(config)
    inner, text = model.model, config.text_config
    names = {"vision tower": "vision_tower", "image Q-Former": "image_qformer", "video Q-Former": "video_qformer"}
    names |= {"aggregator": "aggregator"} if config.aggregator else {}
    names["projector"] = "projector"
    parts = {name: getattr(inner, part).parameters() for name, part in names.items()}
    sizes = {name: sum(weight.numel() for weight in part) for name, part in parts.items()}
    lora = text.num_hidden_layers * lora_size(text, setup)
    rows = setup.trained_rows * text.hidden_size * (1 if config.tie_word_embeddings else 2)
    counts = {name: (size, size * (names[name] in setup.trained_parts)) for name, size in sizes.items()}
    counts["language model"] = (model.num_parameters() - sum(sizes.values()), 0)
    return counts | {"LoRA": (lora, lora), "time tokens": (rows, rows)}


def passes(config: Seq2TimeConfig, load: Load) -> tuple[int, tuple, tuple]:
    """Patches of a picture; of the image and the video Q-Former: queries, words beside them, keys, passes of a row."""
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    words = load.time_tokens if config.qformer_reads_time else 0
    windows = [len(window) for segment in config.windows(math.ceil(load.frames)) for window in segment]
    seen = min(max(windows, default=0), load.frames)
    image = (config.qformer_config, config.num_query_tokens, words, patches, load.frames)
    keys = seen * (config.num_query_tokens + words)
    return patches, image, (config.video_qformer_config, config.num_video_query_tokens, 0, keys, len(windows))


def aggregation(config: Seq2TimeConfig, load: Load) -> tuple[float, float]:
    """FLOPs of TemporalVLM's aggregator forward: of its matrices, and of attention."""
    part, queries, windows = config.video_qformer_config, config.num_video_query_tokens, config.windows
    width, segments = part.hidden_size, [len(own) * queries for own in windows(math.ceil(load.frames))]
    tokens, padded = sum(segments), len(segments) * max(segments, default=0)  # in one call, all as long as the longest
    matrices = config.num_fusion_layers * padded * 4 * width**2
    among = config.num_fusion_layers * padded * max(segments, default=0) * 4 * width
    if config.aggregator in ("lstm", "bilstm"):  # four gates, each from the token and from the state before
        matrices += tokens * (8 if config.aggregator == "lstm" else 6) * width**2
    elif config.aggregator == "transformer":
        matrices += tokens * (4 * width**2 + 2 * width * part.intermediate_size)
        among += 4 * width * tokens**2
    elif config.aggregator == "linear":
        matrices += tokens * width**2
    return 2 * matrices, among


def flops(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, tuple[float, float]]:
    """
    Forward and backward, by part, of a row. On the way back a trained matrix takes one product for its own gradient and
    one for its input's; a frozen one only the latter; those that read the frozen patches only the former. Checkpointing
    repeats the forward pass of what has gradients: nothing has any before the first part that trains.
    """
    vision, text, shapes = config.vision_config, config.text_config, projections(config.text_config)
    patches, image, video = passes(config, load)

    image_trains, video_trains = ("image_qformer" in setup.trained_parts, "video_qformer" in setup.trained_parts)

    def qformer(part, queries, words, keys, times, trains: bool, keys_trained: bool) -> tuple[float, float]:
        width, tokens, layers = part.hidden_size, queries + words, part.num_hidden_layers
        crossings = math.ceil(layers / part.cross_attention_frequency)
        own = layers * tokens * (4 * width**2 + 2 * width * part.intermediate_size) + crossings * queries * 2 * width**2
        reading = crossings * keys * 2 * width * part.encoder_hidden_size
        attention = 2 * width * (layers * tokens**2 + crossings * queries * keys)
        forward = 2 * times * (own + reading + attention)
        if not trains and not keys_trained:
            return forward, 0.0
        backward = 2 * times * ((1 + trains) * own + (trains + keys_trained) * reading + 2.5 * attention)
        return forward, backward + setup.checkpointing * forward

    width = vision.hidden_size
    layer = patches * (4 * width**2 + 2 * width * vision.intermediate_size) + 2 * patches**2 * width
    picture = 2 * ((patches - 1) * 3 * vision.patch_size**2 * width + vision.num_hidden_layers * layer)
    aggregator, among = aggregation(config, load)
    projector = 2 * config.num_video_query_tokens * video[-1] * video[0].hidden_size * text.hidden_size
    tokens = 2 * text.num_hidden_layers * load.tokens
    frozen, lora = tokens * sum(given * made for given, made in shapes.values()), tokens * lora_size(text, setup)
    attention = 4 * text.num_hidden_layers * load.tokens_squared * shapes["q_proj"][1]
    head = 2 * load.answers * text.hidden_size * text.vocab_size
    # Repeating a layer stops before its last product, which no gradient asks for.
    last = 0 if "down_proj" in setup.lora_targets else tokens * math.prod(shapes["down_proj"])
    again = setup.checkpointing * (frozen + attention - last)
    found = {
        "vision tower": (load.pictures * picture, 0),
        "image Q-Former": qformer(*image, image_trains, keys_trained=False),
        "video Q-Former": qformer(*video, video_trains, keys_trained=image_trains),
        "aggregator": (
            aggregator + among,
            (2 * aggregator + 2.5 * among) * bool({*IN_FULL[:3]} & {*setup.trained_parts}),
        ),
        "projector": (projector, 2 * projector * bool({*IN_FULL} & {*setup.trained_parts})),
        "language model": (frozen + attention + head, frozen + 2.5 * attention + again + 2 * head),  # TRL scores twice
        "LoRA": (lora, (2 + setup.checkpointing) * lora),
        "time tokens": (0, head if setup.trained_rows else 0),  # PEFT takes their rows of the gradient of all
    }
    return {name: one for name, one in found.items() if name != "aggregator" or config.aggregator}


def activations(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, tuple[float, float]]:
    """
    Bytes of a micro-batch, by part: kept for the way back, and needed besides while the part is at work. Autocast keeps
    results of products in 2 bytes, of norms in 4, of dropout in 1, and 2 for each cast: of every trained product's
    input and weights. With checkpointing only the layers' inputs are kept, and one layer's rest is needed at work.
    """
    vision, text, batch, checkpointing = config.vision_config, config.text_config, setup.batch, setup.checkpointing
    patches, image, video = passes(config, load)

    def qformer(part, queries, words, keys, times) -> tuple[float, float]:
        width, tokens, layers = part.hidden_size, queries + words, part.num_hidden_layers
        crossings = math.ceil(layers / part.cross_attention_frequency)
        weights = layers * (4 * width**2 + 2 * width * part.intermediate_size * (2 if words else 1))
        weights += crossings * 2 * (width**2 + width * part.encoder_hidden_size)
        # Casts, results, dropout, norm: of self-attention, of the feed-forward network, of attention to the keys.
        plain = tokens * (width * (3 * 2 + 4 * 2 + 1 + 4) + width * (2 + 1 + 4) + part.intermediate_size * 2 * 2)
        crossing = queries * width * (2 + 2 * 2 + 1 + 4) + keys * (part.encoder_hidden_size * 2 * 2 + width * 2 * 2)
        embedded = tokens * width * (1 + 4 * (words > 0))
        inputs = tokens * width * 4 * layers + keys * part.encoder_hidden_size * 4
        if checkpointing:
            return batch * times * (embedded + inputs), batch * times * (plain + crossing)
        return batch * times * (embedded + layers * plain + crossings * crossing) + 2 * weights, 0

    image_trains, video_trains = ("image_qformer" in setup.trained_parts, "video_qformer" in setup.trained_parts)
    wide, inner = video[0].hidden_size, video[0].intermediate_size
    # Of a token casts and results of products, of attention, of norms; an LSTM's gates and states (not measured).
    over_time = {"transformer": 20 * wide + 4 * inner, "linear": 2 * wide, "lstm": 14 * wide, "bilstm": 14 * wide}
    aggregated = config.num_fusion_layers * 14 * wide + over_time.get(config.aggregator, 0)
    aggregated *= batch * config.num_video_query_tokens * video[-1]
    matrices = {"transformer": 4 * wide + 2 * inner, "linear": wide, "lstm": 8 * wide, "bilstm": 6 * wide}
    aggregated += 2 * wide * (4 * wide * config.num_fusion_layers + matrices.get(config.aggregator, 0))
    tokens, answers, width, shapes = batch * load.tokens, batch * load.answers, text.hidden_size, projections(text)
    # Two norms; queries, keys, values, their result; gate, its activation, up; LoRA's casts, dropout and results.
    layer = tokens * (2 * 4 * width + 4 * 2 * shapes["q_proj"][1] + 3 * 2 * text.intermediate_size)
    layer += tokens * sum((2 + 1) * shapes[name][0] + 2 * setup.lora_rank for name in setup.lora_targets)
    kept = tokens * 2 * width if checkpointing else layer + 2 * lora_size(text, setup)
    gradients = tokens * 2 * (2 * text.intermediate_size + width)  # of results: at most so many at once
    # To train rows of the head, PEFT copies it, TRL its gradient in 4 bytes, then 2; it scores in tiles of 4096 tokens.
    head, tile = width * text.vocab_size * (setup.trained_rows > 0), 2 * 32768 * min(answers, 4096)
    pictures, seeing = batch * load.pictures, patches * (10 * vision.hidden_size + 4 * vision.intermediate_size)
    return {
        "vision tower": (pictures * 4 * 3 * vision.image_size**2, pictures * seeing),
        "image Q-Former": qformer(*image) if image_trains else (0, 0),
        "video Q-Former": qformer(*video) if image_trains or video_trains else (0, 0),
        "aggregator": (aggregated, 0),
        "projector": (2 * video[0].hidden_size * (batch * config.num_video_query_tokens * video[-1] + width), 0),
        "language model": (text.num_hidden_layers * kept + tokens * 4 * width, gradients + layer * checkpointing),
        "head": (2 * answers * width + 2 * head, 4 * answers * width + tile + 6 * head),
    }


def memory(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, float]:
    """Bytes of one GPU with a micro-batch of rows of mean length."""
    counts, text = parameters(config, setup), config.text_config
    trained = sum(size for _, size in counts.values())
    layer = sum(given * made for given, made in projections(text).values())
    linear, frozen = text.num_hidden_layers * layer, sum(size for size, trains in counts.values() if not trains)
    used = activations(config, load, setup)
    kept, (_, seeing) = sum(one for one, _ in used.values()), used.pop("vision tower")
    weights, states = {"ddp": (1, 1), "zero2": (1, setup.gpus), "zero3": (setup.gpus, setup.gpus)}[setup.sharding]
    found = {
        "frozen weights": (2 * (frozen - linear) + FROZEN_BYTES[setup.bits] * linear) / weights,
        "PEFT's untouched copies": 2 * (trained - counts["LoRA"][1] - counts["time tokens"][1]) / weights,
        "trained weights": 4 * trained / weights,
        "gradients": 4 * trained / states * (2 if states < setup.gpus else 1),  # DDP sends a copy
        "AdamW's moments": 8 * trained / states,
        "weights gathered": 4 * (layer + text.hidden_size * text.vocab_size) * (weights > 1),  # two layers, both ends
        "activations kept": kept,
        "largest part at work": max(seeing - kept, *(one for _, one in used.values())),  # vision: before all others
    }
    return found | {"together": sum(found.values())}


def hours(config: Seq2TimeConfig, loads: list[Load], setup: Setup) -> float:
    work = sum(load.rows * sum(map(sum, flops(config, load, setup).values())) for load in loads)
    return setup.epochs * work / (setup.gpus * PEAKS[setup.gpu] * setup.utilisation) / 3600


def report(config: Seq2TimeConfig, loads: list[Load], setup: Setup, name: str) -> str:
    """The whole bill of a run called `name`."""
    rows, counts = np.array([load.rows for load in loads]), parameters(config, setup)
    works = np.array([list(flops(config, load, setup).values()) for load in loads]) / 1e12
    sets = [("data set", "rows", "lengths", "frames", "pictures", "tokens", "learned", "TF a row", "hours")]
    for load, work in zip(loads, works, strict=True):
        means = [f"{mean:,.1f}" for mean in (load.frames, load.pictures, load.tokens, load.answers)]
        means += [f"{work.sum():.2f}", f"{hours(config, [load], setup):.2f}"]
        sets.append((load.name, f"{load.rows:,}", "measured" if load.measured else "expected", *means))

    bill = np.hstack([list(counts.values()), np.average(works, axis=0, weights=rows)])
    parts = [("part", "parameters", "trained", "TF a row, forward", "backward")]
    for part, (size, trained, *work) in zip([*counts, "together"], [*bill, bill.sum(axis=0)], strict=True):
        parts.append((part, f"{size:,.0f}", f"{trained:,.0f}", *(f"{one:.3f}" for one in work)))

    load = max(loads, key=lambda load: sum(map(sum, activations(config, load, setup).values())))
    other, most, needs = "without" if setup.checkpointing else "with", setup.longest or round(load.tokens), {}
    longest = replace(load, tokens=most, tokens_squared=most**2)
    for sharding in SHARDINGS:
        way = replace(setup, sharding=sharding)
        opposite = memory(config, load, replace(way, checkpointing=not setup.checkpointing))
        needs[sharding] = memory(config, load, way) | {f"together, {other} checkpointing": opposite["together"]}
        needs[sharding][f"together, at {most:,} tokens"] = memory(config, longest, way)["together"]
    space = [(f"GiB of a GPU with {setup.batch} × {load.name}", *SHARDINGS.values())]
    space += [(part, *(f"{need[part] / 2**30:.2f}" for need in needs.values())) for part in needs["ddp"]]

    update = setup.batch * setup.accumulation * setup.gpus
    lines = [
        f"{name} on {setup.gpus} × {setup.gpu} at {setup.utilisation:.0%}: about {hours(config, loads, setup):.1f} h",
        f"{setup.epochs:g} × {rows.sum():,} rows, {setup.epochs * (rows.sum() // update):,.0f} updates of {update}",
        f"{needs[setup.sharding]['together'] / 2**30:.0f} of {SIZES[setup.gpu]} GiB with {SHARDINGS[setup.sharding]}",
    ]
    for table in (sets, parts, space):
        first, *others = [len(max(column, key=len)) for column in zip(*table, strict=True)]
        lines += ["", *("  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]) for line in table)]
    return "\n".join([*lines, "", __doc__.partition("\n\n")[2]])
