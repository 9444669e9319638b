"""What the answers of a run depend on."""

import re

import pytest

from dataset_scripts.items import DataError
from evaluation import run_settings
from evaluation.benchmarks import open_benchmark
from evaluation.run import parse_arguments
from evaluation.run_settings import PROMPTS, fingerprint, model_folder, read_prompts, read_settings
from tests.test_benchmarks import videos_of


def test_a_repositorys_model_is_fetched(tiny_folder, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        run_settings, "snapshot_download", lambda *args, **more: calls.append((args, more)) or tiny_folder()
    )
    assert model_folder("o/n@1234") == tiny_folder() == model_folder(str(tiny_folder()))
    (((name,), more),) = calls
    assert name == "o/n" and more["revision"] == "1234" and "*.safetensors" in more["allow_patterns"]
    args = parse_arguments(
        ["--model", "o/n", "--benchmark", "tempcompass", "--data", str(videos_of("tempcompass", tmp_path))]
    )
    source = open_benchmark("tempcompass", args.data, "test")
    settings = read_settings(args, source, tiny_folder())
    assert settings["revision"] == tiny_folder().name and settings["model"] == "n"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(DataError, match="expected 'seq2time' or another video language model, found 'llama'"):
        read_settings(args, source, tmp_path)


def test_prompts_can_be_others(tmp_path):
    (tmp_path / "mine.toml").write_text('tvg = "When is {query}?"\n')
    prompts = read_prompts(tmp_path / "mine.toml")
    assert prompts["tvg"] == "When is {query}?" and prompts["dvc"] == read_prompts(PROMPTS)["dvc"]
    for text, message in (
        ("tvg = 3", "'tvg': 3"),
        ('cap = "x"', "'cap'"),
        ('vhd = "x"', "in the prompt of vhd"),
        ("=", "TOML"),
    ):
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(DataError, match=re.escape(message)):
            read_prompts(tmp_path / "mine.toml")


def test_fingerprint_is_of_what_answers_depend_on(tmp_path):
    (tmp_path / "qformer_tokenizer").mkdir()
    names = ("config.json", "model.safetensors", "qformer_tokenizer/vocab.txt")
    for name in names:
        (tmp_path / name).write_text(name)
    first = fingerprint(tmp_path)
    for name in ("README.md", "results.md", "checkpoint-5/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("else")
    assert fingerprint(tmp_path) == first and len(first) == 16
    for name in names:
        (tmp_path / name).write_text("other")
        assert fingerprint(tmp_path) != first
        (tmp_path / name).write_text(name)
    (tmp_path / "config.json").rename(tmp_path / "configs.json")
    assert fingerprint(tmp_path) != first
