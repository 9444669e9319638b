"""The converter on the tiny reference (origin: tests/data/README.md): every stage of TimeChat, 12 greedy ids."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeModel, Seq2TimeProcessor
from modeling_seq2time.timechat_checkpoint import _resize_table


REFERENCE = Path(__file__).parent / "data/timechat_tiny"
RULES = json.loads((REFERENCE / "data_rules.json").read_text())
FILES = {
    "checkpoint": REFERENCE / "checkpoint.safetensors",
    "eva": REFERENCE / "eva_vit_g.safetensors",
    "instructblip": REFERENCE / "instruct_blip.safetensors",
    "llama": REFERENCE / "llama",
    "bert": REFERENCE / "bert",
    "config": REFERENCE / "config.json",
}


def convert(output, *flags, **files):
    arguments = [f"--{name}={value}" for name, value in (FILES | files).items() if value is not None]
    command = [sys.executable, "-m", "modeling_seq2time.convert_timechat", *arguments, f"--output={output}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REFERENCE.parents[2])


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "timechat"
    done = convert(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "merged"
    done = convert(folder, "--merge-lora")
    assert done.returncode == 0, done.stderr
    return folder


def reference(name):
    with np.load(REFERENCE / f"infer_{name}.npz") as content:
        return {key: torch.from_numpy(content[key]) for key in content.files}


def reference_inputs(config):
    given = reference("inputs")
    placeholders = torch.full((config.num_video_tokens,), config.video_token_id)
    return {
        "input_ids": torch.cat([given["segment_ids.0"], placeholders, given["segment_ids.1"]])[None],
        "pixel_values_videos": given["images"].transpose(1, 2),
        "video_time_input_ids": given["timestamps.input_ids"][None],
        "video_time_attention_mask": given["timestamps.attention_mask"][None],
    }


@torch.no_grad()
def stages(model):
    """Every stage that the reference has, caught on its way through the model."""
    caught, base = {}, model.model
    hooks = [
        base.vision_tower.register_forward_hook(lambda m, a, out: caught.update(vit=out.last_hidden_state)),
        base.image_qformer.register_forward_hook(lambda m, a, out: caught.update(qformer=out)),
        base.video_qformer.qformer.register_forward_hook(
            lambda m, a, kw, out: caught.update(
                window_in=kw["encoder_hidden_states"], window_out=out.last_hidden_state
            ),
            with_kwargs=True,
        ),
    ]
    output = model(**reference_inputs(model.config))
    for hook in hooks:
        hook.remove()
    found = {"vit_ln_vision.0": caught["vit"], "qformer_out.0": caught["qformer"]}
    for window, tokens in enumerate((64, 64, 32)):
        found[f"window_hidden_in.{window}"] = caught["window_in"][window : window + 1, :tokens]
        found[f"window_out.{window}"] = caught["window_out"][window : window + 1]
    found["video_embeds"] = output.video_hidden_states[0][None]
    found["llm_logits.0"] = output.logits[..., :430]
    return found


def worst(model):
    """Stages whose largest difference is above 1e-5 × max(1, max |reference|)."""
    expected = reference("outputs")
    found = stages(model)
    assert len(found) == 10
    return {
        name: float((value - expected[name]).abs().max())
        for name, value in found.items()
        if (value - expected[name]).abs().max() > 1e-5 * max(1, expected[name].abs().max())
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_every_stage_agrees(converted, merged, attention, kind):
    folder = merged if kind == "merged" else converted
    model = Seq2TimeForConditionalGeneration.from_pretrained(folder, attn_implementation=attention).eval()
    assert worst(model) == {}
    output = model.generate(**reference_inputs(model.config), max_new_tokens=12, do_sample=False)
    assert output[0, -12:].tolist() == reference("outputs")["greedy_ids"][1:].tolist()


def break_norm(model):
    model.model.vision_tower.post_layernorm.eps = 1e-6


def break_qformer_eps(model):
    for module in model.model.image_qformer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5


def drop_text_tokens(model):
    forward = model.model.image_qformer.forward
    model.model.image_qformer.forward = lambda *args, **kwargs: forward(*args, **kwargs)[:, :4]


def forget_frame_positions(model):
    model.model.video_qformer.frame_positions.weight.data.zero_()


@pytest.mark.parametrize(
    ("mistake", "first_stage"),
    [
        (break_norm, "vit_ln_vision.0"),
        (break_qformer_eps, "qformer_out.0"),
        (drop_text_tokens, "window_out.0"),
        (forget_frame_positions, "window_hidden_in.0"),
    ],
)
def test_mistakes_show(merged, mistake, first_stage):
    """Negative controls: each known trap is seen by the comparison."""
    model = Seq2TimeForConditionalGeneration.from_pretrained(merged).eval()
    mistake(model)
    if mistake is drop_text_tokens:
        expected = reference("outputs")["video_embeds"]
        with torch.no_grad():
            found = model(**reference_inputs(model.config)).video_hidden_states[0]
        assert (found - expected[0]).abs().max() > 1e-3
    else:
        assert first_stage in worst(model)


def test_adapter_is_peft(converted, merged):
    """The adapter loads in PEFT too, on the folder's own base weights."""
    base = Seq2TimeForConditionalGeneration.from_pretrained(merged)
    plain = load_file(converted / "model.safetensors")
    base.load_state_dict(plain)
    inputs = reference_inputs(base.config)
    with torch.no_grad():
        without = base(**inputs).logits[..., :430]
        adapted = PeftModel.from_pretrained(base, converted).eval()
        found = adapted(**inputs).logits[..., :430]
    expected = reference("outputs")["llm_logits.0"]
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert (without - expected).abs().max() > 1e-3, "the adapter matters"


def test_adapter_without_peft_is_an_error(converted, monkeypatch):
    from modeling_seq2time import modeling_seq2time  # noqa: PLC0415

    monkeypatch.setattr(modeling_seq2time, "is_peft_available", lambda: False)
    with pytest.raises(ImportError, match="keeps its LoRA weights as a PEFT adapter, which would be lost"):
        Seq2TimeForConditionalGeneration.from_pretrained(converted)


def test_every_key_is_accounted_for(converted):
    report = json.loads((converted / "conversion_report.json").read_text())
    assert report.pop("missing") == []
    old = {path.name: set(load_file(path)) for name, path in FILES.items() if path.suffix == ".safetensors"}
    old["model.safetensors"] = set(load_file(REFERENCE / "llama/model.safetensors"))
    assert {file: set(keys) for file, keys in report.items()} == old
    fates = {fate.split(":")[0] for keys in report.values() for fate in keys.values()}
    assert fates == {"used", "ignored"}
    assert report["eva_vit_g.safetensors"]["head.weight"].startswith("ignored")
    assert report["eva_vit_g.safetensors"]["blocks.2.norm1.weight"].startswith("ignored")
    assert report["instruct_blip.safetensors"]["query_tokens"] == "ignored: the checkpoint has its own image Q-Former"


def test_processor_says_what_timechat_says(converted):
    processor = Seq2TimeProcessor.from_pretrained(converted)
    given = reference("inputs")
    fps, places = 30.0, range(0, 330, 33)
    metadata = {"total_num_frames": 331, "fps": fps, "frames_indices": list(places)}
    frames = np.zeros((10, 8, 8, 3), np.uint8)
    inputs = processor(text="<video>", videos=frames, video_metadata=metadata, do_sample_frames=False)
    assert inputs["video_time_input_ids"][0] == given["timestamps.input_ids"].tolist()
    times = ", ".join(str(round(place / fps, 1)) for place in places)
    message = f"The video contains 10 frames sampled at {times} seconds. "
    assert processor.decode(inputs["input_ids"][0]).endswith(message)
    assert message in processor.decode(given["segment_ids.1"])


def test_pth_files_and_shards(merged, tmp_path):
    tensors = load_file(FILES["checkpoint"])
    other = {"optimizer": {"state": {}}, "config": {"run": {"seed": 42}}, "scaler": None, "epoch": 2}
    torch.save({"model": tensors} | other, tmp_path / "checkpoint.pth")
    torch.save(load_file(FILES["eva"]), tmp_path / "eva.pth", _use_new_zipfile_serialization=False)  # as long ago
    done = convert(
        tmp_path / "out", "--merge-lora", "--max-shard-size=0.0005",
        checkpoint=tmp_path / "checkpoint.pth", eva=tmp_path / "eva.pth",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    found = {}
    for file in set(index["weight_map"].values()):
        found |= load_file(tmp_path / "out" / file)
    expected = load_file(merged / "model.safetensors")
    assert found.keys() == expected.keys() == index["weight_map"].keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_language_model_with_a_gap_is_named(tmp_path):
    """Also where LoRA should be merged into what is missing."""
    llama = tmp_path / "llama"
    shutil.copytree(FILES["llama"], llama)
    tensors = load_file(llama / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, llama / "model.safetensors")
    done = convert(tmp_path / "out", "--merge-lora", llama=llama)
    assert done.returncode == 1
    assert "missing: model.language_model.layers.1.self_attn.q_proj.weight" in done.stderr
    assert "Traceback" not in done.stderr


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint was run",))


def test_no_code_of_a_checkpoint_is_run(tmp_path):
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    done = convert(tmp_path / "out", checkpoint=tmp_path / "evil.pth")
    assert done.returncode != 0
    assert "code from a checkpoint was run" not in done.stdout
    assert not (tmp_path / "out").exists()


def test_video_llama(tmp_path):
    """Its checkpoint has the video parts alone; the image Q-Former comes from BLIP-2's file and reads no text."""
    tensors = load_file(FILES["checkpoint"])
    video_only = {key: value for key, value in tensors.items() if key.startswith(("video_", "llama_proj."))}
    save_file(video_only, tmp_path / "video_llama.safetensors")
    settings = json.loads(FILES["config"].read_text()) | {"qformer_text_input": False, "stride": 0, "window_size": None}
    (tmp_path / "config.json").write_text(json.dumps(settings | {"lora": None}))
    done = convert(tmp_path / "out", checkpoint=tmp_path / "video_llama.safetensors", config=tmp_path / "config.json")
    assert done.returncode == 0, done.stderr
    model = Seq2TimeForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    blip = load_file(FILES["instructblip"])
    assert torch.equal(model.model.image_qformer.query_tokens, blip["query_tokens"])
    norm = model.model.image_qformer.qformer.layernorm.weight
    assert torch.equal(norm, blip["Qformer.bert.embeddings.LayerNorm.weight"])
    assert (model.config.num_video_tokens, model.config.qformer_reads_time) == (3, False)
    assert not (tmp_path / "out/adapter_config.json").exists()
    inputs = reference_inputs(model.config)
    del inputs["video_time_input_ids"], inputs["video_time_attention_mask"]
    assert model(**inputs).logits.isfinite().all()
    report = json.loads((tmp_path / "out/conversion_report.json").read_text())["instruct_blip.safetensors"]
    assert report["Qformer.bert.embeddings.word_embeddings.weight"] == "ignored: the image Q-Former reads no text"


@pytest.mark.parametrize("legacy", [True, False])
def test_the_tokenizers_legacy_flag_is_kept(tmp_path, legacy):
    """What follows the video's placeholders is `▁</` or `</`, as the LLaMA folder says."""
    llama = tmp_path / "llama"
    shutil.copytree(FILES["llama"], llama)
    settings = json.loads((llama / "tokenizer_config.json").read_text()) | {"legacy": legacy}
    (llama / "tokenizer_config.json").write_text(json.dumps(settings))
    done = convert(tmp_path / "out", llama=llama)
    assert done.returncode == 0, done.stderr
    processor = Seq2TimeProcessor.from_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "again")
    for tokenizer in (processor.tokenizer, Seq2TimeProcessor.from_pretrained(tmp_path / "again").tokenizer):
        behind = tokenizer.tokenize("<video></Video>")[1]
        assert behind == ("▁</" if legacy else "</")


def test_prompt_up_to_the_video_has_timechats_ids(converted):
    processor = Seq2TimeProcessor.from_pretrained(converted)
    expected = reference("inputs")["segment_ids.0"].tolist()
    system = processor.decode(expected).split("<<SYS>>\n")[1].split("\n<</SYS>>")[0]
    chat = [{"role": "system", "content": system}, {"role": "user", "content": [{"type": "video"}]}]
    inputs = processor(text=processor.apply_chat_template(chat), videos=np.zeros((2, 8, 8, 3), np.uint8))
    ids = inputs["input_ids"][0]
    assert ids[: ids.index(processor.video_token_id)] == expected


def test_base_model_loads_the_adapter_too(converted):
    base = Seq2TimeModel.from_pretrained(converted).eval()
    full = Seq2TimeForConditionalGeneration.from_pretrained(converted).eval()
    inputs = reference_inputs(full.config)
    with torch.no_grad():
        expected = full.model(**inputs).last_hidden_state
        torch.testing.assert_close(base(**inputs).last_hidden_state, expected)


def test_rpt_rows_for_training(tmp_path):
    done = convert(tmp_path / "out", "--merge-lora", "--time-notation=rpt")
    assert done.returncode == 0, done.stderr
    model = Seq2TimeForConditionalGeneration.from_pretrained(tmp_path / "out")
    processor = Seq2TimeProcessor.from_pretrained(tmp_path / "out")
    digits = processor.tokenizer.convert_tokens_to_ids(list("0123456789"))
    for head in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert torch.equal(head.weight[model.config.time_token_ids], head.weight[digits])
    before = model.get_input_embeddings().weight.clone()
    model.add_time_tokens(processor.tokenizer)
    assert torch.equal(model.get_input_embeddings().weight, before)


@pytest.mark.parametrize("size", RULES["interpolate_frame_pos_embed"])
def test_frame_positions_are_resized_as_timechat_does(size):
    rows = torch.arange(8.0)[:, None]
    assert _resize_table(rows, int(size))[:, 0].tolist() == RULES["interpolate_frame_pos_embed"][size]


def test_incomplete_files_are_refused(tmp_path):
    tensors = load_file(FILES["checkpoint"])
    del tensors["video_query_tokens"], tensors["llama_proj.bias"]
    tensors["video_query_tokens"] = torch.zeros(1, 3, 64)
    tensors["mystery.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "partial.safetensors")
    done = convert(tmp_path / "out", checkpoint=tmp_path / "partial.safetensors")
    assert done.returncode == 1
    assert "missing: model.projector.bias" in done.stderr
    assert "unexpected: partial.safetensors: mystery.weight" in done.stderr
    assert "nothing was written" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "partial.safetensors"]
    done = convert(tmp_path / "out", "--allow-incomplete", checkpoint=tmp_path / "partial.safetensors")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/config.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eva": "gone.pth"}, "error: gone.pth: there is no such checkpoint file"),
        ({"llama": REFERENCE / "bert"}, "bert"),
        ({"checkpoint": "cut.safetensors"}, "cut.safetensors: expected tensors that can be read safely"),
        ({"eva": "list.pth"}, "list.pth: expected tensors that can be read safely, found: a list"),
        ({"config": "list.json"}, "list.json: expected a JSON object, found a list"),
        ({"config": "broken.json"}, "broken.json: expected JSON"),
        ({"checkpoint": REFERENCE / "instruct_blip.safetensors"}, "expected a tensor 'video_frame_position"),
    ],
)
def test_wrong_files(tmp_path, change, message):
    (tmp_path / "cut.safetensors").write_bytes(FILES["checkpoint"].read_bytes()[:100_000])
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text('{"stride": ')
    change = {name: tmp_path / file if (tmp_path / file).exists() else file for name, file in change.items()}
    done = convert(tmp_path / "out", **change)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
