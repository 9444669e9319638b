"""
What a run costs, before it: parameters, FLOPs of a row, memory of a GPU, hours. No weights are needed.

FLOPs are those of matrix products, as `torch.utils.flop_counter` counts them in a training step: attention as a full
square, its scores a second time on the way back. Hours assume a share of the GPU's peak, and that padding and input
cost nothing. Bytes are those of bf16 autocast and fp32 AdamW, without what CUDA, its allocator and NCCL take. Nothing
of it was ever compared with a real GPU.
"""

import math
from dataclasses import replace

import numpy as np
import torch

from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration

from .adapter import BOTH_ENDS
from .flops import (
    FROZEN_BYTES,
    PEAKS,
    SHARDINGS,
    SIZES,
    Load,
    Setup,
    flops,
    inner_width,
    key_frames,
    lora_size,
    passes,
    picture,
    projections,
)


def parameters(config: Seq2TimeConfig, setup: Setup) -> dict[str, tuple[int, int]]:
    """Of each part all parameters and those that train. The model is built without its memory, and counted."""
    with torch.device("meta"):
        model = Seq2TimeForConditionalGeneration(config)
    inner, text = model.model, config.text_config
    names = {"vision tower": "vision_tower"}
    if config.has_two_streams:
        names |= {"video encoder": "temporal_tower"}
        names |= {"spatial projector": "spatial_projector", "temporal projector": "temporal_projector"}
    else:
        names |= {"image Q-Former": "image_qformer", "video Q-Former": "video_qformer"}
        names |= {"aggregator": "aggregator"} if config.aggregator else {}
        names["projector"] = "projector"
    parts = {name: getattr(inner, part).parameters() for name, part in names.items()}
    sizes = {name: sum(weight.numel() for weight in part) for name, part in parts.items()}
    lora = text.num_hidden_layers * lora_size(text, setup)
    ends = BOTH_ENDS[: 1 if config.tie_word_embeddings else 2]
    whole = len({*ends} & {*setup.trained_parts})
    rows = setup.trained_rows * text.hidden_size * (len(ends) - whole)
    counts = {name: (size, size * (names[name] in setup.trained_parts)) for name, size in sizes.items()}
    language = model.num_parameters() - sum(sizes.values())
    counts["language model"] = (language, whole * text.vocab_size * text.hidden_size)
    return counts | {"LoRA": (lora, lora), "time tokens": (rows, rows)}


def activations(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, tuple[float, float]]:
    """
    Bytes of a micro-batch, by part: kept for the way back, and needed besides while the part is at work. Autocast keeps
    results of products in 2 bytes, of norms in 4, of dropout in 1, and 2 for each cast: of every trained product's
    input and weights. With checkpointing only the layers' inputs are kept, and one layer's rest is needed at work.
    """
    vision, text, batch, checkpointing = config.vision_config, config.text_config, setup.batch, setup.checkpointing
    tokens, answers, width = batch * load.tokens, batch * load.answers, text.hidden_size
    # Two norms; queries, keys, values, their result; gate, its activation, up; LoRA's casts, dropout and results.
    layer = tokens * (2 * 4 * width + 4 * 2 * projections(text)["o_proj"][0] + 3 * 2 * text.intermediate_size)
    layer += tokens * sum((2 + 1) * projections(text)[name][0] + 2 * setup.lora_rank for name in setup.lora_targets)
    kept = tokens * 2 * width if checkpointing else layer + 2 * lora_size(text, setup)
    gradients = tokens * 2 * (2 * text.intermediate_size + width)  # of results: at most so many at once
    # To train rows of the head, PEFT copies it, TRL its gradient in 4 bytes, then 2; it scores in tiles of 4096 tokens.
    trains = setup.trained_rows > 0 or "head" in setup.trained_parts
    head, tile = width * text.vocab_size * trains, 2 * 32768 * min(answers, 4096)
    patches, _ = picture(config)
    seeing = batch * key_frames(config, load) * patches * (10 * vision.hidden_size + 4 * vision.intermediate_size)
    found = (streams_kept if config.has_two_streams else qformers_kept)(config, load, setup)
    return found | {
        "vision tower": (batch * load.pictures * 4 * 3 * vision.image_size**2, seeing),
        "language model": (text.num_hidden_layers * kept + tokens * 4 * width, gradients + layer * checkpointing),
        "head": (2 * answers * width + 2 * head, 4 * answers * width + tile + 6 * head),
    }


def streams_kept(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, tuple[float, float]]:
    """Not measured: projectors keep their input, what is between their layers and its activation, and cast weights."""
    temporal, segments = config.temporal_config, setup.batch * len(config.windows.segments(math.ceil(load.frames)))
    tokens, width = segments * config.num_video_query_tokens, config.text_config.hidden_size
    patches = segments * config.clips.steps * config.clips.grid**2
    seeing = patches * (10 * temporal.hidden_size + 4 * inner_width(temporal))
    pixels = segments * config.clips.frames * 4 * 3 * config.clips.side**2
    projectors = tokens * 2 * (temporal.hidden_size + 2 * width) + 2 * 2 * (temporal.hidden_size + width) * width
    return {"video encoder": (pixels, seeing), "projectors": (projectors, 0)}


def qformers_kept(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, tuple[float, float]]:
    text, batch, checkpointing = config.text_config, setup.batch, setup.checkpointing
    image, video = passes(config, load)

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
    return {
        "image Q-Former": qformer(*image) if image_trains else (0, 0),
        "video Q-Former": qformer(*video) if image_trains or video_trains else (0, 0),
        "aggregator": (aggregated, 0),
        "projector": (2 * wide * (batch * config.num_video_query_tokens * video[-1] + text.hidden_size), 0),
    }


def memory(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, float]:
    """Bytes of one GPU with a micro-batch of rows of mean length."""
    counts, text = parameters(config, setup), config.text_config
    trained = sum(size for _, size in counts.values())
    layer = sum(given * made for given, made in projections(text).values())
    linear, frozen = text.num_hidden_layers * layer, sum(size - trains for size, trains in counts.values())
    used = activations(config, load, setup)
    kept = sum(one for one, _ in used.values())
    seeing = max(used.pop(tower, (0, 0))[1] for tower in ("vision tower", "video encoder"))
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
