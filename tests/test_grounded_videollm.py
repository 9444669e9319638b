"""Grounded-VideoLLM: two streams over segments, their tokens in order, and what trains in each of its stages."""

import copy
import json

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    Phi3Config,
    Phi3ForCausalLM,
    VideoMAEConfig,
    VideoMAEModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from dataset_scripts.items import DataError
from examples.make_tiny_model import make_tokenizer
from examples.two_streams import main
from modeling_seq2time import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from tests.test_modeling import alone, video_inputs
from tests.test_plan import as_trained, counted, planned, row_of
from tests.test_sft import recipe, sets  # noqa: F401
from train import sft
from train.adapter import load_for_training, merge, parameter_table
from train.flops import Setup
from train.plan import memory, parameters
from train.recipe import Recipe


VJEPA = {"model_type": "vjepa2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2.0}
VJEPA |= {"pred_hidden_size": 32, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 4, "patch_size": 16}
VJEPA |= {"crop_size": 32, "frames_per_clip": 8, "tubelet_size": 2}
FORMS = {
    "merged": {},
    "averaged": {"spatial_pooling": "average", "spatial_side": 3},
    "V-JEPA 2": {"temporal_config": VJEPA},
}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def model(request, tiny):
    return tiny("grounded_videollm", **request.param)[0]


@pytest.mark.parametrize(
    ("form", "tokens", "segment"),
    [({}, 3420, 285), ({"spatial_pooling": "average", "spatial_side": 8}, 2316, 193)],
)
def test_published_numbers_of_tokens(form, tokens, segment):
    config = Seq2TimeConfig.from_preset("grounded_videollm", **form)
    assert (config.num_video_tokens, config.num_video_query_tokens) == (tokens, segment)
    assert [len(one) for one in config.windows.segments(96)] == [8] * 12
    assert (config.time_notation, config.qformer_reads_time) == ("bins", False)
    assert config.clips == (8, 224, 8, 16)


@torch.no_grad()
def test_one_call_is_a_plain_loop(model):
    """Over videos and segments: the key frame's patches, all frames' patches, the end, in this order."""
    inner, config, counts = model.model, model.config, (16, 11, 1)
    batch = video_inputs(model, counts)
    found = inner.get_video_features(**{k: v for k, v in batch.items() if "video" in k}, return_dict=True).pooler_output
    for video, edges in enumerate((((0, 8), (8, 16)), ((0, 5), (5, 11)), ((0, 1),))):
        said = []
        for first, last in edges:
            frames = batch["pixel_values_videos"][video, first:last]
            key = frames[(last - first) // 2]
            seen = inner.vision_tower(key[None], output_hidden_states=True).hidden_states[-2][0, 1:]
            side, grid = config.spatial_side, 4
            square = seen.view(grid, grid, -1)
            if config.spatial_pooling == "merge":
                step, rows = grid // side, []
                for row in range(side):
                    for column in range(side):
                        near = square[row * step : (row + 1) * step, column * step : (column + 1) * step]
                        rows.append(near.reshape(-1))
                    rows.append(inner.spatial_projector.row_end)
                spatial = inner.spatial_projector.layers(torch.stack(rows))
            else:
                pooled = functional.adaptive_avg_pool2d(square.permute(2, 0, 1), side).flatten(1).T
                spatial = inner.spatial_projector.layers(pooled)
            frames = torch.stack([*frames, *[frames[-1]] * (8 - len(frames))])
            small = functional.interpolate(frames, (config.clips.side,) * 2, mode="bicubic", antialias=True)
            for channel in range(3):
                shown = small[:, channel] * OPENAI_CLIP_STD[channel] + OPENAI_CLIP_MEAN[channel]
                small[:, channel] = (shown - IMAGENET_DEFAULT_MEAN[channel]) / IMAGENET_DEFAULT_STD[channel]
            options = {"skip_predictor": True} if config.temporal_config.model_type == "vjepa2" else {}
            patches = inner.temporal_tower.encoder(small[None], **options).last_hidden_state[0]
            steps = patches.view(config.clips.steps, -1, patches.shape[-1])
            temporal = inner.temporal_projector.layers(steps.mean(dim=1))  # a side of 1 is the mean of all
            said += [spatial, temporal, inner.temporal_projector.newline[None]]
        torch.testing.assert_close(found[video], torch.cat(said), atol=1e-5, rtol=0)


@torch.no_grad()
def test_each_token_knows_its_own_segment_alone(model):
    batch = video_inputs(model, (16,))
    size = model.config.num_video_query_tokens
    spatial = size - 1 - model.config.clips.steps
    (plain,) = model(**batch).video_hidden_states

    def changed(frame):
        pixels = batch["pixel_values_videos"].clone()
        pixels[0, frame] += 3
        (now,) = model(**batch | {"pixel_values_videos": pixels}).video_hidden_states
        return ((now - plain).abs().amax(dim=1) > 1e-6).tolist()

    key, other = changed(12), changed(15)
    assert not any(key[:size]) and not any(other[:size]), "the first segment doesn't know the second"
    assert any(key[size : size + spatial]) and not any(other[size : size + spatial]), "its key frame is the fifth"
    assert any(other[size + spatial : -1]) and not key[-1], (
        "the video encoder sees all frames; the end is always the same"
    )


@torch.no_grad()
def test_a_batch_gives_each_video_what_it_gets_alone(model):
    counts = (16, 11, 1)
    batch = video_inputs(model, counts, (9, 9, 9))
    together = model(**batch).video_hidden_states
    for row, count in enumerate(counts):
        (one,) = model(**alone(batch, row, count, 9)).video_hidden_states
        torch.testing.assert_close(together[row], one, atol=1e-5, rtol=0)


@torch.no_grad()
def test_only_key_frames_pass_the_vision_tower_and_each_once(model, monkeypatch):
    seen, forward = [], model.model.vision_tower.forward
    monkeypatch.setattr(
        model.model.vision_tower,
        "forward",
        lambda pixels, **kwargs: (seen.append(len(pixels)), forward(pixels, **kwargs))[1],
    )
    batch = video_inputs(model, (16, 11))
    pool = torch.randn(3, *batch["pixel_values_videos"].shape[2:])
    index = (torch.arange(32).view(2, 16) % 3).masked_fill(~batch["video_frame_mask"], -1)
    repeated = model(**batch | {"pixel_values_videos": pool[index]}).logits
    once = model(**batch | {"pixel_values_videos": pool, "video_picture_index": index}).logits
    keys = index[0, [4, 12]].tolist() + index[1, [2, 8]].tolist()
    assert seen == [4, len({*keys})] and seen[1] < 4
    torch.testing.assert_close(once, repeated, atol=1e-5, rtol=0)


def test_patches_are_refused(model):
    batch = video_inputs(model, (16,))
    batch["video_patches"] = batch.pop("pixel_values_videos")
    with pytest.raises(ValueError, match="two streams see frames in two sizes: expected pixel_values_videos, found"):
        model(**batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segment_size": 6, "num_frames": 96}, "as many frames as the video encoder takes, 8.*found segment_size=6"),
        ({"window_stride": 4, "window_size": 8}, "found segment_size=8, window_stride=4, aggregator=None"),
        ({"aggregator": "bilstm"}, "aggregator=bilstm"),
        ({"num_frames": 100}, "whole segments.*found num_frames=100, segment_size=8"),
        ({"spatial_side": 7}, "spatial_side must divide the vision tower's 24 patches a row to merge them, found 7"),
        ({"spatial_pooling": "average", "spatial_side": 25}, "between 1 and the encoders' 24 and 16 .*found 25 and 4"),
        ({"temporal_side": 17}, "found 12 and 17"),
        ({"spatial_pooling": "max"}, "spatial_pooling"),
        ({"temporal_config": {"tubelet_size": 3}}, "whole tubelets, found 8 frames and tubelet_size=3"),
        ({"temporal_config": {"model_type": "timesformer"}}, "one of 'videomae', 'vjepa2', found 'timesformer'"),
        ({"temporal_config": None}, "must be 'instructblip_vision_model' without a temporal_config, found 'clip_vis"),
        ({"vision_config": {"model_type": "instructblip_vision_model"}}, "must be 'clip_vision_model' with a temporal"),
        ({"time_notation_options": {"rounding": "up"}}, "rounding must be 'nearest' .* or 'floor' .*found 'up'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=f"(?s){message}"):
        Seq2TimeConfig.from_preset("grounded_videollm", **settings)


@pytest.mark.parametrize(("rounding", "second"), [("nearest", "<bin_2>"), ("floor", "<bin_1>")])
def test_both_rounding_rules(tiny, rounding, second):
    """The paper's and its code's: 0.17 of 30 s in 300 bins is 1.7."""
    _, processor = tiny("grounded_videollm", time_notation_options={"rounding": rounding})
    assert processor.notation.encode(0.17 / 30) == second


STAGES = {  # trained parts, LoRA's rank
    1: (["spatial_projector", "temporal_projector"], 0),
    2: (["spatial_projector", "temporal_projector", "embeddings", "head"], 4),
}


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_reaches_what_a_stage_trains(tiny_folder, model, stage, tmp_path):
    parts, rank = STAGES[stage]
    model.save_pretrained(tmp_path / "base")
    processor_of(tiny_folder).save_pretrained(tmp_path / "base")
    settings = {"model": str(tmp_path / "base"), "data": [], "dtype": "float32", "lora_dropout": 0.0}
    settings |= {"lora_targets": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], "lora_rank": rank}
    trained, processor = load_for_training(Recipe(**settings, trained_parts=parts), tmp_path / "base")
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:  # where it is zero, no gradient passes
                parameter.normal_(std=0.02)
    inputs = video_inputs(model, (16, 11))
    trained.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    reached = {name for name, parameter in trained.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    pieces = ["spatial_projector", "temporal_projector"]
    pieces += ["lora_", "embed_tokens.modules_to_save", "lm_head.modules_to_save"] if stage == 2 else []
    pieces += ["trainable_tokens_delta"] if stage == 1 else []  # the notation's rows, where not all of them train
    assert all(any(piece in name for piece in pieces) for name in reached)
    assert all(any(piece in name for name in reached) for piece in pieces)
    table = {part: trained for part, _, trained in parameter_table(trained)}
    assert table["video encoder"] == table["vision tower"] == 0 < table["spatial projector"]
    assert (table["LoRA"] > 0, table["language model"] > 0) == (stage == 2, stage == 2)

    with torch.no_grad():  # as if trained; merged it is the same without PEFT
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    expected = trained.eval()(**inputs).logits
    trained.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    merged = Seq2TimeForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=0)


def processor_of(tiny_folder):
    return Seq2TimeProcessor.from_pretrained(tiny_folder("grounded_videollm"))


LEARNS = {"num_frames": 8, "segment_size": 4, "temporal_config": {"num_frames": 4}}


def test_a_stage_learns_with_a_rate_for_each_part(recipe, tiny_folder, tmp_path):  # noqa: F811
    """Stage 2 on a small set: the loss falls, and the optimizer has the rates of the recipe."""
    rates = {"lora": 3e-3, "temporal_projector": 5e-3}
    settings = {
        "model": str(tiny_folder("grounded_videollm", **LEARNS)),
        "trained_parts": STAGES[2][0],
        "lora_targets": ["qkv_proj", "o_proj"],
        "learning_rates": rates,
        "learning_rate": 1e-3,
        "num_train_epochs": 2,
        "lr_scheduler_type": "constant",
        "time_notation": "bins",
    }
    sft.main([recipe(**settings)])
    (folder,) = (tmp_path / "run").glob("checkpoint-16")
    losses = [
        one["loss"] for one in json.loads((folder / "trainer_state.json").read_text())["log_history"] if "loss" in one
    ]
    assert losses[-1] < losses[0] - 0.1
    groups = torch.load(folder / "optimizer.pt", weights_only=True)["param_groups"]
    sizes = {rate: sum(len(group["params"]) for group in groups if group["lr"] == rate) for rate in (1e-3, 3e-3, 5e-3)}
    # Two matrices of LoRA for two projections in two layers; two layers and the end of a segment; the same of key
    # frames (the end of a row) and both ends of the language model.
    assert sizes == {3e-3: 8, 5e-3: 5, 1e-3: 5 + 2}
    assert {group["weight_decay"] for group in groups if group["lr"] == 5e-3} == {0.0, groups[0]["weight_decay"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"trained_parts": ["projector"]},
            "expected some of spatial_projector, temporal_projector, embeddings, head, f",
        ),
        ({"trained_parts": [], "lora_rank": 0}, "lora_rank: expected LoRA or trained_parts, found 0 and none"),
        (
            {"learning_rates": {"projector": 1e-3}},
            "learning_rates: expected some of lora, time_tokens, spatial_proj.* found projector",
        ),
        (
            {"learning_rates": {"lora": 1e-3}, "lora_rank": 0},
            "expected some of time_tokens, spatial_projector, .* found lora",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tiny_folder, settings, message):
    folder = tiny_folder("grounded_videollm")
    with pytest.raises(DataError, match=message):
        load_for_training(Recipe(model=str(folder), data=[], dtype="float32", **settings), folder)


def test_a_feature_cache_is_refused(recipe, tiny_folder, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match="feature_cache: expected a model with one vision tower, found two streams"):
        sft.main(
            [
                recipe(
                    model=str(tiny_folder("grounded_videollm", **LEARNS)),
                    trained_parts=[],
                    lora_targets=["o_proj"],
                    feature_cache=str(tmp_path / "features"),
                    crop=False,
                )
            ]
        )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_the_plan_counts_what_torch_counts(model, stage, checkpointing):
    parts, rank = STAGES[stage]
    targets = ("qkv_proj", "o_proj")
    trained = as_trained(model, checkpointing, trained_parts=parts, lora_rank=rank, lora_targets=list(targets))
    shared = {"trained_parts": tuple(parts), "lora_rank": rank, "lora_targets": targets, "trained_rows": 301}
    setup = Setup(checkpointing=checkpointing, **shared)
    assert parameters(model.config, setup) == {part: (size, own) for part, size, own in parameter_table(trained)}
    inputs, load = row_of(model, 11)
    assert planned(model.config, load, setup) == pytest.approx(counted(trained, inputs), rel=1e-9)
    assert memory(model.config, load, setup)["together"] > 0


def test_frozen_towers_have_no_graph(tiny):
    model, caught = copy.deepcopy(tiny("grounded_videollm")[0]).train(), []
    model.enable_input_require_grads()
    for tower in (model.model.vision_tower, model.model.temporal_tower):
        assert not tower.training
        tower.register_forward_hook(lambda _, __, output: caught.append(getattr(output, "last_hidden_state", output)))
    batch = video_inputs(model, (16,))
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert len(caught) == 2 and not any(one.requires_grad for one in caught)
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in model.named_parameters() if "_tower." in name}


def test_a_start_out_of_three_models(tmp_path):
    """The example's, from models that are saved as they lie on the Hub; a segment is eight frames whatever they had."""
    torch.manual_seed(0)
    vision, video, language = (tmp_path / name for name in ("vision", "video", "language"))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    seeing = CLIPVisionModel(CLIPVisionConfig(**small, image_size=56, patch_size=14))
    moving = VideoMAEModel(VideoMAEConfig(**small, image_size=64, patch_size=16, num_frames=16, tubelet_size=2))
    tokenizer = make_tokenizer()
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": len(tokenizer)}
    words = Phi3ForCausalLM(Phi3Config(**small, **ids, num_key_value_heads=2))
    for folder, part in ((vision, seeing), (video, moving), (language, words), (language, tokenizer)):
        part.save_pretrained(folder)
    main(
        ["--vision", str(vision), "--video", str(video), "--language", str(language), "--output", str(tmp_path / "all")]
    )
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "all", trust_remote_code=True)
    assert model.config.clips == (8, 64, 4, 4)
    assert model.config.num_video_query_tokens == 2 * 3 + 4 * 16 + 1
    pixels = torch.randn(1, 3, 56, 56)
    assert torch.equal(model.model.vision_tower(pixels)[0], seeing.eval()(pixels)[0])
    frames = torch.randn(1, 8, 3, 64, 64)
    clips = copy.deepcopy(moving.config)
    clips.num_frames = 8
    alone = VideoMAEModel.from_pretrained(video, config=clips).eval()
    assert torch.equal(model.model.temporal_tower(frames), alone(frames)[0])
    text = torch.arange(3, 20)[None]
    assert torch.equal(model(input_ids=text).logits[..., : len(tokenizer)], words.eval()(input_ids=text).logits)
    assert len(model.config.time_token_ids) == 301
    rows = model.lm_head.weight[model.config.time_token_ids]
    torch.testing.assert_close(rows[7], words.lm_head.weight.mean(dim=0), atol=1e-6, rtol=0)
    with pytest.raises(DataError, match="--video .*: expected a model of videomae or vjepa2, found clip_vision_model"):
        main(["--vision", str(vision), "--video", str(vision), "--language", "x", "--output", str(tmp_path / "none")])
