"""A text about pictures, what is to be learned of it, where to look for that, and what is to be known by when."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .lists import DIGITS
from .pointing import KINDS, WORD
from .views import View


@dataclass
class Sample:
    """Pictures, their times, and the text."""

    views: list[View]
    digits: list[str]
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    looks: list[tuple[int, int, int, int]] = field(default_factory=list)  # label, place in a time, views from … to …
    asks: list[tuple[int, int]] = field(default_factory=list)  # label, the last token of what is asked about
    means: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by that token: which of each of `KINDS`

    def read(self, ids: list[int]):
        self.ids += ids
        self.labels += [-100] * len(ids)

    def ask(self, ids: list[int], end: int, meaning: Sequence[str]):
        """What is asked about ends with this token of it."""
        self.read(ids)
        self.mean(len(self.ids) - len(ids) + end, meaning)

    def mean(self, token: int, meaning: Sequence[str]):
        """By this token it is to be known what is talked about; what is said next may be asked about it."""
        self.asked = token
        self.means[token] = tuple(kind.index(word) if word else -100 for kind, word in zip(KINDS, meaning, strict=True))

    def say(self, ids: list[int], first: int = -1, last: int = -1, place: int = WORD, asked: bool = False):
        """If views from the first to the last tell it: as words, or as digits from a place on."""
        for number in range(len(ids)) if first >= 0 else ():
            label = len(self.ids) + number
            self.looks.append((label, place if place == WORD else place + number, first, last))
            if asked:
                self.asks.append((label, self.asked))
        self.ids += ids
        self.labels += ids


def of_thing(colour: str, shape: str, action: str) -> tuple[str, ...]:
    return colour, shape, action, *DIGITS * ("",)


def of_view(view: View) -> tuple[str, ...]:
    return of_thing(view.colour, view.shape, view.doing[0][0] if view.doing else "")


def of_time(digits: str) -> tuple[str, ...]:
    return "", "", "", *digits
