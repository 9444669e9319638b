"""
The language model reads a picture as one token, the weighted sum of the embeddings of the words that say what is there,
and of the digits of its time, each turned by its place. It notes pictures down, line by line; then it finds a picture
of a list by what is there or by its time, first in notes, then when it is asked in sentences.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dataset_scripts.sources import miniworld
from dataset_scripts.wording import TEMPLATES

from .fitting import fit
from .model import template_texts, world_texts
from .views import PAIRS, UNSEEN, WORDS, View, describe, draw_view


DIGITS = 4  # of a time: those behind the point of a position, or hundreds to tenths of seconds and images
KINDS, SHARES = ("image", "s", "position"), (0.2, 0.25, 0.55)  # of times, and how often each is drawn
BLUR = 0.3  # of the ideal tokens: eyes are never perfect
TOKENS = 5500  # of a step, about
LINES, QUESTIONS = 16, 8  # about a list
MOST = 32  # pictures in a list
LISTS, SENTENCES, LONG = 0.1, 0.3, 0.5  # shares of the steps when each begins
DESCRIBED = ("Describe the image.", "{}.")
TIMED = {  # how a time is asked for, and a picture by its time
    "image": (("What is the number of {}?", "Which number has {}?"), "It has the number {}.", "What shows number {}?"),
    "s": (("When is {}?", "At what second is {} seen?"), "It is at {} seconds.", "What is seen at {} seconds?"),
    "position": (("At what position is {}?", "Where in the list is {}?"), "It is at {}.", "What is at {}?"),
}
# What a time stands behind in the templates of the phases.
BEFORE_A_TIME = ("index ", "image ", "number ", "numbered ", "indexed as ", "indexed at ", "is ", "at ", "- ")
CLIPS = miniworld.clip_combinations("train")
Sample = tuple[list[int], list[int], list[View], list[str]]  # ids, labels, pictures and their digits


def corpus() -> list[str]:
    """What is said about the miniworld, for the tokenizer. What is said more often is kept whole."""
    asked = [*DESCRIBED, *(text for asks, answer, back in TIMED.values() for text in (*asks, answer, back))]
    frame = "[INST] <<SYS>>\n \n<</SYS>>\n\n<Video></Video> The video contains 32 frames. [/INST]"
    return world_texts() + 100 * (template_texts() + asked) + 1000 * [frame]


class Reading(nn.Module):
    """Frames as tokens in the language model's own embeddings."""

    def __init__(self, embeddings: nn.Embedding, tokenizer):
        super().__init__()
        self.embeddings, width = embeddings, embeddings.embedding_dim
        self.digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
        self.words = torch.tensor(tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in WORDS]))
        random = torch.Generator().manual_seed(0)
        self.turns = torch.stack(
            [torch.linalg.qr(torch.randn(width, width, generator=random))[0] for _ in range(DIGITS)]
        )

    def codes(self) -> torch.Tensor:
        """What words, then digits place by place, add to a token: `(words + 40, width)`."""
        digits = torch.einsum("nw,dwv->dnv", self.embeddings(self.digits), self.turns)
        # About as large as a word.
        return torch.cat([self.embeddings(self.words), digits.flatten(0, 1)]) / math.sqrt(10)

    def forward(self, weights: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """`(frames, words)` and `(frames, 4)` digits → `(frames, width)`."""
        told = functional.one_hot(times, 10).flatten(1).to(weights)
        return torch.cat([weights, told], dim=1) @ self.codes()


def draw_time(rng: np.random.Generator) -> tuple[str, str, str]:
    """A place in time: how it is asked for, how it is written, its digits."""
    kind = KINDS[rng.choice(3, p=SHARES)]
    if kind == "position":
        time = f"{rng.integers(10**DIGITS):0{DIGITS}d}"
        return kind, f"0.{time}", time
    tenths = int(rng.integers(1, 97)) * 10 if kind == "image" else int(rng.integers(1500))
    return kind, f"{tenths // 10}" if kind == "image" else f"{tenths / 10:.1f}", f"{tenths:0{DIGITS}d}"


def draw_times(rng: np.random.Generator, count: int) -> list[tuple[str, str, str]]:
    """Of a list of pictures one after the other, all asked for in the same way."""
    kind = KINDS[rng.choice(3, p=SHARES)]
    if kind == "image":
        return [(kind, f"{number}", f"{10 * number:0{DIGITS}d}") for number in range(1, count + 1)]
    places = np.arange(count) + (rng.random(count) if rng.random() < 0.5 else rng.integers(2))
    if kind == "position":
        codes = np.minimum(np.round(places / count * 10**DIGITS), 10**DIGITS - 1).astype(int)
        return [(kind, f"0.{code:0{DIGITS}d}", f"{code:0{DIGITS}d}") for code in codes]
    tenths = np.round(places / count * rng.uniform(100, 1300)).astype(int)
    return [(kind, f"{tenth / 10:.1f}", f"{tenth:0{DIGITS}d}") for tenth in tenths]


def named(rng: np.random.Generator, view: View, told: float) -> str:
    """What is there, in a few words; size, place and background are each told this often."""
    size, place, background = (one if rng.random() < told else "" for one in (view.size, view.place, view.background))
    return " ".join(f"{size} {view.colour} {view.shape} {place} {background}".split())


def look_up(rng: np.random.Generator, view: View, time: tuple[str, str, str], back: float) -> tuple[str, str]:
    """A question about a picture of a list, with this chance what is seen at its time, and the answer."""
    kind, written, digits = time
    about = named(rng, view, 0.5)
    about, whole = f"{'an' if about[0] in 'aeiou' else 'a'} {about}", describe(rng, view)
    asks, answer, by_time = TIMED[kind]
    what, when = TEMPLATES["iic"]["single"], TEMPLATES["iig"]["single"]
    in_own_words = rng.random() < 0.3
    if rng.random() < back:
        if in_own_words:
            return by_time.format(written), f"{whole}."
        return _one(rng, what["questions"]).format(digits), _one(rng, what["answers"]).format(digits, whole)
    if in_own_words:
        return _one(rng, asks).format(about), answer.format(written)
    asked = whole if rng.random() < 0.5 else about
    return _one(rng, when["questions"]).format(asked), _one(rng, when["answers"]).format(digits)


def _one(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[rng.integers(len(texts))]


def filled(rng: np.random.Generator) -> tuple[str, str]:
    """A question and an answer of the phases about nothing: how they are worded."""
    task = ("iig", "iic", "alr", "dense_captioning", "grounding")[rng.integers(5)]
    words = TEMPLATES[task]
    asked = words.get("single", words)
    if task == "alr":
        asked = words["before" if rng.random() < 0.5 else "after"]
    question = _one(rng, asked["questions"])
    answer = _one(rng, words.get("answers") or asked.get("answers") or [words.get("answer") or words["event"]])

    def fill(text: str) -> str:
        while "{}" in text:
            before, after = text.split("{}", 1)
            if after.startswith((" seconds", " - ")) or before.endswith(BEFORE_A_TIME):
                told = draw_time(rng)[1]
            else:
                told = describe(rng, draw_view(rng, PAIRS[rng.integers(len(PAIRS))]))
                if task in ("dense_captioning", "grounding"):
                    captions = miniworld.event_captions(*CLIPS[rng.integers(len(CLIPS))][:3])
                    told = captions[rng.integers(len(captions))]
            text = before + told + after
        return text

    return fill(question), fill(answer)


class Lesson:
    """Samples, and batches of samples with the same number of pictures, so that none is padded between its parts."""

    def __init__(self, model, processor, rng: np.random.Generator):
        self.model, self.processor, self.rng = model, processor, rng
        self.tokenizer, self.reading = processor.tokenizer, Reading(model.get_input_embeddings(), processor.tokenizer)
        self.end, self.stop = self.tokenizer.eos_token_id, self.ids(".")
        self.step, self.kept = model.config.num_video_query_tokens, {}

    def ids(self, text: str, first: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=first)["input_ids"]

    def words(self, text: str) -> list[int]:
        if text not in self.kept:
            self.kept[text] = self.ids(f" {text}")
        return self.kept[text]

    def pictures(self, count: int, pairs: Sequence, in_order: bool = True) -> tuple[list[View], list]:
        """
        Each of another pair of colour and shape, and their times. In half of the lists a few colours and shapes come
        again and again, so that it takes both to tell one from the others.
        """
        order = [pairs[one] for one in self.rng.permutation(len(pairs))]
        if self.rng.random() < 0.5:
            colours, shapes = {colour for colour, _ in order[:3]}, {shape for _, shape in order[:4]}
            order.sort(key=lambda pair: pair[0] not in colours or pair[1] not in shapes)
        times = draw_times(self.rng, count) if in_order else [draw_time(self.rng) for _ in range(count)]
        return [draw_view(self.rng, order[one]) for one in self.rng.permutation(count)], times

    def opening(self, count: int) -> str:
        return f"<Video>{'<video>' * (self.step * math.ceil(count / self.step))}</Video>"

    def notes(self, count: int, lines: int, pairs: Sequence = PAIRS, back: float = 0.25) -> Sample:
        """
        Lines of a description and the four digits of its time, or the other way round. All of a lone picture's is to
        be learned, of a list what comes second.
        """
        views, times = self.pictures(count, pairs, in_order=count > 1 and self.rng.random() < 0.5)
        digits = [time[2] for time in times]
        if count > 1 and self.rng.random() < 0.5:
            digits = [f"{self.rng.integers(10**DIGITS):0{DIGITS}d}" for _ in views]
        ids = self.ids(self.opening(count), True)
        labels = [-100] * len(ids)
        for place in self.rng.integers(count, size=lines):
            time, all_of_it = self.reading.digits[[*map(int, digits[place])]].tolist(), named(self.rng, views[place], 1)
            if self.rng.random() < back:
                first, second, rest = time, self.words(f"{all_of_it}."), []
            else:
                about = all_of_it if count == 1 else named(self.rng, views[place], 0.5)
                first, second, rest = self.words(about), time, self.stop
            ids += first + second + rest
            labels += (first if count == 1 else [-100] * len(first)) + second + [-100] * len(rest)
        return ids, labels, views, digits

    def talk(self, count: int, questions: int, pairs: Sequence = PAIRS, back: float = 0.25) -> Sample:
        """As the phases ask. Without pictures it is about nothing, with one it is about that one."""
        rng = self.rng
        if not count:
            views, times, turns = [], [], [filled(rng) for _ in range(questions)]
        elif count == 1:
            (view,), (time,) = views, times = self.pictures(1, pairs, in_order=False)
            asks, answer, _ = TIMED[time[0]]
            turns = [(_one(rng, asks).format("the image"), answer.format(time[1]))]
            turns += [(DESCRIBED[0], DESCRIBED[1].format(describe(rng, view)))]
            turns = [turns[one] for one in rng.permutation(2)[:questions]]
        else:
            views, times = self.pictures(count, pairs)
            turns = [look_up(rng, views[one], times[one], back) for one in rng.integers(count, size=questions)]
        ids, labels = [], []
        for number, (question, answer) in enumerate(turns):
            before = "[INST] " if number else "[INST] <<SYS>>\n \n<</SYS>>\n\n"
            if not number and count:
                before += f"{self.opening(count)} The video contains {count} frames. "
            asked, answered = self.ids(before + question + " [/INST]", True), [*self.ids(f" {answer} "), self.end]
            ids += asked + answered
            labels += [-100] * len(asked) + answered
        return ids, labels, views, [time[2] for time in times]

    def forward(self, samples: list[Sample]):
        """Logits at what is to be learned, what that is, and which answer it is of."""
        count, longest = len(samples[0][2]), max(len(ids) for ids, *_ in samples)
        ids = torch.zeros(len(samples), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, (own, wanted, *_) in enumerate(samples):
            ids[row, : len(own)], labels[row, : len(own)] = torch.tensor(own), torch.tensor(wanted)
        embedded = self.model.get_input_embeddings()(ids)
        if count:
            weights = torch.from_numpy(np.stack([view.weights() for *_, views, _ in samples for view in views]))
            digits = torch.tensor([[*map(int, one)] for *_, times in samples for one in times])
            frames = self.reading(weights, digits)
            frames = frames + BLUR * frames.detach().std() * torch.randn_like(frames)
            first = int((ids[0] == self.processor.video_token_id).int().argmax())
            room = self.step * math.ceil(count / self.step)
            rest = torch.zeros(len(samples), room - count, dtype=torch.long)
            frames = torch.cat([frames.view(len(samples), count, -1), self.model.get_input_embeddings()(rest)], dim=1)
            embedded = torch.cat([embedded[:, :first], frames, embedded[:, first + room :]], dim=1)
        hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != -100
        answers = (wanted & (labels[:, :-1] == -100)).flatten().cumsum(0).view_as(wanted) - 1
        return self.model.lm_head(hidden[:, :-1][wanted]), labels[:, 1:][wanted], answers[wanted]

    @torch.no_grad()
    def right(self, make, count: int, pairs: Sequence, back: float) -> float:
        """Share of lines or answers that are right to the last token; to the last digit where a time is asked for."""
        logits, wanted, answers = self.forward([make(count, 4, pairs, back) for _ in range(24)])
        wrong = (logits.argmax(-1) != wanted) & (torch.isin(wanted, self.reading.digits) | bool(back))
        right = torch.ones(int(answers[-1]) + 1, dtype=torch.bool)
        right[answers[wrong]] = False
        return float(right.float().mean())


def learn_language(model, processor, steps: int, rng: np.random.Generator):
    lesson = Lesson(model, processor, rng)

    def draw(done: float) -> list[Sample]:
        """Lone pictures, then lists, then questions about them in most of the steps, then lists that grow."""
        grown = min(1.0, max(0.0, (done - LONG) / 0.3))
        which, longest = rng.random(), 4 if done < (LISTS + SENTENCES) / 2 else round(8 + (MOST - 8) * grown)
        if done > SENTENCES and rng.random() < 0.65:
            count = 0 if which < 0.06 else 1 if which < 0.12 else int(rng.integers(2, longest + 1))
            questions = {0: 4, 1: 2}.get(count, QUESTIONS)
            return [lesson.talk(count, questions) for _ in range(_fitting(30 + count + 30 * questions))]
        count = 1 if done < LISTS or which < 0.08 else int(rng.integers(2, longest + 1))
        lines = 1 if count == 1 else LINES
        return [lesson.notes(count, lines) for _ in range(_fitting(16 + count + 9 * lines))]

    def loss(step: int) -> torch.Tensor:
        logits, wanted, _ = lesson.forward(draw(step / steps))
        return functional.cross_entropy(logits, wanted)

    def report() -> str:
        """Right notes of times, of pictures, and right answers with times: about training pairs / the test split's."""
        figures = []
        for count in (2, 8, 32):
            told = [
                f"{lesson.right(make, min(count, len(pairs)), pairs, back):.2f}"
                for make, back in ((lesson.notes, 0.0), (lesson.notes, 1.0), (lesson.talk, 0.0))
                for pairs in (PAIRS, UNSEEN)
            ]
            figures.append(f"{count}: " + " ".join("/".join(told[one : one + 2]) for one in (0, 2, 4)))
        return ", ".join(figures)

    fit("language", [model.model.language_model, model.lm_head], steps, loss, 1e-2, report)


def _fitting(length: int) -> int:
    """Samples of about this length that a step has."""
    return max(1, round(TOKENS / length))
