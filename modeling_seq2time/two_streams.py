"""
Grounded-VideoLLM's two streams: of each segment of a video what a picture encoder makes of its key frame, then what a
video encoder makes of all its frames, then one token that ends it.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)


class Segments:
    """Which frames the segments of a batch of videos have, counted through all videos."""

    def __init__(self, windows, counts: list[int]):
        first, frames, keys, self.counts = 0, [], [], []
        for count in counts:
            segments = [[first + place for place in segment] for segment in windows.segments(count)]
            # The video encoder sees as many frames of each: the last one of a shorter segment stands still.
            frames += [own + (windows.segment - len(own)) * own[-1:] for own in segments]
            keys += [own[len(own) // 2] for own in segments]
            self.counts.append(len(segments))
            first += count
        self.frames, self.keys = torch.tensor(frames), torch.tensor(keys)


class TemporalTower(nn.Module):
    """The video encoder, from frames as the picture encoder takes them."""

    def __init__(self, config):
        super().__init__()
        self.side = config.clips.side
        self.encoder = AutoModel.from_config(config.temporal_config)
        # V-JEPA 2 would go on to predict what it doesn't see.
        self.options = {"skip_predictor": True} if config.temporal_config.model_type == "vjepa2" else {}

    def resize(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures in the video encoder's size, and with ImageNet's mean and deviation in place of CLIP's."""
        small = functional.interpolate(pictures.float(), (self.side, self.side), mode="bicubic", antialias=True)
        ours, theirs = (
            [torch.tensor(one, device=small.device)[:, None, None] for one in pair]
            for pair in ((OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        )
        return ((small * ours[1] + ours[0] - theirs[0]) / theirs[1]).to(pictures.dtype)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(segments, frames, 3, side, side) → (segments, patches, width), those of the first frame first."""
        return self.encoder(frames, **self.options).last_hidden_state


class SpatialProjector(nn.Module):
    """Patches of key frames as tokens of the language model: pooled, or merged and with an end to each row."""

    def __init__(self, config):
        super().__init__()
        vision, self.side, self.merges = config.vision_config, config.spatial_side, config.spatial_pooling == "merge"
        self.grid = vision.image_size // vision.patch_size
        width = vision.hidden_size * (self.grid // self.side) ** 2 if self.merges else vision.hidden_size
        self.row_end = nn.Parameter(torch.empty(width)) if self.merges else None
        self.layers = _layers(width, config.text_config.hidden_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        if not self.merges:
            return self.layers(_pooled(patches, self.grid, self.side))
        square = patches.unflatten(1, (self.side, self.grid // self.side, self.side, -1))
        rows = square.transpose(2, 3).flatten(3)
        ends = self.row_end.to(rows.dtype).expand(len(rows), self.side, 1, -1)
        return self.layers(torch.cat([rows, ends], dim=2).flatten(1, 2))


class TemporalProjector(nn.Module):
    """Patches of segments as tokens of the language model, and a last one that ends the segment."""

    def __init__(self, config):
        super().__init__()
        self.clips, self.side = config.clips, config.temporal_side
        self.layers = _layers(config.temporal_config.hidden_size, config.text_config.hidden_size)
        self.newline = nn.Parameter(torch.empty(config.text_config.hidden_size))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        frames = patches.unflatten(1, (self.clips.steps, -1)).flatten(0, 1)
        pooled = _pooled(frames, self.clips.grid, self.side).unflatten(0, (-1, self.clips.steps)).flatten(1, 2)
        tokens = self.layers(pooled)
        return torch.cat([tokens, self.newline.to(tokens.dtype).expand(len(tokens), 1, -1)], dim=1)


def _pooled(patches: torch.Tensor, grid: int, side: int) -> torch.Tensor:
    """(pictures, grid², width) → (pictures, side², width), by average."""
    square = patches.transpose(1, 2).unflatten(2, (grid, grid))
    return functional.adaptive_avg_pool2d(square, side).flatten(2).transpose(1, 2)


def _layers(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(given, made), nn.GELU(), nn.Linear(made, made))
