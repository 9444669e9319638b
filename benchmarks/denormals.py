"""
A training step on the CPU with numbers too small to be normal taken as zero, relative to the same step without.

    python -m benchmarks.denormals [--repeats 5]

Forward and backward through the language model of the mini base with LoRA, on one thread; sentences of random words.
"""

import argparse
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from modeling_seq2time import Seq2TimeForConditionalGeneration


BASE = "examples/seq2time-mini-base"
ROWS, LENGTH = 16, 384


def seconds(model, ids: torch.Tensor, flush: bool) -> float:
    torch.set_flush_denormal(flush)
    start = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = len(AutoTokenizer.from_pretrained(BASE))
    model = Seq2TimeForConditionalGeneration.from_pretrained(BASE, dtype="float32")
    lora = LoraConfig(r=32, lora_alpha=32, target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)")
    model = get_peft_model(model, lora).train()
    ids = torch.randint(10, words - 1, (ROWS, LENGTH))
    seconds(model, ids, True)
    ratios = [seconds(model, ids, True) / seconds(model, ids, False) for _ in range(args.repeats)]
    print(f"| flushed / not, seconds | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
