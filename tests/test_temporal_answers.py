"""`ground`, `dense_caption` and `highlights` on tiny random models and real video files."""

import copy
import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from examples.make_tiny_model import make_tiny_model
from modeling_seq2time import escape, failure_rate, render, temporal_answers
from modeling_seq2time.answer_scores import AnswerRows, AnswerTree, next_scores
from modeling_seq2time.video_decoding import decord, torchcodec
from modeling_seq2time.video_processing_seq2time import window_spans
from tests.videos import read_number, write_video


FAST = {"search_steps": 64, "video_kwargs": {"num_frames": 8}}
NOTATIONS = ["rpt", "text", "bins", "absolute", "percent"]


def check(moments, length, resolution=0.0):
    for moment in moments:
        assert 0 <= moment.start <= moment.end <= length + resolution
        assert moment.position == pytest.approx((moment.start / length, moment.end / length), abs=1e-6)


@pytest.mark.parametrize("name", NOTATIONS)
def test_every_notation_answers_every_question(tiny, video, name):
    model, processor = tiny("timechat", time_notation=name)
    moments = model.ground(processor, video, "a door opens", top_k=3, **FAST)
    assert len(moments) == 3
    assert len({(moment.start, moment.end) for moment in moments}) == 3
    assert [moment.score for moment in moments] == sorted((moment.score for moment in moments), reverse=True)
    assert all(0 < moment.score <= 1 and moment.text == "a door opens" for moment in moments)
    check(moments, 4.8)
    events = model.dense_caption(processor, video, max_new_tokens=90, video_kwargs={"num_frames": 8})
    assert events
    assert [event.start for event in events] == sorted(event.start for event in events)
    assert all(event.text and 0 < event.score <= 1 for event in events)
    check(events, 4.8)
    peaks = model.highlights(processor, video, "a door opens", video_kwargs={"num_frames": 8})
    assert peaks
    assert all(peak.start == peak.end and 0 <= peak.score <= 4 for peak in peaks)
    check(peaks, 4.8)


def test_results_mirror_videos_and_queries(tiny, video):
    model, processor = tiny("timechat")
    one = model.ground(processor, video, "a", **FAST)
    for given, queries, pick in (
        (video, ["a", "b"], lambda found: found[0]),
        ([video, video], "a", lambda found: found[1]),
        ([video, video], ["b", "a"], lambda found: found[0][1]),
        ([video, video], [["b"], ["c", "a"]], lambda found: found[1][1]),
    ):
        assert pick(model.ground(processor, given, queries, **FAST))[0].start == one[0].start
    assert len(model.dense_caption(processor, [video, video], max_new_tokens=40)) == 2
    for given, queries, message in (
        ([], "a", "at least one video, found an empty list"),
        (video, [], r"at least one query for each of 1 videos, found \[0\]"),
        ([video, video], [["a"]], r"at least one query for each of 2 videos, found \[1\]"),
        ([video, video], ["abc", ["d"]], "a list of queries or a list of lists, one per video, found both"),
    ):
        with pytest.raises(ValueError, match=message):
            model.ground(processor, given, queries, **FAST)


def test_a_video_is_encoded_once(tiny, video, monkeypatch):
    model, processor = tiny("timechat")
    calls = []
    encode = type(model).get_video_features
    monkeypatch.setattr(
        type(model), "get_video_features", lambda self, *a, **k: calls.append(1) or encode(self, *a, **k)
    )
    together = model.ground(processor, video, ["one", "a second query", "3"], top_k=2, **FAST)
    assert len(calls) == 1
    for query, found in zip(["one", "a second query", "3"], together, strict=True):
        alone = model.ground(processor, video, query, top_k=2, **FAST)
        assert [moment.score for moment in alone] == pytest.approx([moment.score for moment in found], rel=1e-3)
    calls.clear()
    model.highlights(processor, [video, video], ["one", "two"], max_new_tokens=60)
    assert len(calls) == 2


@torch.no_grad()
def test_scores_are_the_models_own(tiny, video):
    """The prompt of `ground`, run through the model as any other prompt, gives the same probability."""
    model, processor = tiny("timechat", time_notation="bins")
    (moment,) = model.ground(
        processor, video, "x", search_steps=1024, video_kwargs={"num_frames": 8}, prompt="When: {query}"
    )
    chat = [{"role": "user", "content": [{"type": "video", "video": str(video)}, {"type": "text", "text": "When: x"}]}]
    text = processor.apply_chat_template(chat) + " From "
    times = [processor.notation.encode(position) for position in moment.position]
    inputs = processor(text=f"{text}{times[0]} to {times[1]}", videos=str(video), num_frames=8, return_tensors="pt")
    log_probs = model(**inputs).logits[0, :-1].log_softmax(dim=-1)
    ids = inputs["input_ids"][0, 1:]
    written = [place for place, token in enumerate(ids.tolist()) if token in model.config.time_token_ids][-2:]
    total = sum(log_probs[place, ids[place]].item() for place in written)
    assert moment.score == pytest.approx(np.exp(total), rel=1e-3)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 400, "eos_token_id": 2}
OTHERS = {
    "qwen2": SMALL | {"intermediate_size": 64, "num_key_value_heads": 2},
    "gpt2": SMALL,
    "opt": SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32},
}


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_language_models(video, model_type):
    model, processor = make_tiny_model("timechat", text_config={"model_type": model_type} | OTHERS[model_type])
    assert len(model.ground(processor, video, ["a", "b c"], top_k=2, **FAST)[1]) == 2
    assert model.dense_caption(processor, video, max_new_tokens=40)


WITHOUT_TREES = {  # windows, or places that are counted by keys
    "mistral": OTHERS["qwen2"] | {"sliding_window": 8},
    "gpt_neo": SMALL
    | {"num_layers": 2, "num_heads": 4, "window_size": 8, "attention_types": [[["global", "local"], 1]]},
    "bloom": SMALL | {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 400, "eos_token_id": 2},
    "falcon": SMALL | {"alibi": True, "new_decoder_architecture": False},
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("model_type", "attention"),
    [
        *itertools.product([*OTHERS, "mistral", "falcon"], ["sdpa", "eager"]),
        *itertools.product(["gpt_neo", "bloom", "mpt"], ["eager"]),
    ],
)
def test_answers_begun_score_as_they_do_alone(video, model_type, attention):
    """As a tree, or as rows."""
    text = {"model_type": model_type} | (OTHERS | WITHOUT_TREES)[model_type]
    model, processor = make_tiny_model("timechat", text_config=text, attn_implementation=attention)
    assert model.config.text_config._attn_implementation == attention
    (window,) = model.watch(processor, video, video_kwargs={"num_frames": 8}).windows
    prompts, _ = processor.ask(["When is it?", "And this?"], [window.metadata] * 2)
    ids = processor.tokenizer(prompts)["input_ids"]
    calls = [[(7,)], [(7, 8, 9), (7, 5), (4, 8, 9)], [(7, 5, 6), (4,), (7, 8, 9)]]
    for prompt, scores in zip(ids, next_scores(model, window.features, ids, width=2), strict=True):
        assert isinstance(scores, AnswerRows if model_type in WITHOUT_TREES else AnswerTree)
        for answers in calls:
            for answer, found in zip(answers, scores(answers), strict=True):
                whole = torch.tensor([[*prompt, *answer]])
                inputs = model._video_inputs(whole, [window.features])
                assert found == pytest.approx(model(input_ids=whole, **inputs).logits[0, -1], abs=1e-5)


def test_image_sequences_have_places(tiny):
    images = [np.full((20, 30, 3), 20 * number, np.uint8) for number in range(7)]
    for name in NOTATIONS:
        model, processor = tiny("timechat", time_notation=name)
        (moment,) = model.ground(processor, images, "a red image", search_steps=64)
        assert 1 <= moment.start <= moment.end <= 7
        if name != "percent":
            assert moment.start == round(moment.start), "a place, not something between two"
        check(model.dense_caption(processor, images, max_new_tokens=50), 7)


def test_absent_events(tiny, video):
    model, processor = tiny("timechat")
    answer = model.ground(processor, video, "a unicorn", min_score=0.5, **FAST)
    assert answer == []
    assert answer.failure is None, "no event is an answer, not a failure"


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"max_overlap": -0.1}, {"min_score": float("nan")}])
def test_settings_out_of_range(tiny, video, settings):
    model, processor = tiny("timechat")
    with pytest.raises(ValueError, match="expected top_k of at least 1, max_overlap and min_score between 0 and 1"):
        model.ground(processor, video, "a", **settings)


def test_a_search_that_stops_early_says_so(tiny, video):
    model, processor = tiny("timechat")
    assert not model.ground(processor, video, "a", **FAST).proven
    model, processor = tiny("timechat", time_notation="bins")
    assert model.ground(processor, video, "a", search_steps=1024, video_kwargs={"num_frames": 8}).proven


def test_free_answers_are_read_and_their_failures_counted(tiny, video):
    model, processor = tiny("timechat", time_notation="text")
    answers = model.ground(processor, video, ["a", "b", "c"], constrain=False, max_new_tokens=20)
    assert failure_rate(answers) == 1.0, "a random model names no times"
    assert all(answer.text and not answer for answer in answers)
    short = model.dense_caption(processor, video, constrain=False, max_new_tokens=2)
    assert short.failure == "no start and end"
    assert model.highlights(processor, video, "a", constrain=False, max_new_tokens=2).failure
    with pytest.raises(ValueError, match="a search is no generation and takes no do_sample"):
        model.ground(processor, video, "a", do_sample=True)


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True, "top_p": 0.8}], ids=["beams", "sampling"])
def test_generation_can_be_chosen(tiny, video, settings):
    model, processor = tiny("timechat")
    torch.manual_seed(0)
    check(model.dense_caption(processor, [video, video], max_new_tokens=60, **settings)[1], 4.8)
    with pytest.raises(ValueError, match="expected one answer per question, found 2 for 1"):
        model.dense_caption(processor, video, max_new_tokens=40, num_beams=2, num_return_sequences=2)
    with pytest.raises(ValueError, match="max_new_tokens=5 leaves no room for an answer"):
        model.dense_caption(processor, video, max_new_tokens=5)


def test_prompts_are_those_of_the_processor(tiny, video, prompt):
    _, processor = tiny("timechat")
    whole = processor.apply_chat_template(prompt(str(video)), tokenize=True, return_dict=True)
    prompts, prefix = processor.ask(["When does the door open?"], whole["video_metadata"])
    assert processor.tokenizer(prompts[0])["input_ids"] == whole["input_ids"][0]
    assert prefix == " "


def test_questions_are_plain_text(tiny, video, monkeypatch):
    """Braces, time tokens and marks in a query stay what they are."""
    model, processor = tiny("timechat")
    query = "press {query} <7> at [[7/96 image]] {0}"
    ask, prompts = type(processor).ask, []
    monkeypatch.setattr(type(processor), "ask", lambda *given: prompts.append(ask(*given)) or prompts[-1])
    (moment,) = model.ground(processor, video, query, prompt="At [[1.2/4.8 s]], when {query}? {", **FAST)
    assert moment.text == query
    assert prompts[0][0][0].endswith("At <2><5><0><0>, when press {query} <\\7> at [[7/96 image]] {0}? { [/INST]")
    metadata = processor(text="<video>", videos=str(video))["video_metadata"]
    (asked,), _ = processor.ask(["At [[1.2/4.8 s]] <7>"], metadata)
    assert asked.endswith("At <2><5><0><0> <\\7> [/INST]")
    with pytest.raises(ValueError, match="a question can't hold the video's placeholder <video>"):
        model.ground(processor, video, "a <video>", **FAST)
    with pytest.raises(ValueError, match=r"prompt: expected \{query\} where the query is to stand, found 'When\?'"):
        model.ground(processor, video, "a video", prompt="When?", **FAST)
    assert model.ground(processor, video, "", prompt="When?", **FAST), "a whole question needs no query"


# Long videos


def test_window_spans():
    assert window_spans(10.0, 20.0) == [(0.0, 10.0)]
    for duration, length in ((30.0, 20.0), (1800.0, 60.0), (61.0, 60.0), (100.0, 33.0)):
        spans = window_spans(duration, length)
        assert spans[0][0] == 0
        assert spans[-1][1] == pytest.approx(duration)
        for (start, end), (following, _) in itertools.pairwise(spans):
            assert end - start == pytest.approx(length)
            assert following <= end - length / 2 + 1e-9, "neighbours share half"


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_windows_see_their_own_frames(tiny, tmp_path, decoder):
    if decoder == "decord" and decord is None:
        pytest.skip("decord is not installed")
    video = write_video(tmp_path / "long.mp4", 500, fps=10, size=(96, 128))
    _, processor = tiny("timechat")
    processor = copy.copy(processor)
    processor.video_processor = copy.copy(processor.video_processor)
    processor.video_processor.size = {"height": 96, "width": 128}
    seen = []
    count, windows = processor.video_processor.windows(video, 20.0, decoder, 5)
    assert count == 4
    for frames, metadata, start, whole in windows:
        assert whole == pytest.approx(50.0)
        assert metadata["duration"] == pytest.approx(20.0)
        assert metadata["times"] == pytest.approx([0, 4, 8, 12, 16])
        assert [read_number(frame) for frame in frames] == [round((start + time) * 10) for time in metadata["times"]]
        seen.append(start)
    assert seen == [0, 10, 20, 30]


@pytest.mark.skipif(torchcodec is None, reason="torchcodec is not installed, or finds no FFmpeg")
def test_windows_need_the_times_of_frames(tiny, video):
    _, processor = tiny("timechat")
    _, windows = processor.video_processor.windows(video, 2.0, "torchcodec")
    with pytest.raises(ValueError, match="torchcodec has no list of frame times; use decoder 'pyav' or 'decord'"):
        next(windows)


def test_windows_of_a_long_video_are_merged(tiny, tmp_path):
    video = write_video(tmp_path / "long.mp4", 300, fps=5)
    model, processor = tiny("timechat", time_notation="bins")
    plain = model.ground(processor, video, "a", top_k=2, video_kwargs={"num_frames": 8})
    windowed = model.ground(processor, video, "a", top_k=2, video_kwargs={"num_frames": 8}, window=60.0)
    assert [(one.start, one.end, one.score) for one in plain] == [(one.start, one.end, one.score) for one in windowed]
    moments = model.ground(processor, video, "a", top_k=50, window=20.0, video_kwargs={"num_frames": 8})
    assert [moment.score for moment in moments] == sorted((moment.score for moment in moments), reverse=True)
    assert len(moments) == 50 and max(moment.end for moment in moments) > 50, "the last window is among them"
    check(moments, 60.0)
    events = model.dense_caption(processor, video, window=20.0, max_new_tokens=60)
    assert [event.start for event in events] == sorted(event.start for event in events)
    assert max(event.end for event in events) >= 40, "beyond the first windows"
    check(events, 60.0)
    check(model.highlights(processor, video, "a", window=20.0), 60.0)
    apart = model.ground(processor, video, "a", top_k=9, max_overlap=0.0, window=20.0, video_kwargs={"num_frames": 8})
    spans = sorted((moment.start, moment.end) for moment in apart)
    assert all(end <= following for (_, end), (following, _) in itertools.pairwise(spans))
    with pytest.raises(ValueError, match="take no fps in video_kwargs"):
        model.ground(processor, video, "a", window=20.0, video_kwargs={"fps": 2})
    with pytest.raises(ValueError, match="windows are cut out of a video file or reader, found ndarray"):
        model.ground(processor, np.zeros((9, 8, 8, 3), np.uint8), "a", window=2.0)
    with pytest.raises(ValueError, match="a window's length must be above 0 seconds, found -1"):
        model.ground(processor, video, "a", window=-1.0)


def test_a_picture_that_stands_still_is_in_every_window(tiny, tmp_path):
    """A screen recording has no frames where nothing changes."""
    times = [*range(0, 2000, 100), *range(60_000, 62_000, 100)]
    video = write_video(tmp_path / "gap.mp4", len(times), times=times)
    model, processor = tiny("timechat")
    _, windows = processor.video_processor.windows(video, 10.0)
    seen = [(start, len(frames), metadata["times"][0]) for frames, metadata, start, _ in windows]
    assert {(count, time) for start, count, time in seen if 3 < start < 49} == {(1, 0.0)}
    answer = model.ground(processor, video, "a", window=10.0, **FAST)
    check(answer, answer.length)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tiny, tmp_path):
    """Half an hour takes hardly more than five minutes: what grows is the index of packets."""
    model, processor = tiny("timechat")
    peaks = []
    for minutes in (5, 5, 30):  # the first run pays for what is made once
        video = write_video(tmp_path / f"{minutes}.mp4", minutes * 60 * 2, fps=2, options={"g": "40"})
        tracemalloc.start()
        answer = model.ground(processor, video, "a", window=60.0, search_steps=1, video_kwargs={"num_frames": 16})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        check(answer, minutes * 60)
    index = 25 * 60 * 2 * 400  # bytes
    assert peaks[2] < peaks[1] + index, peaks


def test_a_watched_video_answers_as_the_video(tiny, video, tmp_path, monkeypatch):
    model, processor = tiny("timechat")
    other = write_video(tmp_path / "other.mp4", 60)
    encoded, encode = [], model.get_video_features
    monkeypatch.setattr(model, "get_video_features", lambda **inputs: encoded.append(1) or encode(**inputs))
    settings = {"video_kwargs": {"num_frames": 8}}
    for window in (None, 2.0):
        encoded.clear()
        watched = model.watch(processor, [video, other], window=window, **settings)
        count = len(encoded)
        assert count == (2 if window is None else sum(len(window_spans(length, 2.0)) for length in (4.8, 2.4)))
        asked = [["a door opens", "a dog barks"], ["a door opens"]]
        found = model.ground(processor, watched, asked, top_k=3, search_steps=16)
        events = model.dense_caption(processor, watched, max_new_tokens=40)
        single = model.ground(processor, watched[1], "a door opens", top_k=3, search_steps=16)
        assert len(encoded) == count
        options = settings | {"window": window}
        assert found == model.ground(processor, [video, other], asked, top_k=3, search_steps=16, **options)
        assert events == model.dense_caption(processor, [video, other], max_new_tokens=40, **options)
        assert single == found[1][0] and single.length == 2.4
    with pytest.raises(ValueError, match="window and video_kwargs go to `watch`"):
        model.ground(processor, watched, "a door opens", window=2.0)


def test_moments_of_windows_are_merged_if_they_are_a_frame_apart(tiny, video, monkeypatch):
    model, processor = tiny("timechat")
    merge, gaps = temporal_answers.merge_windows, []
    monkeypatch.setattr(temporal_answers, "merge_windows", lambda found, near: gaps.append(near) or merge(found, near))
    watched = model.watch(processor, video, window=2.4, video_kwargs={"num_frames": 8})
    model.highlights(processor, [watched, video], "a door opens", max_new_tokens=90, window=None)
    assert gaps == [2.4 / model.config.num_frames]  # the other was seen whole


@pytest.mark.parametrize("constrain", [True, False])
def test_answers_of_several_videos_are_written_together(tiny, video, tmp_path, monkeypatch, constrain):
    model, processor = tiny("timechat")
    videos = [video, write_video(tmp_path / "short.mp4", 30), write_video(tmp_path / "other.mp4", 60)]
    rows, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **given: rows.append(len(given["input_ids"])) or generate(**given))
    settings = {"constrain": constrain, "max_new_tokens": 90, "video_kwargs": {"num_frames": 8}, "do_sample": False}
    asked = [["a door", "a dog barks loudly"], ["a door"], ["a cat"]]
    alone = model.highlights(processor, videos, asked, **settings)
    assert rows == [2, 1, 1]
    for size, expected in ((3, [3, 1]), (8, [4]), (1, [1, 1, 1, 1])):
        rows.clear()
        assert model.highlights(processor, videos, asked, batch_size=size, **settings) == alone
        assert rows == expected
    together = model.dense_caption(processor, videos, batch_size=2, **settings)
    assert [one.text for one in together] == [one.text for one in model.dense_caption(processor, videos, **settings)]
    assert [one.length for one in together] == [4.8, 1.2, 2.4]


def test_free_replies_are_what_generate_writes(tiny, video, prompt):
    model, processor = tiny("timechat")
    settings = {"max_new_tokens": 12, "do_sample": False}
    questions = ["What colour is it?\nA. red\nB. blue", "Is [[3/4 s]] a <1>?"]
    answers = model.reply(processor, video, questions, video_kwargs={"num_frames": 8}, **settings)
    assert all(not answer and answer.failure is None for answer in answers)
    for question, answer in zip(questions, answers, strict=True):
        chat = prompt(str(video), render(escape(question), processor.notation))
        inputs = processor.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
            processor_kwargs={"num_frames": 8},
        )  # fmt: skip
        tokens = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
        assert answer.text == processor.decode(tokens, skip_special_tokens=True).strip()
    assert (
        model.reply(processor, video, questions[0], video_kwargs={"num_frames": 8}, **settings).text == answers[0].text
    )
