"""
python -m train.parts --output runs/mini/base

Trains the mini base from scratch on single captioned pictures of the miniworld: what stands in for EVA-CLIP,
InstructBLIP, Video-LLaMA's video Q-Former and LLaMA, on which Seq2Time builds. One after the other:

- language: the language model reads a picture as one token, the sum of its caption's word embeddings and of its time's
  digits, each turned by its place. Of one picture it tells the caption and the time; of several, what is missing in the
  description of one.
- sight: the vision tower tells, patch by patch, which words a picture's caption has.
- frames: Q-Formers and projector hand on each frame of a window as the token that the language model reads.

So it can look something up, as LLaMA can, and read a time, but was never asked when something is. Parts that are
finished are kept when the command is given again.
"""

import argparse
import itertools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from dataset_scripts.command import run
from dataset_scripts.files import atomic_writer, replacing
from dataset_scripts.items import DataError
from dataset_scripts.parallel import each
from dataset_scripts.sources import miniworld
from dataset_scripts.sources.miniworld_drawing import SHAPES, SIZES, Scene, frames, paint_background
from dataset_scripts.wording import TEMPLATES
from examples.make_tiny_model import make_qformer_tokenizer, make_tokenizer
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata

from .conversation import IGNORED, encode


EXACT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PARTS = {
    "vision_config": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"image_size": 112},
    "qformer_config": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"max_position_embeddings": 40, "cross_attention_frequency": 1, **EXACT},
    "video_qformer_config": {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 6, **EXACT},
    "text_config": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6}
    | {"num_key_value_heads": 6, "max_position_embeddings": 4096},
    "num_query_tokens": 4,
    "window_size": 8,
    "window_stride": 8,
    "num_video_query_tokens": 8,  # one of a frame, as TimeChat's 32 of 32
    "num_frames": 32,
}
VOCABULARY = 1500  # at most
SPREAD = 0.3  # of word embeddings; no other one was tried
DIGITS = 4  # of a time: those behind the point of a position, or hundreds to tenths of seconds and images
MOST = 32  # pictures in a list
BLUR = 0.3  # of the ideal tokens: eyes are never perfect
SEQUENCE_TEMPLATE = {"s": "The video contains {count} frames. ", "image": "The video contains {count} frames. "}
ASKED = {
    "describe": ("Describe the image.", "{}."),
    "image": ("What is the number of the image?", "The image index is {}."),
    "s": ("When is the image?", "It is at {} seconds."),
    "position": ("At what position is the image?", "It is at {}."),
    "missing": ("What is missing: {}?", "{}."),
}


def corpus() -> list[str]:
    """What is said about the miniworld, for the tokenizers."""
    texts = [text for question in ASKED.values() for text in question] + list(SEQUENCE_TEMPLATE.values())
    for split in miniworld.SPLITS:
        texts += [text for row in miniworld.picture_combinations(split) for text in miniworld.picture_captions(*row)]
        texts += [text for row in miniworld.clip_combinations(split) for text in miniworld.clip_captions(*row)]
    texts += ["[INST] <<SYS>>\n \n<</SYS>>\n\n<Video></Video> [/INST]"] * 1000
    pending = [TEMPLATES]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            texts += [one] * 100
        else:
            pending += one.values() if isinstance(one, dict) else one
    return texts


def make_model(seed: int) -> tuple[Seq2TimeForConditionalGeneration, Seq2TimeProcessor]:
    """At random, in plain text: the notation's tokens are for the phases to add."""
    tokenizer, qformer_tokenizer = make_tokenizer(corpus(), VOCABULARY), make_qformer_tokenizer()
    sizes = {name: dict(size) if isinstance(size, dict) else size for name, size in PARTS.items()}
    sizes["text_config"]["vocab_size"] = len(tokenizer)
    sizes["qformer_config"]["vocab_size"] = len(qformer_tokenizer)
    config = Seq2TimeConfig.from_preset("timechat", time_notation="text", initializer_range=0.05, **sizes)
    processor = Seq2TimeProcessor.from_config(config, tokenizer, qformer_tokenizer)
    processor.sequence_template = SEQUENCE_TEMPLATE
    config.video_token_id = processor.video_token_id
    torch.manual_seed(seed)
    model = Seq2TimeForConditionalGeneration(config)
    model.resize_token_embeddings(len(tokenizer))
    nn.init.normal_(model.get_input_embeddings().weight, std=SPREAD)
    # The usual 0.02 is small beside what pixels make of a patch. What this does by itself wasn't measured.
    nn.init.normal_(model.model.vision_tower.embeddings.position_embedding, std=0.5)
    return model, processor


@dataclass
class World:
    """Pictures of the training split, each combination of attributes once, as the vision tower takes them."""

    pixels: torch.Tensor  # (pictures, 3, height, width)
    shown: torch.Tensor  # (pictures, patches): whether a patch shows the object
    captions: list[str]
    grounds: list[str]  # the part of the captions that is about the background

    @classmethod
    def draw(cls, processor: Seq2TimeProcessor, patch: int, seed: int, count: int | None = None) -> "World":
        combinations = miniworld.picture_combinations("train")
        np.random.default_rng([seed, 8]).shuffle(combinations)
        planned = [
            miniworld.plan_picture(np.random.default_rng([seed, 9, number]), number, "train", combination)
            for number, combination in enumerate(combinations[:count])
        ]
        side = processor.video_processor.size["height"]
        drawing = each(partial(_drawn, side=side, patch=patch), [scene for scene, _ in planned], 2)
        drawn = [*tqdm(drawing, desc="pictures", total=len(planned), disable=None)]
        pictures, shown = (np.stack(column) for column in zip(*drawn, strict=True))
        seen = [
            processor.video_processor([pictures[first : first + 64]], do_sample_frames=False, return_tensors="pt")
            for first in range(0, len(pictures), 64)
        ]
        captions = [row["caption"] for _, row in planned]
        grounds = [scene.background for scene, _ in planned]
        return cls(
            torch.cat([one["pixel_values_videos"][0].half() for one in seen]), torch.tensor(shown), captions, grounds
        )


def _drawn(scene: Scene, side: int, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and which of its patches show the object."""
    picture, grid = next(frames(scene, side)), side // patch
    empty = paint_background(scene.background, side, np.random.default_rng(scene.texture))
    changed = np.abs(picture - empty.clip(0, 255)).max(axis=-1) > 12
    return picture, changed.reshape(grid, patch, grid, patch).mean(axis=(1, 3)).flatten() > 0.15


def bags(tokenizer, captions: list[str]) -> list[list[int]]:
    """The words of captions."""
    return tokenizer([" " + text.replace(",", "") for text in captions], add_special_tokens=False)["input_ids"]


class Reading:
    """Frames as tokens in the language model's own embeddings."""

    def __init__(self, embeddings: nn.Embedding, tokenizer):
        self.embeddings, width = embeddings, embeddings.embedding_dim
        self.digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
        self.nothing = torch.tensor(tokenizer.unk_token_id)
        random = torch.Generator().manual_seed(0)
        turns = [torch.linalg.qr(torch.randn(width, width, generator=random))[0] for _ in range(DIGITS)]
        self.turns = torch.stack(turns)

    def __call__(self, bags: list[list[int]], times: list[str]) -> torch.Tensor:
        words, owner = torch.tensor([one for bag in bags for one in bag]), torch.arange(len(bags))
        owner = owner.repeat_interleave(torch.tensor([len(bag) for bag in bags]))
        told = self.embeddings(self.digits[torch.tensor([[int(digit) for digit in time] for time in times])])
        said = torch.einsum("ndw,dwv->nv", told, self.turns)
        return said.index_add(0, owner, self.embeddings(words)) / math.sqrt(10)  # about as large as a word


def draw_time(rng: np.random.Generator) -> tuple[str, str, str]:
    """A place in time: how it is asked for, how it is written, its digits."""
    kind = ("image", "s", "position")[rng.integers(3)]
    if kind == "position":
        time = f"{rng.integers(10**DIGITS):0{DIGITS}d}"
        return kind, f"0.{time}", time
    tenths = int(rng.integers(1, 97)) * 10 if kind == "image" else int(rng.integers(1500))
    return kind, f"{tenths // 10}" if kind == "image" else f"{tenths / 10:.1f}", f"{tenths:0{DIGITS}d}"


def learn_language(model, processor, steps: int, rng: np.random.Generator):
    tokenizer, reading = processor.tokenizer, Reading(model.get_input_embeddings(), processor.tokenizer)
    rest, pairs = (
        [*itertools.product(miniworld.SIZES, miniworld.PLACES, miniworld.BACKGROUNDS)],
        miniworld.pairs("train"),
    )
    step, done = model.config.num_video_query_tokens, 0

    def describe(pair: int, others: int) -> str:
        captions = miniworld.picture_captions(*pairs[pair], *rest[others])
        return captions[rng.integers(len(captions))]

    def chat() -> tuple[list[dict], list[str], list[str], list[int]]:
        """Questions about one picture and its time, or about what is in several."""
        most = 2 + round((MOST - 2) * min(1.0, done / (0.7 * steps)))  # short lists before long ones
        count = 1 if rng.random() < 0.25 else int(rng.integers(2, most + 1))
        chosen, others = rng.choice(len(pairs), count, replace=False), rng.integers(len(rest), size=count)
        times, shown = [draw_time(rng) for _ in range(count)], [*zip(chosen, others, strict=True)]
        asked = []
        if count == 1:
            kind, time, _ = times[0]
            asked = [(ASKED["describe"][0], f"{describe(*shown[0])}."), (ASKED[kind][0], ASKED[kind][1].format(time))]
        for place in rng.permutation(count)[:8]:
            said, missing = list(rest[others[place]]), int(rng.integers(3))
            answer, said[missing] = said[missing], ""
            colour, shape = pairs[chosen[place]]
            told = " ".join(f"a {said[0]} {colour} {shape} {said[1]} {said[2]}".split())
            asked.append((ASKED["missing"][0].format(told), ASKED["missing"][1].format(answer)))
        messages = [
            {"role": role, "content": text}
            for turn in asked
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        room = step * math.ceil(count / step + rng.integers(2))
        places = np.sort(rng.choice(room, count, replace=False))
        metadata = Seq2TimeVideoMetadata(total_num_frames=room, frames_indices=list(range(room)))
        messages[0]["content"] = processor._video_text(metadata) + messages[0]["content"]
        return messages, [describe(*one) for one in shown], [time for *_, time in times], places.tolist()

    def loss() -> torch.Tensor:
        nonlocal done
        done += 1
        chats, captions, times, places = zip(*(chat() for _ in range(48)), strict=True)
        rows = encode(processor, list(chats))
        ids = pad_sequence([torch.tensor(row) for row, _ in rows], batch_first=True)
        labels = pad_sequence([torch.tensor(row) for _, row in rows], batch_first=True, padding_value=IGNORED)
        mask = pad_sequence([torch.ones(len(row)) for row, _ in rows], batch_first=True)
        seen = ids == processor.video_token_id
        embedded = model.get_input_embeddings()(torch.where(seen, reading.nothing, ids))
        frames = reading(
            bags(tokenizer, [text for row in captions for text in row]), [time for row in times for time in row]
        )
        frames = frames + BLUR * frames.detach().std() * torch.randn_like(frames)
        owner = [row for row, own in enumerate(places) for _ in own]
        starts = seen.int().argmax(dim=1)[owner]
        embedded = embedded.index_put(
            (torch.tensor(owner), starts + torch.tensor([one for row in places for one in row])), frames
        )
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model.language_model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
            wanted = labels[:, 1:] != IGNORED
            return functional.cross_entropy(model.lm_head(hidden[:, :-1][wanted]).float(), labels[:, 1:][wanted])

    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    fit("language", parameters, steps, 2e-3, loss)


def learn_sight(model, processor, world: World, steps: int, rng: np.random.Generator):
    """
    Each patch tells the caption's words, those of the object only where it is. Half of the pictures are turned,
    mirrored and of mixed colours; these tell shape and size, the others all but the shape. So a shape is known whatever
    its colour: that some pairs of both are never seen is not learned.
    """
    words, grounds = (_bits(processor.tokenizer, texts) for texts in (world.captions, world.grounds))
    said = words.any(dim=0)
    shapes, sizes = _bits(processor.tokenizer, [" ".join(SHAPES), " ".join(SIZES)])[:, said]
    words, grounds = words[:, said], grounds[:, said]
    head, tower = nn.Linear(model.config.vision_config.hidden_size, words.shape[1]), model.model.vision_tower
    nn.init.constant_(head.bias, -2.0)
    half = 48

    def loss() -> torch.Tensor:
        picks = torch.tensor(rng.choice(len(words), 2 * half, replace=False))
        pixels, shown = world.pixels[picks].float(), world.shown[picks].float()
        changed, where = pixels[:half], shown[:half].unflatten(1, (math.isqrt(shown.shape[1]), -1))
        mixed = torch.tensor(rng.permuted(np.tile(np.arange(3), (half, 1)), axis=1))[:, :, None, None]
        signs = torch.tensor(rng.choice([-1.0, 1.0], (half, 3, 1, 1)), dtype=torch.float32)
        changed = signs * changed.gather(1, mixed.expand_as(changed))
        for axes in ([-1], [-2])[: rng.integers(3)]:
            changed, where = changed.flip(axes), where.flip(axes)
        if rng.random() < 0.5:
            changed, where = changed.transpose(-1, -2), where.transpose(-1, -2)
        pixels, shown = torch.cat([changed, pixels[half:]]), torch.cat([where.flatten(1), shown[half:]])
        with torch.autocast("cpu", torch.bfloat16):
            seen = tower(pixels).last_hidden_state
        there = functional.pad(shown, (1, 0), value=1.0)[:, :, None]  # the first token stands for all of the picture
        wanted = torch.where(there > 0, words[picks][:, None], grounds[picks][:, None])
        wrong = functional.binary_cross_entropy_with_logits(head(seen.float()), wanted, reduction="none")
        wrong = torch.cat([wrong[:half] * (shapes + sizes), wrong[half:] * (1 - shapes)]).mean(dim=-1, keepdim=True)
        object_, rest = there[:, 1:], 1 - there[:, 1:]
        return wrong[:, 0].mean() + sum((wrong[:, 1:] * which).sum() / which.sum() for which in (object_, rest))

    tower.requires_grad_(True)
    fit("sight", [*tower.parameters(), *head.parameters()], steps, 1e-3, loss)
    tower.requires_grad_(False)


def _bits(tokenizer, texts: list[str]) -> torch.Tensor:
    """Which words of the vocabulary each text has."""
    bits = torch.zeros(len(texts), len(tokenizer))
    for row, bag in zip(bits, bags(tokenizer, texts), strict=True):
        row[bag] = 1
    return bits


def learn_frames(model, processor, world: World, steps: int, rng: np.random.Generator):
    patches, captions = see(model, world.pixels), world.captions
    parts = model.model
    reading, words = Reading(model.get_input_embeddings(), processor.tokenizer), bags(processor.tokenizer, captions)
    notations = ("text", "rpt")

    def sequence() -> tuple[list[int], Seq2TimeVideoMetadata, list[str], str]:
        count = int(rng.integers(1, model.config.max_frame_positions + 1))
        picks = rng.choice(len(captions), count, replace=False).tolist()
        known = {"total_num_frames": count, "frames_indices": list(range(count))}
        if rng.random() < 0.5:
            duration = rng.uniform(5, 150)
            known |= {"times": (np.arange(count) * duration / count).tolist(), "duration": duration}
        metadata = Seq2TimeVideoMetadata(**known)
        notation = notations[rng.integers(2)]
        if notation == "rpt":
            times = [f"{position:.{DIGITS}f}"[2:] for position in metadata.positions]
        else:
            times = [f"{round(position * metadata.length, 1) * 10:0{DIGITS}.0f}" for position in metadata.positions]
        return picks, metadata, times, notation

    def loss() -> torch.Tensor:
        sequences = [sequence() for _ in range(12)]
        total, found = 0.0, 0
        for name in notations:
            mine = [one for one in sequences if one[3] == name]
            if not mine:
                continue
            processor.time_notation = name
            time = {
                key: torch.tensor(value) for key, value in processor._time_inputs([m for _, m, _, _ in mine]).items()
            }
            mask = pad_sequence([torch.ones(len(picks), dtype=torch.bool) for picks, *_ in mine], batch_first=True)
            ids, read = (time[f"video_time_{key}"][mask] for key in ("input_ids", "attention_mask"))
            seen = patches[torch.tensor([one for picks, *_ in mine for one in picks])].float()
            tokens = parts.image_qformer(seen, ids, read)
            padded = tokens.new_zeros(*mask.shape, *tokens.shape[1:])
            padded = padded.masked_scatter(mask[:, :, None, None], tokens)
            given = torch.ones(len(mine), tokens.shape[1], dtype=torch.bool)
            windows = parts.video_qformer(padded, mask, given)
            wanted = reading([words[one] for picks, *_ in mine for one in picks], [t for *_, ts, _ in mine for t in ts])
            counts = [len(picks) for picks, *_ in mine]
            for window, target in zip(windows, wanted.split(counts), strict=True):
                said = parts.projector(window).flatten(0, 1)
                nothing = reading.embeddings(reading.nothing).expand(len(said) - len(target), -1)
                total = total + (said - torch.cat([target, nothing])).square().sum()
                found += said.numel()
        processor.time_notation = model.config.time_notation
        return total / found / SPREAD**2

    trained = [*parts.image_qformer.parameters(), *parts.video_qformer.parameters(), *parts.projector.parameters()]
    model.get_input_embeddings().requires_grad_(False)
    fit("frames", trained, steps, 2e-3, loss)
    model.get_input_embeddings().requires_grad_(True)


def fit(name: str, parameters: list[nn.Parameter], steps: int, rate: float, loss: Callable[[], torch.Tensor]):
    """AdamW with a cosine."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(100, steps // 10), steps)
    bar, mean = tqdm(range(steps), desc=name, disable=None), None
    for step in bar:
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        mean = value.item() if mean is None else 0.98 * mean + 0.02 * value.item()
        bar.set_postfix_str(f"loss {mean:.3f}", refresh=False)
        if (step + 1) % 100 == 0:
            tqdm.write(f"{name}: step {step + 1}, loss {mean:.4f}")


@torch.no_grad()
def see(model, pixels: torch.Tensor) -> torch.Tensor:
    model.eval()
    batches = [model.model.vision_tower(batch.float()).last_hidden_state.half() for batch in pixels.split(64)]
    model.train()
    return torch.cat(batches)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--pictures", type=int, help="that are seen; all there can be by default")
    steps = {"language": 1000, "sight": 1500, "frames": 1500}
    for name, count in steps.items():
        parser.add_argument(f"--{name}-steps", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.output.exists():
        raise DataError(f"{args.output}: expected a folder that isn't there yet")

    finished = args.output.with_name(f".{args.output.name}.parts")
    _claim(finished / "settings.json", {name: value for name, value in vars(args).items() if name != "output"})
    model, processor = make_model(args.seed)
    model.train()
    world = World.draw(processor, model.config.vision_config.patch_size, args.seed, args.pictures)
    lessons = {
        "language": lambda *rest: learn_language(model, processor, *rest),
        "sight": lambda *rest: learn_sight(model, processor, world, *rest),
        "frames": lambda *rest: learn_frames(model, processor, world, *rest),
    }
    for number, (name, learn) in enumerate(lessons.items()):
        file = finished / f"{name}.safetensors"
        if file.is_file():
            model.load_state_dict(load_file(file))
            continue
        torch.manual_seed(args.seed)  # whatever was learned before in this process
        learn(getattr(args, f"{name}_steps"), np.random.default_rng([args.seed, number]))
        with replacing(file) as new:
            save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, new)
    with replacing(args.output) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)
    shutil.rmtree(finished)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    print(f"{args.output}: {model.num_parameters():,} parameters, {size / 1e6:.1f} MB")


def _claim(path: Path, settings: dict):
    """Parts that were finished with other settings are none of this run's."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
    if known != settings:
        raise DataError(f"{path.parent} holds parts of {known}, not of {settings}; remove it, or give those settings")
    with atomic_writer(path) as lines:
        lines.write(json.dumps(settings) + "\n")


if __name__ == "__main__":
    run(main)
