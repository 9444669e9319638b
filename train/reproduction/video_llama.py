"""
python -m train.reproduction.video_llama BASE --output DIR

The weights of a TimeChat-like base, read as Video-LLaMA (the paper's table 4): its image Q-Former is given no time, and
its video Q-Former sees all frames as one window. What reads text in the Q-Former is left out, all else is kept.
"""

import argparse
from pathlib import Path

from dataset_scripts.command import run
from dataset_scripts.files import remove_parts, replacing
from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor


TEXT = (".qformer.embeddings.", ".intermediate.dense.", ".output.dense.", ".output.LayerNorm.")


def as_video_llama(base: Path) -> tuple[Seq2TimeForConditionalGeneration, Seq2TimeProcessor]:
    model = Seq2TimeForConditionalGeneration.from_pretrained(base)
    if not model.config.qformer_reads_time:
        raise DataError(f"{base}: expected a base whose image Q-Former reads time, found one that doesn't")
    values = model.config.to_dict() | {"window_size": 0, "window_stride": 0}
    values["qformer_config"] |= {"model_type": "blip_2_qformer"}
    plain = Seq2TimeForConditionalGeneration(Seq2TimeConfig.from_dict(values)).to(model.dtype).eval()
    known, weights = plain.state_dict(), {}
    for name, value in model.state_dict().items():
        renamed = name.replace(".qformer.embeddings.layernorm.", ".qformer.layernorm.")
        if renamed in known:
            weights[renamed] = value
        elif ".image_qformer." not in name or not any(part in name for part in TEXT):
            raise DataError(f"{base}: expected only weights for text to have no place in Video-LLaMA, found {name}")
    plain.load_state_dict(weights)
    processor = Seq2TimeProcessor.from_pretrained(base)
    processor.qformer_reads_time, processor.window_stride, processor.window_size = False, 0, 0
    return plain, processor


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(arguments)
    remove_parts(args.output)
    with replacing(args.output) as part:
        for one in as_video_llama(args.base):
            one.save_pretrained(part)
    print(f"{args.output}: {args.base} as Video-LLaMA")


if __name__ == "__main__":
    run(main)
