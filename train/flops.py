"""FLOPs of a training step, part by part, from sizes alone."""

import math
from dataclasses import dataclass

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeConfig

from .adapter import BOTH_ENDS, IN_FULL, QFORMERS


PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "RTX 4090": 165e12}  # dense bf16, FLOP/s
SIZES = {"A100": 80, "H100": 80, "H200": 140, "L40S": 45, "RTX 4090": 24}  # GiB
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")
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
        choices += [("trained_parts", name, (*IN_FULL, *BOTH_ENDS)) for name in self.trained_parts]
        for key, found, allowed in choices + [("lora_targets", name, MATRICES) for name in self.lora_targets]:
            if found not in allowed:
                raise DataError(f"--plan, {key}: expected one of {', '.join(map(str, allowed))}, found {found!r}")


def projections(text) -> dict[str, tuple[int, int]]:
    """Widths of input and output of a layer's matrices, in any language model built like LLaMA, or like Phi-3."""
    width, inner = text.hidden_size, text.intermediate_size
    head = text.to_dict().get("head_dim") or width // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    if text.model_type == "phi3":
        into = {"qkv_proj": (width, queries + 2 * keys), "gate_up_proj": (width, 2 * inner)}
    else:
        into = {"q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys)}
        into |= {"gate_proj": (width, inner), "up_proj": (width, inner)}
    return into | {"o_proj": (queries, width), "down_proj": (inner, width)}


def lora_size(text, setup: Setup) -> int:  # parameters of a layer
    return setup.lora_rank * sum(sum(projections(text)[name]) for name in setup.lora_targets)


def passes(config: Seq2TimeConfig, load: Load) -> tuple[tuple, tuple]:
    """Of the image and the video Q-Former: queries, words beside them, keys, passes of a row."""
    patches, _ = picture(config)
    words = load.time_tokens if config.qformer_reads_time else 0
    windows = [len(window) for segment in config.windows(math.ceil(load.frames)) for window in segment]
    seen = min(max(windows, default=0), load.frames)
    image = (config.qformer_config, config.num_query_tokens, words, patches, load.frames)
    keys = seen * (config.num_query_tokens + words)
    return image, (config.video_qformer_config, config.num_video_query_tokens, 0, keys, len(windows))


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
    text, shapes = config.text_config, projections(config.text_config)
    queries, tokens = shapes["o_proj"][0], 2 * text.num_hidden_layers * load.tokens
    frozen, lora = tokens * sum(given * made for given, made in shapes.values()), tokens * lora_size(text, setup)
    attention = 4 * text.num_hidden_layers * load.tokens_squared * queries
    head = 2 * load.answers * text.hidden_size * text.vocab_size
    # Repeating a layer stops before its last product, which no gradient asks for.
    last = 0 if "down_proj" in setup.lora_targets else tokens * math.prod(shapes["down_proj"])
    again = setup.checkpointing * (frozen + attention - last)
    found = (seen_by_streams if config.has_two_streams else seen_by_qformers)(config, load, setup)
    whole = head * ("head" in setup.trained_parts)
    return found | {
        "language model": (frozen + attention + head, frozen + 2.5 * attention + again + 2 * head + whole),  # TRL's two
        "LoRA": (lora, (2 + setup.checkpointing) * lora),
        "time tokens": (0, head if setup.trained_rows and not whole else 0),  # PEFT takes rows of the gradient of all
    }


def inner_width(part) -> int:
    """Of a transformer's feed-forward network; V-JEPA 2 gives a ratio."""
    return int(part.hidden_size * part.mlp_ratio) if part.model_type == "vjepa2" else part.intermediate_size


def encoder(tokens: float, part) -> float:
    """FLOPs of a transformer's layers forward, of a sequence."""
    width = part.hidden_size
    layer = tokens * (4 * width**2 + 2 * width * inner_width(part)) + 2 * tokens**2 * width
    return 2 * part.num_hidden_layers * layer


def picture(config: Seq2TimeConfig) -> tuple[int, float]:
    """Tokens of a picture in the vision tower, and what that takes."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    embedding = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    return patches + 1, embedding + encoder(patches + 1, vision)


def key_frames(config: Seq2TimeConfig, load: Load) -> float:
    """Pictures of a row that pass the vision tower: all, or with two streams one a segment."""
    segments = len(config.windows.segments(math.ceil(load.frames)))
    return min(segments, load.pictures) if config.has_two_streams else load.pictures


def seen_by_streams(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, tuple[float, float]]:
    segments, temporal = len(config.windows.segments(math.ceil(load.frames))), config.temporal_config
    patches, width = config.clips.steps * config.clips.grid**2, config.text_config.hidden_size
    embedding = 2 * patches * 3 * temporal.tubelet_size * temporal.patch_size**2 * temporal.hidden_size
    merges = config.spatial_pooling == "merge"
    # Tokens of a segment; beside them it has the key frame's and its end.
    frames = config.clips.steps * config.temporal_side**2
    key_frame = config.num_video_query_tokens - frames - 1
    merged = (config.vision_config.image_size // config.vision_config.patch_size // config.spatial_side) ** 2
    given = config.vision_config.hidden_size * (merged if merges else 1)
    spatial = 2 * segments * key_frame * (given + width) * width
    moving = 2 * segments * frames * (temporal.hidden_size + width) * width

    def backward(part: str, forward: float, frozen: int) -> float:  # of a frozen input nothing is asked
        return (2 * forward - forward * frozen / (frozen + width)) * (part in setup.trained_parts)

    return {
        "vision tower": (key_frames(config, load) * picture(config)[1], 0),
        "video encoder": (segments * (embedding + encoder(patches, temporal)), 0),
        "spatial projector": (spatial, backward("spatial_projector", spatial, given * (not merges))),
        "temporal projector": (moving, backward("temporal_projector", moving, temporal.hidden_size)),
    }


def seen_by_qformers(config: Seq2TimeConfig, load: Load, setup: Setup) -> dict[str, tuple[float, float]]:
    image, video = passes(config, load)
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

    aggregator, among = aggregation(config, load)
    projector = 2 * config.num_video_query_tokens * video[-1] * video[0].hidden_size * config.text_config.hidden_size
    found = {
        "vision tower": (load.pictures * picture(config)[1], 0),
        "image Q-Former": qformer(*image, image_trains, keys_trained=False),
        "video Q-Former": qformer(*video, video_trains, keys_trained=image_trains),
        "aggregator": (
            aggregator + among,
            (2 * aggregator + 2.5 * among) * bool({*QFORMERS[:3]} & {*setup.trained_parts}),
        ),
        "projector": (projector, 2 * projector * bool({*QFORMERS} & {*setup.trained_parts})),
    }
    return {name: one for name, one in found.items() if name != "aggregator" or config.aggregator}
