"""
What is done in a film, as far as a window tells: video Q-Former and projector learn it from what the image Q-Former,
trained before, makes of frames one after the other. That is kept: so a step has room for many sequences.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from dataset_scripts.sources.miniworld_drawing import ACTIONS

from .fitting import fit
from .frames import MOST, Aim, draw_sequence, look, see, think
from .model import begin_windows
from .sight import ACTION, COLOUR, SHAPE, Album


BATCH = 24  # sequences
SEEN = 3  # how often each frame is kept, at other times and in other company
BESIDE = (-2, -1, 1, 2)  # frames before and after
SCATTERED = 0.25  # of the sequences have frames from anywhere, where nothing can be said to be done


class Watched(NamedTuple):
    """A sequence of frames: what the image Q-Former makes of them, and, of each, what is to be said."""

    tokens: torch.Tensor  # (frames, tokens, width)
    words: torch.Tensor
    poses: torch.Tensor
    times: torch.Tensor
    named: torch.Tensor  # whether things are of the colours that captions name


def learn_motion(model, processor, albums: Iterator[Album], steps: int, rng: np.random.Generator):
    """
    It begins anew. Heads, of which nothing is kept, tell from the video Q-Former's layers, one after the other, where
    and how turned things are, where they are in the frames before and after, and what they do: from tokens alone it
    isn't learned. Albums are made and let go one by one; the third is only asked about.
    """
    begin_windows(model)
    aim, parts, window = Aim(model, processor), model.model, model.config.window_size
    taught = watch(model, processor, next(albums), True, SCATTERED, rng)
    taught += watch(model, processor, next(albums), False, SCATTERED, rng)
    asked = watch(model, processor, next(albums), True, 0.0, rng)
    layers = parts.video_qformer.qformer.encoder.layer
    width, places = model.config.video_qformer_config.hidden_size, taught[0].poses.shape[1]
    sizes = {0: places, 1: len(BESIDE) * places, len(layers) - 1: len(ACTIONS)}  # by layer
    heads = nn.ModuleDict({f"head{layer}": nn.Linear(width, size) for layer, size in sizes.items()})

    def loss(step: int) -> torch.Tensor:
        drawn = [taught[one] for one in rng.integers(len(taught), size=BATCH)]
        words, poses, times, is_named = (torch.cat(one) for one in list(zip(*drawn, strict=True))[1:])
        counts = [len(one.times) for one in drawn]
        with overheard(layers, sizes) as said:
            thought, rest = think(model, *padded(drawn))
        own, near, does = (heads[f"head{layer}"](frames_of(said[layer], counts)).float() for layer in sizes)
        doing = words[:, ACTION].any(-1)
        missed = aim.missed(parts.projector(thought).float(), parts.projector(rest).float(), words, times, is_named)
        missed = missed + (own - poses).square().sum()
        for away, told in zip(BESIDE, near.chunk(len(BESIDE), dim=1), strict=True):
            known = inside(counts, window, away)
            missed = missed + (told - poses.roll(-away, 0))[known].square().sum()
        missed = missed + functional.cross_entropy(does[doing], words[doing, ACTION], reduction="sum")
        return missed / len(times)

    @torch.no_grad()
    def report() -> str:
        """Of films of the test split: colours, shapes, actions and digits told right."""
        said = [parts.projector(think(model, *padded([one]))[0]).float() for one in asked]
        words, _, times, _ = (torch.cat(one) for one in list(zip(*asked, strict=True))[1:])
        return aim.right(torch.cat(said), words, times, COLOUR, SHAPE, ACTION)

    fit("motion", [parts.video_qformer, parts.projector, heads], steps, loss, 1e-2, report)


@torch.no_grad()
def watch(model, processor, album: Album, named: bool, scattered: float, rng: np.random.Generator) -> list[Watched]:
    """Sequences of an album's frames, each frame in `SEEN` of them."""
    patches, kept, left = see(model, album), [], SEEN * len(album.views)
    bar = tqdm(desc="frames watched", total=left, disable=None)
    while left > 0:
        metadata, notation, digits = draw_sequence(rng, min(MOST, len(patches)))
        count, anywhere = len(digits), rng.random() < scattered
        picks = int(rng.integers(len(patches) - count + 1)) + torch.arange(count)
        if anywhere:
            picks = torch.from_numpy(rng.integers(len(patches), size=count))
        words = album.weights[picks]
        words[:, ACTION] *= not anywhere
        tokens, _, there = look(model, processor, notation, [metadata], patches[picks])
        times = torch.tensor([[*map(int, one)] for one in digits])
        is_named = torch.full((count,), named)
        kept.append(Watched(tokens[0, :, there[0]].half(), words, album.poses[picks], times, is_named))
        left -= count
        bar.update(count)
    return kept


def padded(sequences: list[Watched]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Their tokens, which frames a sequence has, and which tokens its frames have."""
    frames, tokens = (torch.tensor([one.tokens.shape[axis] for one in sequences]) for axis in (0, 1))
    wide = [functional.pad(one.tokens.float(), (0, 0, 0, int(tokens.max()) - one.tokens.shape[1])) for one in sequences]
    masks = (torch.arange(int(counts.max())) < counts[:, None] for counts in (frames, tokens))
    return pad_sequence(wide, batch_first=True), *masks


@contextmanager
def overheard(layers: nn.ModuleList, which: Iterable[int]):
    """What some of the layers hand on in the next pass, by their number."""
    said = {}
    hooks = [
        layers[number].register_forward_hook(lambda _, __, out, number=number: said.update({number: out}))
        for number in which
    ]
    yield said
    for hook in hooks:
        hook.remove()


def frames_of(windows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Of `(windows, frames, width)` of sequences, one after the other, the frames that there are."""
    own = windows.split([math.ceil(count / windows.shape[1]) for count in counts])
    return torch.cat([one.flatten(0, 1)[:count] for one, count in zip(own, counts, strict=True)])


def inside(counts: list[int], window: int, away: int) -> torch.Tensor:
    """Of each frame of sequences whether the frame that many further on (or back) is in its window."""
    places = torch.cat([torch.arange(count) for count in counts])
    counted = torch.cat([torch.full((count,), count) for count in counts])
    there = (places + away >= 0) & (places + away < counted)
    return there & ((places + away) // window == places // window)
