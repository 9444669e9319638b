"""What every source gives: items with captions, events or dialogues, and a list of what is wrong with them."""

import re
from collections import Counter
from dataclasses import dataclass, field


INTERIM_MARK = re.compile(r"\[\[([0-9]+(?:\.[0-9]+)?) s\]\]")  # a second of a video whose duration isn't known yet


class DataError(ValueError):
    """A file as a whole can't be used; the message names it, the field, what was expected and what was found."""


@dataclass(slots=True)
class Event:
    """What happens in a video, and when: one caption, one or several (start, end) in seconds of the sequence."""

    caption: str
    windows: list[tuple[float, float]]
    id: str = ""
    saliency: list[tuple[float, float]] = field(default_factory=list)  # (second, score) of highlights


@dataclass(slots=True)
class Item:
    """
    One picture, clip or video of a source.

    `key` is the source's own id, unique within the source. `names` are the names of its file in the order in which
    they are tried: relative paths, with or without folders and extension; each stands for exactly this sequence.
    `whole` is the name of a longer video of which the sequence is the part from second `start` to `end`, used if no
    file of `names` is there.
    """

    key: str
    names: tuple[str, ...]
    place: str  # where the annotation stands, for messages: "file.json: row 12"
    split: str = "train"  # train, validation or test
    caption: str = ""
    label: str = ""  # the action class of a clip
    duration: float | None = None  # of the sequence, in seconds, where the annotation says it
    whole: str = ""
    start: float | None = None
    end: float | None = None
    events: list[Event] = field(default_factory=list)
    # (role, text) turns in stored form: captions escaped, seconds as `[[12.3 s]]`, marks that still lack the duration
    turns: list[tuple[str, str]] = field(default_factory=list)
    task: str = ""  # of the turns
    exact: bool = False  # the name is the file's own path: a file of that name elsewhere is another one


class Problems:
    """
    Everything found wrong, counted by kind. Kinds: malformed, empty caption, duplicate id, missing, ambiguous, corrupt,
    inverted, no length, out of range, crop mismatch, duration mismatch; and "other duration", which takes nothing away.
    """

    def __init__(self):
        self.found: list[tuple[str, str, str, str]] = []

    def add(self, kind: str, place: str, detail: str, split: str = ""):
        """`split` where it is known: of what isn't even an item it isn't."""
        self.found.append((kind, place, detail, split))

    @property
    def counts(self) -> Counter:
        return Counter(kind for kind, *_ in self.found)
