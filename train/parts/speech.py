"""
The language model goes on once there are eyes. The embeddings of words stay as those know them; so what it learns now
needs no other eyes. It reads lists of all lengths, and much of what it is asked is to be said in words: what is there,
and what that does, of which frames say little and not by the words themselves.
"""

import numpy as np

from .language import LINES, MOST, OF_THINGS_THAT_STAY, QUESTIONS, filled, teach
from .lesson import Lesson
from .sample import Sample


TALK, STAYING, IN_WORDS = 0.7, 0.75, 0.4  # shares
SURE = 0.3  # in place of `lists.SURE`: the eyes turned out to be right more often
ALONE = 0.06  # of what is talked about: no picture, and as often a single one


def learn_speech(model, processor, steps: int, rng: np.random.Generator):
    lesson = Lesson(model, processor, rng, SURE)
    model.get_input_embeddings().requires_grad_(False)

    def draw(done: float) -> list[Sample]:
        staying = rng.random() < STAYING
        count = int(rng.integers(2, (OF_THINGS_THAT_STAY if staying else MOST) + 1))
        if rng.random() < TALK:
            which = rng.random()
            if which < 2 * ALONE:
                count, make = int(which < ALONE), lesson.talk
            else:
                make = lesson.talk_of_stays if staying else lesson.talk
            asked = {0: 4, 1: 2}.get(count, QUESTIONS)
        else:
            make, asked = lesson.stays if staying else lesson.notes, LINES
        return filled(lambda: make(count, asked, back=IN_WORDS))

    def more() -> str:
        """Colours, shapes and how it is begun to say what is done, in lists of it all."""
        return f", in words {' '.join(f'{one:.2f}' for one in lesson.in_words(48))}"

    teach("speech", lesson, steps, draw, 5e-3, more)
    model.get_input_embeddings().requires_grad_(True)
