"""Every example as a reader runs it, on a world that is rendered for it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset_scripts.items import DataError
from dataset_scripts.sources import miniworld
from examples import what_it_gets_wrong
from modeling_seq2time.moments import Answer, Moment


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


def test_what_it_gets_wrong(world):
    told = said("-m", "examples.what_it_gets_wrong", "--model", MINI, "--films", str(world / "videos"))
    assert told.splitlines()[0].endswith(": 5 films, 30 events") and len(told.splitlines()) == 6


EVENTS = [
    {"start": 0.0, "end": 4.0, "caption": "a red circle rises"},
    {"start": 5.0, "end": 9.0, "caption": "a red circle gets larger"},
    {"start": 9.0, "end": 12.0, "caption": "an orange star spins"},
]


def test_words_are_compared_where_an_event_is():
    said = ((0, 4, "a red star moves up."), (5, 8, "a blue circle falls"), (0, 12, "a red ring"), (0, 4, "rises 6."))
    told = what_it_gets_wrong.told_words([(EVENTS, Answer(Moment(*one) for one in said))])
    assert "4 events told, 2 of them in words" in told and "; 2 are where one is" in told
    assert told.endswith("right in colour 50%, shape 50%, action 50%")


def test_what_only_an_action_tells_is_counted_apart():
    found = [Answer([Moment(*span)]) for span in ((0, 4), (0, 4), (9, 12))]
    told = what_it_gets_wrong.told_apart([(EVENTS, found)])
    assert "50% of 2 events" in told and "100% of 1 others" in told


def test_what_is_not_there_has_a_pair_that_nothing_has():
    rng = np.random.default_rng(0)
    drawn = [one for _ in range(50) for one in what_it_gets_wrong.absent(EVENTS, rng)]
    pairs = {what_it_gets_wrong.content(caption)[:2] for caption in drawn}
    assert len(drawn) == 150 and not pairs & {("red", "circle"), ("orange", "star")} and len(pairs) > 50


def test_scores_are_ranked_and_bounded():
    ranked, low, high = what_it_gets_wrong.told_absent([0.6, 0.4], [0.5, 0.2])
    assert " 75% of all pairs" in ranked
    assert (
        "0.3 keeps 100% of what is there, leaves out 50%" in low
        and "0.5 keeps 50% of what is there, leaves out 50%" in high
    )


def test_other_captions_are_refused(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4", "events": [{"caption": "a door opens"}]}\n', "utf-8")
    with pytest.raises(
        DataError, match="captions.jsonl: expected captions of the miniworld's videos, found 'a door opens'"
    ):
        what_it_gets_wrong.films_of(tmp_path)
