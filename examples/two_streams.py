"""
python -m examples.two_streams --output DIR [--vision MODEL] [--video MODEL] [--language MODEL] [--averaged]

Puts a Grounded-VideoLLM together from three models of the Hub, as a start for training: CLIP's picture encoder, a video
encoder (VideoMAE or V-JEPA 2) and a language model. What lies between them, two projectors and the ends of rows and
segments, is new, and so are the 301 time tokens.
"""

import argparse
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from dataset_scripts.command import run
from dataset_scripts.files import replacing
from dataset_scripts.items import DataError
from examples.make_tiny_model import make_qformer_tokenizer
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from modeling_seq2time.configuration_seq2time import CLIPS


FRAMES = 8  # of a segment
AVERAGED = {"spatial_pooling": "average", "spatial_side": 8}  # as with LLaMA-3: 2,316 tokens in place of 3,420


def assemble(vision: str, video: str, language: str, averaged: bool = False):
    """Model and processor."""
    clips = AutoConfig.from_pretrained(video)
    if clips.model_type not in CLIPS:
        raise DataError(f"--video {video}: expected a model of {' or '.join(CLIPS)}, found {clips.model_type}")
    setattr(clips, CLIPS[clips.model_type][0], FRAMES)  # places in both are waves, no weights: any number will do
    seeing = CLIPVisionModel.from_pretrained(vision)
    moving = AutoModel.from_pretrained(video, config=clips)
    words = AutoModelForCausalLM.from_pretrained(language)
    grid = seeing.config.image_size // seeing.config.patch_size
    config = Seq2TimeConfig.from_preset(
        "grounded_videollm",
        vision_config=seeing.config,
        temporal_config=clips,
        text_config=words.config,
        **AVERAGED if averaged else {"spatial_side": grid // 2},
    )
    tokenizer = AutoTokenizer.from_pretrained(language)
    processor = Seq2TimeProcessor.from_config(config, tokenizer, make_qformer_tokenizer())  # which it never asks
    config.video_token_id = processor.video_token_id
    model = Seq2TimeForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(seeing.state_dict())
    model.model.temporal_tower.encoder.load_state_dict(moving.state_dict())
    model.model.language_model.load_state_dict(words.base_model.state_dict())
    model.lm_head.load_state_dict(words.get_output_embeddings().state_dict())
    model.add_time_tokens(processor.tokenizer)
    return model, processor


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--vision", default="openai/clip-vit-large-patch14-336", help="default: %(default)s")
    parser.add_argument("--video", default="facebook/vjepa2-vitl-fpc64-256", help="default: %(default)s")
    parser.add_argument("--language", default="microsoft/Phi-3.5-mini-instruct", help="default: %(default)s")
    parser.add_argument("--averaged", action="store_true", help="key frames as 8 x 8 tokens, as with LLaMA-3")
    args = parser.parse_args(arguments)
    if args.output.exists():
        raise DataError(f"{args.output}: expected a folder that isn't there yet")
    model, processor = assemble(args.vision, args.video, args.language, args.averaged)
    with replacing(args.output) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)
    print(f"{args.output}: {model.num_parameters():,} parameters, {model.config.num_video_tokens:,} tokens a video")


if __name__ == "__main__":
    run(main)
