"""
Heads that are taught where to look when a digit of a time or a word is to be said. Those of a layer look at the last
word of what is asked about, by which it is to be known what that is; those of the next at the picture: one for each
digit of a time, two for words. When a thing went is found by other keys than when it came, and has a layer of its
own. Else a digit's head looks at the first token. So a look-up is learned in a few hundred steps.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dataset_scripts.sources.miniworld_drawing import ACTIONS, COLOURS, SHAPES

from .lists import DIGITS


WORD, LATER = DIGITS, DIGITS + 1  # in a digit's place; digits of a time's end stand from LATER on
ASKED = LATER + DIGITS
LAYERS = {  # the heads of a layer, each with the place it is for
    3: (ASKED, ASKED),
    4: (0, 1, 2, 3, WORD, WORD),
    5: (LATER, LATER + 1, LATER + 2, LATER + 3),
}
KNOWN = 3  # the layer before which it is to be known what is asked about
KINDS = (tuple(COLOURS), tuple(SHAPES), tuple(ACTIONS), *DIGITS * ("0123456789",))  # of a thing, or of a time


class Pointing:
    """`with` it, a language model is watched; then it can be asked what the heads attended to in the last pass."""

    def __init__(self, language_model):
        self.attention = {number: language_model.layers[number].self_attn for number in LAYERS}
        self.hidden = {}
        self.asked = nn.Linear(language_model.config.hidden_size, sum(map(len, KINDS)))  # thrown away

    def __enter__(self):
        self.hooks = [
            one.register_forward_pre_hook(self._keep(number), with_kwargs=True)
            for number, one in self.attention.items()
        ]

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _keep(self, number: int):
        def keep(module, args, kwargs):
            self.hidden[number] = args[0] if args else kwargs["hidden_states"]
            self.turns = kwargs["position_embeddings"]

        return keep

    def loss(self, rows, columns, places, lowest, highest) -> torch.Tensor:
        """
        Of tokens, given by their rows and columns, that tell the digit of a place or a word of any of the tokens from
        `lowest` to `highest` of their row.
        """
        missed = 0.0
        for layer, own in LAYERS.items():
            heads = torch.tensor(own)
            mine = torch.isin(places, heads).nonzero().flatten()
            if len(mine):
                missed = missed + self._missed(
                    layer,
                    heads,
                    *(one[mine] for one in (rows, columns, places)),
                    *(one[mine][:, None] for one in (lowest, highest)),
                )
        return missed

    def _missed(self, layer: int, heads, rows, columns, places, lowest, highest) -> torch.Tensor:
        attention = self.attention[layer]
        states = (self._states(layer, one, len(heads)) for one in (attention.q_proj, attention.k_proj))
        queries, keys = apply_rotary_pos_emb(*states, *self.turns)
        scores = (queries @ keys.transpose(2, 3) * attention.scaling)[rows, :, columns].float()
        tokens = torch.arange(keys.shape[2])
        scores = scores.masked_fill((tokens > columns[:, None])[:, None], -torch.inf)
        busy, idle = places[:, None] == heads, (heads != WORD) & (heads != ASKED)
        there = (tokens >= lowest) & (tokens <= highest)
        wanted = torch.where(busy[..., None], there[:, None], tokens == 0)
        seen = scores.masked_fill(~wanted, -torch.inf).logsumexp(dim=-1) - scores.logsumexp(dim=-1)
        # As often as heads look at the first token, what they are for would hardly count.
        missed = -seen[busy].mean()
        return missed - 0.5 * seen[~busy & idle].mean() if (~busy & idle).any() else missed

    def unknown(self, rows, columns, means) -> torch.Tensor:
        """How far it isn't known at tokens what of each kind is asked about; -100 where nothing is."""
        told = self.asked(self.hidden[KNOWN][rows, columns].float()).split([*map(len, KINDS)], dim=1)
        kinds = zip(told, means.T, strict=True)
        return sum(functional.cross_entropy(one, kind) for one, kind in kinds if (kind != -100).any())

    def _states(self, layer: int, projection, heads: int) -> torch.Tensor:
        size = self.attention[layer].head_dim
        states = functional.linear(self.hidden[layer], projection.weight[: heads * size])
        return states.unflatten(-1, (heads, size)).transpose(1, 2)
