import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeModel
from modeling_seq2time.modeling_seq2time import Seq2TimePreTrainedModel


QWEN = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}


def video_inputs(model, counts=(10, 7), text_lengths=(9, 6), seed=0):
    """Inputs for one question about each of several videos with `counts` frames, padded to a batch."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    videos, frames, text = len(counts), max(counts), max(text_lengths)
    size = config.vision_config.image_size
    frame_mask = torch.arange(frames) < torch.tensor(counts)[:, None]
    pixels = torch.randn(videos, frames, 3, size, size, generator=generator) * frame_mask[:, :, None, None, None]
    rows = []
    for count in counts:
        tokens = [config.video_token_id] * (config.windows.count(count) * config.num_video_query_tokens)
        rows.append(torch.randint(3, 200, (4,), generator=generator).tolist() + tokens + [7, 8, 9])
    length = max(map(len, rows))
    batch = {
        "input_ids": torch.tensor([[0] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
        "pixel_values_videos": pixels,
        "video_frame_mask": frame_mask,
    }
    if config.qformer_reads_time:
        ids = torch.randint(5, 60, (videos, frames, text), generator=generator)
        mask = (torch.arange(text) < torch.tensor(text_lengths)[:, None])[:, None].expand(-1, frames, -1)
        batch["video_time_input_ids"] = ids * mask
        batch["video_time_attention_mask"] = (mask & frame_mask[:, :, None]).long()
    return batch


def alone(batch, row, count, text):
    """One row of a batch without the padding."""
    one = {name: value[row : row + 1] for name, value in batch.items()}
    real = one["attention_mask"][0].bool()
    one["input_ids"], one["attention_mask"] = one["input_ids"][:, real], one["attention_mask"][:, real]
    for name in ("pixel_values_videos", "video_frame_mask", "video_time_input_ids", "video_time_attention_mask"):
        if name in one:
            one[name] = one[name][:, :count]
    for name in ("video_time_input_ids", "video_time_attention_mask"):
        if name in one:
            one[name] = one[name][:, :, :text]
    return one


SMALL_WINDOWS = {"window_size": 4, "window_stride": 4}
TWO_SEGMENTS = {"num_frames": 10, "segment_size": 5, "window_size": 4, "window_stride": 2}
VARIANTS = {
    "timechat": ("timechat", SMALL_WINDOWS),
    "overlapping windows": ("timechat", {"window_size": 6, "window_stride": 3}),
    "video_llama": ("video_llama", {}),
    "temporalvlm": ("temporalvlm", TWO_SEGMENTS),
    "grounded_videollm": ("grounded_videollm", {}),
    "qwen": ("timechat", SMALL_WINDOWS | {"text_config": QWEN}),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request, tiny):
    preset, overrides = request.param
    return tiny(preset, **overrides)[0]


@pytest.fixture(params=[name for name in VARIANTS if name != "grounded_videollm"])
def one_tower(request, tiny):
    preset, overrides = VARIANTS[request.param]
    return tiny(preset, **overrides)[0]


@torch.no_grad()
def test_a_batch_gives_each_video_what_it_gets_alone(model):
    counts, texts = (10, 7, 1), (9, 6, 4)
    batch = video_inputs(model, counts, texts)
    together = model(**batch)
    for row, (count, text) in enumerate(zip(counts, texts, strict=True)):
        one = model(**alone(batch, row, count, text))
        length = one.logits.shape[1]
        torch.testing.assert_close(together.logits[row : row + 1, -length:], one.logits, atol=2e-5, rtol=0)
        torch.testing.assert_close(together.video_hidden_states[row], one.video_hidden_states[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_over_the_stack_differs_and_is_for_parity_only(tiny):
    """Negative control of the test above, and TimeChat's own behaviour for stacked videos."""
    model = copy.deepcopy(tiny("timechat", **SMALL_WINDOWS)[0])
    batch = video_inputs(model)
    mine = model(**batch).video_hidden_states
    model.config.time_text_padding = "batch"
    timechats = model(**batch).video_hidden_states
    torch.testing.assert_close(mine[0], timechats[0], atol=1e-6, rtol=0)  # the longest text needs no padding
    assert (mine[1] - timechats[1]).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("window", "stride"), [(4, 4), (6, 3), (5, 4), (32, 32), (0, 0)])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_windows_in_one_call_equal_windows_one_by_one(tiny, window, stride, attention):
    model, _ = tiny("timechat", window_size=window, window_stride=stride)
    model.set_attn_implementation(attention)
    encoder = model.model.video_qformer
    frames, tokens = 10, 7
    frame_tokens = torch.randn(2, frames, tokens, 32, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(2, frames, dtype=torch.bool), torch.ones(2, tokens, dtype=torch.bool)
    found = encoder(frame_tokens, *ones)
    placed = frame_tokens + encoder.frame_positions.weight[:frames, None]
    for video in range(2):
        # A window that would see nothing new isn't there.
        starts = range(0, max(frames - (window - stride), 1), stride) if stride else [0]
        assert len(found[video]) == len(starts)
        for place, start in enumerate(starts):
            seen = placed[video : video + 1, start : start + window if stride else frames].flatten(1, 2)
            one = encoder.qformer(query_embeds=encoder.query_tokens, encoder_hidden_states=seen).last_hidden_state
            torch.testing.assert_close(found[video][place : place + 1], one, atol=2e-6, rtol=0)


@torch.no_grad()
def test_frame_positions_count_in_the_video_not_in_the_window(tiny):
    model, _ = tiny("timechat", **SMALL_WINDOWS)
    same = torch.randn(1, 1, 7, 32).expand(1, 8, 7, 32)
    masks = torch.ones(1, 8, dtype=torch.bool), torch.ones(1, 7, dtype=torch.bool)
    first, second = model.model.video_qformer(same, *masks)[0]
    assert (first - second).abs().max() > 1e-4


def count_pictures(model, monkeypatch):
    seen, forward = [], model.model.vision_tower.forward
    monkeypatch.setattr(
        model.model.vision_tower,
        "forward",
        lambda pixels, **kwargs: (seen.append(len(pixels)), forward(pixels, **kwargs))[1],
    )
    return seen


@torch.no_grad()
def test_a_repeated_picture_is_seen_once(one_tower, monkeypatch):
    model = one_tower
    batch = video_inputs(model, counts=(10, 7))
    pool = torch.randn(6, *batch["pixel_values_videos"].shape[2:])
    index = torch.randint(0, 6, (2, 10)).masked_fill(~batch["video_frame_mask"], -1)
    repeated = batch | {"pixel_values_videos": pool[index]}
    once = batch | {"pixel_values_videos": pool, "video_picture_index": index}
    seen = count_pictures(model, monkeypatch)
    expected, found = model(**repeated).logits, model(**once).logits
    assert seen == [17, 6]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    del once["video_frame_mask"]  # frames that show no picture (-1) do not exist
    assert torch.equal(model(**once).logits, found)
    generate = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    assert torch.equal(model.generate(**once, **generate), model.generate(**repeated, **generate))


@torch.no_grad()
def test_patches_in_place_of_pixels(one_tower):
    """To the last bit: of videos, of shorter ones among them, and of unique pictures; also in `generate`."""
    model = one_tower
    for counts in ((10, 10), (10, 7)):
        batch = video_inputs(model, counts)
        mask = batch["video_frame_mask"]
        index = {"video_picture_index": torch.arange(20).view(2, 10).remainder(6).masked_fill(~mask, -1)}
        for pixels, more in ((batch["pixel_values_videos"], {}), (batch["pixel_values_videos"][0, :6], index)):
            flat = pixels if more else pixels[mask]
            patches = model.model._see(flat).last_hidden_state
            if not more:
                patches = patches.new_zeros(2, 10, *patches.shape[1:]).masked_scatter(mask[:, :, None, None], patches)
            seen = batch | more | {"pixel_values_videos": pixels}
            told = batch | more | {"pixel_values_videos": None, "video_patches": patches}
            expected = model(**seen).logits
            assert torch.equal(model(**told).logits, expected)
            assert not torch.equal(model(**told | {"video_patches": patches.flip(1)}).logits, expected)
            low = model(**told | {"video_patches": patches.half()}).logits
            assert low.dtype == expected.dtype
            torch.testing.assert_close(low, expected, atol=1e-3, rtol=0)
            del told["pixel_values_videos"]
            for way in ({"num_beams": 2}, {"use_cache": False}):
                settings = {"max_new_tokens": 3, "do_sample": False} | way
                assert torch.equal(model.generate(**told, **settings), model.generate(**seen, **settings))


def test_the_frozen_tower_has_no_graph(tiny):
    model = copy.deepcopy(tiny("timechat", **SMALL_WINDOWS)[0]).train()
    model.enable_input_require_grads()  # what TRL and PEFT do, on every submodel
    caught = []
    model.model.vision_tower.register_forward_hook(lambda module, args, output: caught.append(output.last_hidden_state))
    batch = video_inputs(model)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert not caught[0].requires_grad
    assert not model.model.vision_tower.training
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in model.named_parameters() if name.startswith("model.vision_tower.")}
    assert model.model.image_qformer.query_tokens.grad.abs().max() > 0


def test_an_unfrozen_tower_learns(tiny):
    model, _ = tiny("timechat", **SMALL_WINDOWS, freeze_vision=False)
    batch = video_inputs(model)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert model.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().max() > 0
    model.zero_grad()


def test_freezing_survives_loading(tiny_folder):
    model = Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder("timechat"))
    assert not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())
    assert all(parameter.requires_grad for parameter in model.model.image_qformer.parameters())
    assert model.model.vision_tower.post_layernorm.eps == 1e-5
    assert model.model.vision_tower.encoder.layers[0].layer_norm1.eps == 1e-6


def test_attention_is_set_per_part(tiny_folder):
    parts = {"text_config": "eager", "vision_config": "sdpa", "qformer_config": "eager", "video_qformer_config": "sdpa"}
    model = Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder("timechat"), attn_implementation=parts)
    base = model.model
    found = (base.language_model, base.vision_tower, base.image_qformer.qformer, base.video_qformer.qformer)
    assert [part.config._attn_implementation for part in found] == ["eager", "sdpa", "eager", "sdpa"]
    flash = {type(part).__name__: part._supports_flash_attn for part in found}
    assert flash == {
        "LlamaModel": True,
        "InstructBlipVisionModel": True,
        "InstructBlipQFormerModel": True,
        "Blip2QFormerModel": False,
    }


def test_nothing_native_is_copied():
    own = {cls.__name__ for cls in Seq2TimePreTrainedModel.__subclasses__()}
    assert own == {"Seq2TimeModel", "Seq2TimeForConditionalGeneration"}


@pytest.mark.parametrize("tied", [False, True])
def test_time_tokens_start_as_their_digits(tied):
    from examples.make_tiny_model import make_tiny_model, make_tokenizer  # noqa: PLC0415 (a fresh model to change)

    model, processor = make_tiny_model("timechat", tie_word_embeddings=tied)
    tokenizer = processor.tokenizer
    ids = model.config.time_token_ids
    assert [tokenizer.convert_ids_to_tokens(token) for token in ids] == [f"<{digit}>" for digit in range(10)]
    assert len(tokenizer) == model.config.text_config.vocab_size == len(make_tokenizer()) + 11
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    heads = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (heads[0] is heads[1]) == tied
    for weight in heads:
        assert torch.equal(weight[ids], weight[digits])
        assert len({tuple(row.tolist()) for row in weight[ids]}) == 10
    with torch.no_grad():
        heads[0][ids] += 1  # as if trained
    trained = heads[0].detach().clone()
    size = len(tokenizer)
    assert model.add_time_tokens(tokenizer) == ids
    assert (len(tokenizer), torch.equal(heads[0], trained)) == (size, True), "adding them again changes nothing"


@pytest.mark.parametrize("variant", ["timechat", "qwen"])
def test_time_tokens_survive(tiny, tmp_path, variant):
    preset, overrides = VARIANTS[variant]
    model, processor = tiny(preset, **overrides)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = Seq2TimeForConditionalGeneration.from_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    assert loaded.add_time_tokens(again.tokenizer) == model.config.time_token_ids
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    text = "at <0><1><0><9> - <0><1><7><6>, done"
    ids = again.tokenizer(text, add_special_tokens=False).input_ids
    assert again.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert sum(token in model.config.time_token_ids for token in ids) == 8


def test_time_tokens_in_a_padded_vocabulary():
    """Qwen's matrices have more rows than its tokenizer has words: the new tokens take spare rows."""
    from examples.make_tiny_model import make_tiny_model  # noqa: PLC0415

    model, processor = make_tiny_model("timechat", text_config=QWEN)
    weight = model.get_input_embeddings().weight
    assert len(weight) == QWEN["vocab_size"] > len(processor.tokenizer)
    digits = processor.tokenizer.convert_tokens_to_ids(list("0123456789"))
    assert torch.equal(weight[model.config.time_token_ids], weight[digits])


LANGUAGE_MODELS = {
    "llama": QWEN | {"model_type": "llama", "tie_word_embeddings": False},
    "qwen2": QWEN,
    "mistral": QWEN | {"model_type": "mistral"},
    # other names for the parts, embeddings in another place, tied by default
    "opt": {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "vocab_size": 512},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 512},
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_any_causal_language_model_fits(tiny, tmp_path, name):
    model, _ = tiny("timechat", **SMALL_WINDOWS, text_config=LANGUAGE_MODELS[name])
    alone = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    alone.base_model.load_state_dict(model.model.language_model.state_dict())
    alone.get_output_embeddings().load_state_dict(model.lm_head.state_dict())
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, alone(input_ids=ids).logits)
    batch = video_inputs(model)
    model.save_pretrained(tmp_path)
    loaded = Seq2TimeForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    tied = loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert tied == model.config.text_config.tie_word_embeddings


def test_a_head_that_changes_its_scores_is_refused(tiny):
    with pytest.raises(ValueError, match="final_logit_softcapping must be unset: the head of gemma2"):
        tiny("timechat", text_config=QWEN | {"model_type": "gemma2", "head_dim": 8})


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_does_not_depend_on_the_cache_or_the_batch(model, use_cache):
    batch = video_inputs(model, (10, 7), (9, 6))
    settings = {"max_new_tokens": 6, "do_sample": False, "use_cache": use_cache}
    together = model.generate(**batch, **settings)[:, -6:]
    for row, (count, text) in enumerate([(10, 9), (7, 6)]):
        assert torch.equal(model.generate(**alone(batch, row, count, text), **settings)[0, -6:], together[row])


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True, "top_p": 0.9}, {"num_return_sequences": 2}])
def test_other_ways_to_generate(model, settings):
    batch = video_inputs(model)
    output = model.generate(**batch, max_new_tokens=5, **({"do_sample": "num_return_sequences" in settings} | settings))
    assert output.shape == (2 * settings.get("num_return_sequences", 1), batch["input_ids"].shape[1] + 5)


def test_bfloat16(tiny_folder):
    model = Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder("timechat"), dtype=torch.bfloat16)
    batch = video_inputs(model, (5,), (6,))
    with torch.no_grad():
        logits = model(**batch).logits
    assert (model.dtype, logits.dtype) == (torch.bfloat16, torch.bfloat16)
    assert logits.isfinite().all()


BAD = {
    "a placeholder too few": (
        {"input_ids": lambda ids: ids[:, 1:].where(ids[:, 1:] != ids[0, 5], 3), "attention_mask": lambda m: m[:, 1:]},
        r"the videos have 12 tokens, but the prompt holds 0 video tokens",
    ),
    "a wrong picture size": (
        {"pixel_values_videos": lambda pixels: pixels[..., :30]},
        r"must have shape \(videos, frames, 3, 56, 56\), found \(1, 10, 3, 56, 30\)",
    ),
    "no frames": (
        {"pixel_values_videos": lambda pixels: pixels[:, :0], "video_frame_mask": lambda mask: None},
        r"found \(1, 0, 3, 56, 56\)",
    ),
    "pixels and patches": (
        {"video_patches": lambda _: torch.zeros(1, 10, 17, 32)},
        "exactly one of pixel_values_videos and video_patches must be given, found both",
    ),
    "patches of another width": (
        {"pixel_values_videos": lambda _: None, "video_patches": lambda _: torch.zeros(1, 10, 17, 30)},
        r"video_patches must have shape \(videos, frames, 17, 32\), found \(1, 10, 17, 30\)",
    ),
    "patches of pictures without an index": (
        {"pixel_values_videos": lambda _: None, "video_patches": lambda _: torch.zeros(10, 17, 32)},
        r"video_patches must have shape \(videos, frames, 17, 32\), found \(10, 17, 32\)",
    ),
    "a video without frames": ({"video_frame_mask": torch.zeros_like}, r"every video needs at least one frame.*\[0\]"),
    "frames after padding": ({"video_frame_mask": lambda mask: mask.index_fill(1, torch.tensor([0]), False)}, "before"),
    "a mask of another shape": ({"video_frame_mask": lambda mask: mask[:, :4]}, r"\(1, 10\), found \(1, 4\)"),
    "no time text": (
        {"video_time_input_ids": lambda ids: None},
        "the image Q-Former reads each frame's time.*found None",
    ),
    "time text of other frames": (
        {"video_time_input_ids": lambda ids: ids[:, :3], "video_time_attention_mask": lambda mask: mask[:, :3]},
        r"with \(videos, frames\) = \(1, 10\); found \(1, 3, 9\)",
    ),
    "too many frames": (
        {
            "pixel_values_videos": lambda pixels: pixels.repeat(1, 10, 1, 1, 1),
            "video_frame_mask": lambda mask: None,
            "video_time_input_ids": lambda ids: ids.repeat(1, 10, 1),
            "video_time_attention_mask": lambda mask: mask.repeat(1, 10, 1),
        },
        r"up to 96 frames \(max_frame_positions\), found 100",
    ),
    "an index before the pictures": (
        {
            "pixel_values_videos": lambda pixels: pixels[0, :3],
            "video_picture_index": lambda _: torch.tensor([[0] * 9 + [-1]]),
        },
        "must name a picture for every frame of video_frame_mask, found -1",
    ),
    "an index past the pictures": (
        {
            "pixel_values_videos": lambda pixels: pixels[0, :3],
            "video_picture_index": lambda _: torch.full((1, 10), 3),
        },
        r"point into the 3 pictures given, found shape \(1, 10\) and largest index 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tiny, case):
    model, _ = tiny("timechat", **SMALL_WINDOWS)
    batch = video_inputs(model, (10,), (9,))
    changes, message = BAD[case]
    for name, change in changes.items():
        batch[name] = change(batch.get(name))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        model(**batch)


def test_base_model_has_no_head(tiny_folder):
    base = Seq2TimeModel.from_pretrained(tiny_folder("timechat"))
    full = Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder("timechat"))
    batch = video_inputs(full, (5,), (6,))
    assert torch.equal(full.lm_head(base(**batch).last_hidden_state), full(**batch).logits)
