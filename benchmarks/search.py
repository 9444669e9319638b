"""
Grounding with the answers that a search has begun as one tree, relative to rows beside each other, in the same run.

    python -m benchmarks.search [--repeats 5]

Language models with random weights behind a tiny encoder: they are unsure, so that answers part as often as they can.
Both ways find the same moments.
"""

import argparse
import statistics
import time
from unittest import mock

import torch

from examples.make_tiny_model import make_tiny_model
from modeling_seq2time import answer_scores


SIZES = {"192 wide, 6 layers": (192, 6), "1024 wide, 8 layers": (1024, 8)}
QUERIES = ["a door opens", "somebody waves"]


def seconds(ground) -> tuple[float, list]:
    start = time.perf_counter()
    found = [(moment.start, moment.end) for answer in ground() for moment in answer]
    return time.perf_counter() - start, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    film = torch.randint(256, (48, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    times = [{"total_num_frames": 48, "fps": 1.0, "frames_indices": list(range(48))}]
    print("| language model | notation | tree / rows, seconds |\n|---|---|---|")
    for size, (width, layers) in SIZES.items():
        for name in ("rpt", "text"):
            text = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
            model, processor = make_tiny_model(
                "timechat", time_notation=name, text_config=text | {"num_attention_heads": 4}
            )
            seen = model.watch(processor, film, video_kwargs={"video_metadata": times, "do_sample_frames": False})
            ratios = []
            for _ in range(args.repeats):
                tree, found = seconds(lambda: model.ground(processor, seen, QUERIES))  # noqa: B023
                with mock.patch.object(answer_scores, "TREES", ()):
                    rows, expected = seconds(lambda: model.ground(processor, seen, QUERIES))  # noqa: B023
                assert found == expected
                ratios.append(tree / rows)
            print(f"| {size} | {name} | {statistics.median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
