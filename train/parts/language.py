"""
The language model reads a picture as one token, the weighted sum of the embeddings of the words that say what is there,
and of the digits of its time, each turned by its place. It notes pictures down, line by line; then it looks pictures
of a list up by what is there or by their time, and things that stay for several pictures by when they came and went;
first in notes, then when it is asked in sentences. Some of its heads are shown where to look.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .fitting import fit
from .lesson import Lesson, Sample
from .lists import DIGITS
from .views import READ


TOKENS = 6000  # of a step, padding and all
LINES, QUESTIONS = 16, 8  # about a list
MOST, OF_THINGS_THAT_STAY = 64, 96  # pictures in a list
LISTS, STAYS, SENTENCES, GROWN = 0.07, 0.15, 0.24, 0.3  # shares of the steps: when each begins, when lists are longest
POINTED = 0.5  # how much it counts where heads look


def learn_language(model, processor, steps: int, rng: np.random.Generator):
    lesson = Lesson(model, processor, rng)

    def draw(done: float) -> list[Sample]:
        """Lone pictures, then lists that grow, then things that stay, then questions too."""
        which, growth = rng.random(), min(1.0, max(0.0, (done - LISTS) / (GROWN - LISTS)))
        staying = done > STAYS and rng.random() < 0.7
        most = OF_THINGS_THAT_STAY if staying else MOST
        count = int(rng.integers(2, round(4 + (most - 4) * growth) + 1))
        if done > SENTENCES and rng.random() < 0.6:
            count = 0 if which < 0.06 else 1 if which < 0.12 else count
            make = lesson.talk_of_stays if staying and count > 1 else lesson.talk
            return filled(lambda: make(count, {0: 4, 1: 2}.get(count, QUESTIONS)))
        if done < LISTS or which < 0.08:
            return filled(lesson.note)
        return filled(lambda: (lesson.stays if staying else lesson.notes)(count, LINES))

    teach("language", lesson, steps, draw, 1e-2)


def teach(
    name: str,
    lesson: Lesson,
    steps: int,
    draw: Callable[[float], list[Sample]],
    rate: float,
    more: Callable[[], str] = str,
):
    """Samples are drawn by how much is done. `more` is told beside the lesson's own figures."""
    model, away = lesson.model, [0.0]

    def loss(step: int) -> torch.Tensor:
        logits, wanted, _, far = lesson.forward(draw(step / steps))
        away[0] = 0.96 * away[0] + 0.04 * far.item()
        return functional.cross_entropy(logits.float(), wanted) + POINTED * far

    def report() -> str:
        return in_figures(lesson, away[0]) + more()

    trained = [model.model.language_model, model.lm_head, nn.ModuleDict({"head": lesson.pointing.asked})]
    fit(name, trained, steps, loss, rate, report)


def in_figures(lesson: Lesson, away: float) -> str:
    """
    How far heads look from it; notes of times and pictures and answers with times that are right, when things come
    and go to the first digits.
    """
    asked = [(lesson.notes, 0.0, DIGITS), (lesson.notes, 1.0, DIGITS), (lesson.stays, 0.0, 1)]
    asked += [(lesson.talk, 0.0, DIGITS), (lesson.talk_of_stays, 0.0, 1)]
    figures = [f"away {away:.3f}"]
    for count in (8, MOST):
        told = [f"{lesson.right(make, count, READ, back, digits):.2f}" for make, back, digits in asked]
        figures.append(f"{count}: {' '.join(told)}")
    return ", ".join(figures)


def filled(make: Callable[[], Sample]) -> list[Sample]:
    """As many samples as a step has room for, where all are padded to the longest."""
    samples, longest = [], 0
    while True:
        sample = make()
        longest = max(longest, len(sample.ids))
        if samples and longest * (len(samples) + 1) > TOKENS:
            return samples
        samples.append(sample)
