"""The most probable moments of a grounding answer, by search through the tree of legal times."""

import heapq
import itertools
import math
from collections.abc import Callable

import torch

from .answer_form import AnswerForm, Found, State
from .moments import distinct


def best_moments(
    form: AnswerForm,
    next_scores: Callable[[list[tuple[int, ...]]], torch.Tensor],
    top_k: int = 1,
    max_overlap: float = 1.0,
    width: int = 16,
    max_steps: int = 1024,
) -> tuple[list[Found], bool]:
    """
    The `top_k` most probable moments of a grounding answer, and whether it is proven that there are no better ones.

    A beam finds good moments; the most probable of the branches that it left are then followed until none can beat
    what was found (a branch is at least as probable as any moment in it), or `max_steps` branches have been looked at.

    Args:
        next_scores: maps answers so far, as tokens, to the scores of their next tokens `(answers, vocabulary)`.
        max_overlap (`float`): of two moments that overlap more (intersection over union), only the better one counts.
        width (`int`): answers per call of `next_scores`.
    """
    order, found, steps = itertools.count(), {}, 0
    branches: list[tuple[float, int, tuple[int, ...], State]] = []  # a heap, most probable first

    def follow(beam: list, bound: float = math.inf) -> list:
        grown = []
        for branch, scores in zip(beam, next_scores([branch[2] for branch in beam]), strict=True):
            for child in _grow(form, branch, scores, order, bound):
                if child[3].found:
                    moment = child[3].found[0]
                    known = found.get((moment.start, moment.end))
                    if known is None or known.log_prob < moment.log_prob:
                        found[moment.start, moment.end] = moment
                else:
                    grown.append(child)
        return sorted(grown)

    def best() -> list[Found]:
        ranked = sorted(found.values(), key=lambda moment: (-moment.log_prob, moment.start, moment.end))
        return list(itertools.islice(distinct(ranked, max_overlap, form.positions), top_k))

    beam = [_say_forced(form, (0.0, next(order), (), form.begin()))]
    while beam:
        grown, steps = follow(beam), steps + len(beam)
        beam = grown[:width]
        for branch in grown[width:]:
            heapq.heappush(branches, branch)
    kept = best()
    while branches and steps < max_steps:
        bound = -kept[-1].log_prob if len(kept) == top_k else math.inf
        beam = [heapq.heappop(branches) for _ in range(min(width, len(branches))) if branches[0][0] < bound]
        if not beam:
            return kept, True
        # A moment found later may make one that is kept now count no more: then no branch is too improbable.
        for branch in follow(beam, bound if max_overlap >= 1 else math.inf):
            heapq.heappush(branches, branch)
        kept, steps = best(), steps + len(beam)
    return kept, not branches or (len(kept) == top_k and branches[0][0] >= -kept[-1].log_prob)


def _grow(form: AnswerForm, branch: tuple, scores: torch.Tensor, order, bound: float) -> list[tuple]:
    """What a branch may go on with, but for what costs as much as `bound`."""
    cost, _, tokens, state = branch
    ids, _ = form.choices(state)
    grown = []
    for token, log_prob in zip(ids, torch.log_softmax(scores.float(), dim=-1)[list(ids)].tolist(), strict=True):
        if cost - log_prob < bound:
            following = form.advance(state, token, log_prob)
            grown.append(_say_forced(form, (cost - log_prob, next(order), (*tokens, token), following)))
    return grown


def _say_forced(form: AnswerForm, branch: tuple) -> tuple:
    """A branch with the words said that must follow."""
    cost, number, tokens, state = branch
    while state.words and not state.found:
        token = state.words[0][0][0]
        state, tokens = form.advance(state, token), (*tokens, token)
    return cost, number, tokens, state
