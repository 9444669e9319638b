"""Tokenizers of other families at toy size: GPT-2's joins numbers to spaces, LLaMA's splits digits."""

import json
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast


def corpus():
    rng = random.Random(0)
    texts = ["[INST] The highlight timestamps are in the 82.0, 84.0 seconds. Their saliency scores are 1.3, 1.7."]
    for _ in range(2000):
        start, end = rng.uniform(0, 200), rng.uniform(0, 200)
        texts.append(f"The given query happens in {start:.1f} - {end:.1f} seconds, text {int(start)}. [/INST]")
        texts.append(f"From {int(start) % 100:02d} to {int(end) % 100:02d}, a man opens {int(end)} doors. He runs.")
    return texts


SPECIAL = ["<unk>", "<s>", "</s>"]
NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}


def gpt2_like() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def llama_like(legacy: bool) -> LlamaTokenizer:
    """With bytes for what has no token, as SentencePiece does it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)]
    )
    characters = [chr(code) for code in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=SPECIAL, initial_alphabet=characters, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    words = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(model["vocab"], key=model["vocab"].get)]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    return LlamaTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in model["merges"]], legacy=legacy, **NAMES)
