"""How a sequence's frames become tokens of the language model."""

import torch
from torch import nn
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
        self.window_size, self.window_stride = config.window_size, config.window_stride
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
        if num_frames > self.frame_positions.num_embeddings:
            raise ValueError(
                f"a sequence may have up to {self.frame_positions.num_embeddings} frames (max_frame_positions), "
                f"found {num_frames}"
            )
        frame_tokens = frame_tokens + self.frame_positions(torch.arange(num_frames, device=device))[:, None]

        counts = frame_mask.sum(dim=1).tolist()
        windows = [list(range(0, count, self.window_stride)) if self.window_stride else [0] for count in counts]
        window_size = min(self.window_size, num_frames) if self.window_stride else num_frames
        video = torch.tensor([i for i, starts in enumerate(windows) for _ in starts], device=device)
        start = torch.tensor([start for starts in windows for start in starts], device=device)
        frame = start[:, None] + torch.arange(window_size, device=device)

        # A partial window is filled up with frames that its mask hides.
        exists = frame < frame_mask.sum(dim=1)[video][:, None]
        if self.window_stride in (0, window_size) and frame.numel() == frame_mask.numel():  # they tile: no copy
            window_tokens = frame_tokens.reshape(*frame.shape, *frame_tokens.shape[2:])
        else:
            window_tokens = frame_tokens[video[:, None], frame.clamp(max=num_frames - 1)]
        window_mask = exists[:, :, None] & token_mask[video][:, None, :]

        output = self.qformer(
            query_embeds=self.query_tokens.expand(len(window_tokens), -1, -1),
            encoder_hidden_states=window_tokens.flatten(1, 2),
            encoder_attention_mask=None if window_mask.all() else window_mask.flatten(1, 2).long(),
        ).last_hidden_state
        return output.split([len(starts) for starts in windows])
