"""
What the two batching tricks of the encoder save in CPU, relative to doing without in the same run.

    python -m benchmarks.encoding [--repeats 7]

- repeated pictures: a batch of image sequences drawn from one pool, each picture seen once or once per use
- windows: all windows of a batch of videos in one call of the video Q-Former, or one call each
"""

import argparse
import statistics
import time

import torch

from modeling_seq2time import Seq2TimeConfig, Seq2TimeModel


def build() -> Seq2TimeModel:
    """Real widths of the Q-Formers; a smaller ViT that still takes most of the time, as the real one does."""
    config = Seq2TimeConfig.from_preset(
        "timechat",
        vision_config={"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
        | {"image_size": 112},
        qformer_config={"num_hidden_layers": 2},
        text_config={"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4}
        | {"num_key_value_heads": 4},
    )
    torch.manual_seed(0)
    return Seq2TimeModel(config).eval()


def repeated_pictures(model: Seq2TimeModel, videos: int = 4, frames: int = 32, pool: int = 48):
    size = model.config.vision_config.image_size
    pictures = torch.randn(pool, 3, size, size)
    index = torch.stack([torch.randperm(pool)[:frames] for _ in range(videos)])
    time_text = {
        "video_time_input_ids": torch.randint(5, 100, (videos, frames, 12)),
        "video_time_attention_mask": torch.ones(videos, frames, 12, dtype=torch.long),
    }
    return {
        "each time": lambda: model.get_video_features(pictures[index], **time_text).pooler_output,
        "once": lambda: model.get_video_features(pictures, video_picture_index=index, **time_text).pooler_output,
    }


def windows(model: Seq2TimeModel, videos: int = 4, frames: int = 96, tokens: int = 44):
    encoder = model.video_qformer
    frame_tokens = torch.randn(videos, frames, tokens, model.config.qformer_config.hidden_size)
    frame_mask = torch.ones(videos, frames, dtype=torch.bool)
    token_mask = torch.ones(videos, tokens, dtype=torch.bool)

    def one_by_one():
        positions = encoder.frame_positions(torch.arange(frames))[:, None]
        return tuple(
            torch.cat(
                [
                    encoder.qformer(
                        query_embeds=encoder.query_tokens,
                        encoder_hidden_states=(video + positions)[None, start : start + encoder.windows.size].flatten(
                            1, 2
                        ),
                    ).last_hidden_state
                    for start in range(0, frames, encoder.windows.stride)
                ]
            )
            for video in frame_tokens
        )

    return {"one by one": one_by_one, "one call": lambda: encoder(frame_tokens, frame_mask, token_mask)}


def compare(name: str, ways: dict, repeats: int):
    """Interleaved runs; prints the ratio of the medians and the largest difference of the results."""
    (slow, run_slow), (fast, run_fast) = ways.items()
    times = {slow: [], fast: []}
    for _ in range(repeats):
        for way, run in ways.items():
            start = time.process_time()
            run()
            times[way].append(time.process_time() - start)
    pairs = zip(run_slow(), run_fast(), strict=True)
    difference = max((one - other).abs().max().item() for one, other in pairs)
    ratio = statistics.median(times[fast]) / statistics.median(times[slow])
    print(f"| {name}: {fast} / {slow} | {ratio:.2f} | {difference:.1e} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = build()
    print("| | CPU | largest difference |\n|---|---|---|")
    with torch.inference_mode():
        compare("4 × 32 frames from 48 pictures", repeated_pictures(model), args.repeats)
        compare("12 windows of 32 frames", windows(model), args.repeats)


if __name__ == "__main__":
    main()
