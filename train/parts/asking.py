"""How the language model is asked about pictures, in its own words and in those of the phases."""

from collections.abc import Sequence

import numpy as np

from dataset_scripts.sources import miniworld
from dataset_scripts.sources.miniworld_drawing import ACTIONS
from dataset_scripts.wording import TEMPLATES

from .lists import Stay, Time, as_time, between, draw_time
from .model import template_texts, world_texts
from .views import READ, View, describe, draw_view


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
CLIPS = [one for split in miniworld.SPLITS for one in miniworld.clip_combinations(split)]


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
    does = pick(rng, ACTIONS[view.doing[0][0]]) if view.doing else ""
    return " ".join(f"{size} {view.colour} {view.shape} {does} {place} {background}".split())


def caption(rng: np.random.Generator, view: View) -> str:
    """Of a picture, or of what is done there."""
    if view.doing:
        return pick(rng, miniworld.event_captions(view.colour, view.shape, view.doing[0][0]))
    return describe(rng, view)


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def about_a_picture(rng: np.random.Generator, view: View, time: Time) -> list[tuple[str, str]]:
    """A question and its answer each: when it is, and what is there."""
    asks, answer, _ = TIMED[time.kind]
    described = DESCRIBED[0], DESCRIBED[1].format(caption(rng, view))
    return [(pick(rng, asks).format("the image"), answer.format(time.written)), described]


def look_up(rng: np.random.Generator, view: View, time: Time, back: float) -> tuple[str, str, str]:
    """
    A question about a picture of a list, with this chance what is seen at its time; the answer; what is asked about.
    """
    about, whole = with_article(named(rng, view, 0.5)), caption(rng, view)
    asks, answer, by_time = TIMED[time.kind]
    what, when = TEMPLATES["iic"]["single"], TEMPLATES["iig"]["single"]
    in_own_words = rng.random() < 0.3
    if rng.random() < back:
        if in_own_words:
            return by_time.format(time.written), f"{whole}.", time.written
        question, answer = pick(rng, what["questions"]), pick(rng, what["answers"])
        return question.format(time.told), answer.format(time.told, whole), time.told
    if in_own_words:
        return pick(rng, asks).format(about), answer.format(time.written), about
    asked = whole if rng.random() < 0.5 else about
    return pick(rng, when["questions"]).format(asked), pick(rng, when["answers"]).format(time.told), asked


def does(rng: np.random.Generator, stay: Stay) -> str:
    return pick(rng, miniworld.event_captions(*stay.pair, stay.action))


def came_and_went(stay: Stay, times: list[Time]) -> list[Time]:
    digits = [time.digits for time in times]
    return [as_time(times[0].kind, between(digits, place), times[0].bare) for place in (stay.came, stay.went)]


def look_up_stay(rng: np.random.Generator, stay: Stay, times: list[Time]) -> tuple[str, str, str]:
    """A question from when to when a thing is seen or does something, the answer, and what is asked about."""
    came, went = came_and_went(stay, times)
    if stay.once and rng.random() < 0.3:
        question, answer, asked = pick(rng, STAYING[0]), STAYING[1][came.kind], with_article(" ".join(stay.pair))
        return question.format(asked), answer.format(came.written, went.written), asked
    words, asked = TEMPLATES["grounding"], does(rng, stay)
    return pick(rng, words["questions"]).format(asked), words["answer"].format(f"{came.told} - {went.told}"), asked


def list_stays(rng: np.random.Generator, stays: list[Stay], times: list[Time]) -> tuple[str, str]:
    """All that happens, and from when to when, as dense captioning asks for it."""
    words = TEMPLATES["dense_captioning"]
    told = []
    for stay in stays:
        came, went = came_and_went(stay, times)
        told.append(words["event"].format(came.told, went.told, does(rng, stay)))
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
                told = describe(rng, draw_view(rng, pick(rng, READ)))
            text = before + told + after
        return text

    return fill(question), fill(answer)
