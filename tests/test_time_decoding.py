"""Whatever a model wants to say, its times are legal: thousands of answers out of random scores and random models."""

import functools
import math
import zlib

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from examples.make_tiny_model import make_tokenizer
from modeling_seq2time import AnswerForm, TimeLogitsProcessor, get_notation
from modeling_seq2time.answer_form import FORMS, TimeTree, TokenTexts
from modeling_seq2time.moments import read_grounding, read_highlights, read_moments
from modeling_seq2time.time_notation import NOTATIONS, time_tokens
from tests.vocabularies import gpt2_like, llama_like


CASES = [
    (name, form)
    for name in NOTATIONS
    for form in FORMS
    if get_notation(name).tokens or form not in ("moments", "times")
]
TEMPTING = {*"0123456789.-–!?<>_bin", "to", "From", "and", "TIME", "F", "r", "o", "m", ""}


FAMILIES = {
    "tiny": make_tokenizer,
    "gpt2": gpt2_like,
    "llama": functools.partial(llama_like, legacy=False),
    "llama, legacy": functools.partial(llama_like, legacy=True),
}


def setting(name, family="tiny", **options):
    notation, tokenizer = get_notation(name, **options), FAMILIES[family]()
    tokenizer.add_tokens(time_tokens(notation))
    return notation, tokenizer


def tempting(tokenizer):
    """Tokens out of which text could spell something like a time."""
    texts = TokenTexts.of(tokenizer).texts
    return [token for token, text in enumerate(texts) if token > 2 and (text.strip() in TEMPTING or "<" in text)]


def write(processor, tokenizer, rows, tokens, generator, boosted=(), boost=6.0, forbid=()):
    """Samples from random scores as `generate` would; returns answers, their texts and states."""
    ids = torch.randint(5, 300, (rows, 7), generator=generator)
    for _ in range(tokens):
        scores = torch.randn(rows, len(tokenizer) + 3, generator=generator) * 3  # models may have spare rows
        scores[:, list(boosted)] += boost
        scores[:, list(forbid)] = -math.inf
        held = processor(ids, scores)
        chosen = torch.multinomial(held.softmax(dim=-1), 1, generator=generator)
        assert torch.isfinite(held.gather(1, chosen)).all()
        assert (held.gather(1, chosen) == scores.gather(1, chosen)).all(), "what is allowed keeps its score"
        ids = torch.cat([ids, chosen], dim=1)
    answers = [row[7:] for row in ids.tolist()]
    ended = [row[: row.index(2)] if 2 in row else row for row in answers]
    return answers, [tokenizer.decode(row) for row in ended], processor.states(ids)


@pytest.mark.parametrize("tempted", [False, True], ids=["random", "tempted"])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_no_answer_is_malformed(name, form, tempted):
    notation, tokenizer = setting(name)
    generator, found = torch.Generator().manual_seed(zlib.crc32(f"{name} {form}".encode())), 0
    for length, unit in ((12.34, "s"), (0.04, "s"), (3599.99, "s"), (96, "image"), (1, "image")):
        shape = AnswerForm(tokenizer, notation, length, unit, form, ordered=True)
        boosted = (*shape.time_tokens, *(tempting(tokenizer) if tempted else ()))
        _, texts, states = write(
            TimeLogitsProcessor([shape] * 12, 70), tokenizer, 12, 70, generator, boosted, 6.0 if tempted else 2.0
        )
        for text, state in zip(texts, states, strict=True):
            found += len(state.found)
            codes = [(moment.start, moment.end) for moment in state.found]
            positions = [shape.positions(moment) for moment in state.found]
            legal = notation.legal_codes(length, unit)
            assert all(start <= end and start in legal and end in legal for start, end in codes)
            assert all(0 <= start <= end <= 1 for start, end in positions)
            assert all(moment.log_prob <= 1e-5 for moment in state.found)
            read = [code for _, _, code in notation.find(text, unit)]
            if form == "moments":
                assert read == [code for pair in codes for code in pair], text
            elif form == "times":
                assert read == [code for code, _ in codes], text
            elif form == "grounding":
                assert [moment.position for moment in read_grounding(text, notation, length, unit)] == positions, text
                assert state.step == "done"
            elif form == "captions":
                answer = read_moments(text, notation, length, unit, shortest=0)
                assert [moment.position for moment in answer] == positions, text
                assert [start for start, _ in codes] == sorted(start for start, _ in codes)
                assert codes
            else:
                answer = read_highlights(text, notation, length, unit)
                assert [moment.position for moment in answer] == positions, text
                assert [moment.score for moment in answer] == list(state.scores)
                assert [start for start, _ in codes] == sorted({start for start, _ in codes})
                assert state.step == "done"
    assert found >= (20 if not tempted or form in ("grounding", "captions", "highlights") else 10)


@pytest.mark.parametrize("family", ["gpt2", "llama", "llama, legacy"])
@pytest.mark.parametrize("name", NOTATIONS)
def test_no_answer_is_malformed_in_other_vocabularies(name, family):
    notation, tokenizer = setting(name, family)
    generator = torch.Generator().manual_seed(0)
    for form in (form for case, form in CASES if case == name):
        shape = AnswerForm(tokenizer, notation, 60.5, "s", form, ordered=True)
        boosted = (*shape.time_tokens, *tempting(tokenizer))
        _, texts, states = write(
            TimeLogitsProcessor([shape] * 8, 60), tokenizer, 8, 60, generator, boosted, forbid=(tokenizer.unk_token_id,)
        )
        for text, state in zip(texts, states, strict=True):
            positions = [shape.positions(moment) for moment in state.found]
            assert all(0 <= start <= end <= 1 for start, end in positions)
            if form in ("moments", "captions"):
                read = read_moments(text, notation, 60.5, shortest=0)
                assert [moment.position for moment in read] == positions, text


@pytest.mark.parametrize(("length", "unit"), [(60.5, "s"), (96, "image")])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NOTATIONS)
def test_answers_as_a_tokenizer_writes_them_are_admitted(name, family, length, unit):
    """A model is never held to tokens that it has not been trained on."""
    notation, tokenizer = setting(name, family)
    first, second, third = (notation.encode(place, length, unit) for place in (0.25, 0.5, 0.75))
    word, lead, between = notation.unit_words[unit], notation.lead, notation.separator
    saliency = "Their saliency scores are 1.3, 1.7."
    answers = {
        "grounding": f"{notation.opening}{first}{between}{second}{word}.",
        "captions": f"{lead}{first}{between}{second}{word}, a man opens 2 doors. {lead}{second}{between}{third}{word}, "
        "he runs.",
        "highlights": f"The highlight timestamps are in the {first}, {third}{word}. {saliency}",
    }
    for form, answer in answers.items():
        for prompt, prefix in (("[INST] what [/INST]", " "), ("assistant\n", "")):
            shape = AnswerForm(tokenizer, notation, length, unit, form, prompt_end=prompt, prefix=prefix)
            before = tokenizer.encode(prompt, add_special_tokens=False)
            tokens = tokenizer.encode(prompt + prefix + answer, add_special_tokens=False)
            assert tokens[: len(before)] == before
            state = shape.begin()
            for place, token in enumerate(tokens[len(before) :]):
                following = shape.advance(state, token)
                said = tokenizer.decode(tokens[len(before) :][: place + 1])
                assert following is not None, (prompt, answer, said, state.step)
                ids, tail = shape.choices(state)
                assert token in ids or tail is not None
                state = following


@pytest.mark.parametrize(("length", "unit"), [(60.0, "s"), (12, "image")])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NOTATIONS)
def test_behind_its_times_an_event_has_a_text(name, family, length, unit):
    """Not a full stop, as behind the times of a grounding."""
    notation, tokenizer = setting(name, family)
    shape = AnswerForm(tokenizer, notation, length, unit, form="captions")
    times = notation.separator.join(notation.encode(place, length, unit) for place in (0.25, 0.5))
    word = notation.unit_words[unit]
    tokens = tokenizer.encode(f"a {notation.lead}{times}{word}, a man", add_special_tokens=False)[1:]
    state = shape.begin()
    while not state.found:
        state = shape.advance(state, tokens.pop(0))
    said = []
    while state.step != "text":
        ((token,), tail) = shape.choices(state)
        assert tail is None
        said.append(token)
        state = shape.advance(state, token)
    written = "".join(shape.texts.texts[token] for token in said).replace(" ", "")  # which legacy tokenizers add
    # The end of a number may be seen by the word behind it alone.
    assert written == f"{word.strip()}," or (not notation.tokens and word and written == ",")


def test_without_the_processor_answers_are_malformed():
    """Negative control: the same scores, unheld."""
    notation, tokenizer = setting("rpt")
    shape = AnswerForm(tokenizer, notation, 60.0)
    scores = torch.randn(20, 70, len(tokenizer), generator=torch.Generator().manual_seed(0)) * 3
    scores[:, :, list(shape.time_tokens)] += 4
    texts = [tokenizer.decode(row) for row in scores.argmax(dim=-1).tolist()]
    assert sum(text.count("<") for text in texts) > 4 * sum(len(notation.find(text)) for text in texts) + 50


@pytest.fixture(scope="module")
def language_models():
    """Random models whose vocabularies hold a notation's tokens."""
    made = {}

    def get(name):
        if name not in made:
            notation, tokenizer = setting(name)
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=len(tokenizer) + 5,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                initializer_range=0.6,
            )
            model = LlamaForCausalLM(config).eval()
            model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
            made[name] = notation, tokenizer, model
        return made[name]

    return get


@pytest.mark.parametrize("way", ["greedy", "sampling", "beams", "sampled beams", "filtered"])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_generate(language_models, name, form, way):
    notation, tokenizer, model = language_models(name)
    settings = {
        "greedy": {"do_sample": False},
        "sampling": {"do_sample": True, "num_return_sequences": 4, "temperature": 2.0},
        "beams": {"num_beams": 4, "num_return_sequences": 3, "do_sample": False},
        "sampled beams": {"num_beams": 3, "do_sample": True},
        "filtered": {"do_sample": True, "top_k": 3, "top_p": 0.6, "repetition_penalty": 1.2},
    }[way]
    lengths = (5.5, 60.0, 1200.0)
    forms = [AnswerForm(tokenizer, notation, length, "s", form, ordered=True) for length in lengths]
    held = TimeLogitsProcessor(forms, 60)
    prompts = torch.tensor([[0, 0, 7, 8, 9], [1, 30, 31, 32, 33], [0, 0, 7, 8, 9]])
    torch.manual_seed(1)
    sequences = model.generate(
        prompts, attention_mask=(prompts > 0).long(), logits_processor=[held], max_new_tokens=60, **settings
    )
    each = len(sequences) // 3
    for place, (row, state) in enumerate(zip(sequences.tolist(), held.states(sequences), strict=True)):
        shape, text = forms[place // each], tokenizer.decode(row[5:], skip_special_tokens=True)
        assert state is not None, text
        codes = [(moment.start, moment.end) for moment in state.found]
        legal = notation.legal_codes(shape.length)
        assert all(start <= end and start in legal and end in legal for start, end in codes)
        if form == "grounding":
            (moment,) = read_grounding(text, notation, shape.length)
            assert moment.position == shape.positions(state.found[0])
        elif form == "moments":
            assert [code for _, _, code in notation.find(text)] == [code for pair in codes for code in pair]


@torch.no_grad()
def test_a_moments_probability_is_that_of_its_tokens(language_models):
    notation, tokenizer, model = language_models("rpt")
    held = TimeLogitsProcessor(AnswerForm(tokenizer, notation, 60.0, form="captions"), 80)
    prompt = torch.tensor([[1, 30, 31, 32]])
    sequence = model.generate(prompt, logits_processor=[held], max_new_tokens=80, do_sample=True)
    (state,) = held.states(sequence)
    log_probs = model(sequence).logits[0, :-1].log_softmax(dim=-1).gather(1, sequence[0, 1:, None])[:, 0]
    assert len(state.found) > 1
    for moment in state.found:
        tokens = range(4 + moment.first, 4 + moment.last)
        times = [place for place in tokens if sequence[0, place].item() in model_tokens(tokenizer, notation)]
        assert len(times) == 8
        assert moment.log_prob == pytest.approx(log_probs[[place - 1 for place in times]].sum().item(), abs=1e-4)


def model_tokens(tokenizer, notation):
    return set(tokenizer.convert_tokens_to_ids(list(notation.tokens)))


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("room", [0, 1, 3, 7, 12])
def test_no_time_is_cut_off(name, form, room):
    """However few tokens are left, a time that was begun is completed."""
    notation, tokenizer = setting(name)
    shape = AnswerForm(tokenizer, notation, 60.0, "s", form)
    room += max(shape.least_room, 1)
    generator = torch.Generator().manual_seed(room)
    _, texts, states = write(TimeLogitsProcessor(shape, room), tokenizer, 4, room, generator, shape.time_tokens, 9.0)
    for text, state in zip(texts, states, strict=True):
        assert state.step in ("text", "stop", "done"), (text, state.step)
        if shape.least_room:
            assert state.found
            with pytest.raises(ValueError, match=f"max_new_tokens={shape.least_room - 1} leaves no room"):
                TimeLogitsProcessor(shape, shape.least_room - 1)


def test_a_row_of_the_batch_gets_what_it_gets_alone():
    notation, tokenizer = setting("rpt")
    forms = [AnswerForm(tokenizer, notation, length, form="captions") for length in (5.0, 60.0)]
    torch.manual_seed(0)
    ids, alone = torch.randint(5, 300, (2, 4)), [TimeLogitsProcessor(form, 50) for form in forms]
    together = TimeLogitsProcessor(forms, 50)
    for _ in range(50):
        scores = torch.randn(2, len(tokenizer))
        held = together(ids, scores)
        for row in (0, 1):
            assert torch.equal(held[row : row + 1], alone[row](ids[row : row + 1], scores[row : row + 1]))
        ids = torch.cat([ids, held.argmax(dim=-1, keepdim=True)], dim=1)


def test_a_processor_can_be_used_again():
    notation, tokenizer = setting("rpt")
    held = TimeLogitsProcessor(AnswerForm(tokenizer, notation, 60.0, form="grounding"), 40)
    for seed in (0, 1):
        _, texts, _ = write(held, tokenizer, 3, 40, torch.Generator().manual_seed(seed))
        assert all(text.startswith(" The given query happens in <") and text.endswith(">.") for text in texts)


def test_a_longer_prompt_is_a_new_answer():
    """A second turn begins with the first one's prompt."""
    notation, tokenizer = setting("rpt")
    held = TimeLogitsProcessor(AnswerForm(tokenizer, notation, 60.0, form="grounding"), 40)
    prompt = torch.randint(5, 300, (1, 6))
    for turn in range(3):
        ids = prompt
        for _ in range(30):
            ids = torch.cat([ids, held(ids, torch.randn(1, len(tokenizer))).argmax(dim=-1, keepdim=True)], dim=1)
        (state,) = held.states(ids)
        assert state.step == "done", turn
        prompt = torch.cat([ids[:, : 6 + 9 * turn + 20], torch.randint(5, 300, (1, 5))], dim=1)


def test_captions_spell_no_dash_in_bytes():
    notation, tokenizer = setting("text")
    shape = AnswerForm(tokenizer, notation, 60.0, form="captions")
    state = shape.begin()
    for token in tokenizer.encode(" 2.0 - 9.5 seconds, 2–", add_special_tokens=False):
        state = shape.advance(state, token)
    assert "�" in state.tail
    _, tail = shape.choices(state)
    assert tokenizer.convert_tokens_to_ids("3") in shape.texts.forbidden(shape.rule.forbidden, shape.rule.needs, tail)


@pytest.mark.parametrize("name", ["text", "percent"])
def test_captions_of_plain_text_spell_no_times(name):
    notation, tokenizer = setting(name)
    shape = AnswerForm(tokenizer, notation, 60.0, form="captions")
    texts = TokenTexts.of(tokenizer).texts
    state = shape.begin()
    words = {"text": " 2.0 - 9.5 seconds, crack 2", "percent": " From 02 to 09, crack 12"}[name]
    for token in tokenizer.encode(words, add_special_tokens=False):
        state = shape.advance(state, token)
    behind = {"text": " -", "percent": " to "}[name]
    for token in tokenizer.encode(behind, add_special_tokens=False):
        state = shape.advance(state, token)
    _, tail = shape.choices(state)
    forbidden = {texts[token] for token in shape.texts.forbidden(shape.rule.forbidden, shape.rule.needs, tail)}
    assert set("0123456789") <= forbidden
    assert "e" not in forbidden


def test_a_new_event_begins_behind_a_sentence():
    notation, tokenizer = setting("text")
    shape = AnswerForm(tokenizer, notation, 60.0, form="captions", ordered=True)
    state = shape.begin()
    for token in tokenizer.encode(" 12.0 - 19.5 seconds, crack 2 eggs. ", add_special_tokens=False):
        state = shape.advance(state, token)
    texts = TokenTexts.of(tokenizer).texts
    ids, tail = shape.choices(state)
    assert tail is not None
    assert {texts[token] for token in ids} == {*"123456", "</s>"}, "from 12.0 s to 60.0 s"


def test_what_cannot_be_is_refused():
    notation, tokenizer = setting("text")
    with pytest.raises(ValueError, match="unknown answer form 'caption', expected one of 'moments'"):
        AnswerForm(tokenizer, notation, 60.0, form="caption")
    with pytest.raises(ValueError, match="'text' is plain text, where a number is a time only by its place"):
        AnswerForm(tokenizer, notation, 60.0, form="moments")
    with pytest.raises(ValueError, match="the tokenizer lacks 10 tokens of notation 'rpt', such as <0>"):
        AnswerForm(tokenizer, get_notation("rpt"), 60.0)
    with pytest.raises(ValueError, match="needs the sequence's length, found 0"):
        AnswerForm(tokenizer, notation, 0.0, form="captions")
    held = TimeLogitsProcessor([AnswerForm(tokenizer, notation, 60.0, form="captions")] * 2)
    with pytest.raises(ValueError, match="expected a multiple of 2 rows, one form each, found 3"):
        held(torch.ones(3, 4, dtype=torch.long), torch.zeros(3, len(tokenizer)))
    held = TimeLogitsProcessor(AnswerForm(tokenizer, notation, 60.0, form="grounding"))
    with pytest.raises(ValueError, match="another logits processor forbids all 1 tokens"):
        held(torch.ones(1, 4, dtype=torch.long), torch.full((1, len(tokenizer)), -math.inf))


def test_tree_of_times():
    tree = TimeTree.of([(7, "7"), (72, "72"), (130, "130")])
    assert tree.height == 3
    assert tree.walk("7").code == 7
    assert tree.walk("7").latest == 72
    assert tree.walk("72").children == {}
    assert tree.walk("8") is None
