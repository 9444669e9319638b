"""Questions about time, answered with typed moments: `ground`, `dense_caption` and `highlights`; others in words."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm
from transformers import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .answer_form import AnswerForm
from .answer_scores import next_scores
from .moment_search import best_moments, expected_moments
from .moments import (
    Answer,
    Moment,
    caption_of,
    distinct,
    merge_windows,
    read_grounding,
    read_highlights,
    read_moments,
)
from .time_decoding import TimeLogitsProcessor
from .time_notation import escape


GROUNDING_PROMPT = "When does this happen in the video: {query}? Give its start and its end."
CAPTION_PROMPT = "Describe all events of the video in their order, each with its start and its end."
HIGHLIGHTS_PROMPT = (
    "Which moments of the video are the highlights for this query: {query}? Rate how salient each one is."
)


@dataclass(eq=False)
class _Window:
    """One video, or one window of it, as the language model sees it."""

    place: int  # of its video
    metadata: object
    features: torch.Tensor
    offset: float
    whole: float  # length of the whole video
    length: float | None  # that windows were asked for, `None` of a video seen whole


@dataclass(eq=False)
class Watched:
    """A video that was decoded and encoded. Every question takes it in the video's place."""

    windows: list[_Window]


@dataclass
class _Job:
    """One question about it."""

    window: _Window
    number: int  # of the question, among those about its video
    query: str
    prompt: str
    form: AnswerForm | None


class TemporalAnswers:
    """
    What a model is asked about time. `video` is anything that the processor takes, or a list of such; `query` a text, a
    list of texts about each video, or a list of such lists, one per video. The result mirrors them: an `Answer`, a list
    of moments, for each query of each video. A video is encoded once, whatever the number of queries; `watch` gives
    it in a form that several calls can share.

    Options of all calls:
        window (`float`, *optional*):
            Seconds. A longer video is seen in windows of this length that overlap by half, each with all of the
            model's frames, decoded one after the other; their moments are merged by score.
        batch_size (`int`, *optional*):
            Answers that are generated together, of several videos too; those about one window if not given. A search
            goes window by window.
        constrain (`bool`, *optional*, defaults to `True`):
            `False` lets the model write freely and reads what it wrote. `failure_rate(answers)` says how often that
            failed.
        prompt (`str`, *optional*): the question, with `{query}` where it stands; a whole one if the query is empty.
        video_kwargs (`dict`, *optional*): for the processor, such as `num_frames` or `decoder`.
        progress (`bool`, *optional*): shows a bar over videos and windows.
    """

    @torch.no_grad()
    def watch(
        self,
        processor,
        video,
        window: float | None = None,
        video_kwargs: dict | None = None,
        progress: bool = False,
    ):
        """Decodes and encodes a video, or several; `ground` and the others take the result in place of the video."""
        videos, _ = _listed(video, None, processor)
        watched = [Watched([]) for _ in videos]
        for one in self._watch(processor, videos, window, video_kwargs or {}, progress):
            watched[one.place].windows.append(one)
        return watched[0] if _is_single(video, processor) else watched

    @torch.no_grad()
    def ground(
        self,
        processor,
        video,
        query,
        top_k: int = 1,
        min_score: float = 0.0,
        max_overlap: float = 1.0,
        window: float | None = None,
        constrain: bool = True,
        batch_size: int | None = None,
        prompt: str = GROUNDING_PROMPT,
        samples: int = 64,
        search_steps: int | None = None,
        search_width: int = 16,
        video_kwargs: dict | None = None,
        progress: bool = False,
        **generate_kwargs,
    ):
        """
        When a query happens: of all moments that the notation can write the `top_k` that can be expected to overlap
        most with it, best first; `score` is the overlap expected (intersection over union).

        Args:
            min_score (`float`): moments with less are left out; no moment means that it does not happen.
            max_overlap (`float`): of two moments that overlap more (intersection over union) the better one stays.
            samples (`int`): how many answers the overlap is expected over.
            search_steps (`int`, *optional*):
                Searches for the most probable answers instead, whose probability then is the `score`, and continues so
                many that were begun before it gives up proving that there are no better ones (`answer.proven`).
            search_width (`int`):
                How many answers such a search goes on with at a time; how many of any lie beside each other in memory
                where attention takes no tree of answers (`answer_scores`). With `search_steps` a tree grows with them.
        """

        def search(jobs: list[_Job]) -> Iterator[Answer]:
            prompts = processor.tokenizer([job.prompt for job in jobs])["input_ids"]
            scores_of = next_scores(self, jobs[0].window.features, prompts, search_width)
            for job, scores in zip(jobs, scores_of, strict=True):
                common = job.form, scores, top_k, max_overlap
                if search_steps is None:
                    ranked = expected_moments(*common, samples)
                    yield Answer(replace(_moment(job, item, job.query, 0.0), score=score) for item, score in ranked)
                    continue
                found, proven = best_moments(*common, search_width, search_steps)
                yield Answer([_moment(job, item, job.query, item.log_prob) for item in found], proven=proven)

        def read(job: _Job, text: str) -> Answer:
            meta = job.window.metadata
            return read_grounding(text, processor.notation, meta.length, meta.unit, job.query)

        if top_k < 1 or not 0 <= max_overlap <= 1 or not 0 <= min_score <= 1:
            raise ValueError(
                "expected top_k of at least 1, max_overlap and min_score between 0 and 1, found "
                f"{top_k}, {max_overlap} and {min_score}"
            )
        if constrain and generate_kwargs:
            raise ValueError(
                f"a search is no generation and takes no {', '.join(generate_kwargs)}: use constrain=False"
            )
        answer = search if constrain else self._writer(processor, read, None, {"max_new_tokens": 64} | generate_kwargs)
        form = "grounding" if constrain else None
        together = None if constrain else batch_size
        answers = self._answer(processor, video, query, prompt, form, window, answer, video_kwargs, progress, together)

        def best(merged: Answer) -> Answer:
            kept = [moment for moment in merged if moment.score is None or moment.score >= min_score]
            apart = distinct(kept, max_overlap, lambda moment: (moment.start, moment.end))
            return merged.of(itertools.islice(apart, top_k))

        return _mirror(video, query, [[best(one) for one in own] for own in answers], processor)

    @torch.no_grad()
    def dense_caption(
        self,
        processor,
        video,
        ordered: bool = True,
        window: float | None = None,
        constrain: bool = True,
        batch_size: int | None = None,
        prompt: str = CAPTION_PROMPT,
        video_kwargs: dict | None = None,
        progress: bool = False,
        max_new_tokens: int = 512,
        **generate_kwargs,
    ):
        """What happens when: all events with their texts, in order of time. `ordered=False` lets starts go back."""

        def of_state(job: _Job, state, tokens: list[int], text: str) -> Answer:
            ends = [found.first for found in state.found[1:]] + [len(tokens)]
            texts = [
                processor.tokenizer.decode(tokens[found.last : end], skip_special_tokens=True)
                for found, end in zip(state.found, ends, strict=True)
            ]
            return Answer(
                [
                    _moment(job, found, caption_of(words, processor.notation), found.log_prob)
                    for found, words in zip(state.found, texts, strict=True)
                ],
                text,
            )

        def read(job: _Job, text: str) -> Answer:
            return read_moments(text, processor.notation, job.window.metadata.length, job.window.metadata.unit)

        writer = self._writer(
            processor, read, of_state if constrain else None, generate_kwargs | {"max_new_tokens": max_new_tokens}
        )
        form = "captions" if constrain else None
        answers = self._answer(
            processor, video, None, prompt, form, window, writer, video_kwargs, progress, batch_size, ordered
        )
        for (answer,) in answers:
            answer.sort(key=lambda moment: (moment.start, moment.end))
        return _mirror(video, "", answers, processor)

    @torch.no_grad()
    def highlights(
        self,
        processor,
        video,
        query,
        window: float | None = None,
        constrain: bool = True,
        batch_size: int | None = None,
        prompt: str = HIGHLIGHTS_PROMPT,
        video_kwargs: dict | None = None,
        progress: bool = False,
        max_new_tokens: int = 512,
        **generate_kwargs,
    ):
        """The highlights for a query, as moments without length, most salient first; `score` is their saliency."""

        def of_state(job: _Job, state, tokens: list[int], text: str) -> Answer:
            moments = [
                replace(_moment(job, found, job.query, 0.0), score=saliency)
                for found, saliency in zip(state.found, state.scores, strict=False)
            ]
            return Answer(moments, text)

        def read(job: _Job, text: str) -> Answer:
            meta = job.window.metadata
            return read_highlights(text, processor.notation, meta.length, meta.unit, job.query)

        writer = self._writer(
            processor, read, of_state if constrain else None, generate_kwargs | {"max_new_tokens": max_new_tokens}
        )
        form = "highlights" if constrain else None
        answers = self._answer(
            processor, video, query, prompt, form, window, writer, video_kwargs, progress, batch_size
        )
        for own in answers:
            for answer in own:
                answer.sort(key=lambda moment: (-moment.score, moment.start))
        return _mirror(video, query, answers, processor)

    @torch.no_grad()
    def reply(
        self,
        processor,
        video,
        query,
        batch_size: int | None = None,
        video_kwargs: dict | None = None,
        progress: bool = False,
        **generate_kwargs,
    ):
        """Free answers to any questions: no moments, the answer's `text`."""
        writer = self._writer(processor, lambda job, text: Answer([], text), None, generate_kwargs)
        answers = self._answer(
            processor, video, query, "{query}", None, None, writer, video_kwargs, progress, batch_size
        )
        return _mirror(video, query, answers, processor)

    def _answer(
        self,
        processor,
        video,
        query,
        prompt: str,
        form: str | None,
        window: float | None,
        answer: Callable[[list[_Job]], Iterable[Answer]],
        video_kwargs: dict | None,
        progress: bool,
        batch_size: int | None,
        ordered: bool = False,
    ) -> list[list[Answer]]:
        """An answer for every query of every video, window after window."""
        videos, queries = _listed(video, query, processor)
        if any(map(any, queries)) and "{query}" not in prompt:
            raise ValueError(f"prompt: expected {{query}} where the query is to stand, found {prompt!r}")
        answers: list[list[list[Answer]]] = [[[] for _ in own] for own in queries]
        near = [0.0] * len(videos)

        def asked() -> Iterator[_Job]:
            for seen in self._watch(processor, videos, window, video_kwargs or {}, progress):
                meta = seen.metadata
                questions = [prompt.replace("{query}", escape(text)) for text in queries[seen.place]]
                prompts, prefix = processor.ask(questions, [meta] * len(questions))
                shape = form and AnswerForm(
                    processor.tokenizer, processor.notation, meta.length, meta.unit, form, ordered,
                    prompts[0][-8:], prefix, self.generation_config.eos_token_id,
                )  # fmt: skip
                for number, (text, written) in enumerate(zip(queries[seen.place], prompts, strict=True)):
                    yield _Job(seen, number, text, written, shape)

        for jobs in _together(asked(), batch_size):
            for job, one in zip(jobs, answer(jobs), strict=True):
                seen, moments = job.window, one
                one.length, one.unit = seen.whole, seen.metadata.unit
                if seen.length is not None:
                    near[seen.place] = seen.length / processor.video_processor.num_frames
                    moments = [moment.moved(seen.offset, seen.whole) for moment in one]
                answers[seen.place][job.number].append(one.of(moments))
        return [[_merged(one, gap) for one in own] for own, gap in zip(answers, near, strict=True)]

    def _watch(self, processor, videos: list, window: float | None, kwargs: dict, progress: bool) -> Iterator[_Window]:
        """Every video or window, encoded when it is asked for, unless it was before."""
        for place, video in enumerate(videos):
            if isinstance(video, Watched):
                if window is not None or kwargs:
                    raise ValueError("a video that was watched has its frames: window and video_kwargs go to `watch`")
                yield from (replace(one, place=place) for one in video.windows)
                continue
            if window is None:
                count, pieces = 1, [(video, None, 0.0, None)]
            else:
                options = {name: kwargs.get(name) for name in ("decoder", "num_frames")}
                if others := sorted(kwargs.keys() - options.keys()):
                    raise ValueError(f"windows are sampled evenly and take no {', '.join(others)} in video_kwargs")
                count, pieces = processor.video_processor.windows(video, window, **options)
            name = f"video {place + 1} of {len(videos)}"
            for frames, known, offset, whole in tqdm(pieces, name, count, unit="window", disable=not progress):
                given = dict(kwargs) if known is None else {"video_metadata": [known], "do_sample_frames": False}
                metadata, features = self._encode(processor, frames, **given)
                yield _Window(place, metadata, features, offset, whole or metadata.length, window)

    def _encode(self, processor, frames, **video_kwargs) -> tuple:
        """A video's metadata, and all that the language model is ever given of it."""
        inputs, _ = processor._process_videos([frames], **video_kwargs, return_tensors="pt")
        metadata = inputs.pop("video_metadata")[0]
        inputs = {name: torch.as_tensor(value).to(self.device) for name, value in inputs.items()}
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.dtype)
        return metadata, self.get_video_features(**inputs, return_dict=True).pooler_output[0]

    def _video_inputs(self, input_ids: torch.Tensor, features: list) -> dict:
        """What `forward` is given of the videos in these prompts; with `position_ids` where places aren't counted."""
        return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tuple(features))}}

    def _writer(self, processor, read, of_state, generate_kwargs: dict) -> Callable[[list[_Job]], Iterator[Answer]]:
        """Lets `generate` write the answers; held to their form if `of_state` can read it, else free."""
        if generate_kwargs.get("return_dict_in_generate"):
            raise ValueError("the answers are moments: return_dict_in_generate has no meaning here")

        def write(jobs: list[_Job]) -> Iterator[Answer]:
            inputs = processor.tokenizer(
                [job.prompt for job in jobs], padding=True, padding_side="left", return_tensors="pt"
            ).to(self.device)
            settings = dict(generate_kwargs)
            if of_state:
                held = TimeLogitsProcessor([job.form for job in jobs], settings.get("max_new_tokens"))
                settings["logits_processor"] = LogitsProcessorList([*settings.get("logits_processor", ()), held])
            sequences = self.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                **self._video_inputs(inputs["input_ids"], [job.window.features for job in jobs]),
                **settings,
            )
            if len(sequences) != len(jobs):
                raise ValueError(f"expected one answer per question, found {len(sequences)} for {len(jobs)}")
            states = held.states(sequences) if of_state else [None] * len(jobs)
            for job, state, row in zip(jobs, states, sequences.tolist(), strict=True):
                tokens = row[inputs["input_ids"].shape[1] :]
                text = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
                if of_state and state is None:
                    raise RuntimeError(f"a generation left the form of its answers: {text!r}")
                yield of_state(job, state, tokens, text) if of_state else read(job, text)

        return write


def _together(jobs: Iterator[_Job], batch_size: int | None) -> Iterator[list[_Job]]:
    """So many questions at a time, or those about one window."""
    if batch_size is None:
        yield from (list(own) for _, own in itertools.groupby(jobs, key=lambda job: job.window))
        return
    while batch := list(itertools.islice(jobs, batch_size)):
        yield batch


def _moment(job: _Job, found, text: str, log_prob: float) -> Moment:
    return Moment.at(job.form.positions(found), job.window.metadata.length, text, math.exp(log_prob))


def _merged(windows: list[Answer], near: float) -> Answer:
    """One answer out of those of a video's windows."""
    if len(windows) == 1:
        return windows[0]
    failures = [answer.failure for answer in windows]
    return Answer(
        merge_windows(windows, near),
        "\n".join(answer.text for answer in windows),
        failures[0] if None not in failures else None,
        all(answer.proven for answer in windows),
        windows[0].length,
        windows[0].unit,
    )


def _listed(video, query, processor) -> tuple[list, list[list[str]]]:
    """Videos and queries as lists: the queries of each video."""
    videos = [video] if _is_single(video, processor) else list(video)
    if not videos:
        raise ValueError("expected at least one video, found an empty list")
    if query is None or isinstance(query, str):
        return videos, [[query or ""] for _ in videos]
    queries = list(query)
    if len({isinstance(one, str) for one in queries}) > 1:
        raise ValueError("expected a list of queries or a list of lists, one per video, found both in one")
    if all(isinstance(one, str) for one in queries):
        queries = [queries for _ in videos]
    if len(queries) != len(videos) or not all(queries):
        counts = [len(own) for own in queries]
        raise ValueError(f"expected at least one query for each of {len(videos)} videos, found {counts}")
    return videos, [list(own) for own in queries]


def _mirror(video, query, answers: list[list[Answer]], processor):
    """Answers in the nesting of the videos and queries that were given."""
    inner = [own[0] for own in answers] if isinstance(query, str) else answers
    return inner[0] if _is_single(video, processor) else inner


def _is_single(video, processor) -> bool:
    return isinstance(video, Watched) or processor.video_processor.is_single(video)
