"""What trains, and that it is saved small, loaded, trained on and merged whole."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from tests.test_remote_code import run_session
from train.adapter import base_of, load_for_training, merge, parameter_table, prepare_base
from train.recipe import Recipe


def recipe(model, **settings) -> Recipe:
    return Recipe(model=str(model), data=[], dtype="float32", lora_rank=4, lora_alpha=8, **settings)


def disturb(model):
    """As if it had been trained: every trained number moves."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory, prompt, video):
    """(adapter's folder, inputs, the trained model's logits)"""
    model, processor = load_for_training(recipe(tiny_folder()), tiny_folder())
    inputs = processor.apply_chat_template(
        prompt(str(video), "When?"), tokenize=True, return_dict=True, return_tensors="pt"
    )
    folder = tmp_path_factory.mktemp("adapter")
    disturb(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, inputs, logits_of(model, inputs)


@pytest.mark.parametrize("preset", ["timechat", "video_llama", "temporalvlm"])
def test_the_table_of_what_trains(tiny_folder, preset):
    folder = tiny_folder(preset)
    base = Seq2TimeForConditionalGeneration.from_pretrained(folder)
    model, _ = load_for_training(recipe(folder), folder)
    table = {part: (count, trained) for part, count, trained in parameter_table(model)}

    def size(part):
        return sum(parameter.numel() for parameter in part.parameters())

    layers, text = base.config.text_config.num_hidden_layers, base.config.text_config
    keys = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    lora = layers * 4 * (2 * (2 * text.hidden_size) + 2 * (text.hidden_size + keys))
    rows = 2 * 10 * text.hidden_size
    assert table == {
        "LoRA": (lora, lora),
        "time tokens": (rows, rows),
        "vision tower": (size(base.model.vision_tower), 0),
        "image Q-Former": (size(base.model.image_qformer),) * 2,
        "video Q-Former": (size(base.model.video_qformer),) * 2,
        "projector": (size(base.model.projector),) * 2,
        "language model": (size(base.model.language_model) + size(base.lm_head), 0),
    } | ({"aggregator": (size(base.model.aggregator),) * 2} if preset == "temporalvlm" else {})


def test_gradient_reaches_exactly_what_trains(tiny_folder, trained):
    _, inputs, _ = trained
    model, _ = load_for_training(recipe(tiny_folder(), lora_dropout=0.0), tiny_folder())
    disturb(model).train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in reached if "vision_tower" in name]
    assert all(
        parameter.grad.abs().max() > 0
        for name, parameter in model.named_parameters()
        # a softmax doesn't see what is added to all of its keys
        if parameter.requires_grad and not name.endswith("key.bias")
    )


def test_only_the_ten_rows_move(tiny_folder, trained, tmp_path):
    folder, _, _ = trained
    merge(folder, tmp_path / "merged")
    before = load_file(tiny_folder() / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    ids = json.loads((tmp_path / "merged" / "config.json").read_text())["time_token_ids"]
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        moved = (before[name] != after[name]).any(dim=1).nonzero().flatten().tolist()
        assert moved == ids, name
    assert all(torch.equal(before[name], after[name]) for name in before if "vision_tower" in name)
    assert all(torch.equal(before[name], after[name]) for name in before if ".mlp." in name and "language" in name)


def test_an_adapter_is_small_and_loads_by_from_pretrained(tiny_folder, trained):
    folder, inputs, expected = trained
    kept = load_file(folder / "adapter_model.safetensors")
    assert not [name for name in kept if "vision_tower" in name or "language_model.layers.0.mlp" in name]
    assert kept["base_model.model.lm_head.token_adapter.trainable_tokens_delta"].shape[0] == 10
    for cls, options in (
        (Seq2TimeForConditionalGeneration, {}),
        (AutoModelForImageTextToText, {"trust_remote_code": True}),
    ):
        loaded = cls.from_pretrained(folder, **options).eval()
        assert (logits_of(loaded, inputs) - expected).abs().max() < 1e-6
    base = Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder()).eval()
    assert (logits_of(base, inputs) - expected).abs().max() > 1e-2, "the adapter matters"


def test_merged_it_loads_in_a_fresh_process_without_peft_or_package(trained, video, tmp_path):
    folder, _, expected = trained
    merge(folder, tmp_path / "merged")
    found = run_session(tmp_path / "merged", video, tmp_path)
    assert (torch.tensor(found["logits"]) - expected[0, -1]).abs().max() < 1e-6
    with pytest.raises(DataError, match="isn't there yet"):
        merge(folder, tmp_path / "merged")
    with pytest.raises(DataError, match="adapter_config.json"):
        merge(tmp_path / "merged", tmp_path / "again")


def test_training_goes_on_from_an_adapter(trained):
    folder, inputs, expected = trained
    model, _ = load_for_training(recipe(folder), base_of(folder))
    assert (logits_of(model.eval(), inputs) - expected).abs().max() < 1e-6
    assert sum(trained for *_, trained in parameter_table(model)) > 0
    with pytest.raises(DataError, match=r"r=4, the recipe 8.*lora_rank"):
        other = recipe(folder)
        other.lora_rank = 8
        load_for_training(other, base_of(folder))
    with pytest.raises(DataError, match="lora_targets"):
        load_for_training(recipe(folder, lora_targets=["q_proj"]), base_of(folder))


def test_training_goes_on_from_weights_with_an_adapter_beside_them(trained, tiny_folder, tmp_path):
    """As a converted TimeChat is: LoRA alone in the adapter, all else in the weights."""
    folder, inputs, _ = trained
    both = tmp_path / "timechat"
    shutil.copytree(tiny_folder(), both)
    kept = {name: value for name, value in load_file(folder / "adapter_model.safetensors").items() if "lora_" in name}
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings |= {"modules_to_save": None, "trainable_token_indices": None, "base_model_name_or_path": str(both)}
    (both / "adapter_config.json").write_text(json.dumps(settings))
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file(kept, both / "adapter_model.safetensors", metadata={"format": "pt"})
    expected = logits_of(Seq2TimeForConditionalGeneration.from_pretrained(both).eval(), inputs)
    plain = logits_of(Seq2TimeForConditionalGeneration.from_pretrained(tiny_folder()).eval(), inputs)
    assert (expected - plain).abs().max() > 1e-3
    model, _ = load_for_training(recipe(both), base_of(both))
    assert (logits_of(model.eval(), inputs) - expected).abs().max() < 1e-6
    model.save_pretrained(tmp_path / "next")
    Seq2TimeProcessor.from_pretrained(both).save_pretrained(tmp_path / "next")
    merge(tmp_path / "next", tmp_path / "merged")
    merged = Seq2TimeForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    assert (logits_of(merged, inputs) - expected).abs().max() < 1e-6, "LoRA isn't counted twice"


def test_a_base_without_the_notation_is_copied_once_with_it(tmp_path):
    from examples.make_tiny_model import make_tiny_model  # noqa: PLC0415

    model, processor = make_tiny_model("timechat", time_notation="text")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "text")
    assert prepare_base(recipe(tmp_path / "text"), tmp_path / "out") == tmp_path / "text"
    assert prepare_base(recipe(tmp_path / "text", time_notation="text"), tmp_path / "out") == tmp_path / "text"
    wanted = recipe(tmp_path / "text", time_notation="rpt")
    for name in (".base.99.part", ".base.other.99.part"):  # what a killed process leaves, and another one writes
        (tmp_path / "out" / name).mkdir(parents=True)
    base = prepare_base(wanted, tmp_path / "out")
    assert sorted(path.name for path in base.parent.iterdir()) == [".base.other.99.part", "base"]
    assert base == tmp_path / "out" / "base"
    written = (base / "model.safetensors").stat().st_mtime_ns
    assert prepare_base(wanted, tmp_path / "out") == base and (base / "model.safetensors").stat().st_mtime_ns == written
    trained, processor = load_for_training(wanted, base)
    assert processor.time_notation == "rpt" and len(trained.config.time_token_ids) == 10
    disturb(trained).save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter", trust_remote_code=True)
    assert loaded.config.time_notation == "rpt"


def test_frames_beyond_the_position_table_are_refused(tiny_folder):
    with pytest.raises(DataError, match="num_frames: .* between 1 and max_frame_positions=96, found 97"):
        load_for_training(recipe(tiny_folder(), num_frames=97), tiny_folder())


def test_what_trains_is_float32_beside_frozen_bfloat16(tiny_folder):
    settings = recipe(tiny_folder())
    settings.dtype = "bfloat16"
    model, _ = load_for_training(settings, tiny_folder())
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
