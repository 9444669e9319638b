"""
python -m evaluation.lmms_eval_model --model seq2time --model_args pretrained=DIR_OR_REPO --tasks TASK,TASK

Runs lmms-eval with Seq2Time among its models; all options are lmms-eval's. Grounding tasks are answered by
`model.ground`, in seconds and in words that their parsers read; others freely, time tokens written as seconds.
"""

import json
import os
import re
import sys
import warnings
from itertools import chain

import torch
from accelerate import Accelerator
from tqdm import tqdm

from modeling_seq2time import Answer
from modeling_seq2time.native_video import load
from modeling_seq2time.time_notation import Notation

from .run_settings import PROMPTS, as_phrase, read_prompts


try:
    from lmms_eval.api.model import lmms
except ImportError:  # only the command needs it
    lmms = object

GROUNDING_TASKS = {  # and which field of their documents is the query
    "temporal_grounding_charades": "caption",
    "timelens_activitynet": "query",
    "timelens_charades": "query",
    "timelens_qvhighlights": "query",
    "extremewhenbench": "question",
}
SAMPLING = ("temperature", "top_k", "top_p")
SETTINGS = ("do_sample", "max_new_tokens", "num_beams", "repetition_penalty", *SAMPLING)


def in_words(answer: Answer) -> str:
    """A moment as grounding tasks ask for it. Fixed decimals: their parsers know no exponents."""
    (moment,) = answer
    return f"The event happens in {moment.start:.3f} - {moment.end:.3f} seconds."


def in_seconds(text: str, notation: Notation, length: float) -> str:
    """A free answer with its time tokens as seconds. Notations without tokens write plain text, which stays."""
    pieces, last = [], 0
    for start, end, code in notation.find(text) if notation.tokens else ():
        named = re.match(rf"\s*(?:seconds?\b|(?:-|–|to|and)\s*<{notation.literal}>)", text[end:])
        seconds = f"{notation.fraction(code, length) * length:.3f}" + ("" if named else " seconds")
        pieces += [notation.unescape(text[last:start]), seconds]
        last = end
    return "".join([*pieces, notation.unescape(text[last:])])


def cut(text: str, until: str | list[str] | None) -> str:
    """An answer up to the first of the texts that end it."""
    ends = [until] if isinstance(until, str) else until or []
    return min((text.partition(end)[0] for end in ends if end), key=len, default=text).strip()


def generation_settings(asked: dict) -> dict:
    """A task's settings as `generate` takes them: temperature 0 means greedy."""
    if others := sorted(asked.keys() - {*SETTINGS, "until"}):
        warnings.warn(f"generation settings without effect on Seq2Time: {', '.join(others)}", stacklevel=2)
    settings = {"max_new_tokens": 512} | {name: asked[name] for name in SETTINGS if asked.get(name) is not None}
    if settings.get("temperature", 1.0) > 0 and settings.get("do_sample", "temperature" in settings):
        return settings | {"do_sample": True}
    return {name: value for name, value in settings.items() if name not in SAMPLING} | {"do_sample": False}


def video_of(visuals, document: str) -> str:
    """The one video file that a question is about."""
    kinds = [type(one).__name__ for one in visuals] if isinstance(visuals, (list, tuple)) else type(visuals).__name__
    if kinds != ["str"]:
        raise ValueError(f"{document}: expected the path of one video, found {kinds}")
    if not os.path.exists(visuals[0]) and "://" not in visuals[0]:
        raise FileNotFoundError(f"{document}: there is no video {visuals[0]}")
    return visuals[0]


class Seq2TimeForLmmsEval(lmms):
    """
    Takes, as `--model_args name=value,name=value`:
        pretrained: folder or Hub repository.
        dtype: such as `bfloat16`; the weights' own if not given.
        num_frames, decoder: as the processor takes them.
        window, search_steps: as `model.ground` takes them.
        constrain: `False` answers grounding tasks freely, too.
        own_question: `True` asks in the words of `evaluation.run`, in place of a grounding task's prompt.
        grounding_tasks: more of them, as `task+task:field`; the field of the query is for `own_question`.
    """

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        dtype: str = "auto",
        num_frames: int | None = None,
        decoder: str | None = None,
        window: float | None = None,
        search_steps: int | None = None,
        constrain: bool = True,
        own_question: bool = False,
        grounding_tasks: str = "",
    ):
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, found {batch_size!r}")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        alone = device if self._world_size == 1 else None
        self.device = torch.device(alone or self.accelerator.device)
        place = {"": self.device}
        self.model, self.processor = load(pretrained, dtype=dtype, device_map=place)
        self.batch_size, self.constrain, self.own_question = int(batch_size), constrain, own_question
        self.wording = read_prompts(PROMPTS)["tvg"] if own_question else "{query}"
        self.video_kwargs = _given(num_frames=num_frames, decoder=decoder)
        self.search_kwargs = _given(window=window, search_steps=search_steps)
        named = (name.partition(":") for name in grounding_tasks.split("+") if name)
        self.query_fields = GROUNDING_TASKS | {task: field for task, _, field in named}

    def generate_until(self, requests) -> list[str]:
        groups: dict[str | None, dict[str, list[tuple[int, str]]]] = {}  # by settings, then by video; None: a search
        for place, request in enumerate(requests):
            prompt, asked, doc_to_visual, number, task, split = request.args
            document, search = self.task_dict[task][split][number], self.constrain and task in self.query_fields
            video = video_of(doc_to_visual(document), f"{task}, document {number}")
            question = self._query(document, task) if search and self.own_question else prompt
            question = question.replace(self.processor.video_token, "").strip()
            settings = None if search else json.dumps(asked, sort_keys=True)
            groups.setdefault(settings, {}).setdefault(video, []).append((place, question))
        texts = [""] * len(requests)
        batches = [
            (settings, list(videos.items())[first : first + self.batch_size])
            for settings, videos in groups.items()
            for first in range(0, len(videos), self.batch_size)
        ]
        for settings, batch in tqdm(batches, "videos", disable=self._rank != 0):
            videos, asked = zip(*batch, strict=True)
            questions = [[question for _, question in own] for own in asked]
            given = list(videos), questions
            found = self._search(*given) if settings is None else self._write(*given, json.loads(settings))
            for (place, _), text in zip(chain.from_iterable(asked), found, strict=True):
                texts[place] = text
        return texts

    def _query(self, document: dict, task: str) -> str:
        if field := self.query_fields[task]:
            return as_phrase(document[field])
        raise ValueError(f"own_question needs the field of the query: grounding_tasks={task}:FIELD")

    def _search(self, videos: list[str], questions: list[list[str]]) -> list[str]:
        settings = self.search_kwargs | {"prompt": self.wording, "video_kwargs": self.video_kwargs}
        answers = self.model.ground(self.processor, videos, questions, **settings)
        return [in_words(answer) for answer in chain.from_iterable(answers)]

    def _write(self, videos: list[str], questions: list[list[str]], asked: dict) -> list[str]:
        settings = generation_settings(asked) | {"batch_size": self.batch_size, "video_kwargs": self.video_kwargs}
        answers = chain.from_iterable(self.model.reply(self.processor, videos, questions, **settings))
        texts = [in_seconds(answer.text, self.processor.notation, answer.length) for answer in answers]
        return [cut(text, asked.get("until")) for text in texts]

    def loglikelihood(self, requests):
        raise NotImplementedError("Seq2Time is judged by what it writes: choose tasks of output_type generate_until")

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("Seq2Time answers one question at a time: choose tasks of output_type generate_until")


def _given(**settings) -> dict:
    return {name: value for name, value in settings.items() if value is not None}


def main():
    try:
        from lmms_eval.__main__ import cli_evaluate  # noqa: PLC0415
        from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: PLC0415
        from lmms_eval.models.registry_v2 import ModelManifest  # noqa: PLC0415
    except ImportError as error:
        sys.exit(f"error: {error}. This command needs lmms-eval 0.7.3 or later: pip install 'seq2time[lmms]'")
    path = "evaluation.lmms_eval_model.Seq2TimeForLmmsEval"
    MODEL_REGISTRY_V2.register_manifest(ModelManifest("seq2time", simple_class_path=path))
    cli_evaluate()


if __name__ == "__main__":
    main()
