"""
Heads that are taught where to look: first at all pictures of what is asked for, in the layer behind that at the picture
whose time is to be said, a head for each digit, or that tells a word. Where its digit isn't to be said a digit's head
looks at the first token. So a look-up is learned in a few hundred steps.
"""

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .lists import DIGITS


FOUND, LAYER = 2, 3  # the layers of both: two and one before are there to gather what is asked for
FINDING_HEADS = 2
WORD_HEADS = 2  # behind those of the digits
WORD = DIGITS  # in a digit's place


class Pointing:
    """Asks what the heads attended to in the last forward pass of a language model."""

    def __init__(self, language_model):
        self.attentions = [language_model.layers[layer].self_attn for layer in (FOUND, LAYER)]
        self.hidden, self.turns = {}, None
        self.hooks = [one.register_forward_pre_hook(self._keep, with_kwargs=True) for one in self.attentions]

    def close(self):
        for hook in self.hooks:
            hook.remove()

    def _keep(self, module, args, kwargs):
        self.hidden[module] = args[0] if args else kwargs["hidden_states"]
        self.turns = kwargs["position_embeddings"]

    def loss(self, rows, columns, places, lowest, highest, first, last) -> torch.Tensor:
        """
        Of tokens, given by their rows and columns, that tell the digit of a place or a word of any of the tokens from
        `lowest` to `highest` of their row, and are about those from `first` to `last`.
        """
        finding, telling = self.attentions
        found, tokens = self._scores(finding, FINDING_HEADS, rows, columns)
        asked = (tokens >= first[:, None]) & (tokens <= last[:, None])
        away = -_share(found, asked[:, None]).mean()

        heads = DIGITS + WORD_HEADS
        scores, tokens = self._scores(telling, heads, rows, columns)
        number = torch.arange(heads).clamp(max=WORD)
        busy, taught = places[:, None] == number, (places[:, None] == number) | (number < DIGITS)
        there = (tokens >= lowest[:, None]) & (tokens <= highest[:, None])
        seen = _share(scores, torch.where(busy[..., None], there[:, None], tokens == 0))
        # As often as heads look at the first token, what they are for would hardly count.
        return away - seen[busy].mean() - 0.5 * seen[taught & ~busy].mean()

    def _scores(self, attention, heads: int, rows, columns) -> tuple[torch.Tensor, torch.Tensor]:
        """How much the first heads attend from each of the tokens to those up to it, and the numbers of all."""
        states = (self._states(attention, one, heads) for one in (attention.q_proj, attention.k_proj))
        queries, keys = apply_rotary_pos_emb(*states, *self.turns)
        scores = (queries @ keys.transpose(2, 3) * attention.scaling)[rows, :, columns].float()
        tokens = torch.arange(keys.shape[2])
        return scores.masked_fill((tokens > columns[:, None])[:, None], -torch.inf), tokens

    def _states(self, attention, projection, heads: int) -> torch.Tensor:
        size = attention.head_dim
        states = functional.linear(self.hidden[attention], projection.weight[: heads * size])
        return states.unflatten(-1, (heads, size)).transpose(1, 2)


def _share(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The logarithm of how much of the attention is where it should be."""
    return functional.log_softmax(scores, dim=-1).masked_fill(~wanted, -torch.inf).logsumexp(dim=-1)
