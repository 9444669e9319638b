"""
What a language model would say next, after answers that a search has begun to a prompt.

The answers are a tree: they branch only where a search tries several ways. Each of its nodes passes the language model
once, in a sequence where a token sees the prompt and those before it in its own answer. Where attention takes no such
masks (flash attention, windows, ALiBi), answers are rows beside each other instead.
"""

import copy
import inspect
from collections.abc import Callable, Iterator

import torch
from transformers.cache_utils import DynamicLayer


TREES = ("eager", "sdpa")  # attention that takes any mask
Scores = Callable[[list[tuple[int, ...]]], torch.Tensor]  # of answers so far to those of their next tokens


def next_scores(model, features: torch.Tensor, prompts: list[list[int]], width: int) -> Iterator[Scores]:
    """For each prompt a function from answers begun to the scores of their next tokens; what is shared runs once."""

    def run(tokens: list[int], cache, places: torch.Tensor, **inputs):
        past = cache.get_seq_length() if cache else 0
        ids = torch.tensor([tokens], device=model.device)
        mask = torch.ones(1, past + len(tokens), device=model.device).long()
        places = places[..., past : past + len(tokens)]
        return _run(model, ids, mask, places, cache, **inputs).cache

    shared, common = _common_prefix(prompts, model.config.video_token_id), None
    for number, prompt in enumerate(prompts, 1):
        ids = torch.tensor([prompt], device=model.device)
        inputs = model._video_inputs(ids, [features])
        places = inputs.pop("position_ids", torch.arange(len(prompt), device=model.device)[None])
        if shared and common is None:
            common = run(prompt[:shared], None, places, **inputs)
        own = common if number == len(prompts) else copy.deepcopy(common)
        cache = run(prompt[shared:], own, places, **({} if shared else inputs))
        if not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
            found = model.config.text_config.model_type
            raise ValueError(f"a search needs attention in every layer, which {found} has not: use constrain=False")
        if _takes_trees(model, cache):
            yield AnswerTree(model, cache, places[..., -1:])
        else:
            yield AnswerRows(model, cache, places[..., -1:], width)


class AnswerTree:
    """Every token of any answer passes the language model once; keys and values of all are kept."""

    def __init__(self, model, cache, last: torch.Tensor):
        self.model, self.cache, self.last, self.past = model, cache, last, cache.get_seq_length()
        self.nodes: dict[tuple[int, ...], int] = {}  # of an answer so far the place of its last token
        self.hidden: torch.Tensor | None = None

    def __call__(self, answers: list[tuple[int, ...]]) -> torch.Tensor:
        begun = {answer[: size + 1]: None for answer in answers for size in range(len(answer))}
        if new := sorted((answer for answer in begun if answer not in self.nodes), key=len):
            self._grow(new)
        places = torch.tensor([self.nodes[answer] for answer in answers], device=self.hidden.device)
        return self.model.get_output_embeddings()(self.hidden[places]).float()

    def _grow(self, new: list[tuple[int, ...]]):
        self.nodes |= {answer: place for place, answer in enumerate(new, len(self.nodes))}
        device, dtype = self.model.device, self.cache.layers[0].keys.dtype
        mask = torch.zeros(1, 1, len(new), self.past + len(self.nodes), dtype=dtype)
        mask[..., self.past :] = torch.finfo(dtype).min
        for row, answer in zip(mask[0, 0, :, self.past :], new, strict=True):
            row[[self.nodes[answer[: size + 1]] for size in range(len(answer))]] = 0
        depths = torch.tensor([len(answer) for answer in new], device=device)
        ids = torch.tensor([[answer[-1] for answer in new]], device=device)
        hidden = _run(self.model, ids, mask.to(device), self.last + depths, self.cache).last_hidden_state[0]
        self.hidden = hidden if self.hidden is None else torch.cat([self.hidden, hidden])


class AnswerRows:
    """Answers beside each other, so many at a time, each with a copy of the prompt's keys and values."""

    def __init__(self, model, cache, last: torch.Tensor, width: int):
        self.model, self.cache, self.last, self.width = model, cache, last, width

    def __call__(self, answers: list[tuple[int, ...]]) -> torch.Tensor:
        parts = [answers[first : first + self.width] for first in range(0, len(answers), self.width)]
        return torch.cat([self._scores(part) for part in parts])

    def _scores(self, answers: list[tuple[int, ...]]) -> torch.Tensor:
        model, past, longest = self.model, self.cache.get_seq_length(), max(map(len, answers))
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(answers))
        ids = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers], device=model.device)
        sizes = torch.tensor([len(answer) for answer in answers], device=model.device)
        mask = (torch.arange(past + longest, device=model.device) < past + sizes[:, None]).long()
        places = (self.last + 1 + torch.arange(longest, device=model.device)).repeat_interleave(len(answers), dim=-2)
        hidden = _run(model, ids, mask, places, cache).last_hidden_state
        ends = hidden[torch.arange(len(answers)).to(hidden.device), (sizes - 1).to(hidden.device)]
        return model.get_output_embeddings()(ends).float()


def _takes_trees(model, cache) -> bool:
    """Whether a token is where `position_ids` say, and a mask alone says what it sees; some models count keys."""
    config, decoder = model.config.text_config, model.base_model.get_decoder()
    counts = getattr(config, "alibi", False) or "local" in getattr(config, "attention_layers", ())
    return (
        config._attn_implementation in TREES
        and "position_ids" in inspect.signature(decoder.forward).parameters
        and not counts
        and not any(layer.is_sliding for layer in cache.layers)
    )


def _run(model, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache, **inputs):
    return model.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=places,
        cache=cache,
        use_cache=True,
        return_dict=True,
        **inputs,
    )


def _common_prefix(prompts: list[list[int]], video_token_id: int) -> int:
    """How many tokens all prompts of one video begin with, if its tokens are among them; none of a single prompt."""
    shared = 0
    while len(prompts) > 1 and shared < min(map(len, prompts)) - 1 and len({prompt[shared] for prompt in prompts}) == 1:
        shared += 1
    return shared if all(video_token_id not in prompt[shared:] for prompt in prompts) else 0
