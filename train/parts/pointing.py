"""
Heads that are taught where to look: one for each digit of a time, which looks at the picture when its digit is to be
said, and some for words. Else a digit's head looks at the first token. So a look-up is learned in a few hundred steps.
"""

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .lists import DIGITS


LAYER = 3  # the fourth: three are there to gather what is asked for
WORD_HEADS = 2  # behind those of the digits
WORD = DIGITS  # in a digit's place


class Pointing:
    """`with` it, a language model is watched; then it can be asked what the heads attended to in the last pass."""

    def __init__(self, language_model):
        self.attention = language_model.layers[LAYER].self_attn

    def __enter__(self):
        self.hook = self.attention.register_forward_pre_hook(self._keep, with_kwargs=True)

    def __exit__(self, *_):
        self.hook.remove()

    def _keep(self, module, args, kwargs):
        self.hidden = args[0] if args else kwargs["hidden_states"]
        self.turns = kwargs["position_embeddings"]

    def loss(self, rows, columns, places, lowest, highest) -> torch.Tensor:
        """
        Of tokens, given by their rows and columns, that tell the digit of a place or a word of any of the tokens from
        `lowest` to `highest` of their row.
        """
        heads = DIGITS + WORD_HEADS
        states = (self._states(one, heads) for one in (self.attention.q_proj, self.attention.k_proj))
        queries, keys = apply_rotary_pos_emb(*states, *self.turns)
        scores = (queries @ keys.transpose(2, 3) * self.attention.scaling)[rows, :, columns].float()
        tokens = torch.arange(keys.shape[2])
        scores = scores.masked_fill((tokens > columns[:, None])[:, None], -torch.inf)
        number = torch.arange(heads).clamp(max=WORD)
        busy, taught = places[:, None] == number, (places[:, None] == number) | (number < DIGITS)
        there = (tokens >= lowest[:, None]) & (tokens <= highest[:, None])
        wanted = torch.where(busy[..., None], there[:, None], tokens == 0)
        seen = functional.log_softmax(scores, dim=-1).masked_fill(~wanted, -torch.inf).logsumexp(dim=-1)
        # As often as heads look at the first token, what they are for would hardly count.
        return -seen[busy].mean() - 0.5 * seen[taught & ~busy].mean()

    def _states(self, projection, heads: int) -> torch.Tensor:
        size = self.attention.head_dim
        states = functional.linear(self.hidden, projection.weight[: heads * size])
        return states.unflatten(-1, (heads, size)).transpose(1, 2)
