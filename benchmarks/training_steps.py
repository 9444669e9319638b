"""
Questions per second of whole training steps (forward, loss, backward, AdamW) against the plain way in the same run.

    python -m benchmarks.training_steps [--scale 1 --layers 10 3 8] [--apart] [--device cuda]

The plain way: every picture of every sequence passes the vision tower, one window at a time passes the video Q-Former,
attention is eager, random batches are padded to their longest, every position is scored. Ours, each alone with --apart:

- shared: a picture passes the vision tower once a batch
- sdpa: fused attention in all parts
- windows: all windows in one call
- grouped: batches of similar length, as `train.mixture` makes them
- fused: TRL's head, which scores labelled positions only, on a CPU all of them in tiles
- several questions a sequence: as --questions of `dataset_scripts.image_sequences` makes them

Widths are TimeChat-7B's, layers are cut to --layers (39 12 32 in full) and the vocabulary with those of the language
model. For a CPU, --scale divides frames, pool, window, its tokens and the length of prompts and answers, which keeps
the parts' shares of the work but for attention's, which shrinks. LoRA and what trains beside it are those of `train`;
frozen weights are bf16, trained ones fp32, autocast is bf16 in all ways. Time on a CPU is that of one core at work.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from tqdm import tqdm
from trl.trainer.utils import add_fused_lm_head

from dataset_scripts.image_sequences import converse
from dataset_scripts.record import IMAGE_TASKS
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration
from modeling_seq2time.temporal_encoders import VideoQFormer
from modeling_seq2time.time_notation import marks
from train.adapter import lora_config
from train.conversation import IGNORED
from train.mixture import BatchSampler
from train.recipe import Recipe


FRAMES, POOL = 96, 100
IMAGE_BATCH, VIDEO_BATCH, BATCHES = 8, 4, 8  # sequences of a batch; batches of a pool, among which lengths are grouped
TOKENS_PER_WORD = 1.3  # LLaMA's, of English
CAPTION_WORDS, CAPTION_SPREAD = 180, 0.3  # of LLaVA-ReCap's captions, and the sigma of their logarithm: our guess
QUESTIONS = (2, 4)  # about a sequence
EVENTS, EVENT_TOKENS = (2, 16), 28  # of a video's dense captioning: two times and a dozen words each
MARK_TOKENS = 4  # <0><7><2><9>
FRAME_TOKENS = 6  # the same, a comma and a space
VIDEO_TOKENS = 96
TURN_TOKENS = 8  # <s>[INST] … [/INST]
PROMPT_TOKENS = 45  # [INST], system, <Video>, "The video contains …"
TIME_TEXT_TOKENS = 12  # of a frame's sentence for the image Q-Former
WORDS_PER_LAYER = 1000  # of the vocabulary, as 32 layers have 32 000


@dataclass(frozen=True)
class Way:
    shared: bool = False
    sdpa: bool = False
    windows: bool = False
    grouped: bool = False
    fused: bool = False
    questions: int = 1


@dataclass(frozen=True)
class Length:
    prompt: int
    answer: int

    @property
    def total(self) -> int:
        return self.prompt + self.answer


def build(layers: list[int], scale: int, device: torch.device) -> PeftModel:
    vision, qformer, text = layers
    words = WORDS_PER_LAYER * text
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # so that all ways do the same
    config = Seq2TimeConfig.from_preset(
        "timechat",
        vision_config={"num_hidden_layers": vision},
        qformer_config={"num_hidden_layers": qformer, **no_dropout},
        video_qformer_config=no_dropout,
        text_config={"num_hidden_layers": text, "vocab_size": words + 11},
        window_size=32 // scale,
        window_stride=32 // scale,
        num_video_query_tokens=32 // scale,
        video_token_id=words,
        time_token_ids=list(range(words + 1, words + 11)),
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Seq2TimeForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    add_fused_lm_head(model)
    model = get_peft_model(model, lora_config(Recipe(model="", data=[], lora_dropout=0.0), model))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.get_output_embeddings().register_parameter("bias", None)  # as `train.adapter` does, for TRL's head
    return model.train()


def image_length(rng: np.random.Generator, words: float, base: int, questions: int, max_targets: int) -> Length:
    """Of so many questions of `iig`, `iic` or `alr`, captions being of about so many words, behind `base` tokens."""

    def caption(place: int) -> str:
        return " ".join(["word"] * max(1, round(words * rng.lognormal(0, CAPTION_SPREAD))))

    def tokens(text: str) -> int:
        times = len(marks(text))  # of two words each
        return round(TOKENS_PER_WORD * (len(text.split()) - 2 * times)) + MARK_TOKENS * times

    _, messages = converse(rng.choice(IMAGE_TASKS), rng, FRAMES, questions, max_targets, caption)
    asked, answered = (sum(tokens(one["content"]) for one in messages[first::2]) for first in (0, 1))
    return Length(base + asked + TURN_TOKENS * (questions - 1), answered + 2 * questions)


def video_length(rng: np.random.Generator, words: float, base: int, *rest) -> Length:
    """Of a sample of dense captioning."""
    return Length(base + 20, int(rng.integers(*EVENTS, endpoint=True)) * EVENT_TOKENS + 2)


def question_length(rng: np.random.Generator, words: float, base: int, *rest) -> Length:
    """Of a sample of grounding."""
    return Length(base + 25 + int(rng.integers(8, 20)), 2 * MARK_TOKENS + 10)


def typical(lengths: list[Length], size: int, grouped: bool) -> list[Length]:
    """Of all batches, padded, the one that is closest to their mean in size."""
    totals = np.array([one.total for one in lengths])
    if grouped:
        batches = [[row for _, row in batch] for batch in BatchSampler(np.zeros(len(totals)), totals, size, size, 0)]
    else:
        batches = np.random.default_rng(0).permutation(len(totals)).reshape(-1, size).tolist()
    padded = np.array([totals[batch].max() for batch in batches])
    return [lengths[row] for row in batches[np.abs(padded - padded.mean()).argmin()]]


def make_batch(config: Seq2TimeConfig, lengths: list[Length], frames: int, pool: int, shared: bool) -> dict:
    """Random content. `pool=0`: each frame is a picture of its own."""
    random = torch.Generator().manual_seed(0)
    count, longest, words = len(lengths), max(one.total for one in lengths), config.video_token_id
    batch = {"input_ids": torch.zeros(count, longest, dtype=torch.long)}
    batch |= {"attention_mask": torch.zeros_like(batch["input_ids"])}
    batch |= {"labels": torch.full_like(batch["input_ids"], IGNORED)}
    video = config.windows.count(frames) * config.num_video_query_tokens
    times = video + FRAME_TOKENS * frames
    for row, one in enumerate(lengths):
        ids = torch.randint(5, words, (one.total,), generator=random)
        ids[:video] = words
        time_list = ids[video:times].view(frames, FRAME_TOKENS)
        time_list[:, :MARK_TOKENS] = torch.randint(words + 1, words + 11, (frames, MARK_TOKENS), generator=random)
        batch["input_ids"][row, : one.total], batch["attention_mask"][row, : one.total] = ids, 1
        batch["labels"][row, one.prompt : one.total] = ids[one.prompt :]
    size = config.vision_config.image_size
    pictures = torch.randn(pool or count * frames, 3, size, size, generator=random)
    places = [torch.randperm(pool, generator=random)[:frames] if pool else torch.arange(frames) for _ in lengths]
    index = torch.stack(places) if pool else torch.arange(count * frames).view(count, frames)
    if shared:
        batch |= {"pixel_values_videos": pictures, "video_picture_index": index}
    else:
        batch["pixel_values_videos"] = pictures[index]
    text = torch.randint(5, 20000, (frames, TIME_TEXT_TOKENS), generator=random).expand(count, -1, -1)
    return batch | {"video_time_input_ids": text, "video_time_attention_mask": torch.ones_like(text)}


def window_by_window(encoder: VideoQFormer, frame_tokens: torch.Tensor, *masks) -> tuple[torch.Tensor, ...]:
    """The video Q-Former without batching; all frames and tokens exist here."""
    places = torch.arange(frame_tokens.shape[1], device=frame_tokens.device)
    videos = frame_tokens + encoder.frame_positions(places)[:, None]

    def one_call(window: torch.Tensor) -> torch.Tensor:
        seen = {"encoder_hidden_states": window.flatten(0, 1)[None]}
        return encoder.qformer(query_embeds=encoder.query_tokens, **seen).last_hidden_state

    return tuple(torch.cat([one_call(window) for window in video.split(encoder.windows.stride)]) for video in videos)


def take_step(model: PeftModel, optimizer: torch.optim.Optimizer, way: Way, batch: dict) -> float:
    """Seconds of a step."""
    device = model.device
    encoder = model.get_base_model().model.video_qformer.modules_to_save["default"]
    encoder.forward = partial(VideoQFormer.forward if way.windows else window_by_window, encoder)
    model.get_base_model().set_attn_implementation("sdpa" if way.sdpa else "eager")
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    with torch.autocast(device.type, torch.bfloat16):
        loss = model(**batch, use_cache=False, **{"fused_lm_head": True} if way.fused else {}).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def compare(name: str, model: PeftModel, ways: dict[str, Way], repeats: int, batch_of: Callable[[Way], dict]):
    """Interleaved steps of all ways; a line of the table each."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-5)
    seconds, peaks, on_gpu = {way: [] for way in ways}, {}, model.device.type == "cuda"
    take_step(model, optimizer, ways["all"], batch_of(ways["all"]))  # the optimizer makes its state
    for _ in tqdm(range(repeats), desc=name, leave=False, disable=None):
        for title, way in ways.items():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            seconds[title].append(take_step(model, optimizer, way, batch_of(way)))
            if on_gpu:
                peaks[title] = f" {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB |"
    medians = {title: statistics.median(spent) for title, spent in seconds.items()}
    for title, median in medians.items():
        size = "{} × {}".format(*batch_of(ways[title])["input_ids"].shape)
        ratio = ways[title].questions * medians["plain"] / median
        print(f"| {name}: {title} | {size} | {median:.1f} s | {ratio:.2f} |{peaks.get(title, '')}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs=3, default=[4, 1, 3], metavar=("VISION", "QFORMER", "LLM"))
    parser.add_argument("--scale", type=int, choices=(1, 2, 4, 8), default=8)
    parser.add_argument("--words", type=float, default=CAPTION_WORDS, help="of a caption; 12 as miniworld's")
    parser.add_argument("--max-targets", type=int, default=5, help="as of `dataset_scripts.image_sequences`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("images", "questions about a video", "videos"), help="one kind of step")
    parser.add_argument("--apart", action="store_true", help="each of our changes alone, too")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--device", type=torch.device, default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    frames, pool = FRAMES // args.scale, POOL // args.scale
    model = build(args.layers, args.scale, args.device)
    if args.activation_checkpointing:
        model.activation_checkpointing_enable()
    config = model.get_base_model().config
    base = PROMPT_TOKENS + VIDEO_TOKENS + FRAME_TOKENS * FRAMES

    names = ["sdpa", "windows", "grouped", "fused"]
    kinds = {
        "images": (image_length, IMAGE_BATCH, pool, ["shared", *names]),
        "questions about a video": (question_length, VIDEO_BATCH, frames, ["shared", *names]),
        "videos": (video_length, VIDEO_BATCH, 0, names),
    }
    memory = [" peak memory |", "---|"] if args.device.type == "cuda" else ["", ""]
    print(f"| step | batch | median | questions/s, times plain |{memory[0]}\n|---|---|---|---|{memory[1]}")
    for kind, (length, size, pool, names) in kinds.items():
        if args.only in (None, kind):
            ways = {"plain": Way()}
            ways |= {f"{name} alone": Way(**{name: True}) for name in names if args.apart or name == "shared"}
            if "shared" in names:
                ways["all but shared"] = Way(**dict.fromkeys(names[1:], True))
            ways["all"] = Way(**dict.fromkeys(names, True))
            for questions in QUESTIONS if kind == "images" else ():
                ways[f"all, {questions} questions a sequence"] = replace(ways["all"], questions=questions)

            def batch_of(way: Way, length=length, size=size, pool=pool) -> dict:
                rng = np.random.default_rng(0)
                lengths = [
                    length(rng, args.words, base, way.questions, args.max_targets) for _ in range(size * BATCHES)
                ]
                lengths = [Length(one.prompt // args.scale, one.answer // args.scale) for one in lengths]
                return make_batch(config, typical(lengths, size, way.grouped), frames, pool, way.shared)

            compare(f"{size} {kind}, {frames} frames", model, ways, args.repeats, batch_of)


if __name__ == "__main__":
    main()
