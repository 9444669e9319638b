"""What the language model is to read of a picture: one token in its own embeddings."""

import math

import torch
from torch import nn
from torch.nn import functional

from .lists import DIGITS
from .views import WORDS


class Reading(nn.Module):
    """Frames as tokens in the language model's own embeddings."""

    def __init__(self, embeddings: nn.Embedding, tokenizer):
        super().__init__()
        self.embeddings, width = embeddings, embeddings.embedding_dim
        self.digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
        self.words = torch.tensor(tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in WORDS]))
        random = torch.Generator().manual_seed(0)
        self.turns = torch.stack(
            [torch.linalg.qr(torch.randn(width, width, generator=random))[0] for _ in range(DIGITS)]
        )

    def codes(self) -> torch.Tensor:
        """What words, then digits place by place, add to a token: `(words + 40, width)`."""
        digits = torch.einsum("nw,dwv->dnv", self.embeddings(self.digits), self.turns)
        # About as large as a word.
        return torch.cat([self.embeddings(self.words), digits.flatten(0, 1)]) / math.sqrt(10)

    def forward(self, weights: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """`(frames, words)` and `(frames, 4)` digits → `(frames, width)`."""
        told = functional.one_hot(times, 10).flatten(1).to(weights)
        return torch.cat([weights, told], dim=1) @ self.codes()
