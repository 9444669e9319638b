"""What is learned, and that training reads the ids that the model is asked with. TimeChat's rule is told anew here."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from dataset_scripts.items import DataError
from examples.make_tiny_model import make_qformer_tokenizer
from modeling_seq2time import Seq2TimeProcessor
from modeling_seq2time.answer_form import AnswerForm
from modeling_seq2time.time_notation import escape, get_notation, render, worded
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata
from tests.training import TINY
from train.conversation import IGNORED, as_chat, encode


LLAMA = Path(__file__).parent / "data/timechat_tiny/llama"
NOTATIONS = ("rpt", "text", "bins", "absolute", "percent")
TURNS = [
    {"role": "user", "content": "When does é 日本 happen, before [[1.2/4.8 s]] seconds? </v> [ /INST]"},
    {"role": "assistant", "content": "In [[1.2/4.8 s]] - [[2.4/4.8 s]] seconds,  日本 [/ INST] ]."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "[[3.6/4.8 s]], yes.\n"},
]
VIDEO = {"times": [0.0, 1.2, 2.4, 3.6], "duration": 4.8, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}


@pytest.fixture(scope="session")
def processors(tiny):
    """`processors(tokenizer, notation)`: the toy tokenizer, or LLaMA's folder, silent about `legacy` or not."""

    def get(name, notation="rpt"):
        model, processor = tiny("timechat", **TINY, time_notation=notation)
        if name == "toy":
            return processor
        options = {} if name == "llama" else {"legacy": name == "llama legacy"}
        tokenizer = AutoTokenizer.from_pretrained(LLAMA, **options)
        return Seq2TimeProcessor.from_config(model.config, tokenizer, make_qformer_tokenizer())

    return get


def encoded(processor, turns, **video):
    ((ids, labels),) = encode(processor, [as_chat(processor, turns, Seq2TimeVideoMetadata(**VIDEO | video))])
    return ids, labels


def by_timechats_rule(tokenizer, ids):
    """A token is learned unless it, or one before it in its turn, belongs to the question up to `[/INST]`."""
    labels, start, answering = [], 0, False
    for place, one in enumerate(ids):
        labels.append(one if answering else IGNORED)
        text = tokenizer.decode(ids[start : place + 1], clean_up_tokenization_spaces=False)
        if not answering and text.endswith("[/INST]"):
            answering = True
        elif one == tokenizer.eos_token_id:
            start, answering = place + 1, False
    return labels


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("name", ["toy", "llama", "llama legacy", "llama not legacy"])
def test_answers_are_learned_and_nothing_else(processors, name, notation):
    processor = processors(name, notation)
    ids, labels = encoded(processor, TURNS)
    assert labels == by_timechats_rule(processor.tokenizer, ids)
    learned = [label for label in labels if label != IGNORED]
    assert learned.count(processor.tokenizer.eos_token_id) == 2
    answers = [render(worded(turn["content"], notation), notation) for turn in TURNS[1::2]]
    if name == "toy":
        assert processor.decode(learned) == "".join(f" {answer} </s>" for answer in answers)
    else:
        assert processor.tokenizer.convert_ids_to_tokens(learned[-2:]) == ["▁", "</s>"]
    assert ids[0] == processor.tokenizer.bos_token_id and ids.count(ids[0]) == 2


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("name", ["toy", "llama", "llama legacy", "llama not legacy"])
def test_the_ids_are_those_the_model_is_asked_with(processors, name, notation):
    """Token by token, for the first question and for the second one after the first answer."""
    processor = processors(name, notation)
    ids, labels = encoded(processor, TURNS)
    told = [{"role": turn["role"], "content": render(turn["content"], notation)} for turn in TURNS]
    for turn, stored in zip(told[1::2], TURNS[1::2], strict=True):
        turn["content"] = render(worded(stored["content"], notation), notation)
    told[0]["content"] = [{"type": "video"}, {"type": "text", "text": told[0]["content"]}]
    video = {"videos": [np.zeros((4, 8, 8, 3), np.uint8)], "video_metadata": [VIDEO], "do_sample_frames": False}
    for turns in (1, 3):
        prompt = processor.apply_chat_template(told[:turns], add_generation_prompt=True)
        asked = processor(text=prompt, **video)["input_ids"][0]
        assert ids[: len(asked)] == asked
        assert labels[len(asked) - 1] == IGNORED and labels[len(asked)] == ids[len(asked)]
    whole = processor(text=processor.apply_chat_template(told), **video)
    assert ids == whole["input_ids"][0]
    (prompt,), _ = processor.ask([TURNS[0]["content"]], [Seq2TimeVideoMetadata(**VIDEO)])
    asked = processor.tokenizer(prompt)["input_ids"]
    assert ids[: len(asked)] == asked


@pytest.mark.parametrize("notation", NOTATIONS)
def test_what_is_trained_is_what_constrained_decoding_says(processors, notation):
    """Answers of our sets, token by token, in the form that `ground` and `dense_caption` hold a model to."""
    processor = processors("toy", notation)
    told = {
        "grounding": "The given query happens in [[1.2/4.8 s]] - [[2.4/4.8 s]] seconds.",
        "captions": "[[0/4.8 s]] - [[1.2/4.8 s]] seconds, a door. [[1.2/4.8 s]] - [[4.8/4.8 s]] seconds, a cat!",
    }
    for form, answer in told.items():
        _, labels = encoded(processor, [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}])
        spoken = AnswerForm(processor.tokenizer, processor.notation, 4.8, form=form)
        state = spoken.begin()
        learned = [label for label in labels if label != IGNORED]
        if form == "grounding":
            learned.pop(-2)  # the template's space before the end
        for token in learned:
            state = spoken.advance(state, token)
            assert state is not None, (form, processor.tokenizer.decode([token]))
        assert len(state.found) == (1 if form == "grounding" else 2)


@pytest.mark.parametrize(
    ("stored", "bins"),
    [
        ("The given query happens in [[3/30 s]] - [[6/30 s]] seconds.", "From <bin_30> to <bin_60>."),
        (
            "The given query happens in [[3/30 s]] - [[6/30 s]], [[9/30 s]] - [[12/30 s]] seconds.",
            "From <bin_30> to <bin_60>, <bin_90> to <bin_120>.",
        ),
        (
            "[[0/30 s]] - [[3/30 s]] seconds, a door opens. [[3/30 s]] - [[30/30 s]] seconds, a cat.",
            "From <bin_0> to <bin_30>, a door opens. From <bin_30> to <bin_300>, a cat.",
        ),
        ("A cat. [[3/30 s]] - [[6/30 s]]", "A cat. From <bin_30> to <bin_60>"),
        ("At [[3/30 s]] seconds - no span", "At <bin_30> - no span"),
        (escape("[[3/30 s]] - [[6/30 s]]"), "[[3/30 s]] - [[6/30 s]]"),
    ],
)
def test_answers_are_in_the_words_of_the_notation(stored, bins):
    """Grounding, several windows, dense captions, an answer with its evidence, no span at all, text like one."""
    assert render(worded(stored, "bins"), "bins") == bins
    for name in ("rpt", "text", "absolute"):
        assert worded(stored, get_notation(name)) == stored


def test_image_sequences_are_told_by_places(processors):
    processor = processors("toy", "text")
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "[[2/4 image]]"}]
    ids, _ = encoded(processor, turns, times=None, duration=None)
    assert processor.decode(ids).endswith(
        "</Video> The video contains 4 frames numbered 1, 2, 3, 4. Where? [/INST] 2 </s>"
    )


def test_plain_text_stays_plain(processors):
    """What looks like a mark or like a time token, and is none."""
    processor = processors("toy")
    content = escape("[[7/96 image]] and <7>")
    _, labels = encoded(processor, [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}])
    learned = processor.decode([label for label in labels if label != IGNORED])
    assert learned == " [[7/96 image]] and <\\7> </s>"
    assert processor.tokenizer.convert_tokens_to_ids("<7>") not in labels


def test_a_batch_is_encoded_as_each_alone(processors):
    processor = processors("llama")
    chats = [as_chat(processor, turns, Seq2TimeVideoMetadata(**VIDEO)) for turns in (TURNS, TURNS[:2], TURNS[2:])]
    assert encode(processor, chats) == [encode(processor, [chat])[0] for chat in chats]


def test_a_question_without_answer_has_no_label(processors):
    _, labels = encoded(processors("toy"), TURNS[:1])
    assert set(labels) == {IGNORED}


class WithOffsets:
    """The processor with a tokenizer that gives other offsets."""

    def __init__(self, processor, change):
        self.chat_template, self.tokenizer, self.change = processor.chat_template, self, change
        self.special_tokens_map, self.inner = processor.tokenizer.special_tokens_map, processor.tokenizer

    def __call__(self, texts, **kwargs):
        found = self.inner(texts, **kwargs)
        rows = zip(texts, found["offset_mapping"], strict=True)
        found["offset_mapping"] = [[self.change(text, *span) for span in spans] for text, spans in rows]
        return found


def test_offsets_that_leave_out_spaces(processors):
    """Tokenizers of GPT-2's family may say that ` yes` begins at its y, and that a space takes no room."""
    processor = processors("toy")
    chat = as_chat(processor, TURNS, Seq2TimeVideoMetadata(**VIDEO))
    trimming = WithOffsets(processor, lambda text, start, end: (end - len(text[start:end].lstrip()), end))
    assert encode(trimming, [chat]) == encode(processor, [chat])


def test_tokens_at_the_edge_of_an_answer(processors):
    """What belongs to the question in part isn't learned, nor what takes no room between question and answer."""
    processor = processors("toy")
    chat = as_chat(processor, TURNS, Seq2TimeVideoMetadata(**VIDEO))
    ((ids, labels),) = encode(processor, [chat])
    edges = [place for place, one in enumerate(labels[1:], 1) if one != IGNORED == labels[place - 1]]
    merged = WithOffsets(
        processor, lambda text, start, end: (start - 1, end) if text[:start].endswith("[/INST]") else (start, end)
    )
    expected = [IGNORED if place in edges else one for place, one in enumerate(labels)]
    assert len(edges) == 2 and encode(merged, [chat]) == [(ids, expected)]
    empty = WithOffsets(
        processor, lambda text, start, end: (end, end) if text[:end].endswith("[/INST]") else (start, end)
    )
    assert encode(empty, [chat]) == [(ids, labels)]


@pytest.mark.parametrize("token", ["<video>", "</s>", "<s>", "<unk>"])
@pytest.mark.parametrize("turn", [0, 1, 3])
def test_special_tokens_in_a_message_are_refused(processors, token, turn):
    turns = [dict(one) for one in TURNS]
    turns[turn]["content"] = f"a {token} b"
    with pytest.raises(DataError, match=f"expected no {token} in a message, found 'a {token} b'"):
        encoded(processors("llama"), turns)


def test_a_time_that_cannot_be_written_is_bad_data(processors):
    late = {"times": [0.0, 5_000.0, 10_000.0, 15_000.0], "duration": 20_000.0}
    with pytest.raises(DataError, match="notation 'absolute' has four digits before the dot, found 10000.0"):
        encoded(processors("toy", "absolute"), TURNS, **late)
    turns = [TURNS[0], {"role": "assistant", "content": "[[10001/20000 s]]"}]
    with pytest.raises(DataError, match="'absolute' has four digits before the dot, found 10001.0"):
        encoded(processors("toy", "absolute"), turns)
    encoded(processors("toy", "rpt"), turns, **late)
