"""Every example as a reader runs it, on a world that is rendered for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_scripts.sources import miniworld


ROOT = Path(__file__).parents[1]
MINI = "examples/seq2time-mini-base"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    miniworld.build(folder, pictures=40, clips=0, videos=5, seed=11, num_proc=1)
    return folder


def said(*command: str) -> str:
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ground_an_event(world):
    video = next((world / "videos" / "test").glob("*.mp4"))
    told = said("examples/ground_event.py", "--model", MINI, "--video", str(video), "--query", "a red circle rises")
    assert told.count(" s   overlap to expect ") == 3


def test_dense_caption(world):
    video = next((world / "videos" / "test").glob("*.mp4"))
    told = said("examples/dense_caption.py", "--model", MINI, "--video", str(video))
    assert len(told.splitlines()) > 1 and all(" – " in line for line in told.splitlines()[1:])


def test_a_set_of_own_pictures(world, tmp_path):
    told = said(
        *("-m", "examples.own_pictures", "--pictures", str(world / "pictures"), "--output", str(tmp_path / "set")),
        *("--length", "8", "--instances", "30"),
    )
    assert "num_rows: 10" in told and "assistant: " in told and "its pictures: 8, the first (112, 112)" in told


def test_fine_tune_on_own_annotations(world, tmp_path):
    output = tmp_path / "tuned"
    told = said(
        *("-m", "examples.fine_tune", "--videos", str(world / "videos"), "--output", str(output), "--steps", "2")
    )
    assert ", is " in told.splitlines()[-1] and (output / "model" / "config.json").is_file()


def test_evaluate(tmp_path):
    told = said(
        "-m", "examples.evaluate_model", "--model", MINI, "--output", str(tmp_path), "--videos", "2", "--seed", "12"
    )
    assert [line.partition(":")[0] for line in told.splitlines()[-3:]] == ["r1@0.5", "miou", "f1"]
    assert told.count("whole video ") == 3 and told.count("chance ") == 3
