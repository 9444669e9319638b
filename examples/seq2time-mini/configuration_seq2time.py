"""Configuration of Seq2Time: four typed parts, the windows over frames, and how time is written."""

import copy
import math
from itertools import pairwise
from typing import Literal, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import Blip2QFormerConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from .time_notation import get_notation


# TimeChat-7B and Video-LLaMA-7B share every dimension; they differ in what the image Q-Former reads and in windows.
_EVA_VIT_G = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "initializer_range": 0.02,
}
_LLAMA_2_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# 30522 BERT words + [DEC]; no padding row, because TimeChat trains it like any other.
_BERT_QFORMER = {"vocab_size": 30523, "pad_token_id": None}

PRESETS = {
    "timechat": {
        "vision_config": _EVA_VIT_G,
        "qformer_config": {"model_type": "instructblip_qformer", **_BERT_QFORMER},
        "video_qformer_config": {},
        "text_config": _LLAMA_2_7B,
        "window_size": 32,
        "window_stride": 32,
    },
    "video_llama": {
        "vision_config": _EVA_VIT_G,
        "qformer_config": {"model_type": "blip_2_qformer", **_BERT_QFORMER},
        "video_qformer_config": {},
        "text_config": _LLAMA_2_7B,
        "window_size": 0,
        "window_stride": 0,
    },
}
PRESETS["temporalvlm"] = PRESETS["timechat"] | {
    "num_frames": 576,
    "segment_size": 96,
    "window_size": 32,
    "window_stride": 16,
    "num_fusion_layers": 1,  # inferred, as is that a fusion is one of the video Q-Former's width and heads
    "aggregator": "bilstm",  # of one layer, each direction half as wide: inferred
}
PRESETS["grounded_videollm"] = {
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "temporal_config": {  # of InternVideo2-1B's size; its own weights are of another class
        "model_type": "videomae",
        "hidden_size": 1408,
        "intermediate_size": 6144,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "num_frames": 8,
        "tubelet_size": 1,
        "use_mean_pooling": False,
    },
    "text_config": {
        "model_type": "phi3",  # Phi-3.5-mini
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,  # before its long-context scaling
        "bos_token_id": 1,
        "eos_token_id": 32007,
        "pad_token_id": 32000,
    },
    "num_frames": 96,
    "segment_size": 8,
    "window_size": 0,
    "window_stride": 0,
    "spatial_pooling": "merge",  # of Phi-3.5; its LLaMA-3 form: "average" to 8
    "spatial_side": 12,
    "temporal_side": 4,
    "time_notation": "bins",
}


class Windows(NamedTuple):
    """Which frames of a video the video Q-Former sees at once. No window is of two segments."""

    size: int
    stride: int  # 0: a segment is one window
    segment: int = 0  # frames of a segment; 0: a video is one

    def segments(self, num_frames: int) -> list[range]:
        """As few as a video's frames fit into, as equal as can be."""
        count = math.ceil(num_frames / self.segment) if self.segment else min(num_frames, 1)
        edges = [num_frames * part // max(count, 1) for part in range(count + 1)]
        return [range(*ends) for ends in pairwise(edges)]

    def __call__(self, num_frames: int) -> list[list[range]]:
        """Of each segment; the last one is partial, and has frames that none before it has."""
        if not self.stride:
            return [[segment] for segment in self.segments(num_frames)]
        overlap, windows = self.size - self.stride, []
        for first, last in ((segment.start, segment.stop) for segment in self.segments(num_frames)):
            starts = range(first, max(last - overlap, first + 1), self.stride)
            windows.append([range(start, min(start + self.size, last)) for start in starts])
        return windows

    def count(self, num_frames: int) -> int:
        return sum(map(len, self(num_frames)))


class Clips(NamedTuple):
    """What a video encoder takes, frames of `side` pixels, and what it gives: patches of `steps` × `grid` × `grid`."""

    frames: int
    side: int
    steps: int
    grid: int


CLIPS = {"videomae": ("num_frames", "image_size"), "vjepa2": ("frames_per_clip", "crop_size")}  # what they call them


@strict
class Seq2TimeVideoQFormerConfig(Blip2QFormerConfig):
    """BLIP-2's Q-Former over a window of frames; a class of its own so that it is read from its own key."""

    model_type = "seq2time_video_qformer"
    base_config_key = "video_qformer_config"

    num_hidden_layers: int = 2
    cross_attention_frequency: int = 1
    encoder_hidden_size: int = 768


@strict
class Seq2TimeConfig(PreTrainedConfig):
    r"""
    Args:
        vision_config (`PreTrainedConfig` or dict):
            The frozen tower that sees one picture: EVA's ViT (`"instructblip_vision_model"`); with two streams CLIP's
            (`"clip_vision_model"`).
        qformer_config (`InstructBlipQFormerConfig`, `Blip2QFormerConfig` or dict):
            The image Q-Former. `model_type="instructblip_qformer"` reads each frame's time sentence (TimeChat),
            `"blip_2_qformer"` reads no text (Video-LLaMA).
        video_qformer_config (`Seq2TimeVideoQFormerConfig` or dict):
            The video Q-Former that turns a window of frames into LLM tokens.
        text_config (`PreTrainedConfig` or dict):
            Any language model of `AutoModelForCausalLM`.
        temporal_config (`PreTrainedConfig` or dict, *optional*):
            A video encoder of `AutoModel`, VideoMAE or V-JEPA 2, frozen. With it the model has two streams in place of
            Q-Formers (Grounded-VideoLLM): of each segment one key frame goes through the vision tower, all frames
            through the video encoder.
        spatial_pooling, spatial_side, temporal_side (`str`, `int`):
            How patches of two streams become tokens. Of a key frame `spatial_side` × `spatial_side`, by `"average"`, or
            by `"merge"`, which puts neighbours side by side and ends each row with a learned token; of each frame of a
            segment `temporal_side` × `temporal_side` by average.
        time_notation (`str`):
            How a position is written for the language model; a name known to `get_notation`.
        time_notation_options (`dict`, *optional*):
            The notation's options, such as `num_bins`.
        time_token_ids (`list[int]`, *optional*):
            Vocabulary ids of the notation's own tokens. Set by `add_time_tokens`; `None` until then.
        num_frames (`int`):
            Frames sampled from a sequence.
        max_frame_positions (`int`):
            Rows of the frame position table: the most frames a sequence may have.
        window_size, window_stride (`int`):
            Window i of the video Q-Former sees frames `[i * window_stride, i * window_stride + window_size)`, the last
            one partial. `window_stride=0` is one window over all frames.
        segment_size (`int`):
            Frames of a segment (TemporalVLM): a video has as few segments as its frames fit into, equal ones, each with
            windows and frame positions of its own. 0 makes one segment of every video. With two streams as many as the
            video encoder takes, which sees the last frame of a shorter segment again.
        num_fusion_layers (`int`):
            Layers of self-attention among a segment's video tokens, each with residual and norm (TemporalVLM).
        aggregator (`str`, *optional*):
            What passes over the video tokens of all segments: `"bilstm"`, `"lstm"`, `"transformer"`, `"linear"` or
            `"average"` (TemporalVLM).
        num_query_tokens, num_video_query_tokens (`int`):
            Queries per frame and per window. With two streams the latter follows from the other sizes.
        vision_post_layernorm_eps (`float`):
            Epsilon of the norm behind the ViT (BLIP's `ln_vision`), which differs from the ViT's own.
        freeze_vision (`bool`):
            Whether the vision tower runs without a graph and keeps its weights.
        time_text_padding (`str`):
            `"video"` pads a frame's time text to the longest of its own video, so that a batch gives each video what
            it gets alone. `"batch"` pads over the whole stack as TimeChat's training does; for parity only, since the
            outputs of padding positions reach the video Q-Former.
    """

    model_type = "seq2time"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_vision_model"),
        "qformer_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_qformer"),
        "video_qformer_config": Seq2TimeVideoQFormerConfig,
        "temporal_config": SubConfigSpec(config_class=AutoConfig, model_type="videomae", optional=True),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    qformer_config: dict | PreTrainedConfig | None = None
    video_qformer_config: dict | PreTrainedConfig | None = None
    temporal_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    time_notation: str = "rpt"
    time_notation_options: dict | None = None
    time_token_ids: list[int] | None = None
    video_token_id: int = 32000
    num_frames: int = 96
    max_frame_positions: int = 96
    window_size: int = 32
    window_stride: int = 32
    segment_size: int = 0
    num_fusion_layers: int = 0
    aggregator: Literal["bilstm", "lstm", "transformer", "linear", "average"] | None = None
    spatial_pooling: Literal["merge", "average"] = "merge"
    spatial_side: int = 12
    temporal_side: int = 4
    num_query_tokens: int = 32
    num_video_query_tokens: int = 32
    vision_post_layernorm_eps: float = 1e-5
    freeze_vision: bool = True
    time_text_padding: Literal["video", "batch"] = "video"
    initializer_range: float = 0.02
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        # One class registers itself with one Auto class on saving; the model serves all of these.
        model_class = "modeling_seq2time.Seq2TimeForConditionalGeneration"
        auto_map = {
            "AutoConfig": "configuration_seq2time.Seq2TimeConfig",
            "AutoModel": "modeling_seq2time.Seq2TimeModel",
            "AutoModelForImageTextToText": model_class,
            "AutoModelForMultimodalLM": model_class,
        }
        kwargs["auto_map"] = {**auto_map, **(kwargs.get("auto_map") or {})}
        super().__post_init__(**kwargs)
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        self.video_qformer_config.encoder_hidden_size = self.qformer_config.hidden_size
        if self.has_two_streams and self.temporal_config.model_type in CLIPS:  # others are refused below
            key_frame = self.spatial_side * (self.spatial_side + (self.spatial_pooling == "merge"))
            self.num_video_query_tokens = key_frame + self.clips.steps * self.temporal_side**2 + 1
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)

    def validate_time(self):
        """Frames fit their position table, windows cover every frame, the notation exists."""
        get_notation(self.time_notation, **self.time_notation_options or {})
        if self.num_frames < 1 or (not self.segment_size and self.num_frames > self.max_frame_positions):
            raise ValueError(
                f"num_frames must be between 1 and max_frame_positions={self.max_frame_positions}, "
                f"found {self.num_frames}"
            )
        if not 0 <= self.segment_size <= self.max_frame_positions:
            raise ValueError(
                "segment_size must be between 1 and max_frame_positions, or 0 for one segment; found "
                f"segment_size={self.segment_size}, max_frame_positions={self.max_frame_positions}"
            )
        if self.segment_size and self.num_frames % self.segment_size:
            raise ValueError(
                "num_frames must be whole segments of segment_size; found "
                f"num_frames={self.num_frames}, segment_size={self.segment_size}"
            )
        if self.window_stride < 0 or (self.window_stride > 0 and self.window_size < self.window_stride):
            raise ValueError(
                "window_size must be at least window_stride, or frames between windows would be lost (window_stride=0 "
                f"is one window over all frames); found window_size={self.window_size}, "
                f"window_stride={self.window_stride}"
            )

    def validate_aggregation(self):
        width, heads = self.video_qformer_config.hidden_size, self.video_qformer_config.num_attention_heads
        if self.num_fusion_layers < 0:
            raise ValueError(f"num_fusion_layers must be at least 0, found {self.num_fusion_layers}")
        if self.num_fusion_layers and self.aggregator is None:
            raise ValueError(
                f"num_fusion_layers={self.num_fusion_layers} needs an aggregator over what is fused, found none"
            )
        if self.aggregator == "bilstm" and width % 2:
            raise ValueError(f"each direction of a bilstm is half as wide as the video Q-Former, found {width}")
        if (self.num_fusion_layers or self.aggregator == "transformer") and width % heads:
            raise ValueError(f"the video Q-Former's width must be divisible by its heads, found {width} and {heads}")

    def validate_streams(self):
        vision, temporal = self.vision_config, self.temporal_config
        wanted = "clip_vision_model" if self.has_two_streams else "instructblip_vision_model"
        if vision.model_type != wanted:
            raise ValueError(
                f"vision_config.model_type must be {wanted!r} {'with' if self.has_two_streams else 'without'} a "
                f"temporal_config, found {vision.model_type!r}"
            )
        if not self.has_two_streams:
            return
        if temporal.model_type not in CLIPS:
            known = ", ".join(map(repr, CLIPS))
            raise ValueError(f"temporal_config.model_type must be one of {known}, found {temporal.model_type!r}")
        if self.segment_size != self.clips.frames or self.window_stride or self.aggregator:
            raise ValueError(
                f"two streams see segments of as many frames as the video encoder takes, {self.clips.frames}, without "
                f"windows and aggregator; found segment_size={self.segment_size}, window_stride={self.window_stride}, "
                f"aggregator={self.aggregator}"
            )
        if self.clips.frames % temporal.tubelet_size:
            raise ValueError(
                "the frames that the video encoder takes must be whole tubelets, found "
                f"{self.clips.frames} frames and tubelet_size={temporal.tubelet_size}"
            )
        side = vision.image_size // vision.patch_size
        if self.spatial_pooling == "merge" and (self.spatial_side < 1 or side % self.spatial_side):
            raise ValueError(
                f"spatial_side must divide the vision tower's {side} patches a row to merge them, found "
                f"{self.spatial_side}"
            )
        most = side, self.clips.grid
        if not (1 <= self.spatial_side <= most[0] and 1 <= self.temporal_side <= most[1]):
            raise ValueError(
                f"spatial_side and temporal_side must be between 1 and the encoders' {most[0]} and {most[1]} patches a "
                f"row, found {self.spatial_side} and {self.temporal_side}"
            )

    def validate_image_qformer(self):
        if min(self.num_query_tokens, self.num_video_query_tokens) < 1:
            raise ValueError(
                "num_query_tokens and num_video_query_tokens must be at least 1, found "
                f"{self.num_query_tokens} and {self.num_video_query_tokens}"
            )
        if self.qformer_config.model_type not in ("instructblip_qformer", "blip_2_qformer"):
            raise ValueError(
                "qformer_config.model_type must be 'instructblip_qformer' (reads each frame's time) or "
                f"'blip_2_qformer' (reads no text), found {self.qformer_config.model_type!r}"
            )

    @property
    def qformer_reads_time(self) -> bool:
        """Whether the image Q-Former is given each frame's time sentence."""
        return not self.has_two_streams and self.qformer_config.model_type == "instructblip_qformer"

    @property
    def has_two_streams(self) -> bool:
        return self.temporal_config is not None

    @property
    def clips(self) -> Clips:
        """What the video encoder of two streams takes and gives."""
        encoder = self.temporal_config
        frames, side = (getattr(encoder, name) for name in CLIPS[encoder.model_type])
        return Clips(frames, side, frames // encoder.tubelet_size, side // encoder.patch_size)

    @property
    def windows(self) -> Windows:
        return Windows(self.window_size, self.window_stride, self.segment_size)

    @property
    def num_video_tokens(self) -> int:
        """LLM tokens of a video with `num_frames` frames."""
        return self.windows.count(self.num_frames) * self.num_video_query_tokens

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> "Seq2TimeConfig":
        """
        A published system at its real size. A part given as a dict overrides single values of the preset's part,
        unless it names another `model_type`; anything else replaces the preset's value.
        """
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}, expected one of {', '.join(map(repr, PRESETS))}")
        values = copy.deepcopy(PRESETS[preset])
        for name, value in overrides.items():
            part = values.get(name)
            same_type = isinstance(value, dict) and value.get("model_type") in (None, (part or {}).get("model_type"))
            values[name] = {**part, **value} if isinstance(part, dict) and same_type else value
        return cls(**values)


Seq2TimeConfig.register_for_auto_class()
