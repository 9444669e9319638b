"""
How much of the time of `generate` goes into holding answers to their form, in the same run.

    python -m benchmarks.constrained_decoding [--tokens 128] [--repeats 5]

Dense captions by models with random weights and a vocabulary of LLaMA's size. The models are much smaller than a real
one, where the share is smaller still.
"""

import argparse
import statistics
import time

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessor

from examples.make_tiny_model import make_tokenizer
from modeling_seq2time import AnswerForm, TimeLogitsProcessor, get_notation
from modeling_seq2time.time_notation import time_tokens


WORDS = 32_000
SIZES = {"192 wide, 4 layers": (192, 4), "1024 wide, 8 layers": (1024, 8)}


class Timed(LogitsProcessor):
    """A logits processor and the seconds it took."""

    def __init__(self, inner: LogitsProcessor):
        self.inner, self.seconds = inner, 0.0

    def __call__(self, input_ids, scores):
        start = time.perf_counter()
        scores = self.inner(input_ids, scores)
        self.seconds += time.perf_counter() - start
        return scores


def share(model, tokenizer, notation, prompts: torch.Tensor, settings: dict) -> float:
    form = AnswerForm(tokenizer, notation, 60.0, form="captions")
    timed = Timed(TimeLogitsProcessor(form, settings["max_new_tokens"]))
    start = time.perf_counter()
    model.generate(prompts, attention_mask=torch.ones_like(prompts), logits_processor=[timed], **settings)
    return timed.seconds / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | notation | generation | share of its time |\n|---|---|---|---|")
    for size, (width, layers) in SIZES.items():
        for name in ("rpt", "bins", "text"):
            tokenizer, notation = make_tokenizer(), get_notation(name)
            tokenizer.add_tokens([f" word{number}" for number in range(WORDS - len(tokenizer))])
            tokenizer.add_tokens(time_tokens(notation))
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
            )
            model = LlamaForCausalLM(config).eval()
            model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
            for way, more, rows in (("greedy", {}, 1), ("greedy, batch of 8", {}, 8), ("4 beams", {"num_beams": 4}, 1)):
                prompts = torch.randint(10, WORDS, (rows, 200))
                settings = {"max_new_tokens": args.tokens, "do_sample": False} | more
                share(model, tokenizer, notation, prompts, settings | {"max_new_tokens": 32})
                shares = [share(model, tokenizer, notation, prompts, settings) for _ in range(args.repeats)]
                print(f"| {size} | {name} | {way} | {statistics.median(shares):.1%} |", flush=True)


if __name__ == "__main__":
    main()
