"""Video language models of transformers: trained, saved, merged, asked and scored as this package's own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    InternVLConfig,
    LlavaConfig,
    LlavaProcessor,
    Qwen2Config,
)

from dataset_scripts import textual_temporal
from dataset_scripts.items import DataError
from dataset_scripts.sources import miniworld
from evaluation import run as runner
from examples.make_tiny_model import make_tokenizer
from modeling_seq2time import cli, get_notation
from modeling_seq2time.answer_scores import AnswerRows, AnswerTree, next_scores
from modeling_seq2time.native_video import VIDEO, NativeProcessor, NativeVideoModel, as_native, load
from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata
from tests.native_models import MODELS, write
from tests.test_adapter import disturb
from tests.training import draws, mini_sets, numbered_samples
from train import adapter, native, sft
from train.collator import IGNORED
from train.conversation import as_chat, encode
from train.mixture import Mixture
from train.native import NativeCollator
from train.recipe import Recipe, Source


SIDES = {"qwen2_5_vl": 56, "qwen3_vl": 64, "llava_onevision": 56}
PROJECTOR = {"qwen2_5_vl": "visual.merger", "qwen3_vl": "merger", "llava_onevision": "multi_modal_projector"}
RPT = {f"<{digit}>" for digit in range(10)}
FRAMES = {"num_frames": 8, "video_metadata": [{"fps": 10.0}]}

every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`folder(name)` → a model's folder, made once."""
    made = {}

    def get(name="qwen2_5_vl"):
        if name not in made:
            made[name] = write(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return mini_sets(tmp_path_factory)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Questions about text alone."""
    made = tmp_path_factory.mktemp("texts")
    world = "miniworld?pictures=120&clips=4&videos=1&size=56"
    textual_temporal.main(["--source", world, "--num-instances", "16", "--output", str(made)])
    return made


def settings(name="qwen2_5_vl", **more) -> dict:
    common = {"time_notation": "rpt", "num_frames": 8, "frame_size": SIDES[name], "lora_rank": 4, "dtype": "float32"}
    return common | more


@pytest.fixture
def recipe(folder, sets, tmp_path):
    """`recipe(name, **settings)` → the file of a recipe with all kinds of data, whose runs take seconds."""

    def make(name="qwen2_5_vl", **more):
        values = {
            "model": str(folder(name)),
            "output_dir": str(tmp_path / "run"),
            "data": [
                {"path": str(sets), "config": ["iig", "iic", "alr"]},
                {"path": str(sets), "config": ["dense_captioning", "grounding"]},
                {"path": str(sets), "config": "video_grounding"},
            ],
            "bf16": False,
            "use_cpu": True,
            "activation_checkpointing": False,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "report_to": "none",
            "max_steps": 3,
        }
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(values | settings(name) | more))
        return str(file)

    return make


def prepared(folder: Path, output: Path, name: str, **more):
    """(recipe, model with an adapter, processor)"""
    recipe = Recipe(model=str(folder), data=[], **settings(name, **more))
    return recipe, *native.load_for_training(recipe, native.prepare_base(recipe, output))


@pytest.fixture(scope="module")
def asked(folder, tmp_path_factory):
    """`asked(name)` → (model, processor) with time tokens, to ask."""
    made = {}

    def get(name):
        if name not in made:
            base = tmp_path_factory.mktemp("asked")
            native.prepare_base(Recipe(model=str(folder(name)), data=[], **settings(name)), base)
            made[name] = load(base / "base")
        return made[name]

    return get


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 40, 60, 3), dtype=np.uint8)


def steps_of(run: Path) -> list[dict]:
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in log if "loss" in entry]


def inputs_of(processor, film, question="When?") -> dict:
    """What the model's own processor makes of a question, all by itself."""
    sampled = processor.video_processor([film], return_tensors="pt", **FRAMES)
    (metadata,), (frames,) = sampled["video_metadata"], sampled["pixel_values_videos"]
    words = processor._video_text(metadata).rpartition(VIDEO)[2] + question
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": words}]}]
    text = processor.native.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    known = {"videos": [frames], "video_metadata": [as_native(metadata)], "do_sample_frames": False}
    return dict(processor.native(text=[text], **known, return_tensors="pt"))


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits


WITHOUT = """
import sys
sys.modules |= {"modeling_seq2time": None, "peft": None}
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, inputs, output = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)
assert len(processor.tokenizer("<0><7>", add_special_tokens=False)["input_ids"]) == 2
save_file({"logits": model(**load_file(inputs)).logits.detach()}, output)
"""


@every_model
def test_trained_three_steps_with_rpt_and_reloaded(recipe, film, tmp_path, name):
    sft.main([recipe(name, trained_parts=["projector"])])
    run, merged = tmp_path / "run", tmp_path / "merged"
    losses = [entry["loss"] for entry in steps_of(run)]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert "rpt" in (run / "README.md").read_text() and str(tmp_path) not in (run / "README.md").read_text()

    adapted, again = (AutoModelForImageTextToText.from_pretrained(run).eval() for _ in range(2))
    processor = NativeProcessor.from_pretrained(run)
    assert processor.settings == {
        "time_notation": "rpt",
        "time_notation_options": None,
        "num_frames": 8,
        "frame_size": SIDES[name],
    }
    inputs = inputs_of(processor, film, "When, <0><1><0><9>?")
    expected = logits_of(adapted, inputs)
    assert torch.equal(logits_of(again, inputs), expected)
    untrained = AutoModelForImageTextToText.from_pretrained(run / "base").eval()
    assert (logits_of(untrained, inputs) - expected).abs().max() > 1e-2, "the adapter matters"

    adapter.main(["merge", str(run), "--output", str(merged)])
    save_file(inputs, tmp_path / "inputs.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("inputs", "logits")]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(merged), *files], cwd=tmp_path, env=alone, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found = load_file(files[1])["logits"]
    assert (found - expected).abs().max() < 1e-5
    torch.set_num_threads(1)
    assert torch.allclose(logits_of(AutoModelForImageTextToText.from_pretrained(merged).eval(), inputs), found)
    assert NativeProcessor.from_pretrained(merged).settings == processor.settings
    config = json.loads((merged / "config.json").read_text())
    assert config["time_notation"] == "rpt" and len(config["time_token_ids"]) == 10


@every_model
def test_what_trains(folder, film, tmp_path, name):
    for parts in ([], ["projector"]):
        _, model, processor = prepared(folder(name), tmp_path / "run", name, trained_parts=parts, lora_dropout=0.0)
        disturb(model).train()
        inputs = inputs_of(processor, film, "<0><1><2><3><4><5><6><7><8><9>")
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        trained = {name for name, one in model.named_parameters() if one.requires_grad}
        reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().max() > 0}
        assert {name for name in trained - reached if not name.endswith(".bias")} == set()
        assert reached <= trained
        kinds = {
            "lora": {one for one in trained if ".language_model.layers." in one and "lora_" in one},
            "rows": {one for one in trained if "trainable_tokens_delta" in one},
            "projector": {one for one in trained if PROJECTOR[name] in one and ".modules_to_save." in one},
        }
        assert set.union(*kinds.values()) == trained
        assert len(kinds["lora"]) == 2 * 4 * 2 and len(kinds["rows"]) == 2 and bool(kinds["projector"]) == bool(parts)
        rows = [one for key, one in model.named_parameters() if key in kinds["rows"]]
        assert all(one.shape[0] == 10 for one in rows)
        report = native.parameter_report(model)
        tower = next(line for line in report.splitlines() if line.startswith("vision tower"))
        assert tower.split()[-1] == "0"


def test_a_frozen_front_has_no_graph(folder, film, tmp_path):
    for parts, graph in (([], False), (["projector"], True)):
        _, model, processor = prepared(folder(), tmp_path / "run", "qwen2_5_vl", trained_parts=parts)
        model.enable_input_require_grads()  # as with checkpointing of activations
        outputs = model(**inputs_of(processor, film)).video_outputs
        assert outputs.pooler_output[0].requires_grad == graph


@every_model
def test_rows_start_as_digits_and_only_they_move(folder, tmp_path, name):
    _, model, processor = prepared(folder(name), tmp_path / "run", name)
    before = AutoModelForImageTextToText.from_pretrained(folder(name))
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "base")
    ids = base.config.time_token_ids
    digits = processor.tokenizer.convert_tokens_to_ids(list("0123456789"))
    assert processor.tokenizer.convert_ids_to_tokens(ids) == sorted(RPT)
    for start, old in (
        (base.get_input_embeddings(), before.get_input_embeddings()),
        (base.get_output_embeddings(), before.get_output_embeddings()),
    ):
        assert torch.equal(start.weight[ids], old.weight[digits])
        assert torch.equal(start.weight[: len(processor.tokenizer) - 10], old.weight[: len(processor.tokenizer) - 10])
    disturb(model).save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    adapter.merge(tmp_path / "adapter", tmp_path / "merged")
    old, new = (load_file(one / "model.safetensors") for one in (tmp_path / "run" / "base", tmp_path / "merged"))
    moved = {key for key in old if not torch.equal(old[key], new[key])}
    ends = {key for key in moved if "embed_tokens" in key or "lm_head" in key}
    assert len(ends) == 2
    assert all((old[key] != new[key]).any(dim=1).nonzero().flatten().tolist() == ids for key in ends)
    seen = [key for key in moved - ends if "vision" in key or "visual" in key]
    assert not seen and len(moved - ends) == 2 * 4 and all("self_attn" in key for key in moved - ends)


@every_model
def test_prompts_are_what_the_models_own_processor_makes(asked, film, name):
    model, processor = asked(name)
    watched = model.watch(processor, film, video_kwargs=FRAMES)
    metadata = watched.windows[0].metadata
    (prompt,), prefix = processor.ask(["When?"], [metadata])
    inputs = inputs_of(processor, film)
    assert processor.tokenizer(prompt)["input_ids"] == inputs["input_ids"][0].tolist() and not prefix
    times = ", ".join(get_notation("rpt").encode(place) for place in metadata.positions)
    assert f"The video contains 8 frames sampled at {times}. When?" in prompt
    assert times.startswith("<0><0><0><0>, <1><0><0><0>, <2><5><0><0>") and prompt.count(times) == 1
    if name == "qwen3_vl":  # which merges two frames: at 0.0 and 0.2 of the first
        assert [f"<{time} seconds>" in prompt for time in ("0.1", "0.6", "1.1", "1.6")] == [True] * 4
    if name == "qwen2_5_vl":
        assert inputs["second_per_grid_ts"].item() == pytest.approx(2 * 2.0 / 8), "frames a second of two"


def test_times_as_transformers_is_told_them():
    uneven = Seq2TimeVideoMetadata(total_num_frames=3, frames_indices=[0, 1, 2], times=[0.0, 0.4171, 3.0], duration=4.0)
    told = as_native(uneven)
    assert told.timestamps == [0.0, 0.417, 3.0] and told.sampled_fps == pytest.approx(3 / 4.0)
    images = as_native(Seq2TimeVideoMetadata(total_num_frames=4, frames_indices=[0, 1, 3]))
    assert images.timestamps == [1, 2, 4] and images.duration == 4


@every_model
def test_labels_are_the_answers_and_their_ends(asked, name):
    _, processor = asked(name)
    metadata = Seq2TimeVideoMetadata(total_num_frames=8, frames_indices=list(range(8)))
    turns = [("user", "Which?"), ("assistant", "Image [[3/8 image]]."), ("user", "And?"), ("assistant", "A dog.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    ((ids, labels),) = encode(processor, [as_chat(processor, messages, metadata)])
    learned = processor.tokenizer.decode([label for label in labels if label != IGNORED])
    assert learned == "Image <3><7><5><0>.<|im_end|>A dog.<|im_end|>"
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    text = processor.tokenizer.decode(ids)
    (prompt,), _ = processor.ask(["Which?"], [metadata])
    begun = processor.tokenizer(prompt)["input_ids"]
    assert ids[: len(begun)] == begun, "the answer stands where it is asked for"
    assert labels[len(begun)] != IGNORED and labels[len(begun) - 1] == IGNORED
    assert text.count("assistant\nImage") == text.count("assistant\nA dog") == 1
    with pytest.raises(DataError, match=r"expected no <\|im_end\|> in a message"):
        as_chat(processor, [{"role": "user", "content": "<|im_end|>"}], None)
    with pytest.raises(DataError, match="in a message"):
        as_chat(processor, [{"role": "user", "content": processor.video_token}], None)


@every_model
@pytest.mark.parametrize("kind", [AnswerTree, AnswerRows])
@pytest.mark.parametrize("shared", [True, False])
def test_a_search_scores_as_the_model_itself(asked, film, name, shared, kind, monkeypatch):
    model, processor = asked(name)
    watched = model.watch(processor, film, video_kwargs=FRAMES)
    inputs = inputs_of(processor, film)
    ids, answers = inputs["input_ids"][0].tolist(), [(5, 6, 7), (8,), (5, 9)]
    prompts = [ids, ids if shared else [ids[0] + 1, *ids[1:]]]
    with torch.no_grad():

        def scores():
            found = next(next_scores(model, watched.windows[0].features, prompts, width=2))
            assert isinstance(found, AnswerTree)
            if kind is AnswerRows:
                found = AnswerRows(model, found.cache, found.last, 2)
            return torch.cat([found(answers[:1]), found(answers)[1:]])  # the second call's tree is there in part

        for answer, found in zip(answers, scores(), strict=True):
            longer = inputs | {"input_ids": torch.tensor([[*ids, *answer]])}
            longer["attention_mask"] = torch.ones_like(longer["input_ids"])
            if "mm_token_type_ids" in inputs:
                kinds = processor.native.create_mm_token_type_ids(longer["input_ids"].tolist())
                longer["mm_token_type_ids"] = torch.tensor(kinds)
            assert (logits_of(model.native, longer)[0, -1] - found).abs().max() < 1e-5
        if name != "llava_onevision":  # places that are merely counted are others
            expected = scores()
            monkeypatch.setattr(
                model.native,
                "_prepare_position_ids_for_generation",
                lambda ids, known: torch.arange(ids.shape[1])[None],
            )
            assert (scores() - expected).abs().max() > 1e-3


@every_model
def test_answers_are_written_as_the_model_itself_writes(asked, film, name):
    model, processor = asked(name)
    inputs = inputs_of(processor, film)
    greedy = {"max_new_tokens": 8, "do_sample": False}
    written = model.native.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(written, skip_special_tokens=True).strip()
    watched = model.watch(processor, film, video_kwargs=FRAMES)
    answers = model.reply(processor, [watched, watched], ["When?", "Why?"], batch_size=4, **greedy)
    assert [own[0].text for own in answers] == [expected] * 2


@every_model
@pytest.mark.parametrize("notation", ["rpt", "text"])
def test_answers_are_never_malformed(folder, asked, film, name, notation):
    model, processor = asked(name) if notation == "rpt" else load(folder(name))
    if notation == "text":  # of a model as it was published
        assert processor.time_notation == "text"
        processor = NativeProcessor(processor.native, frame_size=SIDES[name])
    watched = model.watch(processor, film, video_kwargs=FRAMES)
    for torch_seed in range(2):
        torch.manual_seed(torch_seed)
        sampled = {"do_sample": True, "max_new_tokens": 48}
        grounded = model.ground(processor, watched, ["a", "b"], top_k=3)
        captions = model.dense_caption(processor, watched, **sampled)
        highlights = model.highlights(processor, watched, "a", **sampled)
        assert all(len(answer) == 3 for answer in grounded) and captions and highlights
        for moment in [*grounded[0], *grounded[1], *captions, *highlights]:
            assert 0 <= moment.start <= moment.end <= 2.0
        assert all(answer.failure is None for answer in (*grounded, captions, highlights))
    free = model.ground(processor, watched, "a", constrain=False, do_sample=False, max_new_tokens=12)
    assert free.failure, "random weights don't know the form"


def test_long_videos_in_windows(asked, video):
    model, processor = asked("qwen2_5_vl")
    answer = model.ground(processor, str(video), "a", window=2.0, video_kwargs={"num_frames": 6})
    assert len(answer) == 1 and answer.length == pytest.approx(4.8)


@every_model
def test_a_batch_shows_each_sample_its_own_frames(asked, film, tmp_path, name):
    """Numbered frames of two videos, and what the collator hands on of them."""
    _, processor = asked(name)
    samples = numbered_samples(tmp_path, [40, 24], size=(SIDES[name],) * 2)
    collator = NativeCollator(processor, [samples], crop=False)
    rows = [{"set": 0, "row": row, "copy": 0, "pool": 0, "epoch": 0} for row in range(2)]
    batch = collator(rows)
    assert [one["id"] for one in batch.pop("about")["samples"]] == ["video-0", "video-1"]
    assert batch.keys() - {"labels"} == inputs_of(processor, film).keys(), (
        "no less than the model's own processor gives"
    )
    for place in range(2):
        sample = samples[place]
        metadata = Seq2TimeVideoMetadata(**sample["metadata"])
        frames = processor.video_processor(
            [sample["frames"]], video_metadata=[sample["metadata"]], do_sample_frames=False, return_tensors="pt"
        )
        alone = processor.inputs([frames["pixel_values_videos"][0]], [metadata])["pixel_values_videos"]
        size = len(alone)
        assert torch.equal(batch["pixel_values_videos"][place * size : (place + 1) * size], alone)
    assert not torch.equal(*batch["pixel_values_videos"].chunk(2))
    if name == "qwen2_5_vl":
        assert batch["second_per_grid_ts"].tolist() == pytest.approx([2 * 4.0 / 8, 2 * 2.4 / 8])


@every_model
def test_a_batch_gives_each_sample_what_it_gets_alone(asked, sets, texts, name):
    """Pictures, clips, videos and text together, and one by one."""
    model, processor = asked(name)
    sources = [Source(str(sets), [config]) for config in ("iig", "dense_captioning", "video_grounding")]
    mixture = Mixture.load([*sources, Source(str(texts))], processor, "uniform", seed=0)
    collator = NativeCollator(processor, mixture.sets, crop=False)
    sizes = [(mixture.column("source") == source).argmax() for source in range(4)]
    rows = draws(mixture, *map(int, sizes))
    together = collator(rows)
    tasks = [sample["task"] for sample in together.pop("about")["samples"]]
    assert tasks[:3] == ["iig", "dense_captioning", "grounding"] and tasks[3].startswith("text_")
    labels, found = together.pop("labels"), logits_of(model.native, together)
    for place, row in enumerate(rows):
        alone = collator([row])
        assert alone.pop("about") and torch.equal(alone.pop("labels")[0], labels[place][: alone["input_ids"].shape[1]])
        assert ("pixel_values_videos" in alone) == (place < 3)
        (expected,) = logits_of(model.native, alone)
        assert (found[place][: len(expected)] - expected).abs().max() < 1e-5


def test_videos_of_several_lengths_in_a_batch(asked, tmp_path):
    samples = numbered_samples(tmp_path, [40, 5], size=(56, 56))
    rows = [{"set": 0, "row": row, "copy": 0, "pool": 0, "epoch": 0} for row in range(2)]
    batch = NativeCollator(asked("qwen2_5_vl")[1], [samples], crop=False)(rows)
    assert batch["video_grid_thw"][:, 0].tolist() == [4, 3]
    with pytest.raises(DataError, match=r"as many frames in a batch of this model, found \[5, 8\]"):
        NativeCollator(asked("llava_onevision")[1], [samples], crop=False)(rows)


def test_crops_are_new_in_each_epoch(asked, sets):
    _, processor = asked("qwen2_5_vl")
    mixture = Mixture.load([Source(str(sets), ["video_grounding"])], processor, "uniform", seed=0)
    collator = NativeCollator(processor, mixture.sets, crop=True)
    first, second, again = (collator(draws(mixture, 0, epoch=epoch))["pixel_values_videos"] for epoch in (0, 1, 0))
    assert torch.equal(first, again) and first.shape == second.shape and not torch.equal(first, second)


def test_loss_falls_on_a_few_samples(recipe, sets, tmp_path):
    data = [{"path": str(sets), "config": "video_grounding", "count": 4}]
    sft.main([recipe(data=data, max_steps=-1, num_train_epochs=30, lora_dropout=0.0, crop=False, sampling="uniform")])
    losses = [entry["loss"] for entry in steps_of(tmp_path / "run")]
    assert len(losses) == 30 and losses[-1] < losses[0] - 2


def test_a_run_goes_on_where_it_was_and_phase_two_starts_from_it(recipe, sets, tmp_path):
    file, run = recipe(save_steps=1), tmp_path / "run"
    sft.main([file])
    kept = (run / "adapter_model.safetensors").read_bytes()
    for gone in ("checkpoint-3", "checkpoint-2"):
        shutil.rmtree(run / gone)
    (run / "adapter_model.safetensors").unlink()
    (run / "adapter_config.json").unlink()
    sft.main([file])
    assert (run / "adapter_model.safetensors").read_bytes() == kept

    second = {"model": str(run), "output_dir": str(tmp_path / "second"), "max_steps": 1, "learning_rate": 0.0}
    sft.main([recipe(**second, time_notation=None)])
    before, after = (load_file(one / "adapter_model.safetensors") for one in (run, tmp_path / "second"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "second" / "base").exists()
    assert NativeProcessor.from_pretrained(tmp_path / "second").time_notation == "rpt"


@every_model
def test_text_beside_videos_checkpointed_in_bfloat16_and_held_out(recipe, sets, texts, tmp_path, name):
    data = [{"path": str(texts), "count": 8}, {"path": str(sets), "config": "video_grounding", "count": 8}]
    held_out = {"path": str(sets), "config": "video_grounding", "split": "test", "count": 1, "steps": 2}
    more = {"dtype": "bfloat16", "bf16": True, "activation_checkpointing": True, "trained_parts": ["projector"]}
    sft.main([recipe(name, data=data, held_out=held_out, **more)])
    steps = steps_of(tmp_path / "run")
    assert [entry["step"] for entry in steps if "held_out/miou" in entry] == [2]
    assert all(np.isfinite(entry["loss"]) for entry in steps)


def test_a_notation_without_tokens_needs_no_copy(recipe, tmp_path):
    sft.main([recipe(time_notation="text", max_steps=1)])
    assert not (tmp_path / "run" / "base").exists()
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert saved and not [name for name in saved if "trainable_tokens" in name]
    adapter.main(["merge", str(tmp_path / "run"), "--output", str(tmp_path / "merged")])
    assert NativeProcessor.from_pretrained(tmp_path / "merged").time_notation == "text"


def test_options_of_a_notation_round_trip(recipe, tmp_path):
    sft.main([recipe(time_notation="bins", time_notation_options={"num_bins": 20}, max_steps=1)])
    processor = NativeProcessor.from_pretrained(tmp_path / "run")
    assert processor.notation.num_bins == 20 and len(processor.notation.tokens) == 21
    config = json.loads((tmp_path / "run" / "base" / "config.json").read_text())
    assert config["time_notation_options"]["num_bins"] == 20 and len(config["time_token_ids"]) == 21


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("feature_cache=cache;crop=false", "feature_cache: expected None for a model that isn't of this package"),
        ("crop_images=true", "crop_images: expected False .* found True"),
        ("share_videos=true", "share_videos: expected False .* found True"),
        ("quantization=4", "quantization: expected None .* found 4"),
        ("learning_rates={projector: 1e-3}", "learning_rates: expected None .* found {'projector': 0.001}"),
        ("lora_rank=0", r"recipe\.yaml: .*`r` should be a positive integer"),
        ("trained_parts=[image_qformer]", "trained_parts: expected projector of .* found image_qformer"),
        ("time_notation=rtp", "unknown time notation 'rtp'"),
        ("lora_targets=[qq_proj]", r"recipe\.yaml: .*qq_proj"),
    ],
)
def test_wrong_settings_are_one_error(recipe, override, message):
    with pytest.raises(DataError, match=message) as caught:
        sft.main([recipe(), *override.split(";")])
    assert "recipe.yaml" in str(caught.value)


def test_models_without_video_are_refused(recipe, folder, tmp_path):
    text = tmp_path / "text"
    Qwen2Config().save_pretrained(text)
    make_tokenizer().save_pretrained(text)
    with pytest.raises(DataError, match="text: expected 'seq2time' or another video language model, found 'qwen2'"):
        sft.main([recipe(model=str(text))])
    pictures = tmp_path / "pictures"
    LlavaConfig().save_pretrained(pictures)
    LlavaProcessor(CLIPImageProcessor(), make_tokenizer()).save_pretrained(pictures)
    with pytest.raises(
        DataError,
        match=r"recipe\.yaml: .*pictures: expected .* a video_processor and a video_token, found LlavaProcessor",
    ):
        sft.main([recipe(model=str(pictures))])
    for_both = tmp_path / "for_both"
    shutil.copytree(folder(), for_both)
    InternVLConfig().save_pretrained(for_both)
    with pytest.raises(DataError, match="for_both: expected a model with a video_token_id, found 'internvl' without"):
        sft.main([recipe(model=str(for_both))])


def test_a_template_that_ends_no_answer_is_refused(folder, tmp_path):
    shutil.copytree(folder(), tmp_path / "other")
    template = (tmp_path / "other" / "chat_template.jinja").read_text()
    (tmp_path / "other" / "chat_template.jinja").write_text(template.replace("<|im_end|>", "<END>"))
    with pytest.raises(ValueError, match=r"chat template: expected <\|im_end\|> behind an answer, found '<END>'"):
        NativeProcessor.from_pretrained(tmp_path / "other")


def test_frames_of_another_size_need_another_model(tiny_folder, recipe):
    with pytest.raises(DataError, match="frame_size: .* of this package"):
        sft.main([recipe(model=str(tiny_folder()), frame_size=32)])


def test_there_is_no_plan(recipe):
    with pytest.raises(DataError, match="--plan: expected a model of this package"):
        sft.main([recipe(), "--plan"])
    with pytest.raises(DataError, match="--plan: expected a model of this package, .* found Qwen/"):
        sft.main(["train/recipes/qwen_vl.yaml", "--plan"])


def test_the_command_and_the_runner_take_it(asked, folder, video, tmp_path, capsys):
    """A trained one, and one as it was published, with times in plain text."""
    model, processor = asked("qwen2_5_vl")
    trained = tmp_path / "trained"
    model.native.save_pretrained(trained)
    processor.save_pretrained(trained)
    with pytest.raises(SystemExit) as done:
        cli.main(["ground", str(video), "a red circle", "--model", str(trained), "--json", "--num-frames", "8"])
    assert done.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["duration"] == pytest.approx(4.8) and 0 <= found["moments"][0]["start"] <= found["moments"][0]["end"]

    miniworld.build(tmp_path / "world", pictures=0, clips=0, videos=2, size=32, num_proc=1)
    for model_folder, notation in ((trained, "rpt"), (folder("llava_onevision"), "text")):
        output = tmp_path / notation
        data = ["--data", str(tmp_path / "world" / "videos"), "--split", "train", "--limit", "1"]
        fast = ["--num-frames", "8", "--max-new-tokens", "60", "--batch-size", "2", "--output", str(output)]
        runner.main(["--model", str(model_folder), "--benchmark", "miniworld", *data, *fast])
        results = json.loads((output / "results.json").read_text())
        assert results["settings"]["notation"] == notation and results["problems"] == []
        assert results["tasks"]["tvg"]["malformed"] == 0 and results["tasks"]["dvc"]["coverage"]["videos"] == 1


def test_the_model_that_is_asked_is_the_one_that_is_trained(folder, tmp_path, film):
    """`held_out` asks the model under its adapter, and leaves it as it was."""
    _, model, processor = prepared(folder(), tmp_path / "run", "qwen2_5_vl")
    base = disturb(model).get_base_model()
    inputs = inputs_of(processor, film)
    before = logits_of(base, inputs)
    answer = NativeVideoModel(base).ground(processor, film, "a", video_kwargs=FRAMES)
    assert len(answer) == 1 and torch.equal(logits_of(base, inputs), before)
