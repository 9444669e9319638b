"""How the language model is asked about pictures, in its own words and in those of the phases."""

from collections.abc import Sequence

import numpy as np

from dataset_scripts.sources import miniworld
from dataset_scripts.wording import TEMPLATES

from .lists import Stay, Time, as_time, between, draw_time
from .model import template_texts, world_texts
from .views import PAIRS, View, describe, draw_view


DESCRIBED = ("Describe the image.", "{}.")
TIMED = {  # how a time is asked for, and a picture by its time
    "image": (("What is the number of {}?", "Which number has {}?"), "It has the number {}.", "What shows number {}?"),
    "s": (("When is {}?", "At what second is {} seen?"), "It is at {} seconds.", "What is seen at {} seconds?"),
    "position": (("At what position is {}?", "Where in the list is {}?"), "It is at {}.", "What is at {}?"),
}
STAYING = (  # how it is asked from when to when a thing is seen
    ("From when to when is {} seen?", "When does {} come and go?"),
    {"image": "From number {} to number {}.", "s": "From {} to {} seconds.", "position": "From {} to {}."},
)
# What a time stands behind in the templates of the phases.
BEFORE_A_TIME = ("index ", "image ", "number ", "numbered ", "indexed as ", "indexed at ", "is ", "at ", "- ")
CLIPS = miniworld.clip_combinations("train")


def corpus() -> list[str]:
    """What is said about the miniworld, for the tokenizer. What is said more often is kept whole."""
    asked = [*DESCRIBED, *(text for asks, answer, back in TIMED.values() for text in (*asks, answer, back))]
    asked += [*STAYING[0], *STAYING[1].values()]
    frame = "[INST] <<SYS>>\n \n<</SYS>>\n\n<Video></Video> The video contains 32 frames. [/INST]"
    return world_texts() + 100 * (template_texts() + asked) + 1000 * [frame]


def pick(rng: np.random.Generator, texts: Sequence):
    return texts[rng.integers(len(texts))]


def named(rng: np.random.Generator, view: View, told: float) -> str:
    """What is there, in a few words; size, place and background are each told this often."""
    size, place, background = (one if rng.random() < told else "" for one in (view.size, view.place, view.background))
    return " ".join(f"{size} {view.colour} {view.shape} {place} {background}".split())


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def about_a_picture(rng: np.random.Generator, view: View, time: Time) -> list[tuple[str, str]]:
    """A question and its answer each: when it is, and what is there."""
    asks, answer, _ = TIMED[time.kind]
    described = DESCRIBED[0], DESCRIBED[1].format(describe(rng, view))
    return [(pick(rng, asks).format("the image"), answer.format(time.written)), described]


def look_up(rng: np.random.Generator, view: View, time: Time, back: float) -> tuple[str, str]:
    """A question about a picture of a list, with this chance what is seen at its time, and the answer."""
    about, whole = with_article(named(rng, view, 0.5)), describe(rng, view)
    asks, answer, by_time = TIMED[time.kind]
    what, when = TEMPLATES["iic"]["single"], TEMPLATES["iig"]["single"]
    in_own_words = rng.random() < 0.3
    if rng.random() < back:
        if in_own_words:
            return by_time.format(time.written), f"{whole}."
        return pick(rng, what["questions"]).format(time.digits), pick(rng, what["answers"]).format(time.digits, whole)
    if in_own_words:
        return pick(rng, asks).format(about), answer.format(time.written)
    asked = whole if rng.random() < 0.5 else about
    return pick(rng, when["questions"]).format(asked), pick(rng, when["answers"]).format(time.digits)


def does(rng: np.random.Generator, stay: Stay) -> str:
    return pick(rng, miniworld.event_captions(*stay.pair, stay.action))


def came_and_went(stay: Stay, times: list[Time]) -> list[Time]:
    digits = [time.digits for time in times]
    return [as_time(times[0].kind, between(digits, place)) for place in (stay.came, stay.went)]


def look_up_stay(rng: np.random.Generator, stay: Stay, times: list[Time]) -> tuple[str, str]:
    """A question from when to when a thing is seen or does something, and the answer."""
    came, went = came_and_went(stay, times)
    if stay.once and rng.random() < 0.3:
        question, answer = pick(rng, STAYING[0]), STAYING[1][came.kind]
        return question.format(with_article(" ".join(stay.pair))), answer.format(came.written, went.written)
    words = TEMPLATES["grounding"]
    return pick(rng, words["questions"]).format(does(rng, stay)), words["answer"].format(
        f"{came.digits} - {went.digits}"
    )


def list_stays(rng: np.random.Generator, stays: list[Stay], times: list[Time]) -> tuple[str, str]:
    """All that happens, and from when to when, as dense captioning asks for it."""
    words = TEMPLATES["dense_captioning"]
    told = []
    for stay in stays:
        came, went = came_and_went(stay, times)
        told.append(words["event"].format(came.digits, went.digits, does(rng, stay)))
    return pick(rng, words["questions"]), " ".join(told)


def filled(rng: np.random.Generator) -> tuple[str, str]:
    """A question and an answer of the phases about nothing: how they are worded."""
    task = pick(rng, ("iig", "iic", "alr", "dense_captioning", "grounding"))
    words = TEMPLATES[task]
    asked = words.get("single", words)
    if task == "alr":
        asked = words["before" if rng.random() < 0.5 else "after"]
    question = pick(rng, asked["questions"])
    answer = pick(rng, words.get("answers") or asked.get("answers") or [words.get("answer") or words["event"]])

    def fill(text: str) -> str:
        while "{}" in text:
            before, after = text.split("{}", 1)
            if after.startswith((" seconds", " - ")) or before.endswith(BEFORE_A_TIME):
                told = draw_time(rng).written
            elif task in ("dense_captioning", "grounding"):
                told = pick(rng, miniworld.event_captions(*pick(rng, CLIPS)[:3]))
            else:
                told = describe(rng, draw_view(rng, pick(rng, PAIRS)))
            text = before + told + after
        return text

    return fill(question), fill(answer)
