"""Video language models of transformers: trained, saved, merged, asked and scored as this package's own."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_seq2time.native_video import NativeProcessor, load
from tests.native_models import MODELS, write
from tests.training import mini_sets
from train import adapter, native, sft
from train.recipe import Recipe


SIDES = {"qwen2_5_vl": 56, "qwen3_vl": 64, "llava_onevision": None}


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


@pytest.fixture
def recipe(folder, sets, tmp_path):
    """`recipe(name, **settings)` → the file of a recipe of all kinds of data, whose runs take seconds."""

    def make(name="qwen2_5_vl", **settings):
        values = {
            "model": str(folder(name)),
            "time_notation": "rpt",
            "output_dir": str(tmp_path / "run"),
            "data": [
                {"path": str(sets), "config": ["iig", "iic", "alr"]},
                {"path": str(sets), "config": ["dense_captioning", "grounding"]},
                {"path": str(sets), "config": "video_grounding"},
            ],
            "num_frames": 8,
            "frame_size": SIDES[name],
            "lora_rank": 4,
            "dtype": "float32",
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
        file.write_text(yaml.safe_dump(values | settings))
        return str(file)

    return make


@pytest.mark.parametrize("name", MODELS)
def test_three_steps(recipe, name, tmp_path):
    sft.main([recipe(name)])
