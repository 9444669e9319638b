"""Captions of clips: what the model is asked, each clip once, resumed, and failures listed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoTokenizer,
    GenerationMixin,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from dataset_scripts.caption_clips import Clip, Describer, main
from dataset_scripts.clip_sequences import read_captions
from dataset_scripts.doctor import examine
from dataset_scripts.items import DataError, Item
from dataset_scripts.sources import open_source
from tests.videos import read_number, write_video
from tests.vocabularies import gpt2_like


LABELS = ["juggling balls", "diving", "opening a door", "", "jumping"]
ROOT = Path(__file__).parent.parent
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{{ '<video>' if part.type == 'video' else part.text }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} Answer:{% endif %}"
)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A LLaVA-OneVision of transformers' own at toy size, in a folder."""
    folder = tmp_path_factory.mktemp("onevision")
    tokenizer = gpt2_like()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", "<video>"]})
    size = {"height": 28, "width": 28}
    LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = small | {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, "vision_use_head": False}
    text = small | {"model_type": "qwen2", "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    torch.manual_seed(1)
    parts = {"vision_config": vision, "text_config": text}
    config = LlavaOnevisionConfig(**parts, image_token_index=image, video_token_index=video)
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def clips(tmp_path):
    """A source of five clips, the second the middle of its file, the fourth without label; with its lock file."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = [{"file": f"{number}.mp4", "label": label} for number, label in enumerate(LABELS)]
    rows[1] |= {"start": 0.2, "end": 0.6}
    rows[3] |= {"caption": "somebody does something"}
    for row, num_frames in zip(rows, (12, 20, 10, 9, 3), strict=True):
        write_video(folder / row["file"], num_frames)
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examine(open_source("folder", str(folder)), folder, num_proc=1)
    return folder


@pytest.fixture
def caption(clips, native, tmp_path):
    """`caption(*options)` runs the command in small shards; gives the folder of captions."""

    def run(*options, model=native, output="captions"):
        sizes = ["--num-frames", "4", "--max-new-tokens", "6", "--batch-size", "2", "--shard-size", "2"]
        fixed = ["--source", f"folder={clips}", "--model", str(model), "--output", str(tmp_path / output)]
        main([*fixed, *sizes, "--dtype", "float32", "--num-proc", "1", *options])
        return tmp_path / output

    return run


@pytest.fixture
def asked(monkeypatch):
    """The inputs of each call of a model."""
    calls, generate = [], GenerationMixin.generate

    def recorded(self, **inputs):
        calls.append(inputs)
        return generate(self, **inputs)

    monkeypatch.setattr(GenerationMixin, "generate", recorded)
    return calls


def rows_in(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.glob("*.parquet")}


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def test_frames_are_those_of_the_clip(clips):
    clip = Clip(Item("1", (), ""), {"media": "1.mp4", "start": 0.2, "end": 0.6}, clips)
    frames, facts = clip.frames(5)
    assert [read_number(frame) for frame in frames] == [5, 7, 9, 11, 13]
    assert facts["frames_indices"] == [0, 2, 4, 6, 8] and facts["total_num_frames"] == 10
    assert facts["fps"] == pytest.approx(25) and facts["duration"] == pytest.approx(0.4)
    between_frames = Clip(clip.item, clip.entry | {"start": 0.21, "end": 0.22}, clips)
    assert [read_number(frame) for frame in between_frames.frames(5)[0]] == [5]


def test_native_model_is_told_the_label(caption, asked, native):
    folder = caption()
    rows = rows_in(folder)
    assert [row["key"] for row in rows] == [f"{number}.mp4" for number in range(5)]
    assert [row["label"] for row in rows] == LABELS and {row["model"] for row in rows} == {str(native)}
    assert all(row["caption"] and not row["error"] for row in rows) and listed(folder) == []
    assert read_captions(folder) == {row["key"]: row["caption"] for row in rows}

    tokenizer = AutoTokenizer.from_pretrained(native)
    prompts = [tokenizer.decode(ids) for call in asked for ids in call["input_ids"]]
    for prompt, label in zip(prompts, LABELS, strict=True):
        assert prompt.endswith(" Answer:") and "<video>" in prompt
        assert f'the action "{label}".' in prompt if label else "action" not in prompt
    assert [call["pixel_values_videos"].shape[:2] for call in asked] == [(2, 4), (2, 4), (1, 3)]
    assert not any(call["do_sample"] for call in asked)
    assert any((call["attention_mask"][:, 0] == 0).any() for call in asked)  # shorter prompts are padded, on the left
    assert all((call["attention_mask"][:, -1] == 1).all() for call in asked)
    assert not any(row["caption"].endswith("Answer:") or "action" in row["caption"] for row in rows)  # new tokens only

    alone = rows_in(caption("--batch-size", "1", output="alone"))
    assert [row["caption"] for row in alone] == [row["caption"] for row in rows]


def test_own_model_and_own_prompt(caption, asked, tiny_folder):
    model = tiny_folder("timechat")
    folder = caption("--trust-remote-code", "--prompt", "Describe it.", "--shard-size", "9", model=model)
    rows = rows_in(folder)
    assert len(rows) == 5 and not any(row["error"] for row in rows) and len(list(folder.glob("*.parquet"))) == 1
    assert [len(call["input_ids"]) for call in asked] == [2, 2, 1]  # no batch was tried again
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [tokenizer.decode(ids) for call in asked for ids in call["input_ids"]]
    sampled = [re.search("The video contains (.*) \\[/INST]", prompt)[1] for prompt in prompts]
    assert sampled[0] == (
        "4 frames sampled at <0><0><0><0>, <2><5><0><0>, <5><0><0><0>, <7><5><0><0>. Describe it."
    )  # fractions of the clip, as its frames' times and its duration say
    assert sampled[4] == "3 frames sampled at <0><0><0><0>, <3><3><3><3>, <6><6><6><7>. Describe it."


def test_resumes_where_it_was_killed(caption, monkeypatch):
    generate, calls = Describer._generate, []

    def killed(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, batch)

    whole = state_of(caption(output="whole"))
    assert len(whole) == 3
    monkeypatch.setattr(Describer, "_generate", killed)
    with pytest.raises(KeyboardInterrupt):
        caption()
    folder = caption()
    assert len(calls) == 4  # the finished shard wasn't done again
    assert {name: data for name, (_, data) in state_of(folder).items()} == {n: data for n, (_, data) in whole.items()}
    assert not list(folder.glob(".*"))

    before = state_of(folder)
    lost = min(before)
    (folder / lost).unlink()
    after = state_of(caption())
    assert len(calls) == 5 and after[lost][1] == before[lost][1] and after[lost][0] > before[lost][0]
    assert {name: after[name] for name in after if name != lost} == {n: before[n] for n in before if n != lost}


def test_a_file_is_there_whole_or_not_at_all(caption, monkeypatch, tmp_path):
    def interrupted(table, file, **options):
        Path(file).write_bytes(b"PAR1")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        caption()
    assert sorted(file.name for file in (tmp_path / "captions").iterdir()) == ["captions.json"]


def test_failures_are_listed_and_tried_again(caption, clips, monkeypatch):
    file = clips / "2.mp4"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])  # after the doctor saw it whole
    folder = caption()
    (failure,) = [row for row in rows_in(folder) if not row["caption"]]
    assert failure["key"] == "2.mp4" and failure["label"] == LABELS[2] and "2.mp4" in failure["error"]
    assert listed(folder) == [failure] and len(read_captions(folder)) == 4

    file.write_bytes(content)
    before = state_of(folder)
    assert state_of(caption()) == before  # not without being told
    asked, generate = [], Describer._generate
    monkeypatch.setattr(Describer, "_generate", lambda self, batch: asked.extend(batch) or generate(self, batch))
    caption("--retry-failed")
    assert [item.key for item, *_ in asked] == ["2.mp4"]
    changed = [name for name, state in state_of(folder).items() if state != before[name]]
    assert len(changed) == 1 and "00001-of-00003" in changed[0]
    assert listed(folder) == [] and [row["key"] for row in rows_in(folder)] == [f"{n}.mp4" for n in range(5)]
    assert all(row["caption"] for row in rows_in(folder))


def test_a_clip_that_the_model_refuses_fails_alone(caption, monkeypatch):
    generate = Describer._generate

    def picky(self, batch):
        if any(item.key == "1.mp4" for item, *_ in batch):
            raise RuntimeError("no diving")
        return ["  "] if len(batch) == 1 and batch[0][0].key == "4.mp4" else generate(self, batch)

    monkeypatch.setattr(Describer, "_generate", picky)
    errors = {row["key"]: row["error"] for row in listed(caption())}
    assert errors == {"1.mp4": "RuntimeError('no diving')", "4.mp4": "the model's answer is empty"}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), ImportError("av")])
def test_what_is_not_about_a_clip_stops_the_run(caption, monkeypatch, tmp_path, error):
    def fail(self, batch):
        raise error

    monkeypatch.setattr(Describer, "_generate", fail)
    with pytest.raises(type(error)):
        caption()
    assert not list((tmp_path / "captions").glob("*.parquet"))


def test_a_model_that_refuses_every_clip_stops_the_run(caption, clips, monkeypatch, tmp_path):
    def fail(self, batch):
        raise RuntimeError("wrong release")

    monkeypatch.setattr(Describer, "_generate", fail)
    assert len(listed(caption())) == 5  # too few to tell
    rows = [{"file": "0.mp4", "id": str(number), "label": "juggling"} for number in range(18)]
    (clips / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (clips / "folder.lock.jsonl").unlink()
    with pytest.raises(DataError, match="first 16 clips.*wrong release"):
        caption("--shard-size", "18", output="other")
    assert not list((tmp_path / "other").glob("*.parquet"))


@pytest.mark.parametrize("options", [("--num-frames", "3"), ("--prompt", "What is it?"), ("--shard-size", "3")])
def test_other_settings_are_refused(caption, options):
    before = state_of(caption())
    name = options[0].removeprefix("--").replace("-", "_")
    with pytest.raises(DataError, match=f"holds captions.*: {name} .*, not .?{re.escape(options[1])}"):
        caption(*options)
    folder = caption(output="captions")
    assert state_of(folder) == before
    caption(*options, "--overwrite")
    assert not set(state_of(folder)) & set(before) and len(read_captions(folder)) == 5


def test_a_model_without_videos_is_refused(caption, native, tmp_path):
    blind = shutil.copytree(native, tmp_path / "blind")
    template = blind / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<video>'", "''"))
    with pytest.raises(DataError, match="expected a model that takes videos"):
        caption(model=blind)


@pytest.mark.slow
def test_each_clip_once_in_two_processes(clips, tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(
        """
import os, sys
from dataset_scripts import caption_clips

class Fake:
    def __init__(self, args, device):
        pass
    def rows(self, batch):
        with open(os.environ["DONE"], "a") as lines:
            lines.writelines(f"{os.environ['RANK']} {clip.item.key}\\n" for clip, _ in batch)
        return {clip.item.key: dict.fromkeys(caption_clips.SCHEMA.names, clip.item.key) for clip, _ in batch}

caption_clips.Describer = Fake
caption_clips.main()
"""
    )
    (clips / "folder.lock.jsonl").unlink()  # one of the processes has to examine the source
    options = ["--source", f"folder={clips}", "--model", "none", "--output", str(tmp_path / "captions")]
    options += ["--shard-size", "1", "--num-proc", "1"]
    done = tmp_path / "done"
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "DONE": str(done), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    work = sorted(line.split()[::-1] for line in done.read_text().splitlines())
    assert work == [[f"{number}.mp4", str(number % 2)] for number in range(5)]
    assert len(rows_in(tmp_path / "captions")) == 5
    assert result.stdout.count("examining it now") == 1 and result.stdout.count("5 clips, 0 failed") == 1
