"""Texts about pictures for the language model to learn, what is to be learned of them, and where to look for it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .asking import about_a_picture, does, filled, list_stays, look_up, look_up_stay, named
from .lists import DIGITS, Stay, between, draw_pictures, draw_stays, draw_time, draw_times
from .pointing import WORD, Pointing
from .reading import Reading
from .views import PAIRS, View


BLUR = 0.3  # of the ideal tokens: eyes are never perfect


@dataclass
class Sample:
    """Pictures, their times, and a text about them."""

    views: list[View]
    digits: list[str]
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    looks: list[tuple[int, int, int, int]] = field(default_factory=list)  # label, place in a time, views from … to …

    def read(self, ids: list[int]):
        self.ids += ids
        self.labels += [-100] * len(ids)

    def say(self, ids: list[int], first: int = -1, last: int = -1, place: int = WORD):
        """If views from the first to the last tell it: as words, or as digits from a place on."""
        for number in range(len(ids)) if first >= 0 else ():
            self.looks.append((len(self.ids) + number, place if place == WORD else place + number, first, last))
        self.ids += ids
        self.labels += ids


class Lesson:
    """Samples, and batches of samples with the same number of pictures, so that none is padded between its parts."""

    def __init__(self, model, processor, rng: np.random.Generator):
        self.model, self.processor, self.rng = model, processor, rng
        self.tokenizer, self.reading = processor.tokenizer, Reading(model.get_input_embeddings(), processor.tokenizer)
        self.pointing = Pointing(model.model.language_model)
        self.end, self.stop = self.tokenizer.eos_token_id, self.ids(".")
        self.step, self.kept = model.config.num_video_query_tokens, {}
        self.numbers, self.seen = set(self.reading.digits.tolist()), set(self.reading.words.tolist())

    def ids(self, text: str, first: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=first)["input_ids"]

    def words(self, text: str) -> list[int]:
        if text not in self.kept:
            self.kept[text] = self.ids(f" {text}")
        return self.kept[text]

    def number(self, digits: str) -> list[int]:
        return self.reading.digits[[*map(int, digits)]].tolist()

    def opened(self, views: list[View], digits: list[str]) -> Sample:
        sample = Sample(views, digits)
        sample.read(self.ids(self.opening(len(views)), True))
        return sample

    def opening(self, count: int) -> str:
        return f"<Video>{'<video>' * (self.step * math.ceil(count / self.step))}</Video>"

    def any_digits(self, count: int, in_order: bool) -> list[str]:
        """Of times, or any digits."""
        if self.rng.random() < 0.5:
            digits = [f"{one:0{DIGITS}d}" for one in self.rng.integers(10**DIGITS, size=count)]
            return sorted(digits) if in_order else digits
        times = draw_times(self.rng, count) if in_order else [draw_time(self.rng) for _ in range(count)]
        return [time.digits for time in times]

    def note(self, pairs: Sequence = PAIRS) -> Sample:
        """What is on a picture and the four digits of its time, or the other way round."""
        (view,), digits = draw_pictures(self.rng, 1, pairs), draw_time(self.rng).digits
        parts = [(self.words(named(self.rng, view, 1)), 0, 0, WORD), (self.number(digits), 0, 0, 0)]
        sample = self.opened([view], [digits])
        for part in parts[:: self.rng.choice((1, -1))]:
            sample.say(*part)
        return sample

    def notes(self, count: int, lines: int, pairs: Sequence = PAIRS, back: float = 0.25) -> Sample:
        """Of a list, as many lines. What comes second is to be learned: a time, with this chance what is seen."""
        views = draw_pictures(self.rng, count, pairs)
        sample = self.opened(views, self.any_digits(count, self.rng.random() < 0.25))
        for place in self.rng.integers(count, size=lines):
            time = self.number(sample.digits[place])
            if self.rng.random() < back:
                sample.read(time)
                sample.say(self.words(f"{named(self.rng, views[place], 1)}."), place, place)
            else:
                sample.read(self.words(named(self.rng, views[place], 0.5)))
                sample.say(time, place, place, 0)
                sample.read(self.stop)
        return sample

    def stays(self, count: int, lines: int, pairs: Sequence = PAIRS, back: float = 0.25) -> Sample:
        """Lines of things, what they do, from when to when; with this chance all in order, all of it to be learned."""
        views, stays = draw_stays(self.rng, count, pairs)
        sample, in_order = self.opened(views, self.any_digits(count, True)), self.rng.random() < back
        for stay in stays if in_order else self.some(stays, lines):
            said = self.words(" ".join(stay.pair) if stay.once and self.rng.random() < 0.5 else does(self.rng, stay))
            if not in_order:
                sample.read(said)
            for place, ends in zip((stay.came, stay.went), self.ends(stay, count), strict=True):
                sample.say(self.number(f"{between(sample.digits, place):0{DIGITS}d}"), *ends, 0)
            if in_order:
                sample.say(said, stay.first, stay.last)
            sample.read(self.stop)
        if in_order or not stays:
            sample.say([self.end])
        return sample

    def some(self, stays: list[Stay], most: int) -> list[Stay]:
        """Each at most once: what was said before would only be said again."""
        return [stays[one] for one in self.rng.permutation(len(stays))[:most]]

    @staticmethod
    def ends(stay: Stay, count: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The views that tell when a thing came, and when it went: the ones next to it tell it as well."""
        return (max(stay.first - 1, 0), stay.first), (stay.last, min(stay.last + 1, count - 1))

    def talk(self, count: int, questions: int, pairs: Sequence = PAIRS, back: float = 0.25) -> Sample:
        """Questions and answers. Without pictures they are about nothing, with one about that one."""
        rng, times = self.rng, draw_times(self.rng, count)
        if count == 1:
            times = [draw_time(rng)]
        views = draw_pictures(rng, count, pairs)
        sample = Sample(views, [time.digits for time in times])
        if count < 2:
            turns = about_a_picture(rng, views[0], times[0]) if count else [filled(rng) for _ in range(questions)]
            turns = [(*turn, ()) for turn in turns]
        else:
            places = rng.integers(count, size=questions)
            turns = [(*look_up(rng, views[place], times[place], back), [(place, place)]) for place in places]
        return self.told(sample, turns)

    def talk_of_stays(self, count: int, questions: int, pairs: Sequence = PAIRS, back: float = 0.25) -> Sample:
        """Questions about some things that stay, or with this chance about all of them at once."""
        views, stays = draw_stays(self.rng, count, pairs)
        times = draw_times(self.rng, count)
        if not stays:
            turns = [(*filled(self.rng), ())]
        elif self.rng.random() < back:
            looks = [look for stay in stays for look in self.ends(stay, count)]
            turns = [(*list_stays(self.rng, stays, times), looks)]
        else:
            turns = [
                (*look_up_stay(self.rng, stay, times), self.ends(stay, count)) for stay in self.some(stays, questions)
            ]
        return self.told(Sample(views, [time.digits for time in times]), turns)

    def told(self, sample: Sample, turns: list) -> Sample:
        """Turns of a question, its answer, and the views that each time in the answer is of."""
        count = len(sample.views)
        for number, (question, answer, looks) in enumerate(turns):
            before = "[INST] " if number else "[INST] <<SYS>>\n \n<</SYS>>\n\n"
            if not number and count:
                before += f"{self.opening(count)} The video contains {count} frames. "
            sample.read(self.ids(before + question + " [/INST]", True))
            places, which = iter(places_of_digits(answer)), 0
            for token in self.ids(f" {answer} "):
                if token in self.numbers:
                    which, place = next(places)
                    told = (*looks[which], place) if looks and place >= 0 else ()
                else:  # words are of the time before them, or of all from one to the other
                    told = (looks[which - which % 2][1], looks[which][0]) if looks and token in self.seen else ()
                sample.say([token], *told)
            sample.say([self.end])
        return sample

    def forward(self, samples: list[Sample]):
        """Logits at what is to be learned, what that is, which answer it is of, and how far heads look from it."""
        count, longest = len(samples[0].views), max(len(sample.ids) for sample in samples)
        ids = torch.zeros(len(samples), longest, dtype=torch.long)
        labels, looks = torch.full_like(ids, -100), []
        for row, sample in enumerate(samples):
            ids[row, : len(sample.ids)], labels[row, : len(sample.ids)] = map(torch.tensor, (sample.ids, sample.labels))
            looks += [(row, *look) for look in sample.looks]
        embedded = self.model.get_input_embeddings()(ids)
        first = int((ids[0] == self.processor.video_token_id).int().argmax())
        if count:
            weights = torch.from_numpy(np.stack([view.weights() for sample in samples for view in sample.views]))
            digits = torch.tensor([[*map(int, one)] for sample in samples for one in sample.digits])
            frames = self.reading(weights, digits)
            frames = frames + BLUR * frames.detach().std() * torch.randn_like(frames)
            room = self.step * math.ceil(count / self.step)
            rest = torch.zeros(len(samples), room - count, dtype=torch.long)
            frames = torch.cat([frames.view(len(samples), count, -1), self.model.get_input_embeddings()(rest)], dim=1)
            embedded = torch.cat([embedded[:, :first], frames, embedded[:, first + room :]], dim=1)
        with self.pointing:
            hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != -100
        answers = (wanted & (labels[:, :-1] == -100)).flatten().cumsum(0).view_as(wanted) - 1
        away = hidden.new_zeros(())
        if looks:
            rows, columns, places, lowest, highest = torch.tensor(looks).T
            # A token is said by the one before it.
            away = self.pointing.loss(rows, columns - 1, places, first + lowest, first + highest)
        return self.model.lm_head(hidden[:, :-1][wanted]), labels[:, 1:][wanted], answers[wanted], away

    @torch.no_grad()
    def right(self, make, count: int, pairs: Sequence, back: float, digits: int = DIGITS) -> float:
        """Share of lines or answers that are right to the last token; so many digits where a time is asked for."""
        samples = [make(count, 4, pairs, back) for _ in range(24)]
        logits, wanted, answers, _ = self.forward(samples)
        places = []  # of what is to be said in a time
        for sample in samples:
            known = {label: place for label, place, *_ in sample.looks}
            places += [known.get(number, -1) for number, label in enumerate(sample.labels) if label != -100]
        places = torch.tensor(places)
        wrong = (logits.argmax(-1) != wanted) & (((places >= 0) & (places < digits)) | bool(back))
        right = torch.ones(int(answers[-1]) + 1, dtype=torch.bool)
        right[answers[wrong]] = False
        return float(right.float().mean())


def places_of_digits(answer: str) -> list[tuple[int, int]]:
    """Of each digit of a text, which time it belongs to, and its place there: 12.3 has the last three of 0123."""
    places = []
    for which, time in enumerate(re.findall(r"\d+\.?\d*", answer)):
        digits = time.replace(".", "")
        end = DIGITS - 1 if len(digits) < 3 and "." not in time.rstrip(".") else DIGITS  # numbers of images are whole
        places += [(which, end - len(digits) + place) for place in range(len(digits))]
    return places
