"""
The vision tower tells, patch by patch, which words a picture's description has, and how the object is turned; what is
of the object only where it is.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dataset_scripts.sources.miniworld_drawing import ACTIONS, COLOURS, SHAPES, SIZES

from .fitting import fit
from .views import SIDES, WORDS, View, paint_views


STARTS = [0, *np.cumsum([len(COLOURS), len(SHAPES), len(SIZES), len(SIDES)]).tolist(), len(WORDS)]
COLOUR, SHAPE, SIZE, PLACE, GROUND = (slice(*ends) for ends in pairwise(STARTS))
ACTION = slice(len(WORDS), len(WORDS) + len(ACTIONS))
TURNED = slice(len(WORDS), len(WORDS) + 2)  # in what the tower tells
KEPT = 16  # tokens of a picture at first, the object's before others


class Album:
    """Painted pictures and what there is to say about each."""

    def __init__(self, processor, patch: int, seed: int, views: list[View]):
        self.views = views
        pictures, shown = paint_views(views, seed, processor.video_processor.size["height"], patch)
        self.pictures, self.shown = torch.from_numpy(pictures), torch.from_numpy(shown)
        self.weights, self.poses = (
            torch.from_numpy(np.stack([of(view) for view in views])) for of in (View.weights, View.pose)
        )
        settings = processor.video_processor
        self.mean = 255 * torch.tensor(settings.image_mean)[:, None, None]
        self.spread = 255 * torch.tensor(settings.image_std)[:, None, None]

    def pixels(self, picks) -> torch.Tensor:
        """As the video processor gives them."""
        return (self.pictures[picks].permute(0, 3, 1, 2).float() - self.mean) / self.spread

    def shown_with(self, picks) -> tuple[torch.Tensor, ...]:
        """Pictures, which patches show the object, and what there is to say."""
        return self.pixels(picks), self.shown[picks], self.weights[picks], self.poses[picks]


def learn_sight(model, processor, albums: Iterable[Album], steps: int, rng: np.random.Generator):
    """
    From pictures of the miniworld, and from some of objects in any colour. Those tell the shape, the others all else:
    that some pairs of colour and shape are never named is not learned. The third album is only asked about.
    """
    named, any_colour, unseen = albums
    tower = model.model.vision_tower.requires_grad_(True)
    head = nn.Linear(model.config.vision_config.hidden_size, len(WORDS) + 3)

    def loss(step: int) -> torch.Tensor:
        few = step < 0.8 * steps
        counts = (40, 72) if few else (24, 40)
        picks = [
            torch.from_numpy(rng.choice(len(one.views), count, replace=False))
            for one, count in zip((named, any_colour), counts, strict=True)
        ]
        pixels, shown, words, poses = map(
            torch.cat,
            zip(*(one.shown_with(mine) for one, mine in zip((named, any_colour), picks, strict=True)), strict=True),
        )
        # The first token stands for all of the picture.
        there = torch.cat([shown.any(dim=1, keepdim=True), shown], dim=1)
        tokens = tower.embeddings(pixels)
        if few:  # most of the background is left out, which saves most of the time
            rank = there + 0.5 * torch.rand(there.shape)
            rank[:, 0] = 2.0
            kept = rank.topk(KEPT, dim=1).indices.sort(dim=1).values
            tokens, there = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[-1])), there.gather(1, kept)
        said = head(tower.post_layernorm(tower.encoder(inputs_embeds=tokens).last_hidden_state))
        wanted, turned = (one[:, None].expand(-1, said.shape[1], -1) for one in (words, poses[:, -2:]))
        is_named = torch.arange(len(said))[:, None] < counts[0]
        own, other = there & is_named, there & ~is_named
        return (
            _which(said[own], wanted[own], COLOUR)
            + 2 * _which(said[other], wanted[other], SHAPE)
            + 2 * functional.smooth_l1_loss(said[there][:, SIZE], wanted[there][:, SIZE])
            + 4 * functional.smooth_l1_loss(said[there][:, PLACE], wanted[there][:, PLACE])
            + 2 * functional.smooth_l1_loss(said[there][:, TURNED], turned[there])
            + functional.binary_cross_entropy_with_logits(said[..., GROUND], wanted[..., GROUND])
            + functional.binary_cross_entropy_with_logits(said[..., -1], there.float())
        )

    @torch.no_grad()
    def report() -> str:
        """Colours and shapes told right, and how far off sizes and places are, of pairs that are named and are not."""
        figures = []
        tower.eval()
        for album in (named, unseen):
            picks = torch.from_numpy(rng.choice(len(album.views), 160, replace=False))
            shown, words = album.shown[picks], album.weights[picks]
            said = head(tower(album.pixels(picks)).last_hidden_state)[:, 1:]
            mean = (said * shown[:, :, None]).sum(dim=1) / shown.sum(dim=1, keepdim=True).clamp(min=1)
            mean, words = mean[shown.any(dim=1)], words[shown.any(dim=1)]
            figures += [_right(mean, words, COLOUR), _right(mean, words, SHAPE)]
            figures += [float((mean[:, one] - words[:, one]).abs().mean()) for one in (SIZE, PLACE)]
        tower.train()
        return "named {:.2f} {:.2f} {:.2f} {:.2f}, unseen {:.2f} {:.2f} {:.2f} {:.2f}".format(*figures)

    fit("sight", [tower, head], steps, loss, 1e-2, report)
    tower.requires_grad_(False)


def _which(said: torch.Tensor, wanted: torch.Tensor, words: slice) -> torch.Tensor:
    return functional.cross_entropy(said[:, words], wanted[:, words].argmax(dim=-1))


def _right(said: torch.Tensor, wanted: torch.Tensor, words: slice) -> float:
    return float((said[:, words].argmax(dim=-1) == wanted[:, words].argmax(dim=-1)).float().mean())
