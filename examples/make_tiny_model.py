"""
python examples/make_tiny_model.py --preset timechat --output DIR

Writes a complete Hub folder with random weights at toy size: model, processor, remote code. For tests and for trying
the interfaces; what it answers is noise.
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from modeling_seq2time.configuration_seq2time import PRESETS


CORPUS = [
    "[INST] <<SYS>>\n \n<</SYS>>\n\n<Video></Video> The video contains 96 frames sampled at 0.0, 1.5, 12.3 seconds.",
    "Detect and report the start and end timestamps of the video segment that matches the query. [/INST]",
    "The given query happens in 24.3 - 30.4 seconds. a person opens the door, then walks to the red circle.",
    "Give a detailed description of the video, with the timestamps of every event.",
]
TIME_WORDS = ["this", "frame", "is", "at", "position", "sampled", "second", "number", "."]

TINY = {
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"image_size": 56},
    "qformer_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"max_position_embeddings": 40},
    "video_qformer_config": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4},
    "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2},
    "num_query_tokens": 4,
    "num_video_query_tokens": 4,
}
TWO_STREAMS = {
    "temporal_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"image_size": 28},
    "spatial_side": 2,
    "temporal_side": 1,
}


def make_tokenizer(corpus: Sequence[str] = CORPUS, vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE in LLaMA's conventions: <unk>, <s>, </s> are 0, 1, 2, digits stay single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def make_qformer_tokenizer() -> BertTokenizer:
    """A WordPiece vocabulary that can say the time sentences; everything else is spelled."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    words += [word for word in TIME_WORDS if word not in words]
    return BertTokenizer(vocab={word: place for place, word in enumerate(words)}, bos_token="[DEC]")


def make_tiny_model(preset: str, seed: int = 0, **overrides):
    """Model and processor of a preset at toy size; `overrides` as in `Seq2TimeConfig.from_preset`."""
    tokenizer, qformer_tokenizer = make_tokenizer(), make_qformer_tokenizer()
    sizes = copy.deepcopy(TINY)
    sizes["qformer_config"]["vocab_size"] = len(qformer_tokenizer)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes["text_config"] |= {"vocab_size": len(tokenizer), **special}
    sizes |= copy.deepcopy(TWO_STREAMS) if "temporal_config" in PRESETS[preset] else {}
    for name, value in overrides.items():
        sizes[name] = sizes[name] | value if isinstance(sizes.get(name), dict) and "model_type" not in value else value
    config = Seq2TimeConfig.from_preset(preset, **sizes)
    processor = Seq2TimeProcessor.from_config(config, tokenizer, qformer_tokenizer)
    config.video_token_id = processor.video_token_id
    torch.manual_seed(seed)
    model = Seq2TimeForConditionalGeneration(config).eval()
    model.add_time_tokens(processor.tokenizer)
    return model, processor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="timechat")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spread", type=float, default=0.02, help="of the random weights, standard deviation")
    args = parser.parse_args()
    spread = {"initializer_range": args.spread}
    model, processor = make_tiny_model(args.preset, args.seed, **spread, text_config=spread)
    model.save_pretrained(args.output)
    processor.save_pretrained(args.output)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    print(f"{args.output}: {args.preset} with {model.num_parameters():,} random parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
