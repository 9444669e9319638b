"""
The language model reads a picture as one token, the weighted sum of the embeddings of the words that say what is there,
and of the digits of its time, each turned by its place. Of one picture it tells the caption and the time; of several,
what is missing in a description of one; and it reads the wording of all questions and answers.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dataset_scripts.sources import miniworld
from dataset_scripts.wording import TEMPLATES

from .fitting import fit
from .model import template_texts, world_texts
from .views import PAIRS, WORDS, View, describe, draw_view


DIGITS = 4  # of a time: those behind the point of a position, or hundreds to tenths of seconds and images
KINDS, SHARES = ("image", "s", "position"), (0.2, 0.25, 0.55)  # of times, and how often each is drawn
BLUR = 0.3  # of the ideal tokens: eyes are never perfect
TOKENS = 6000  # of a step, about
MOST = 32  # pictures in a list
ASKED = {
    "caption": ("Describe the image.", "{}."),
    "image": ("What is the number of the image?", "The image index is {}."),
    "s": ("When is the image?", "It is at {} seconds."),
    "position": ("At what position is the image?", "It is at {}."),
}
LOOKED_UP = {
    "place": ("Where is {}?", "Say where this is: {}.", "In which place can {} be seen?"),
    "size": ("How large is {}?", "What is the size of {}?", "Tell me the size: {}."),
    "background": ("What is behind {}?", "What is the background of {}?", "Tell the background of this: {}."),
    "caption": ("Describe the image that shows {}.", "Tell me more about {}.", "Give the whole caption of {}."),
}


ONE_WAY = (1 / 3, 1 / 3, 1 / 3, 0.0)  # shares of what is looked up when every answer can be said in one way only
CLIPS = miniworld.clip_combinations("train")
# What a time stands behind in the templates of the phases.
BEFORE_A_TIME = ("index ", "image ", "number ", "numbered ", "indexed as ", "indexed at ", "is ", "at ", "- ")


def corpus() -> list[str]:
    """What is said about the miniworld, for the tokenizer. What is said more often is kept whole."""
    asked = [text for pair in ASKED.values() for text in pair] + [text for row in LOOKED_UP.values() for text in row]
    frame = "[INST] <<SYS>>\n \n<</SYS>>\n\n<Video></Video> The video contains 32 frames. [/INST]"
    return world_texts() + 100 * (template_texts() + asked) + 1000 * [frame]


TIMED = {  # how a picture of a list is asked for by its time, and a time by what is there
    "image": (("What is the number of {}?", "Which number has {}?"), "It has the number {}.", "What shows number {}?"),
    "s": (("When is {}?", "At what second is {} seen?"), "It is at {} seconds.", "What is seen at {} seconds?"),
    "position": (("At what position is {}?", "Where in the list is {}?"), "It is at {}.", "What is at {}?"),
}


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
        return torch.cat([self.embeddings(self.words), digits.flatten(0, 1)]) / math.sqrt(
            10
        )  # about as large as a word

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


def partly(rng: np.random.Generator, view: View, without: str) -> str:
    """A description with some of what is there, but not this."""
    parts = {"size": view.size, "place": view.place, "background": view.background}
    told = {key: value if key != without and rng.random() < 0.6 else "" for key, value in parts.items()}
    words = f"{told['size']} {view.colour} {view.shape} {told['place']} {told['background']}".split()
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def look_up(rng: np.random.Generator, view: View, kinds: tuple[float, ...] = (0.3, 0.2, 0.3, 0.2)) -> tuple[str, str]:
    kind = list(LOOKED_UP)[rng.choice(4, p=kinds)]
    question = LOOKED_UP[kind][rng.integers(3)].format(partly(rng, view, "all" if kind == "caption" else kind))
    return question, f"{describe(rng, view) if kind == 'caption' else getattr(view, kind)}."


def look_up_time(rng: np.random.Generator, view: View, time: tuple[str, str, str], back: float = 0.15):
    kind, written, _ = time
    asked, answer, by_time = TIMED[kind]
    if rng.random() < back:
        return by_time.format(written), f"{describe(rng, view)}."
    return asked[rng.integers(len(asked))].format(partly(rng, view, "none")), answer.format(written)


def filled(rng: np.random.Generator) -> tuple[str, str]:
    """A question and an answer of the phases about nothing: how they are worded."""
    task = ("iig", "iic", "alr", "dense_captioning", "grounding")[rng.integers(5)]
    words = TEMPLATES[task]
    asked = words.get("single", words)
    if task == "alr":
        asked = words["before" if rng.random() < 0.5 else "after"]
    question = asked["questions"][rng.integers(len(asked["questions"]))]
    answers = words.get("answers") or asked.get("answers") or [words.get("answer") or words["event"]]
    answer = answers[rng.integers(len(answers))]

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
    """Batches without padding between pictures and text: all of a batch have the same number of pictures."""

    def __init__(self, model, processor, rng: np.random.Generator):
        self.model, self.processor, self.rng = model, processor, rng
        self.tokenizer, self.reading = processor.tokenizer, Reading(model.get_input_embeddings(), processor.tokenizer)
        self.end, self.looked_up, self.timed = self.tokenizer.eos_token_id, look_up, look_up_time

    def ids(self, text: str, first: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=first)["input_ids"]

    def sample(self, count: int, questions: int, pairs: list = PAIRS, timed: float = 0.0):
        """`timed` is the share of questions about times."""
        rng = self.rng
        if count:
            chosen = rng.choice(len(pairs), min(count, len(pairs)), replace=False)
            views = [draw_view(rng, pairs[chosen[one % len(chosen)]]) for one in range(count)]
            times = draw_times(rng, count) if timed and count > 1 else [draw_time(rng) for _ in range(count)]
        if count == 0:
            turns = [filled(rng) for _ in range(questions)]
        elif count == 1:
            kind, time, _ = times[0]
            turns = [
                (ASKED["caption"][0], f"{describe(rng, views[0])}."),
                (ASKED[kind][0], ASKED[kind][1].format(time)),
            ]
            turns = turns[1:] if timed else [turns[one] for one in rng.permutation(2)]
        else:
            places = rng.integers(min(count, len(pairs)), size=questions).tolist()
            turns = [
                self.timed(rng, views[place], times[place])
                if rng.random() < timed
                else self.looked_up(rng, views[place])
                for place in places
            ]
        ids, labels = [], []
        for number, (question, answer) in enumerate(turns):
            before = "[INST] <<SYS>>\n \n<</SYS>>\n\n" if not number else "[INST] "
            if not number and count:
                step = self.model.config.num_video_query_tokens
                room = step * math.ceil(count / step)
                before += f"<Video>{'<video>' * room}</Video> The video contains {count} frames. "
            asked, answered = self.ids(before + question + " [/INST]", True), [*self.ids(" " + answer + " "), self.end]
            ids += asked + answered
            labels += [-100] * len(asked) + answered
        if count:
            weights, digits = np.stack([view.weights() for view in views]), [[*map(int, time[2])] for time in times]
            return ids, labels, weights, digits
        return ids, labels, None, None

    def forward(self, count: int, batch: int, questions: int, pairs=PAIRS, timed: float = 0.0):
        """Logits at what is to be learned, what that is, and which answer it is of."""
        samples = [self.sample(count, questions, pairs, timed) for _ in range(batch)]
        longest = max(len(ids) for ids, *_ in samples)
        ids = torch.zeros(batch, longest, dtype=torch.long)
        labels = torch.full((batch, longest), -100)
        for row, (own, wanted, *_) in enumerate(samples):
            ids[row, : len(own)], labels[row, : len(own)] = torch.tensor(own), torch.tensor(wanted)
        embedded = self.model.get_input_embeddings()(ids)
        if count:
            weights = torch.from_numpy(np.concatenate([one[2] for one in samples]))
            digits = torch.tensor([digit for one in samples for digit in one[3]])
            frames = self.reading(weights, digits)
            frames = frames + BLUR * frames.detach().std() * torch.randn_like(frames)
            first = int((ids[0] == self.processor.video_token_id).int().argmax())
            step = self.model.config.num_video_query_tokens
            room = step * math.ceil(count / step)
            nothing = self.model.get_input_embeddings()(torch.zeros(batch, room - count, dtype=torch.long))
            frames = torch.cat([frames.view(batch, count, -1), nothing], dim=1)
            embedded = torch.cat([embedded[:, :first], frames, embedded[:, first + room :]], dim=1)
        hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != -100
        answers = (wanted & (labels[:, :-1] == -100)).flatten().cumsum(0).view_as(wanted) - 1
        return self.model.lm_head(hidden[:, :-1][wanted]), labels[:, 1:][wanted], answers[wanted]

    @torch.no_grad()
    def right(self, count: int, pairs, timed: float) -> float:
        """Share of answers that are right to the last token, of those that can be said in one way only."""
        self.looked_up, self.timed = partial(look_up, kinds=ONE_WAY), partial(look_up_time, back=0.0)
        logits, wanted, answers = self.forward(count, 24, 4, pairs, timed)
        self.looked_up, self.timed = look_up, look_up_time
        right = torch.ones(int(answers[-1]) + 1, dtype=torch.bool)
        right[answers[logits.argmax(-1) != wanted]] = False
        return float(right.float().mean())


def learn_language(model, processor, steps: int, rng: np.random.Generator):
    def draw(done: float) -> tuple[int, float]:
        which, longest = rng.random(), 8 + round((MOST - 8) * min(1.0, max(0.0, done - 0.25) / 0.35))
        return 0 if which < 0.06 else 1 if which < 0.2 else int(rng.integers(2, longest + 1)), 0.0

    _learn("language", model, processor, steps, rng, draw)


def learn_times(model, processor, steps: int, rng: np.random.Generator):
    """
    The time of a picture, then lists in which each has its time, as a text may have. The words stay what they are.
    """

    def draw(done: float) -> tuple[int, float]:
        which, longest = rng.random(), 8 + round((MOST - 8) * min(1.0, max(0.0, done - 0.4) / 0.3))
        alone = 0.8 if done < 0.2 else 0.2
        return 0 if which < 0.06 else 1 if which < alone else int(rng.integers(2, longest + 1)), 0.7

    model.get_input_embeddings().requires_grad_(False)
    _learn("times", model, processor, steps, rng, draw)
    model.get_input_embeddings().requires_grad_(True)


def _learn(name: str, model, processor, steps: int, rng: np.random.Generator, draw: Callable):
    """`draw` says, when this share of steps is done, how many pictures a list has and how many questions ask times."""
    lesson, unseen = Lesson(model, processor, rng), miniworld.pairs("test")

    def loss(step: int) -> torch.Tensor:
        count, timed = draw(step / steps)
        questions = {0: 4, 1: 1 if timed else 2}.get(count, 8)
        length = 30 + count + 26 * questions
        logits, wanted, _ = lesson.forward(count, max(1, round(TOKENS / length)), questions, timed=timed)
        return functional.cross_entropy(logits, wanted)

    def report() -> str:
        """What is told right about lists, of pairs of the training split and of the test split: looked up, times."""
        figures = []
        for count in (2, 8, 32):
            told = [
                f"{lesson.right(min(count, most), pairs, timed):.2f}"
                for timed in ((0.0, 1.0) if name == "times" else (0.0,))
                for pairs, most in ((PAIRS, MOST), (unseen, len(unseen)))
            ]
            figures.append(f"{count}: {' '.join(told)}")
        return ", ".join(figures)

    fit(name, [model.model.language_model, model.lm_head], steps, loss, 1e-2, report)
