"""What the language model is to read of a picture, or of a frame of a film: one token in its own embeddings."""

import math
from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from dataset_scripts.sources.miniworld_drawing import ACTIONS

from .lists import DIGITS
from .views import WORDS


class Reading(nn.Module):
    """Frames as tokens in the language model's own embeddings."""

    def __init__(self, embeddings: nn.Embedding, tokenizer):
        super().__init__()
        self.embeddings, width = embeddings, embeddings.embedding_dim
        self.digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
        said = {action: {*" ".join((action, *ways)).split()} for action, ways in ACTIONS.items()}
        often = Counter(word for words in said.values() for word in words)

        def known(words: Iterable[str]) -> torch.Tensor:
            return torch.tensor(tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in words]), dtype=torch.long)

        self.words, self.names = known(WORDS), [known(action.split()) for action in ACTIONS]
        self.own = [known(word for word in sorted(said[action]) if often[word] == 1) for action in ACTIONS]
        random = torch.Generator().manual_seed(0)
        self.turns = torch.stack(
            [torch.linalg.qr(torch.randn(width, width, generator=random))[0] for _ in range(DIGITS + 1)]
        )

    def codes(self) -> torch.Tensor:
        """What words, then actions, then digits place by place, add to a token: `(words + actions + 40, width)`."""
        *of_digits, of_actions = self.turns
        digits = [self.embeddings(self.digits) @ turn for turn in of_digits]
        names, own = (torch.stack([self._sum(words) for words in one]) for one in (self.names, self.own))
        actions = (names @ of_actions + own) / math.sqrt(2)
        # All about as large as a word.
        return torch.cat([self.embeddings(self.words), actions, *digits]) / math.sqrt(10)

    def _sum(self, words: torch.Tensor) -> torch.Tensor:
        return self.embeddings(words).sum(0) / math.sqrt(max(1, len(words)))

    def forward(self, weights: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """`(frames, words + actions)` and `(frames, 4)` digits → `(frames, width)`."""
        told = functional.one_hot(times, 10).flatten(1).to(weights)
        return torch.cat([weights, told], dim=1) @ self.codes()
