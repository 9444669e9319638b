"""Sizes, words and random weights of the mini model."""

import math

import torch
from torch import nn

from dataset_scripts.sources import miniworld
from dataset_scripts.wording import TEMPLATES
from examples.make_tiny_model import make_qformer_tokenizer, make_tokenizer
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor


EXACT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {
    "vision_config": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"image_size": 112},
    "qformer_config": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"max_position_embeddings": 40, "cross_attention_frequency": 1, **EXACT},
    "video_qformer_config": {
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
    }
    | EXACT,
    "text_config": {"hidden_size": 192, "intermediate_size": 416, "num_hidden_layers": 6, "num_attention_heads": 6}
    | {"head_dim": 48, "num_key_value_heads": 6, "max_position_embeddings": 4096},
    "num_query_tokens": 4,
    "window_size": 16,
    "window_stride": 16,
    "num_video_query_tokens": 16,  # one of a frame, as TimeChat's 32 of 32
    "num_frames": 32,
}
VOCABULARY = 1500  # at most
SPREAD = 0.3  # of word embeddings
SEQUENCE_TEMPLATE = {"s": "The video contains {count} frames. ", "image": "The video contains {count} frames. "}


def make_model(corpus: list[str], seed: int) -> tuple[Seq2TimeForConditionalGeneration, Seq2TimeProcessor]:
    """At random, in plain text: the notation's tokens are for the phases to add."""
    tokenizer, qformer_tokenizer = make_tokenizer(corpus, VOCABULARY), make_qformer_tokenizer()
    sizes = {name: dict(size) if isinstance(size, dict) else size for name, size in SIZES.items()}
    sizes["qformer_config"]["vocab_size"] = len(qformer_tokenizer)
    config = Seq2TimeConfig.from_preset("timechat", time_notation="text", initializer_range=0.05, **sizes)
    processor = Seq2TimeProcessor.from_config(config, tokenizer, qformer_tokenizer)
    processor.sequence_template = SEQUENCE_TEMPLATE
    config.video_token_id, config.text_config.vocab_size = processor.video_token_id, len(tokenizer)
    torch.manual_seed(seed)
    model = Seq2TimeForConditionalGeneration(config)
    nn.init.normal_(model.get_input_embeddings().weight, std=SPREAD)
    grid = config.vision_config.image_size // config.vision_config.patch_size
    tower = model.model.vision_tower.embeddings
    with torch.no_grad():
        rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        width = tower.position_embedding.shape[-1] // 2
        places = torch.cat([waves(rows.flatten(), width, 2 * grid), waves(columns.flatten(), width, 2 * grid)], dim=1)
        tower.position_embedding[0, 1:] = places
        nn.init.normal_(model.model.image_qformer.query_tokens, std=0.5)
    begin_windows(model)
    return model, processor


@torch.no_grad()
def begin_windows(model):
    """
    A video Q-Former and a projector at random, but for places in a window: those of frames and of the queries that are
    to tell them are waves, in which a step from one to the next is the same everywhere.
    """
    parts, new = model.model, type(model)(model.config).model
    parts.video_qformer, parts.projector = new.video_qformer, new.projector
    for places in (parts.video_qformer.frame_positions.weight, parts.video_qformer.query_tokens[0]):
        places.copy_(waves(torch.arange(len(places)), places.shape[1], model.config.window_size))


def template_texts() -> list[str]:
    texts, pending = [], [TEMPLATES]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            texts.append(one)
        else:
            pending += one.values() if isinstance(one, dict) else one
    return texts


def world_texts() -> list[str]:
    texts = []
    for split in miniworld.SPLITS:
        texts += [text for row in miniworld.picture_combinations(split) for text in miniworld.picture_captions(*row)]
        texts += [text for row in miniworld.clip_combinations(split) for text in miniworld.clip_captions(*row)]
    return texts


def waves(places: torch.Tensor, width: int, period: int) -> torch.Tensor:
    """Sines and cosines of places, the longest wave of this period: neighbours are alike from the start."""
    angles = 2 * math.pi / period * places[:, None] * (1 + torch.arange(width // 2) % (period // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
