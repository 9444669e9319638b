"""Tiny models of every preset, made once. No test needs the network."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

from examples.make_tiny_model import make_tiny_model
from tests.videos import write_video


torch.set_num_threads(1)
# The same examples in every run; `--hypothesis-profile thorough` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=3000, deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session")
def tiny():
    """`tiny(preset, **overrides)` → (model, processor), each made once."""
    made = {}

    def get(preset="timechat", **overrides):
        key = (preset, repr(sorted(overrides.items())))
        if key not in made:
            made[key] = make_tiny_model(preset, **overrides)
        return made[key]

    return get


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory):
    """`tiny_folder(preset)` → a Hub folder."""
    folders = {}

    def get(preset="timechat", **overrides):
        key = (preset, repr(sorted(overrides.items())))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(f"tiny-{preset}")
            for part in tiny(preset, **overrides):
                part.save_pretrained(folders[key])
        return folders[key]

    return get


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """An ordinary H.264 file: 120 numbered frames, 25 a second."""
    return write_video(tmp_path_factory.mktemp("video") / "h264.mp4", options={"g": "40"})


@pytest.fixture(scope="session")
def prompt():
    """A conversation about one video."""

    def make(video, question="When does the door open?"):
        return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": question}]}]

    return make
