"""
Decoding that cannot write a malformed time, and gives each moment its probability: holds `generate` to the forms of its
answers.
"""

import math

import torch
from transformers import LogitsProcessor

from .answer_form import AnswerForm, State


_BIASES = 64  # masks over the vocabulary that are kept


class TimeLogitsProcessor(LogitsProcessor):
    """
    Holds `generate` to the forms of its answers: greedy, sampling or beams, any batch.

    Args:
        forms (`AnswerForm` or list): one for all prompts, or one per prompt.
        max_new_tokens (`int`, *optional*):
            What `generate` is given: no time is begun that could not be completed within it.
    """

    def __init__(self, forms: AnswerForm | list[AnswerForm], max_new_tokens: int | None = None):
        self.forms = forms if isinstance(forms, list) else [forms]
        self.max_new_tokens = max_new_tokens or math.inf
        least = max(form.least_room for form in self.forms)
        if self.max_new_tokens < least:
            raise ValueError(f"max_new_tokens={max_new_tokens} leaves no room for an answer, which may take {least}")
        self._roots: list[State] = []
        self._ids: torch.LongTensor | None = None  # of the last step
        self._states: list[State | None] = []  # and where its rows stood
        self._begin = 0  # length of the prompts
        self._biases: dict[tuple, torch.Tensor] = {}
        self._indices: dict[tuple, torch.Tensor] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        count, length = input_ids.shape
        if count % len(self.forms):
            raise ValueError(f"expected a multiple of {len(self.forms)} rows, one form each, found {count}")
        states = self._follow(input_ids)
        if states is None:  # not one token more than in the last step: new prompts
            self._begin, self._roots = length, [form.begin() for form in self.forms]
            states = [self._roots[place * len(self.forms) // count] for place in range(count)]
        for state in self._states:
            if state is not None:
                state.offered = None  # it holds a step's scores
        self._ids, self._states = input_ids, states

        room = self.max_new_tokens - length + self._begin
        free: dict[tuple, list[int]] = {}  # rows that may go on with text, by what is added to their scores
        held: list[tuple[int, tuple[int, ...]]] = []  # rows with few tokens to choose from
        for place, state in enumerate(states):
            if state is None or state.step == "done":  # a dead beam, or padding behind an answer
                continue
            form = self._form_of(place, count)
            ids, tail = form.choices(state, room)
            if tail is None:
                held.append((place, ids))
            else:
                free.setdefault((id(form.texts), form.rule.forbidden.pattern, tail, ids), []).append(place)
            if state.node is not None or tail is not None:
                state.offered = (scores, place)

        if len(free) == 1 and len(*free.values()) == count:  # the usual case in one operation
            ((key, places),) = free.items()
            return scores + self._bias(key, self._form_of(places[0], count), scores)
        masked = scores.clone()
        for key, places in free.items():
            masked[places] += self._bias(key, self._form_of(places[0], count), scores)
        for place, ids in held:
            index = self._index(ids, scores.device)
            allowed = scores[place].index_select(0, index)
            if allowed.max().item() == -math.inf:
                raise ValueError(
                    f"another logits processor forbids all {len(ids)} tokens with which the answer may go on"
                )
            masked[place] = -math.inf
            masked[place].index_copy_(0, index, allowed)
        return masked

    def _form_of(self, place: int, rows: int) -> AnswerForm:
        return self.forms[place * len(self.forms) // rows]

    def states(self, sequences: torch.LongTensor) -> list[State | None]:
        """Where the generated sequences stand in their forms; `None` for one that left its form."""
        rows = sequences[:, self._begin :].tolist()
        return [self._walk(place, len(rows), row) for place, row in enumerate(rows)]

    def _follow(self, ids: torch.LongTensor) -> list[State | None] | None:
        """Where these rows stand, if they go on with those of the last step; beams may have changed places."""
        if self._ids is None or ids.shape[1] != self._ids.shape[1] + 1:
            return None
        if torch.equal(ids[:, :-1], self._ids):
            last = ids[:, -1].tolist()
            return [self._next(place, len(last), self._states[place], token) for place, token in enumerate(last)]
        rows, known = ids.tolist(), set(map(tuple, self._ids.tolist()))
        if not all(tuple(row[:-1]) in known for row in rows):
            return None
        return [self._walk(place, len(rows), row[self._begin :]) for place, row in enumerate(rows)]

    def _walk(self, place: int, rows: int, tokens: list[int]) -> State | None:
        state = self._roots[place * len(self.forms) // rows]
        for token in tokens:
            state = self._next(place, rows, state, token)
        return state

    def _next(self, place: int, rows: int, state: State | None, token: int) -> State | None:
        if state is None or state.step == "done":
            return state
        if token not in state.following:
            state.following[token] = self._step(self._form_of(place, rows), state, token)
        return state.following[token]

    @staticmethod
    def _step(form: AnswerForm, state: State, token: int) -> State | None:
        log_prob = 0.0
        if state.offered and (state.node is not None or form.begins_time(state, token)):
            scores, place = state.offered
            log_prob = (scores[place, token] - scores[place].logsumexp(dim=-1)).item()
        return form.advance(state, token, log_prob)

    def _index(self, ids: tuple[int, ...], device) -> torch.Tensor:
        if ids not in self._indices:
            self._indices[ids] = torch.tensor(ids, dtype=torch.long, device=device)
        return self._indices[ids]

    def _bias(self, key: tuple, form: AnswerForm, scores: torch.Tensor) -> torch.Tensor:
        """0 for tokens that may go on with plain text behind this tail or with a time, -inf for all others."""
        if key not in self._biases:
            if len(self._biases) == _BIASES:
                self._biases.pop(next(iter(self._biases)))
            *_, tail, ids = key
            bias = torch.full_like(scores[0], -math.inf)
            bias[: len(form.texts.texts)] = 0.0
            forbidden = form.texts.forbidden(form.rule.forbidden, form.rule.needs, tail)
            bias[[*forbidden, *form.texts.special, *form.time_tokens, *form.eos]] = -math.inf
            bias[list(ids)] = 0.0
            self._biases[key] = bias
        return self._biases[key]
