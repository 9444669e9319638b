"""What an answer about time may look like: a small machine over tokens that says what may follow what."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from weakref import WeakKeyDictionary

from .time_notation import Notation


FORMS = ("moments", "times", "grounding", "captions", "highlights")
_WORDS = 8  # tokens that are left for an event's text when its time begins
_TAIL = 24  # characters of the answer that rules on plain text may look back on


class TimeTree:
    """
    All legal times of a sequence as a tree of symbols; every branch knows the latest time in it. Symbols are a
    notation's tokens; in plain text a space and characters, so that a tokenizer may join the space to the number.
    """

    __slots__ = ("children", "code", "height", "latest")

    def __init__(self):
        self.children: dict[str, TimeTree] = {}
        self.code: int | None = None  # of the time that ends here
        self.latest, self.height = -1, 0

    @classmethod
    def of(cls, times: Sequence[tuple[int, Sequence[str]]]) -> "TimeTree":
        root = cls()
        for code, symbols in times:
            node = root
            for place, symbol in enumerate(symbols):
                node.latest = max(node.latest, code)
                node.height = max(node.height, len(symbols) - place)
                node = node.children.setdefault(symbol, cls())
            node.code, node.latest = code, max(node.latest, code)
        return root

    def walk(self, symbols: Sequence[str]) -> "TimeTree | None":
        node = self
        for symbol in symbols:
            node = node.children.get(symbol)
            if node is None:
                return None
        return node


# QVHighlights' saliency: 0 to 4, averaged over its annotators
_SALIENCY = TimeTree.of([(tenths, f" {tenths // 10}.{tenths % 10}") for tenths in range(41)])


@lru_cache(maxsize=16)
def _time_tree(notation: Notation, codes: Sequence[int], unit: str) -> TimeTree:
    space = [] if notation.tokens else [" "]
    return TimeTree.of([(code, space + notation.symbols(code, unit)) for code in codes])


class TokenTexts:
    """What each token of a tokenizer adds to a text, and which tokens rules on text forbid."""

    _known: WeakKeyDictionary = WeakKeyDictionary()

    def __init__(self, tokenizer):
        anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
        known, count = len(tokenizer.decode(anchor)), len(tokenizer)
        rows = [[*anchor, token] for token in range(count)]
        texts = tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        self.texts, self.vocabulary = [text[known:] for text in texts], tokenizer.get_vocab()
        added = tokenizer.added_tokens_decoder
        self.special = {token for token, content in added.items() if content.special} | set(tokenizer.all_special_ids)
        self.numbers = {
            token: text for token, text in enumerate(self.texts) if re.fullmatch(r" ?[0-9.]*", text) and text
        }
        self._by_text: dict[str, int] = {}
        for token, text in enumerate(self.texts):
            if token not in self.special:
                self._by_text.setdefault(text, token)
        self._with: dict[str, list[int]] = {}
        self._forbidden: dict[tuple, list[int]] = {}

    @classmethod
    def of(cls, tokenizer) -> "TokenTexts":
        texts = cls._known.get(tokenizer)
        if texts is None or len(texts.texts) != len(tokenizer):
            texts = cls._known[tokenizer] = cls(tokenizer)
        return texts

    def spell(self, words: str) -> list[int] | None:
        """Some tokens that write these words, the longest first."""
        ids = []
        while words:
            longest = next((end for end in range(len(words), 0, -1) if words[:end] in self._by_text), None)
            if longest is None:
                return None
            ids.append(self._by_text[words[:longest]])
            words = words[longest:]
        return ids

    def forbidden(self, rule: re.Pattern, needs: str, tail: str) -> list[int]:
        """The tokens that would complete, behind `tail`, what a rule forbids; it can't without one of `needs`."""
        key = (rule.pattern, tail)
        if key not in self._forbidden:
            if needs not in self._with:
                self._with[needs] = [
                    token for token, text in enumerate(self.texts) if any(character in needs for character in text)
                ]
            self._forbidden[key] = [token for token in self._with[needs] if rule.search(tail + self.texts[token])]
        return self._forbidden[key]


@dataclass(frozen=True)
class TextRule:
    """What plain text around times must not spell, or it would read as a time."""

    forbidden: re.Pattern
    needs: str  # no token without one of these characters can complete it
    tail: re.Pattern  # the end of a text that matters to it
    boundary: re.Pattern | None = None  # behind what plain-text notations may begin a moment; its spaces are a group


_DIGITS = "0123456789"
# � is a piece of a character that a tokenizer writes in bytes: it may become a dash.
_PLAIN_RULES = {
    "text": TextRule(
        forbidden=re.compile(r"\d\.*\s*[-–�]+\s*\d|[.!?]\s+\d", re.ASCII),
        needs=_DIGITS,
        tail=re.compile(r"(?:\d\.*|[.!?])\s*[-–�]*\s*$", re.ASCII),
        boundary=re.compile(r"[.!?](\s*)$", re.ASCII),
    ),
    "percent": TextRule(
        forbidden=re.compile(r"\d\s*(?:to|and|[-–�]+)\s*\d|[.!?]\s+From\s+\d", re.ASCII),
        needs=_DIGITS,
        tail=re.compile(r"(?:\d\s*(?:t|to|a|an|and|[-–�]*)?\s*|[.!?]\s*(?:\sF|\sFr|\sFro|\sFrom\s*)?)$", re.ASCII),
        boundary=re.compile(r"[.!?]\s+From(\s*)$", re.ASCII),
    ),
}


def _rule_of(notation: Notation) -> TextRule:
    if notation.tokens:  # a time token spelled in plain characters
        return TextRule(re.compile(f"<{notation.literal}>"), ">", re.compile(r"<\w*$"))
    return _PLAIN_RULES[notation.name]


@dataclass(slots=True)
class State:
    """Where an answer stands in its form."""

    step: str = ""
    size: int = 0  # tokens so far
    words: tuple = ()  # what may be said: ids, and the step behind them
    node: TimeTree | None = None  # in the tree of times
    least: int = 0  # the earliest code that the current time may have
    start: int = 0  # code of the current moment's start
    first: int = 0  # token with which the current moment began
    log_prob: float = 0.0  # of the current moment's time tokens so far
    found: tuple["Found", ...] = ()
    scores: tuple[float, ...] = ()  # saliency
    tail: str = ""  # the end of the text
    has_text: bool = True  # behind the last moment
    offered: tuple | None = None  # the scores of the next token, and the row in them
    following: dict = field(default_factory=dict)  # token → state


@dataclass(frozen=True)
class Found:
    """A moment in an answer: its codes, the log-probability of their tokens, and where these stand."""

    start: int
    end: int
    log_prob: float
    first: int
    last: int


class AnswerForm:
    """
    What an answer about one sequence may look like.

    Args:
        tokenizer, notation: the language model's, and how it writes times.
        length (`float`), unit (`str`): the sequence's duration in `"s"`, or its number of images in `"image"`.
        form (`str`):
            `"moments"`: free text; a time once begun becomes a start and an end. `"times"`: the same with single times.
            `"captions"`: times and text of one event after the other. `"grounding"`: one sentence with one moment.
            `"highlights"`: times, then their saliency scores. Notations in plain text need one of the last three.
        ordered (`bool`): whether events must begin in order.
        prompt_end, prefix (`str`): what stands before the answer, and what an answer begins with.
        eos_token_id: the token or tokens that end an answer; the tokenizer's own if not given.
    """

    def __init__(
        self,
        tokenizer,
        notation: Notation,
        length: float,
        unit: str = "s",
        form: str = "moments",
        ordered: bool = False,
        prompt_end: str = "[/INST]",
        prefix: str = " ",
        eos_token_id: int | list[int] | None = None,
    ):
        if form not in FORMS:
            raise ValueError(f"unknown answer form {form!r}, expected one of {', '.join(map(repr, FORMS))}")
        if not notation.tokens and form in ("moments", "times"):
            raise ValueError(
                f"notation {notation.name!r} is plain text, where a number is a time only by its place: expected the "
                f"form 'grounding', 'captions' or 'highlights', found {form!r}"
            )
        if not length > 0:
            raise ValueError(f"an answer's form needs the sequence's length, found {length}")
        self.tokenizer, self.notation, self.form, self.ordered = tokenizer, notation, form, ordered
        self.length, self.unit = length, unit
        self.texts, self.rule = TokenTexts.of(tokenizer), _rule_of(notation)
        codes = notation.legal_codes(length, unit)
        self.tree = _time_tree(notation, codes if isinstance(codes, range) else tuple(codes), unit)
        vocabulary = self.texts.vocabulary
        if missing := [token for token in notation.tokens if token not in vocabulary]:
            raise ValueError(
                f"the tokenizer lacks {len(missing)} tokens of notation {notation.name!r}, such as {missing[0]}: "
                "`add_time_tokens` adds them"
            )
        self._token_of = {token: vocabulary[token] for token in notation.tokens}
        self._symbol_of = {token: symbol for symbol, token in self._token_of.items()}
        self.time_tokens = tuple(self._symbol_of)
        eos = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
        self.eos = (eos,) if isinstance(eos, int) else tuple(eos or ())
        if not self.eos or not all(0 <= token < len(tokenizer) for token in self.eos):
            raise ValueError(f"expected ids of the {len(tokenizer)} tokens as eos_token_id, found {eos}")
        self._entries: dict[tuple, tuple[int, ...]] = {}  # by the earliest code, and whether behind a space
        self._write_script(unit, prompt_end, prefix)

    def _write_script(self, unit: str, before: str, prefix: str):
        """What is said between the times, as tokens, and which step follows which."""
        notation = self.notation
        space = "" if notation.tokens else " "  # in plain text it belongs to the number
        time = space + notation.encode(0.5, 96 if unit == "image" else 60.0, unit)
        unit_word = notation.unit_words[unit]
        self.glued = not notation.tokens and not prefix + notation.lead  # the answer begins with a number

        def say(words, next_step, before=time, after=time):
            return self._ids(before, words.removesuffix(" ") if after.startswith(" ") else words, after), next_step

        self.says = {"between": say(notation.separator, "end"), "close": ((), "text")}
        if self.form == "grounding":
            self.says["lead"] = say(prefix + notation.opening, "start", before)
            self.says["close"] = say(f"{unit_word}.", "stop", after="")
        elif self.form == "captions":
            self.says["lead"] = say(prefix + notation.lead, "start", before)
            self.says["close"] = say(f"{unit_word},", "text", after=" a")
        elif self.form == "highlights":
            self.says["lead"] = say(f"{prefix}The highlight timestamps are in the ", "point", before)
            self.says["more"] = say(", ", "point")
            self.says["enough"] = say(f"{unit_word}. Their saliency scores are ", "score", after=" 0.0")
            self.says["next score"] = say(", ", "score", " 0.0", " 0.0")
            self.says["last"] = say(".", "stop", " 0.0", "")
        # The most tokens that a moment, or a highlight and its score, may take: they must be left when it begins.
        said = {name: len(ids) for name, (ids, _) in self.says.items()}
        height = self.tree.height
        self.score_cost = _SALIENCY.height + max(said.get("next score", 0), said.get("last", 0))
        self.cost = height if self.form == "times" else 2 * height + said["between"] + said["close"]
        self.cost += _WORDS if self.form == "captions" else 0
        if self.form == "highlights":
            self.cost = height + said["enough"] + self.score_cost
        self.least_room = said.get("lead", 0) + self.cost if "lead" in self.says else 0

    def _ids(self, before: str, words: str, after: str) -> tuple[int, ...]:
        """The tokens of some words, as the tokenizer writes them between others."""
        if not words:
            return ()
        whole = self.tokenizer(before + words + after, add_special_tokens=False, return_offsets_mapping=True)
        first, last = len(before), len(before + words)
        inside = [
            token
            for token, (start, end) in zip(whole["input_ids"], whole["offset_mapping"], strict=True)
            if first <= start < end <= last
        ]
        written = "".join(self.texts.texts[token] for token in inside)
        if written == words or (written.strip() and written.split() == words.split()):  # LLaMA's legacy adds spaces
            return tuple(inside)
        spelled = self.texts.spell(words)
        if spelled is None:
            raise ValueError(f"the tokenizer has no tokens for {words!r}")
        return tuple(spelled)

    def begin(self) -> State:
        return self._enter(State(has_text=self.form != "captions"), "lead" if "lead" in self.says else "text")

    def _enter(self, state: State, step: str) -> State:
        """The state in which a step begins. Steps that say nothing are passed over."""
        if step in self.says:
            ids, following = self.says[step]
            words = ((ids, following),)
            if step == "enough" and state.found[-1].end < self.tree.latest:
                words = (self.says["more"], *words)
            return replace(state, step=step, words=words) if ids else self._enter(state, following)
        if step == "start":
            least = state.found[-1].start if self.ordered and state.found else 0
            tree = self.tree.children[" "] if self.glued and not state.size else self.tree
            return replace(state, step=step, node=tree, least=least, first=state.size, log_prob=0.0)
        if step == "point":
            least = state.found[-1].end + 1 if self.form == "highlights" and state.found else 0
            return replace(state, step=step, node=self.tree, least=least, first=state.size, log_prob=0.0)
        if step == "end":
            return replace(state, step=step, node=self.tree, least=state.start)
        if step == "score":
            return replace(state, step=step, node=_SALIENCY, least=0)
        return replace(state, step=step, tail="")

    def choices(self, state: State, room: float = math.inf) -> tuple[tuple[int, ...], str | None]:
        """
        The tokens that may come next; where plain text may too, how the text so far ends as far as it matters (else
        `None`). `room` is how many tokens the answer may still get.
        """
        if state.step == "stop":
            return self.eos, None
        if state.step == "text":
            return self.entries(state, room) + (self.eos if state.has_text else ()), self._tail_key(state.tail)
        if state.node is not None:
            ids = self._continuations(state, state.node)
            if state.node.code is not None and state.node.code >= state.least:
                ids += self.choices(self._finish_time(state), room)[0]
            return ids, None
        words = state.words
        if len(words) > 1 and len(words[0][0]) == len(self.says["more"][0]):  # room for one highlight more?
            needed = len(words[0][0]) + self.cost + len(state.found) * self.score_cost
            words = words if room >= needed else words[1:]
        return tuple(ids[0] for ids, _ in words), None

    def entries(self, state: State, room: float = math.inf) -> tuple[int, ...]:
        """The tokens with which a time may begin in text."""
        if room < self.cost or not state.has_text:
            return ()
        spaced = False
        if self.rule.boundary:
            behind = self.rule.boundary.search(state.tail)
            if not behind:
                return ()
            spaced = bool(behind[1])
        earliest = state.found[-1].start if self.ordered and state.found else 0
        if (earliest, spaced) not in self._entries:
            begun = self._begin_time(state)
            ids = self._continuations(begun, begun.node)
            if self.rule.boundary:  # a space alone may be one of the text
                ids = tuple(token for token in ids if self.texts.numbers[token] != " ")
            self._entries[earliest, spaced] = ids
        return self._entries[earliest, spaced]

    def begins_time(self, state: State, token: int) -> bool:
        """Whether a token in text begins a time."""
        known = token in self._symbol_of or (self.rule.boundary is not None and token in self.texts.numbers)
        return known and state.step == "text" and token in self.entries(state)

    def _begin_time(self, state: State) -> State:
        begun = self._enter(state, "point" if self.form == "times" else "start")
        if self.rule.boundary and self.rule.boundary.search(state.tail)[1]:
            begun = replace(begun, node=begun.node.children[" "])
        return begun

    def _symbols(self, state: State, token: int) -> Sequence[str] | None:
        """A token as symbols of the tree of times."""
        if self._symbol_of and state.step != "score":
            return (self._symbol_of[token],) if token in self._symbol_of else None
        return self.texts.numbers.get(token)

    def _continuations(self, state: State, node: TimeTree) -> tuple[int, ...]:
        """The tokens with which a time may go on to one that is not before `least`."""
        if self._symbol_of and state.step != "score":
            alive = ((self._token_of[symbol], child) for symbol, child in node.children.items())
        else:
            alive = ((token, node.walk(text)) for token, text in self.texts.numbers.items())
        return tuple(token for token, child in alive if child is not None and child.latest >= state.least)

    def _tail_key(self, tail: str) -> str:
        """The end of a text as far as rules depend on it; alike ends get the same key."""
        found = self.rule.tail.search(tail)
        if not found or (self._symbol_of and not any(token.startswith(found[0]) for token in self._symbol_of.values())):
            return ""
        return re.sub(r"\s+", " ", re.sub(r"\d", "0", found[0]))

    def advance(self, state: State, token: int, log_prob: float = 0.0) -> State | None:
        """The state behind one more token, of this probability if it belongs to a time; `None` if it is not allowed."""
        if state.step == "done":
            return state
        if state.node is not None:
            return self._advance_time(state, token, log_prob)
        if token in self.eos:
            legal = state.step == "stop" or (state.step == "text" and state.has_text)
            return replace(state, step="done", following={}, offered=None) if legal else None
        if state.words:
            words = [(ids[1:], following) for ids, following in state.words if ids[0] == token]
            said = [following for ids, following in words if not ids]
            state = replace(state, size=state.size + 1, words=() if said else tuple(words), following={}, offered=None)
            return self._enter(state, said[0]) if said else state if words else None
        if state.step != "text":
            return None
        if self.begins_time(state, token):
            return self._advance_time(self._begin_time(state), token, log_prob)
        if token in self._symbol_of or token in self.texts.special:
            return None
        text = self.texts.texts[token]
        has_text = state.has_text or any(map(str.isalnum, text))
        tail = (state.tail + text)[-_TAIL:]
        return replace(state, size=state.size + 1, tail=tail, has_text=has_text, following={}, offered=None)

    def _advance_time(self, state: State, token: int, log_prob: float) -> State | None:
        symbols = self._symbols(state, token)
        node = None if symbols is None else state.node.walk(symbols)
        log_prob += state.log_prob
        if node is not None and node.latest >= state.least:
            size = state.size + 1
            state = replace(state, size=size, node=node, tail="", log_prob=log_prob, following={}, offered=None)
            return state if node.children else self._finish_time(state)
        if state.node.code is None or state.node.code < state.least:
            return None
        return self.advance(self._finish_time(replace(state, log_prob=log_prob)), token)

    def _finish_time(self, state: State) -> State:
        code, step = state.node.code, state.step
        state = replace(state, node=None)
        if step == "score":
            scores = (*state.scores, code / 10)
            return self._enter(
                replace(state, scores=scores), "next score" if len(scores) < len(state.found) else "last"
            )
        if step == "start":
            return self._enter(replace(state, start=code), "between")
        start = code if step == "point" else state.start
        found = Found(start, code, state.log_prob, state.first, state.size)
        state = replace(state, found=(*state.found, found), has_text=self.form != "captions")
        return self._enter(state, "enough" if self.form == "highlights" else "close")

    def positions(self, found: Found) -> tuple[float, float]:
        """A moment as fractions of the sequence."""
        fraction = self.notation.fraction
        return fraction(found.start, self.length, self.unit), fraction(found.end, self.length, self.unit)
