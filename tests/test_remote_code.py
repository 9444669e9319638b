import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


HERE = Path(__file__).parent
# What a model's folder holds besides weights and vocabularies; each is needed by a load without the package.
CODE = {
    "answer_form.py",
    "answer_scores.py",
    "configuration_seq2time.py",
    "modeling_seq2time.py",
    "moment_search.py",
    "moments.py",
    "processing_seq2time.py",
    "temporal_answers.py",
    "temporal_encoders.py",
    "time_decoding.py",
    "time_notation.py",
    "two_streams.py",
    "video_decoding.py",
    "video_packets.py",
    "video_processing_seq2time.py",
}


def run_session(folder, video, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        HERE / "remote_session.py",
        folder,
        video,
        tmp_path / "resaved",
        tmp_path / "report.json",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize("preset", ["timechat", "video_llama", "temporalvlm", "grounded_videollm"])
def test_loads_without_the_package(tiny, tiny_folder, prompt, video, tmp_path, preset):
    model, processor = tiny(preset)
    inputs = processor.apply_chat_template(
        prompt(str(video), "When?"), tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
        greedy = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, -6:]
    found = run_session(tiny_folder(preset), video, tmp_path)
    assert found["model"] == "transformers_modules"
    assert found["model_type"] == "seq2time"
    assert torch.equal(torch.tensor(found["logits"]), logits), "equal to the last bit"
    assert found["greedy"] == greedy.tolist()
    assert found["beams"] == [1, inputs["input_ids"].shape[1] + 4]
    assert found["image-text-to-text"] == found["any-to-any"] == found["decoded"]
    assert found["bfloat16"] == "torch.bfloat16"
    assert found["duration"] == pytest.approx(4.8)
    assert found["time tokens"] == [model.config.time_token_ids[0], model.config.time_token_ids[-1]]
    moment = model.ground(processor, video, "a door", search_steps=32)[0]
    assert found["ground"] == ["Moment", moment.start, moment.end]
    events = model.dense_caption(processor, video, max_new_tokens=60)
    assert found["caption"] == [[event.start, event.end, event.text] for event in events]
    assert found["highlights"] > 0
    for claim in ("multimodal is the same", "base is the same", "frozen", "sharded and resaved is the same"):
        assert found[claim], claim
    assert len(list((tmp_path / "resaved").glob("model-*.safetensors"))) > 1


def test_a_repository_that_was_fetched_before_brings_both_tokenizers(tiny, tiny_folder, tmp_path):
    """
    As `hf download` leaves it, read without the network: transformers' own way finds no `config.json` beside the second
    tokenizer, can't ask whether there is one, and takes the language model's tokenizer with no more than a warning.
    """
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub/models--owner--name"
    shutil.copytree(tiny_folder("timechat"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    program = (
        "from transformers import AutoProcessor; "
        "processor = AutoProcessor.from_pretrained('owner/name', trust_remote_code=True); "
        "print(len(processor.tokenizer), len(processor.qformer_tokenizer))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    _, processor = tiny("timechat")
    expected = f"{len(processor.tokenizer)} {len(processor.qformer_tokenizer)}"
    assert done.stdout.split("\n")[-2:] == [expected, ""], done.stderr[-3000:]


def test_what_would_be_uploaded(tiny, monkeypatch, tmp_path):
    """`push_to_hub` of model and processor, up to the request."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    uploaded = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **kwargs: type("Url", (), {"repo_id": repo_id})())
    monkeypatch.setattr(HfApi, "create_branch", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(
        HfApi,
        "create_commit",
        lambda self, repo_id, operations, **kwargs: uploaded.setdefault(repo_id, set()).update(
            operation.path_in_repo for operation in operations
        ),
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    model, processor = tiny("timechat")
    monkeypatch.chdir(tmp_path)
    model.push_to_hub("someone/tiny", create_pr=False)
    processor.push_to_hub("someone/tiny", create_pr=False)
    expected = CODE | {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    expected |= {"processor_config.json", "chat_template.jinja", "qformer_tokenizer/tokenizer.json"}
    assert expected <= uploaded["someone/tiny"]
    assert not [name for name in uploaded["someone/tiny"] if name.endswith((".pth", ".bin", ".pkl"))]


def test_code_that_travels_is_flat():
    """Only lines `from .x import …` travel with a model; no other file of the package is needed."""
    package = HERE.parent / "modeling_seq2time"
    assert {path.name for path in package.glob("*.py")} == CODE | {
        "__init__.py",
        "cli.py",
        "convert_timechat.py",
        "native_video.py",
        "timechat_checkpoint.py",
    }
    for name in CODE:
        text = (package / name).read_text()
        assert "from . import" not in text
        assert "modeling_seq2time import" not in text.replace("from .modeling_seq2time import", "")
