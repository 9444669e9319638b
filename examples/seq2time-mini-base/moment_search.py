"""
The moments of a grounding answer, out of the tree of legal times: those that can be expected to overlap most with what
the model means, or the most probable ones.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator

import torch

from .answer_form import AnswerForm, Found, State
from .moments import distinct, overlap


TOGETHER = 64  # answers whose next tokens are scored at a time


def expected_moments(
    form: AnswerForm,
    next_scores: Callable[[list[tuple[int, ...]]], torch.Tensor],
    top_k: int = 1,
    max_overlap: float = 1.0,
    samples: int = 64,
) -> list[tuple[Found, float]]:
    """
    The `top_k` moments that can be expected to overlap most with what the model means, and how much (intersection over
    union): it spreads a time's probability over all codes near it, so that the most probable code may be far from it.

    So many answers go down the tree together. Where it branches they part as the model's probabilities say, in order of
    time, without chance; each counts as much as the model lets legal answers go its way.

    Args:
        next_scores, max_overlap: as for `best_moments`.
    """
    reached: dict[tuple[int, int], tuple[Found, float]] = {}
    places = [(samples, 0.0, *_say_forced(form, (), form.begin()))]
    while places:
        batch, places = places[:TOGETHER], places[TOGETHER:]
        scores = next_scores([tokens for _, _, tokens, _ in batch]).double()
        for place, log_probs in zip(batch, torch.log_softmax(scores, dim=-1), strict=True):
            for count, cost, tokens, state in _part(form, place, log_probs):
                if not state.found:
                    places.append((count, cost, tokens, state))
                    continue
                found, share = state.found[0], count / samples * math.exp(-cost)
                known, others = reached.get((found.start, found.end), (found, 0.0))
                likelier = max(known, found, key=lambda one: one.log_prob)
                reached[found.start, found.end] = likelier, share + others
    spans = [(found, form.positions(found), share) for found, share in reached.values()]
    expected = [(found, sum(share * overlap(span, other) for _, other, share in spans)) for found, span, _ in spans]
    ranked = sorted(expected, key=lambda one: (-one[1], one[0].start, one[0].end))
    return list(itertools.islice(distinct(ranked, max_overlap, lambda one: form.positions(one[0])), top_k))


def _part(form: AnswerForm, place: tuple, log_probs: torch.Tensor) -> Iterator[tuple]:
    """Where answers go from a place, how many each way, and what it costs that not all that may follow is legal."""
    count, cost, tokens, state = place
    ids, _ = form.choices(state)
    log_probs = log_probs[list(ids)]
    legal = log_probs.logsumexp(dim=0)
    # Rounded, so that a lone answer takes the middle way.
    ends = (count * (log_probs - legal).exp().cumsum(dim=0) + 0.5).floor().long().tolist()
    ends[-1] = count
    for token, log_prob, begin, end in zip(ids, log_probs.tolist(), [0, *ends], ends, strict=False):
        if end > begin:
            said = _say_forced(form, (*tokens, token), form.advance(state, token, log_prob))
            yield end - begin, cost - float(legal), *said


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

    beam = [(0.0, next(order), *_say_forced(form, (), form.begin()))]
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
            grown.append((cost - log_prob, next(order), *_say_forced(form, (*tokens, token), following)))
    return grown


def _say_forced(form: AnswerForm, tokens: tuple[int, ...], state: State) -> tuple[tuple[int, ...], State]:
    """The answer so far with the words said that must follow."""
    while state.words and not state.found:
        token = state.words[0][0][0]
        state, tokens = form.advance(state, token), (*tokens, token)
    return tokens, state
