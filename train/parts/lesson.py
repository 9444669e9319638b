"""Texts about pictures for the language model to learn: notes, then questions and answers."""

import math
import re
from collections.abc import Sequence

import numpy as np
import torch

from dataset_scripts.sources.miniworld_drawing import ACTIONS, COLOURS, SHAPES

from .asking import about_a_picture, does, filled, list_stays, look_up, look_up_stay, named
from .lists import DIGITS, SURE, Stay, between, draw_pictures, draw_stays, draw_time, draw_times
from .pointing import ASKED, LATER, WORD, Pointing
from .reading import Reading
from .sample import Sample, of_thing, of_time, of_view
from .views import READ, View


BLUR = 0.3  # of the ideal tokens: eyes are never perfect


class Lesson:
    """Samples, and batches of samples with the same number of pictures, so that none is padded between its parts."""

    def __init__(self, model, processor, rng: np.random.Generator, sure: float = SURE):
        self.model, self.processor, self.rng, self.sure = model, processor, rng, sure
        self.tokenizer, self.reading = processor.tokenizer, Reading(model.get_input_embeddings(), processor.tokenizer)
        self.pointing = Pointing(model.model.language_model)
        self.end, self.stop = self.tokenizer.eos_token_id, self.ids(".")
        self.step, self.kept = model.config.num_video_query_tokens, {}
        self.numbers = set(self.reading.digits.tolist())
        self.seen = {*self.reading.words.tolist(), *(words[0].item() for words in self.reading.names)}

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

    def note(self, pairs: Sequence = READ) -> Sample:
        """What is on a picture and the four digits of its time, or the other way round."""
        (view,), digits = draw_pictures(self.rng, 1, pairs, self.sure), draw_time(self.rng).digits
        parts = [(self.words(named(self.rng, view, 1)), 0, 0, WORD), (self.number(digits), 0, 0, 0)]
        sample = self.opened([view], [digits])
        for part in parts[:: self.rng.choice((1, -1))]:
            sample.say(*part)
            if part is parts[0]:
                sample.mean(len(sample.ids) - 1, of_view(view))
        return sample

    def notes(self, count: int, lines: int, pairs: Sequence = READ, back: float = 0.25) -> Sample:
        """Of a list, as many lines. What comes second is to be learned: a time, with this chance what is seen."""
        views = draw_pictures(self.rng, count, pairs, self.sure)
        sample = self.opened(views, self.any_digits(count, self.rng.random() < 0.25))
        for place in self.rng.integers(count, size=lines):
            time = self.number(sample.digits[place])
            if self.rng.random() < back:
                sample.ask(time, DIGITS - 1, of_time(sample.digits[place]))
                sample.say(self.words(f"{named(self.rng, views[place], 1)}."), place, place, asked=True)
            else:
                asked = self.words(named(self.rng, views[place], 0.5))
                sample.ask(asked, len(asked) - 1, of_view(views[place]))
                sample.say(time, place, place, 0, True)
                sample.read(self.stop)
        return sample

    def stays(self, count: int, lines: int, pairs: Sequence = READ, back: float = 0.25) -> Sample:
        """Lines of things, what they do, from when to when; with this chance all in order, all of it to be learned."""
        views, stays = draw_stays(self.rng, count, pairs, self.step, self.sure)
        sample, in_order = self.opened(views, self.any_digits(count, True)), self.rng.random() < back
        for stay in stays if in_order else self.some(stays, lines):
            action = "" if stay.once and self.rng.random() < 0.5 else stay.action
            said = self.words(does(self.rng, stay) if action else " ".join(stay.pair))
            if not in_order:
                sample.ask(said, len(said) - 1, of_thing(*stay.pair, action))
            for where, place, ends in zip((0, LATER), (stay.came, stay.went), self.ends(stay, count), strict=True):
                time = f"{between(sample.digits, place):0{DIGITS}d}"
                sample.say(self.number(time), *ends, where, not in_order)
            if in_order:
                sample.mean(len(sample.ids) - 1, of_time(time))
                sample.say(said, stay.first, stay.last, asked=True)
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

    def talk(self, count: int, questions: int, pairs: Sequence = READ, back: float = 0.25) -> Sample:
        """Questions and answers. Without pictures they are about nothing, with one about that one."""
        rng, times = self.rng, draw_times(self.rng, count)
        if count == 1:
            times = [draw_time(rng)]
        views = draw_pictures(rng, count, pairs, self.sure)
        sample = Sample(views, [time.digits for time in times])
        if count < 2:
            turns = about_a_picture(rng, views[0], times[0]) if count else [filled(rng) for _ in range(questions)]
            turns = [(*turn, "", (), ()) for turn in turns]
        else:
            turns = []
            for place in rng.integers(count, size=questions):
                view, time = views[place], times[place]
                *turn, asked = look_up(rng, view, time, back)
                means = of_time(time.digits) if asked in (time.told, time.written) else of_view(view)
                turns.append((*turn, asked, means, [(place, place)]))
        return self.told(sample, turns)

    def talk_of_stays(self, count: int, questions: int, pairs: Sequence = READ, back: float = 0.25) -> Sample:
        """Questions about some things that stay, or with this chance about all of them at once."""
        views, stays = draw_stays(self.rng, count, pairs, self.step, self.sure)
        times = draw_times(self.rng, count)
        if not stays:
            turns = [(*filled(self.rng), "", (), ())]
        elif self.rng.random() < back:
            looks = [look for stay in stays for look in self.ends(stay, count)]
            turns = [(*list_stays(self.rng, stays, times), "", (), looks)]
        else:
            turns = []
            for stay in self.some(stays, questions):
                *turn, asked = look_up_stay(self.rng, stay, times)
                action = "" if asked.endswith(" ".join(stay.pair)) else stay.action
                turns.append((*turn, asked, of_thing(*stay.pair, action), self.ends(stay, count)))
        return self.told(Sample(views, [time.digits for time in times]), turns)

    def told(self, sample: Sample, turns: list) -> Sample:
        """
        Turns of a question, its answer, what is asked about in its words and in the world's, and the views that each
        time in the answer is of. Where nothing is, words of the answer are asked about the time before them.
        """
        count = len(sample.views)
        for number, (question, answer, asked, means, looks) in enumerate(turns):
            before = "[INST] " if number else "[INST] <<SYS>>\n \n<</SYS>>\n\n"
            if not number and count:
                before += f"{self.opening(count)} The video contains {count} frames. "
            said = self.tokenizer(f"{before}{question} [/INST]", return_offsets_mapping=bool(asked))
            if asked:
                end = len(before) + question.rindex(asked) + len(asked)
                sample.ask(said["input_ids"], sum(first < end for first, _ in said["offset_mapping"]) - 1, means)
            else:
                sample.read(said["input_ids"])
            places, which, time = iter(places_of_digits(answer)), 0, {}
            for token in self.ids(f" {answer} "):
                told = ()
                if token in self.numbers:
                    before, (which, place) = which, next(places)
                    time = (time if which == before else {}) | {place: self.tokenizer.decode([token]).strip()}
                    end = len(sample.ids)
                    if looks and place >= 0:
                        told = *looks[which], place + which % 2 * LATER, bool(asked)
                elif looks and token in self.seen:  # words are of the time before them, or of all from one to the other
                    if not asked:
                        sample.mean(end, of_time("".join(time.get(place, "0") for place in range(DIGITS))))
                    told = looks[which - which % 2][1], looks[which][0], WORD, True
                sample.say([token], *told)
            sample.say([self.end])
        return sample

    def forward(self, samples: list[Sample]):
        """Logits at what is to be learned, what that is, which answer it is of, and how far heads look from it."""
        count, longest = len(samples[0].views), max(len(sample.ids) for sample in samples)
        ids = torch.zeros(len(samples), longest, dtype=torch.long)
        first = samples[0].ids.index(self.processor.video_token_id) if count else 0
        labels, looks, means = torch.full_like(ids, -100), [], []
        for row, sample in enumerate(samples):
            ids[row, : len(sample.ids)], labels[row, : len(sample.ids)] = map(torch.tensor, (sample.ids, sample.labels))
            looks += [(row, label, place, first + low, first + high) for label, place, low, high in sample.looks]
            looks += [(row, label, ASKED, token, token) for label, token in sample.asks]
            means += [(row, token, *meant) for token, meant in sample.means.items()]
        embedded = self.model.get_input_embeddings()(ids)
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
            rows, columns, *where = torch.tensor(looks).T
            away = self.pointing.loss(rows, columns - 1, *where)  # a token is said by the one before it
        if means:
            rows, columns, *kinds = torch.tensor(means).T
            away = away + self.pointing.unknown(rows, columns, torch.stack(kinds, dim=1))
        return self.model.lm_head(hidden[:, :-1][wanted]), labels[:, 1:][wanted], answers[wanted], away

    @torch.no_grad()
    def right(self, make, count: int, pairs: Sequence, back: float, digits: int = DIGITS) -> float:
        """Share of lines or answers that are right to the last token; so many digits where a time is asked for."""
        samples = [make(count, 4, pairs, back) for _ in range(24)]
        logits, wanted, answers, _ = self.forward(samples)
        places = []  # of what is to be said in a time
        for sample in samples:
            known = {label: place % LATER for label, place, *_ in sample.looks}
            places += [known.get(number, -1) for number, label in enumerate(sample.labels) if label != -100]
        places = torch.tensor(places)
        wrong = (logits.argmax(-1) != wanted) & (((places >= 0) & (places < digits)) | bool(back))
        right = torch.ones(int(answers[-1]) + 1, dtype=torch.bool)
        right[answers[wrong]] = False
        return float(right.float().mean())

    @torch.no_grad()
    def in_words(self, count: int) -> list[float]:
        """Of all that happens in a list, told in order: share of colours, of shapes and of first words of actions."""
        logits, wanted, _, _ = self.forward([self.talk_of_stays(count, 0, READ, 1.0) for _ in range(24)])
        right, shares = logits.argmax(-1) == wanted, []
        for words in (COLOURS, SHAPES, [way for ways in ACTIONS.values() for way in ways]):
            first = torch.tensor([self.words(word)[0] for word in words])
            shares.append(float(right[torch.isin(wanted, first)].float().mean()))
        return shares


def places_of_digits(answer: str) -> list[tuple[int, int]]:
    """Of each digit of a text, which time it belongs to, and its place there: 12.3 has the last three of 0123."""
    places = []
    for which, time in enumerate(re.findall(r"\d+\.?\d*", answer)):
        digits = time.replace(".", "")
        end = DIGITS - 1 if len(digits) < 3 and "." not in time.rstrip(".") else DIGITS  # numbers of images are whole
        places += [(which, end - len(digits) + place) for place in range(len(digits))]
    return places
