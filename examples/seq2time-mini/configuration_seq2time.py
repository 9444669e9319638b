"""Configuration of Seq2Time: four typed parts, the windows over frames, and how time is written."""

import copy
import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import Blip2QFormerConfig, InstructBlipVisionConfig, PreTrainedConfig
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


def count_video_tokens(num_frames: int, window_stride: int, tokens_per_window: int) -> int:
    """LLM tokens of a video: one set of queries per started stride, one set in all when `window_stride` is 0."""
    windows = math.ceil(num_frames / window_stride) if window_stride else 1
    return windows * tokens_per_window


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
        vision_config (`InstructBlipVisionConfig` or dict):
            The frozen EVA ViT that sees one picture.
        qformer_config (`InstructBlipQFormerConfig`, `Blip2QFormerConfig` or dict):
            The image Q-Former. `model_type="instructblip_qformer"` reads each frame's time sentence (TimeChat),
            `"blip_2_qformer"` reads no text (Video-LLaMA).
        video_qformer_config (`Seq2TimeVideoQFormerConfig` or dict):
            The video Q-Former that turns a window of frames into LLM tokens.
        text_config (`PreTrainedConfig` or dict):
            Any language model of `AutoModelForCausalLM`.
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
            ones partial. `window_stride=0` is one window over all frames.
        num_query_tokens, num_video_query_tokens (`int`):
            Queries per frame and per window.
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
        "vision_config": InstructBlipVisionConfig,
        "qformer_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_qformer"),
        "video_qformer_config": Seq2TimeVideoQFormerConfig,
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    qformer_config: dict | PreTrainedConfig | None = None
    video_qformer_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    time_notation: str = "rpt"
    time_notation_options: dict | None = None
    time_token_ids: list[int] | None = None
    video_token_id: int = 32000
    num_frames: int = 96
    max_frame_positions: int = 96
    window_size: int = 32
    window_stride: int = 32
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
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)

    def validate_time(self):
        """Frames fit their position table, windows cover every frame, the notation exists."""
        get_notation(self.time_notation, **self.time_notation_options or {})
        if not 1 <= self.num_frames <= self.max_frame_positions:
            raise ValueError(
                f"num_frames must be between 1 and max_frame_positions={self.max_frame_positions}, "
                f"found {self.num_frames}"
            )
        if self.window_stride < 0 or (self.window_stride > 0 and self.window_size < self.window_stride):
            raise ValueError(
                "window_size must be at least window_stride, or frames between windows would be lost (window_stride=0 "
                f"is one window over all frames); found window_size={self.window_size}, "
                f"window_stride={self.window_stride}"
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
        return self.qformer_config.model_type == "instructblip_qformer"

    @property
    def num_video_tokens(self) -> int:
        """LLM tokens of a video with `num_frames` frames."""
        return count_video_tokens(self.num_frames, self.window_stride, self.num_video_query_tokens)

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
