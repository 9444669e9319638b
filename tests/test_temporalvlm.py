"""TemporalVLM: segments of overlapping windows, fused, then passed over in time."""

import copy
import json
from itertools import pairwise

import pytest
import torch

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from modeling_seq2time.temporal_encoders import AGGREGATORS
from tests.test_modeling import TWO_SEGMENTS, alone, video_inputs
from tests.test_sft import recipe, sets  # noqa: F401
from train import sft
from train.adapter import load_for_training
from train.recipe import Recipe


@pytest.fixture(params=AGGREGATORS)
def model(request, tiny):
    return tiny("temporalvlm", **TWO_SEGMENTS, aggregator=request.param)[0]


@torch.no_grad()
def test_each_aggregator_gives_a_video_what_it_gets_alone(model):
    counts, texts = (10, 7, 1), (9, 6, 4)
    batch = video_inputs(model, counts, texts)
    together = model(**batch).video_hidden_states
    assert (
        [len(video) // 4 for video in together] == [model.config.windows.count(count) for count in counts] == [4, 2, 1]
    )
    for row, (count, text) in enumerate(zip(counts, texts, strict=True)):
        (one,) = model(**alone(batch, row, count, text)).video_hidden_states
        torch.testing.assert_close(together[row], one, atol=1e-5, rtol=0)


@torch.no_grad()
def test_one_call_is_a_plain_loop(tiny):
    """Over videos, segments, windows, and tokens in time."""
    model = tiny("temporalvlm", **TWO_SEGMENTS)[0].model
    encoder, aggregator, counts = model.video_qformer, model.aggregator, (10, 7)
    frames = torch.randn(2, 10, 6, 32)
    mask = torch.arange(10) < torch.tensor(counts)[:, None]
    found = aggregator(encoder(frames, mask, torch.ones(2, 6, dtype=torch.bool)), mask)
    for video, edges in enumerate(((0, 5, 10), (0, 3, 7))):
        fused = []
        for first, last in pairwise(edges):
            places, said = encoder.frame_positions.weight[: last - first, None], []
            placed = frames[video, first:last] + places
            for start in range(0, max(last - first - 2, 1), 2):
                seen = placed[start : start + 4].flatten(0, 1)[None]
                said.append(encoder.qformer(query_embeds=encoder.query_tokens, encoder_hidden_states=seen)[0][0])
            tokens = torch.cat(said)
            layer, heads = aggregator.fusion[0], []
            for asked, known, told in zip(
                *(part.split(8, dim=1) for part in layer.inward(tokens).chunk(3, dim=1)), strict=True
            ):
                heads.append(torch.softmax(asked @ known.T / 8**0.5, dim=1) @ told)
            fused.append(layer.norm(tokens + layer.outward(torch.cat(heads, dim=1))))
        state, forth, back = torch.cat(fused), [], []
        lstm = aggregator.over_time.lstm
        for order, kept, end in ((range(len(state)), forth, ""), (reversed(range(len(state))), back, "_reverse")):
            hidden = cell = torch.zeros(16)
            for place in order:
                gates = getattr(lstm, f"weight_ih_l0{end}") @ state[place] + getattr(lstm, f"bias_ih_l0{end}")
                gates = gates + getattr(lstm, f"weight_hh_l0{end}") @ hidden + getattr(lstm, f"bias_hh_l0{end}")
                let_in, forget, new, let_out = gates.chunk(4)
                cell = forget.sigmoid() * cell + let_in.sigmoid() * new.tanh()
                hidden = let_out.sigmoid() * cell.tanh()
                kept.append(hidden)
        wanted = torch.cat([torch.stack(forth), torch.stack(back[::-1])], dim=1)
        torch.testing.assert_close(found[video].flatten(0, 1), wanted, atol=2e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("aggregator", "knows_the_past", "knows_the_future"),
    [
        ("bilstm", True, True),
        ("lstm", True, False),
        ("transformer", True, True),
        ("linear", False, False),
        ("average", True, True),
    ],
)
def test_what_a_segment_knows_of_the_other(tiny, aggregator, knows_the_past, knows_the_future):
    model = copy.deepcopy(tiny("temporalvlm", **TWO_SEGMENTS, aggregator=aggregator)[0])
    for parameter in model.model.aggregator.over_time.parameters():
        parameter.mul_(20)  # at random they hardly say anything
    batch = video_inputs(model, (10,), (9,))
    (plain,) = model(**batch).video_hidden_states
    for changed, other, known in ((0, slice(8, None), knows_the_past), (9, slice(8), knows_the_future)):
        pixels = batch["pixel_values_videos"].clone()
        pixels[0, changed] += 30
        (now,) = model(**batch | {"pixel_values_videos": pixels}).video_hidden_states
        assert ((now[other] - plain[other]).abs().max() > 5e-7) == known
    if aggregator == "average":
        assert torch.equal(plain[:4], plain[4:8]), "nothing of when is left"


def test_only_the_aggregator_differs(tiny):
    """One setting swaps it; all else has the same weights by name."""
    names = {
        name: {key for key in tiny("temporalvlm", aggregator=name)[0].state_dict() if ".over_time." not in key}
        for name in AGGREGATORS
    }
    assert all(one == names["bilstm"] for one in names.values())
    assert any(".fusion." in key for key in names["bilstm"])


def test_a_short_video_has_fewer_segments(tiny, video):
    """120 frames, of which all are seen: two segments of 60, with three windows each."""
    model, processor = tiny("temporalvlm")
    inputs = processor(text="<video>When?", videos=[str(video)], return_tensors="pt")
    assert inputs["pixel_values_videos"].shape[1] == 120
    assert [list(map(len, own)) for own in model.config.windows(120)] == [[32, 32, 28]] * 2
    assert int((inputs["input_ids"] == processor.video_token_id).sum()) == 6 * 4
    assert "contains 120 frames. When?" in processor.tokenizer.decode(inputs["input_ids"][0]), "no room for their times"
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


@torch.no_grad()
def test_timechats_weights_are_a_start(tiny_folder):
    """All but the aggregator's, which are new."""
    settings = {"segment_size": 48, "num_frames": 96, "window_size": 16, "window_stride": 8}
    options = {"aggregator": "bilstm", "num_fusion_layers": 1}
    model = Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder(), **settings, **options)
    known = Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder()).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, known[name]) if ".aggregator." not in name else weight.isfinite().all(), name
    assert model.model.aggregator.over_time.lstm.weight_ih_l0.std() > 0.01
    before = Seq2TimeProcessor.from_pretrained(tiny_folder())
    processor = Seq2TimeProcessor.from_config(model.config, before.tokenizer, before.qformer_tokenizer)
    assert (processor.segment_size, processor.video_processor.num_frames) == (48, 96)


def test_gradient_reaches_what_the_recipe_names(tiny_folder, model, tmp_path):
    """The paper's: aggregator and projector beside LoRA; both Q-Formers stay."""
    if model.config.aggregator == "average":  # has nothing of its own to learn but the fusion
        assert {name.partition(".")[0] for name, _ in model.model.aggregator.named_parameters()} == {"fusion"}
    folder = tiny_folder("temporalvlm", **TWO_SEGMENTS, aggregator=model.config.aggregator)
    settings = {"model": str(folder), "data": [], "lora_rank": 4, "lora_dropout": 0.0, "dtype": "float32"}
    trained, _ = load_for_training(Recipe(**settings, trained_parts=["aggregator", "projector"]), folder)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:  # where it is zero, no gradient passes
                parameter.normal_(std=0.02)
    inputs = video_inputs(model, (10, 7), (9, 6))
    trained.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    reached = {name for name, parameter in trained.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    parts = ("aggregator", "projector", "lora_", "trainable_tokens_delta")
    assert all(any(part in name for part in parts) for name in reached)
    assert all(any(part in name for name in reached) for part in parts)


def test_what_is_frozen_has_no_graph_and_no_dropout(tiny_folder):
    """Also with checkpointing, which hooks embeddings to require gradients."""
    folder = tiny_folder("temporalvlm", **TWO_SEGMENTS)
    settings = Recipe(model=str(folder), data=[], dtype="float32", trained_parts=["aggregator", "projector"])
    model, _ = load_for_training(settings, folder)
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    inner, seen = model.train().get_base_model().model, []
    for part in (inner.image_qformer, inner.video_qformer):
        assert part.qformer.config.hidden_dropout_prob > 0 and not part.training
        part.register_forward_hook(lambda _, __, found: seen.append(found))
    inputs = video_inputs(model.get_base_model(), (10,), (9,))
    for _ in range(2):
        model(**inputs)
    images, windows = seen[::2], [one for (one,) in seen[1::2]]
    assert not any(one.requires_grad for one in [*images, *windows])
    assert torch.equal(*images) and torch.equal(*windows)
    whole, _ = load_for_training(Recipe(model=str(folder), data=[], dtype="float32"), folder)
    assert whole.train().get_base_model().model.image_qformer.training, "what trains has dropout"


def test_parts_that_the_model_lacks_are_refused(tiny_folder):
    settings = Recipe(model=str(tiny_folder()), data=[], dtype="float32", trained_parts=["aggregator"])
    with pytest.raises(DataError, match="trained_parts: expected some of image_qformer, .*, found aggregator"):
        load_for_training(settings, tiny_folder())


def test_it_learns(recipe, tiny_folder, tmp_path):  # noqa: F811
    """What its recipe trains, on a small set: the loss falls."""
    folder = tiny_folder("temporalvlm", num_frames=8, segment_size=4, window_size=3, window_stride=2)
    sft.main([recipe(model=str(folder), trained_parts=["aggregator", "projector"], num_train_epochs=2)])
    (state,) = (tmp_path / "run").glob("checkpoint-16/trainer_state.json")
    losses = [one["loss"] for one in json.loads(state.read_text())["log_history"] if "loss" in one]
    assert losses[-1] < losses[0] - 0.1
