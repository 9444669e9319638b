"""The search against a list of all moments."""

import itertools
import math

import pytest
import torch

from modeling_seq2time import AnswerForm
from modeling_seq2time.moment_search import TOGETHER, best_moments, expected_moments
from modeling_seq2time.moments import overlap
from tests.test_time_decoding import setting


def scorer(tokenizer, peak, seed=0, knows=()):
    """Random scores that depend on the answer so far; the larger `peak`, the surer. It `knows` what to write."""
    calls = []

    def next_scores(answers):
        calls.append(len(answers))
        rows = []
        for answer in answers:
            generator = torch.Generator().manual_seed(seed + hash(tuple(answer)) % 2**31)
            rows.append(torch.randn(len(tokenizer), generator=generator) * peak)
            rows[-1][list(knows)] += 50.0
        return torch.stack(rows)

    return next_scores, calls


def all_moments(shape, next_scores):
    """Every legal moment and its log-probability, by walking the whole tree."""
    found, pending = {}, [((), shape.begin(), 0.0)]
    while pending:
        tokens, state, total = pending.pop()
        if state.found:
            moment = state.found[0]
            found[moment.start, moment.end] = max(total, found.get((moment.start, moment.end), -math.inf))
        elif state.words:
            token = state.words[0][0][0]
            pending.append(((*tokens, token), shape.advance(state, token), total))
        else:
            log_probs = next_scores([tokens])[0].log_softmax(dim=-1)
            for token in shape.choices(state)[0]:
                score = log_probs[token].item()
                pending.append(((*tokens, token), shape.advance(state, token, score), total + score))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


@pytest.mark.parametrize("peak", [0.3, 3.0])
@pytest.mark.parametrize(
    ("name", "length", "unit"),
    [("bins", 60.0, "s"), ("percent", 60.0, "s"), ("text", 4.5, "s"), ("rpt", 12, "image"), ("text", 15, "image")],
)
def test_the_best_of_all(name, length, unit, peak):
    notation, tokenizer = setting(name, **({"num_bins": 40} if name == "bins" else {}))
    shape = AnswerForm(tokenizer, notation, length, unit, "grounding")
    next_scores, _ = scorer(tokenizer, peak)
    every = all_moments(shape, next_scores)
    codes = notation.legal_codes(length, unit)
    assert len(every) == len(codes) * (len(codes) + 1) // 2
    assert sum(math.exp(log_prob) for _, log_prob in every) <= 1 + 1e-6
    found, proven = best_moments(shape, next_scores, top_k=5, max_steps=100_000)
    assert proven
    assert [(moment.start, moment.end) for moment in found] == [span for span, _ in every[:5]]
    assert [moment.log_prob for moment in found] == pytest.approx([score for _, score in every[:5]], abs=1e-4)


def test_moments_that_overlap_too_much_count_once():
    notation, tokenizer = setting("bins", num_bins=30)
    shape = AnswerForm(tokenizer, notation, 60.0, form="grounding")
    next_scores, _ = scorer(tokenizer, 2.0)
    expected = []
    for span, _ in all_moments(shape, next_scores):
        place = tuple(code / 30 for code in span)
        if all(overlap(place, tuple(code / 30 for code in other)) <= 0.3 for other in expected):
            expected.append(span)
    found, proven = best_moments(shape, next_scores, top_k=4, max_overlap=0.3, max_steps=100_000)
    assert proven
    assert [(moment.start, moment.end) for moment in found] == expected[:4]


def test_what_suppresses_others_may_be_found_late():
    """
    A beam of one finds 0–0 and 0–3 first. 1–5, found later, is the best and suppresses 0–3, so that 1–2 counts again,
    which was too improbable before.
    """
    notation, tokenizer = setting("bins", num_bins=10)
    shape = AnswerForm(tokenizer, notation, 60.0, form="grounding")
    bins = tokenizer.convert_tokens_to_ids(list(notation.tokens))
    costs = {None: {0: 1.5, 1: 2.0}, 0: {10: 1.5, 3: 2.5, 0: 4.5}, 1: {5: 0.9, 2: 2.5}}

    def next_scores(answers):
        rows = torch.full((len(answers), len(tokenizer)), -60.0)
        for row, answer in zip(rows, answers, strict=True):
            start = next((bins.index(token) for token in answer if token in bins), None)
            for code, cost in costs.get(start, {}).items():
                row[bins[code]] = -cost
            row[5] = math.log(1 - sum(math.exp(-cost) for cost in costs.get(start, {}).values()))
        return rows

    for width in (1, 16):
        found, proven = best_moments(shape, next_scores, top_k=2, max_overlap=0.3, width=width)
        assert proven
        assert [(moment.start, moment.end) for moment in found] == [(1, 5), (1, 2)]


def test_a_sure_model_needs_few_steps_and_an_unsure_one_says_so():
    notation, tokenizer = setting("rpt")
    shape = AnswerForm(tokenizer, notation, 60.0, form="grounding")
    sure, calls = scorer(tokenizer, 12.0, knows=shape.time_tokens)
    (moment,), proven = best_moments(shape, sure, width=8)
    assert proven
    assert sum(calls) < 300
    assert moment.end >= moment.start
    unsure, calls = scorer(tokenizer, 0.01, knows=shape.time_tokens)
    found, proven = best_moments(shape, unsure, top_k=3, width=8, max_steps=100)
    assert not proven
    assert sum(calls) < 120
    assert len({(moment.start, moment.end) for moment in found}) == 3


def test_more_moments_than_there_are():
    notation, tokenizer = setting("rpt")
    shape = AnswerForm(tokenizer, notation, 2, "image", "grounding")
    found, proven = best_moments(shape, scorer(tokenizer, 1.0)[0], top_k=9)
    assert proven
    spans = {tuple(round(2 * place) for place in shape.positions(moment)) for moment in found}
    assert spans == set(itertools.combinations_with_replacement((1, 2), 2))


@pytest.mark.parametrize("peak", [0.3, 3.0])
@pytest.mark.parametrize(("name", "length", "unit"), [("bins", 60.0, "s"), ("text", 1.5, "s"), ("rpt", 12, "image")])
def test_the_overlap_to_expect(name, length, unit, peak):
    """Of so many answers that none is left out, as over all moments there are; what isn't legal overlaps nothing."""
    notation, tokenizer = setting(name, **({"num_bins": 12} if name == "bins" else {}))
    shape = AnswerForm(tokenizer, notation, length, unit, "grounding")
    next_scores, calls = scorer(tokenizer, peak, knows=shape.time_tokens)
    spans = []
    for (start, end), log_prob in all_moments(shape, next_scores):
        place = tuple(notation.fraction(code, length, unit) for code in (start, end))
        spans.append(((start, end), place, math.exp(log_prob)))
    told = {span: sum(share * overlap(place, other) for _, other, share in spans) for span, place, _ in spans}
    expected = sorted(told.items(), key=lambda one: -one[1])[:4]
    calls.clear()
    found = expected_moments(shape, next_scores, top_k=4, samples=10**9)
    assert [(moment.start, moment.end) for moment, _ in found] == [span for span, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-3)
    assert max(calls) <= TOGETHER
    apart = [tuple(round(place, 6) for place in shape.positions(moment)) for moment, _ in found]
    alone = expected_moments(shape, next_scores, top_k=1, samples=10**9)
    assert tuple(round(place, 6) for place in shape.positions(alone[0][0])) == apart[0]


def digits_scorer(tokenizer, notation, likely):
    """Start and end alike: `likely` gives the probabilities of a digit behind those of the same time."""
    digits = tokenizer.convert_tokens_to_ids(list(notation.tokens))

    def next_scores(answers):
        rows = torch.full((len(answers), len(tokenizer)), -60.0)
        for row, answer in zip(rows, answers, strict=True):
            written = [digits.index(token) for token in answer if token in digits]
            known = written[4:] if len(written) > 3 else written
            for digit, share in likely(len(written) > 3, known).items():
                row[digits[digit]] = math.log(share)
        return rows

    return next_scores


def test_a_time_is_where_its_probability_lies_not_its_most_probable_code():
    """
    The start is 0.4 to 0.7 with a chance of 4 in 5, but its last digits are anybody's guess; so of all codes 0.0000 is
    the most probable.
    """
    notation, tokenizer = setting("rpt")
    shape = AnswerForm(tokenizer, notation, 60.0, form="grounding")

    def likely(is_end, known):
        if is_end:
            return {9: 1.0}
        return {0: 1.0} if known and known[0] == 0 else dict.fromkeys(range(10), 0.1) if known else FIRST

    FIRST = {0: 0.2, 4: 0.2, 5: 0.2, 6: 0.2, 7: 0.2}
    next_scores = digits_scorer(tokenizer, notation, likely)
    (searched,), _ = best_moments(shape, next_scores)
    ((moment, score),) = expected_moments(shape, next_scores)
    assert (searched.start, searched.end) == (0, 9999)
    assert 4000 < moment.start < 6500 and moment.end == 9999
    assert 0.5 < score < 0.8
    ((lone, _),) = expected_moments(shape, next_scores, samples=1)
    assert 5000 <= lone.start < 6000, "one answer takes the middle way"
