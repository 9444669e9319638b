"""
TimeIT: `data/<task>/<data set>/instruct_*.json`, lists of `{"video": "…", "QA": [{"q": "…", "a": "…"}]}`; merged files
add `"source"`, the data set. How answers write times:

- dense captioning, steps, speech: `90.0 - 102.0 seconds, spread margarine.  114.0 - 127.0 seconds, …`, speech behind
  `Transcribed speech: `; ViTT has starts only: `2.7 seconds, Introduction.  …`
- grounding: `The given query happens in 0.0 - 6.9 seconds.`, of an instant `… in 12.3 seconds.`
- highlights, summaries: `The highlight timestamps are in the 57.0, 62.4 seconds. Their saliency scores are 2.1, 1.8.`
  or `There are 2 highlight moments in the 72.0, 74.0 second. Their saliency scores are …`

In the files `…_15asr.json` questions begin `Transcribed speech: 0.0 - 4.2 seconds, hello there. … Based on the video
content and possible transcribed speech, …`. Other numbers in questions are examples. A key holds a checksum of
questions (without the speech) and answers: one dialogue in two files (with and without speech, merged) is found as a
duplicate.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..fields import Malformed, get, identifier, kept, text
from ..items import Item, Problems
from .reading import annotation_files, checksum, part_of, read_list, stored


KIND = "videos"
FILES = ("instruct_*.json",)
TASKS = ("dense_captioning", "grounding", "highlights", "step_localization", "speech", "summarization")
LICENCE = "CC BY 4.0; the data sets that it is made of have terms of their own"

_TASK_OF_FOLDER = {
    "dense_video_captioning": "dense_captioning",
    "temporal_video_grounding": "grounding",
    "video_highlight_detection": "highlights",
    "step_localization": "step_localization",
    "step_localization_and_captioning": "step_localization",
    "transcribed_speech_generation": "speech",
    "video_summarization": "summarization",
}
# Of merged and lone files: these data sets have one task each, and files of summaries are called vhd like highlights'.
_TASK_OF_DATA_SET = {"summe": "summarization", "tvsum": "summarization", "coin": "step_localization",
                     "hirest_step": "step_localization", "yttemporal": "speech"}  # fmt: skip
_TASK_OF_WORD = {"dvc": "dense_captioning", "tvg": "grounding", "vhd": "highlights", "action": "step_localization",
                 "tsg": "speech", "tsp": "speech"}  # fmt: skip

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DECIMAL = r"[0-9]+\.[0-9]+"
_EVENT = r"(?:^|(?<=^Transcribed speech: )|(?<=[.!?]\s)|(?<=[.!?]\s\s))"  # where events begin
_PAIRS = rf"(?:{_EVENT}|(?<=\s)(?={_DECIMAL} - {_DECIMAL} ))(?P<times>{_NUMBER} - {_NUMBER}) seconds?,"
# Task and pattern; an answer has the first form that fits its beginning. `times` holds the numbers that are times.
_FORMS = (
    ("grounding", re.compile(rf"^The given query happens in (?P<times>{_NUMBER}(?: - {_NUMBER})?) seconds?\b")),
    (
        "highlights",
        re.compile(
            rf"^(?:The highlight timestamps are|There are {_NUMBER} highlight moments) in the "
            rf"(?P<times>{_NUMBER}(?:, {_NUMBER})*) seconds?\b"
        ),
    ),
    ("dense_captioning", re.compile(_PAIRS)),
    # `30 seconds, stirring` behind a sentence is no start where starts have a decimal, as ViTT's do.
    ("dense_captioning", re.compile(rf"{_EVENT}(?P<times>{_DECIMAL}) seconds?,")),
    ("dense_captioning", re.compile(rf"{_EVENT}(?P<times>{_NUMBER}) seconds?,")),
)
_SPEECH = re.compile(
    r"Transcribed speech: .*?(?=Based on the video content|The output format|An? specific example|$)", re.DOTALL
)


def read(path: Path, problems: Problems) -> Iterator[Item]:
    for file in annotation_files(path, FILES):
        yield from kept(problems, _item, ((place, row, file) for place, row in read_list(file)))


def _item(place: str, row: dict, file: Path) -> Item:
    video, dialogue = identifier(row, "video"), get(row, "QA", list)
    turns, forms, said = [], [], []
    for pair in dialogue:
        question, answer = text(pair, "q"), text(pair, "a")
        form, marked = mark_answer(answer)
        turns += [("user", mark_question(question)), ("assistant", marked)]
        forms.append(form)
        said += [question.rpartition("possible transcribed speech, ")[2], answer]
    if not turns:
        raise Malformed("field 'QA': expected questions and answers, found none")
    folder, words = file.parts[:-1][::-1], file.stem.split("_")
    named = folder[0] if len(folder) > 1 and folder[1] in _TASK_OF_FOLDER else _last_name(words)
    label = identifier(row, "source") if "source" in row else named
    tasks = (
        *(_TASK_OF_FOLDER.get(name) for name in folder),
        _TASK_OF_DATA_SET.get(label.lower()),
        *(_TASK_OF_WORD.get(word) for word in words),
        forms[0],
    )
    return Item(
        key=f"{label}/{video}#{checksum(*said):08x}",
        names=(video,),
        place=place,
        label=label,
        turns=turns,
        task=next(filter(None, tasks)),
        **part_of(video),
    )


def mark_answer(answer: str) -> tuple[str, str]:
    """The task that an answer's form is of, and the answer as stored text in which its times are marks."""
    for task, pattern in _FORMS:
        found = [*pattern.finditer(answer)]
        if found and answer[: found[0].start()] in ("", "Transcribed speech: "):
            return task, _marked(answer, found)
    raise Malformed(f"expected an answer that begins with times in a form of TimeIT, found {answer!r:.80}")


def mark_question(question: str) -> str:
    """A question as stored text; only what was said in the video has times of the video."""
    speech = _SPEECH.match(question)
    return _marked(question, re.finditer(_PAIRS, speech[0])) if speech else stored(question)


def _marked(plain: str, found: Iterable[re.Match]) -> str:
    pieces, last = [], 0
    for run in found:
        for number in re.finditer(_NUMBER, run["times"]):
            start = run.start("times") + number.start()
            pieces += [stored(plain[last:start]), f"[[{number[0]} s]]"]
            last = start + len(number[0])
    return "".join([*pieces, stored(plain[last:])])


def _last_name(words: list[str]) -> str:
    """Of `instruct_dvc_10.0k_anet_15asr`: anet."""
    return [word for word in words if not re.fullmatch(r"\d*asr", word)][-1]
