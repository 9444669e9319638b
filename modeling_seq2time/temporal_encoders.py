"""How a sequence's frames become tokens of the language model."""

import math

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from transformers import Blip2QFormerModel, InstructBlipQFormerModel


IMAGE_QFORMERS = {"instructblip_qformer": InstructBlipQFormerModel, "blip_2_qformer": Blip2QFormerModel}


class ImageQFormer(nn.Module):
    """
    Turns each frame's patches into `num_query_tokens` tokens; where it reads the frame's time sentence, the sentence's
    own outputs follow them (InstructBLIP drops these, TimeChat keeps them).
    """

    def __init__(self, config):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = IMAGE_QFORMERS[config.qformer_config.model_type]._from_config(config.qformer_config)

    def forward(
        self,
        patches: torch.Tensor,
        time_input_ids: torch.LongTensor | None = None,
        time_attention_mask: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """(frames, patches, width) and (frames, text) → (frames, queries + text, width)."""
        queries = self.query_tokens.expand(len(patches), -1, -1)
        text = {}
        if time_input_ids is not None:
            seen = time_attention_mask.new_ones(queries.shape[:2])
            text = {"input_ids": time_input_ids, "attention_mask": torch.cat([seen, time_attention_mask], dim=1)}
        return self.qformer(query_embeds=queries, encoder_hidden_states=patches, **text).last_hidden_state


class VideoQFormer(nn.Module):
    """
    Slides a window over the frames' tokens and turns each window into `num_video_query_tokens` tokens. All windows of
    all videos pass the Q-Former in one call.
    """

    def __init__(self, config):
        super().__init__()
        self.windows = config.windows
        width = config.qformer_config.hidden_size
        self.frame_positions = nn.Embedding(config.max_frame_positions, width)
        self.query_tokens = nn.Parameter(
            torch.empty(1, config.num_video_query_tokens, config.video_qformer_config.hidden_size)
        )
        self.qformer = Blip2QFormerModel._from_config(config.video_qformer_config)

    def forward(
        self, frame_tokens: torch.Tensor, frame_mask: torch.BoolTensor, token_mask: torch.BoolTensor
    ) -> tuple[torch.Tensor, ...]:
        """
        Args:
            frame_tokens (`torch.Tensor` of shape `(videos, frames, tokens, width)`)
            frame_mask (`torch.BoolTensor` of shape `(videos, frames)`): which frames a video has; the first ones.
            token_mask (`torch.BoolTensor` of shape `(videos, tokens)`): which tokens the frames of a video have.

        Returns:
            per video a tensor of shape `(windows, num_video_query_tokens, width)`.
        """
        device, num_frames = frame_tokens.device, frame_tokens.shape[1]
        counts = frame_mask.sum(dim=1).tolist()
        frame_tokens = frame_tokens + self.frame_positions(self._places(counts, num_frames).to(device))[:, :, None]

        windows = [[window for segment in self.windows(count) for window in segment] for count in counts]
        flat = [window for own in windows for window in own]
        video = torch.tensor([number for number, own in enumerate(windows) for _ in own], device=device)
        start, length = torch.tensor([[window.start, len(window)] for window in flat], device=device).T
        frame = torch.arange(max(map(len, flat)), device=device).expand(len(flat), -1)

        # A partial window is filled up with frames that its mask hides.
        exists, frame, place = frame < length[:, None], start[:, None] + frame, video * num_frames + start
        in_order = frame.numel() == frame_mask.numel() and (place.diff() == frame.shape[1]).all()
        if in_order and exists.all():  # they tile all frames: no copy
            window_tokens = frame_tokens.reshape(*frame.shape, *frame_tokens.shape[2:])
        else:
            window_tokens = frame_tokens[video[:, None], frame.clamp(max=num_frames - 1)]
        window_mask = exists[:, :, None] & token_mask[video][:, None, :]

        output = self.qformer(
            query_embeds=self.query_tokens.expand(len(window_tokens), -1, -1),
            encoder_hidden_states=window_tokens.flatten(1, 2),
            encoder_attention_mask=None if window_mask.all() else window_mask.flatten(1, 2).long(),
        ).last_hidden_state
        return output.split([len(own) for own in windows])

    def _places(self, counts: list[int], num_frames: int) -> torch.LongTensor:
        """Of each frame, in its segment."""
        places, most = torch.zeros(len(counts), num_frames, dtype=torch.long), self.frame_positions.num_embeddings
        for row, count in zip(places, counts, strict=True):
            for segment in self.windows.segments(count):
                if len(segment) > most:
                    raise ValueError(
                        f"a sequence may have up to {most} frames (max_frame_positions), found {len(segment)}"
                    )
                row[segment.start : segment.stop] = torch.arange(len(segment))
        return places


class Fusion(nn.Module):
    """Self-attention among a segment's tokens: what overlapping windows say of the same frames comes together."""

    def __init__(self, config):
        super().__init__()
        part = config.video_qformer_config
        self.heads = part.num_attention_heads
        self.inward = nn.Linear(part.hidden_size, 3 * part.hidden_size)
        self.outward = nn.Linear(part.hidden_size, part.hidden_size)
        self.norm = nn.LayerNorm(part.hidden_size, eps=part.layer_norm_eps)

    def forward(self, tokens: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        states = self.inward(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        there = None if mask.all() else mask[:, None, None]
        found = functional.scaled_dot_product_attention(*states, attn_mask=there)
        return self.norm(tokens + self.outward(found.transpose(1, 2).flatten(2)))


class Recurrence(nn.Module):
    """An LSTM over all tokens of a video."""

    def __init__(self, config):
        super().__init__()
        width, both = config.video_qformer_config.hidden_size, config.aggregator == "bilstm"
        self.lstm = nn.LSTM(width, width // (1 + both), bidirectional=both, batch_first=True)

    def forward(self, tokens: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        exact = tokens.to(self.lstm.weight_ih_l0.dtype)
        packed = pack_padded_sequence(exact, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        # Autocast to bfloat16 runs an LSTM of a GPU in float16; oneDNN's gives other bits with gradients than without.
        with torch.autocast(tokens.device.type, enabled=False), torch.backends.mkldnn.flags(enabled=False):
            return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0].to(tokens.dtype)


class Attention(nn.Module):
    """A layer of a transformer over all tokens of a video, which knows their places from waves."""

    def __init__(self, config):
        super().__init__()
        part = config.video_qformer_config
        self.attention = Fusion(config)
        self.inward = nn.Linear(part.hidden_size, part.intermediate_size)
        self.outward = nn.Linear(part.intermediate_size, part.hidden_size)
        self.norm = nn.LayerNorm(part.hidden_size, eps=part.layer_norm_eps)

    def forward(self, tokens: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        width, device = tokens.shape[2], tokens.device
        speeds = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
        angles = torch.arange(tokens.shape[1], device=device)[:, None] * speeds
        waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]
        tokens = self.attention(tokens + waves.to(tokens.dtype), mask)
        return self.norm(tokens + self.outward(functional.gelu(self.inward(tokens))))


class Projection(nn.Module):
    """Each token by itself."""

    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(*2 * [config.video_qformer_config.hidden_size])

    def forward(self, tokens: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        return self.linear(tokens)


class Average(nn.Module):
    """Each query's mean over all windows of a video, in place of each of its tokens: nothing of when is left."""

    def __init__(self, config):
        super().__init__()
        self.queries = config.num_video_query_tokens

    def forward(self, tokens: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        windows, there = tokens.unflatten(1, (-1, self.queries)), mask.unflatten(1, (-1, self.queries))
        sums = (windows * there[..., None]).sum(1, keepdim=True)
        return (sums / there[..., None].sum(1, keepdim=True)).expand_as(windows).flatten(1, 2)


AGGREGATORS = {
    "bilstm": Recurrence,
    "lstm": Recurrence,
    "transformer": Attention,
    "linear": Projection,
    "average": Average,
}


class Aggregator(nn.Module):
    """TemporalVLM's: fuses the video tokens of each segment, then passes over those of all of a video's segments."""

    def __init__(self, config):
        super().__init__()
        self.windows = config.windows
        self.fusion = nn.ModuleList(Fusion(config) for _ in range(config.num_fusion_layers))
        self.over_time = AGGREGATORS[config.aggregator](config)

    def forward(self, videos: tuple[torch.Tensor, ...], frame_mask: torch.BoolTensor) -> tuple[torch.Tensor, ...]:
        """Per video `(windows, queries, width)`; all segments of all videos are fused in one call."""
        counts = [list(map(len, self.windows(count))) for count in frame_mask.sum(dim=1).tolist()]
        segments = [part.flatten(0, 1) for own, each in zip(videos, counts, strict=True) for part in own.split(each)]
        tokens, mask = _padded(segments)
        for layer in self.fusion:
            tokens = layer(tokens, mask)
        tokens, mask = _padded(tokens[mask].split([own.shape[0] * own.shape[1] for own in videos]))
        tokens = self.over_time(tokens, mask)
        return tuple(own[there].view_as(video) for own, there, video in zip(tokens, mask, videos, strict=True))


def _padded(sequences: list[torch.Tensor]) -> tuple[torch.Tensor, torch.BoolTensor]:
    lengths = torch.tensor([len(one) for one in sequences])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return pad_sequence(sequences, batch_first=True), mask.to(sequences[0].device)
