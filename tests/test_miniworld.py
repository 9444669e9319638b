import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.items import DataError, Problems
from dataset_scripts.sources import miniworld, open_source
from dataset_scripts.sources.miniworld_drawing import (
    ACTIONS,
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    STILL,
    Actor,
    can,
    paint,
    paint_background,
    pose,
)
from modeling_seq2time.video_decoding import open_video


SMALL = {"pictures": 10, "clips": 32, "videos": 5, "size": 64, "num_proc": 1}
PAIR = re.compile(f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("miniworld")
    miniworld.build(folder, **SMALL)
    return folder


def rows(folder, kind):
    return [json.loads(line) for line in (folder / kind / "captions.jsonl").read_text("utf-8").splitlines()]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def split_plan(kind, count):
    """All that 'train' and 'test' show: {split: [(scene, row), …]}."""
    planned = miniworld.plan(kind, count, seed=3)
    return {split: [pair for pair in planned if pair[1]["split"] == split] for split in miniworld.SPLITS}


def test_every_file_is_annotated_and_nothing_else_is_there(world):
    listed = {f"{kind}/{row['file']}" for kind in miniworld.KINDS for row in rows(world, kind)}
    notes = {"miniworld.json", *(f"{kind}/captions.jsonl" for kind in miniworld.KINDS)}
    assert set(contents(world)) == listed | notes
    counts = {kind: len(rows(world, kind)) for kind in miniworld.KINDS}
    assert json.loads((world / "miniworld.json").read_text()) == {"version": 1, "seed": 0, "size": 64, **counts}
    for kind in miniworld.KINDS:
        assert all(row["file"].startswith(row["split"] + "/") for row in rows(world, kind))
        assert sum(row["split"] == "test" for row in rows(world, kind)) == (counts[kind] + 2) // 5
    for row in rows(world, "pictures"):
        assert Image.open(world / "pictures" / row["file"]).size == (64, 64)


def test_it_is_read_as_a_source(world):
    problems = Problems()
    items = list(miniworld.read(world, problems))
    assert not problems.found and {item.split for item in items} == set(miniworld.SPLITS)
    source = open_source("miniworld", str(world))
    for kind in miniworld.KINDS:
        names = [item.names[0] for item in items if source.kind(item) == kind]
        assert names == [f"{kind}/{row['file']}" for row in rows(world, kind)]


def test_the_bytes_depend_on_the_seed_alone(tmp_path):
    few = {"pictures": 6, "clips": 20, "videos": 2, "size": 64}
    for name, seed, num_proc in (("one", 5, 1), ("two", 5, 2), ("other", 6, 1)):
        miniworld.build(tmp_path / name, **few, seed=seed, num_proc=num_proc)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert not any(one[name] == other[name] for name in set(one) & set(other))


def test_the_splits_share_no_combination_and_no_object():
    shown = {split: set() for split in miniworld.SPLITS}
    for kind, count in (("pictures", 3000), ("clips", 400), ("videos", 60)):
        for split, planned in split_plan(kind, count).items():
            for scene, row in planned:
                pairs = {(part.actor.colour, part.actor.shape) for part in scene.segments if part.actor}
                captions = [row["caption"]] if "caption" in row else [event["caption"] for event in row["events"]]
                assert {PAIR.search(caption).groups() for caption in captions} <= pairs
                shown[split] |= pairs
    assert len(shown["train"]) == 64 and len(shown["test"]) == 16
    assert not shown["train"] & shown["test"]
    for column, values in enumerate((COLOURS, SHAPES)):
        for split in miniworld.SPLITS:
            assert {pair[column] for pair in shown[split]} == set(values)


def test_training_has_every_single_word():
    values = [set(column) for column in zip(*miniworld.picture_combinations("train"), strict=True)]
    assert values == [set(COLOURS), set(SHAPES), set(SIZES), set(PLACES), set(BACKGROUNDS)]
    for split in miniworld.SPLITS:
        assert {row["label"] for _, row in split_plan("clips", 400)[split]} == set(ACTIONS)


@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_no_two_things_of_the_world_share_a_caption(kind):
    find, captions = (getattr(miniworld, f"{kind[:-1]}_{name}") for name in ("combinations", "captions"))
    combinations = [row for split in miniworld.SPLITS for row in find(split)]
    assert len(set(combinations)) == len(combinations) > 3500
    said = [(caption, row) for row in combinations for caption in captions(*row)]
    assert len({caption for caption, _ in said}) == len(said) >= 4 * len(combinations)
    for caption, row in said:
        for word in row:
            assert word in caption or any(way in caption for way in ACTIONS.get(word, ()))
    rendered = [row["caption"] for _, row in miniworld.plan(kind, len(combinations), 1)]
    assert len(set(rendered)) == len(combinations)
    assert "a orange" not in " ".join(rendered)


def test_events_are_uneven_and_told_apart():
    again = still = 0
    for scene, row in miniworld.plan("videos", 150, 2):
        events, captions = row["events"], [event["caption"] for event in row["events"]]
        lengths = [event["end"] - event["start"] for event in events]
        assert 2 <= len(events) <= 8 and 20 <= row["duration"] <= 120
        assert min(lengths) >= 2 and max(lengths) <= 25.2 and max(lengths) >= 1.4 * min(lengths)
        assert events[0]["start"] >= 0 and events[-1]["end"] <= row["duration"]
        assert all(before["end"] < after["start"] for before, after in itertools.pairwise(events))
        acting = [(*part.actor[:2], part.action) for part in scene.segments if part.actor and part.action != STILL]
        bystanders = {part.actor[:2] for part in scene.segments if part.actor and part.action == STILL}
        assert len(set(captions)) == len(set(acting)) == len(events)
        assert not bystanders & {happening[:2] for happening in acting}
        again += len({happening[:2] for happening in acting}) < len(acting)
        still += bool(bystanders)
    assert again > 20 and still > 50  # the harder cases are there


@pytest.mark.parametrize("kind", ["clips", "videos"])
def test_durations_are_those_of_the_reader(world, kind):
    read = [(open_video(world / kind / row["file"]), row["duration"]) for row in rows(world, kind)]
    assert all(reader.duration == duration for reader, duration in read)
    assert len({reader.fps for reader, _ in read}) > 1


def test_events_are_true_to_the_frame(world):
    """Nothing moves outside an event, so its edges are where frames change: one frame off would be seen."""
    edges = 0
    for row in rows(world, "videos"):
        reader = open_video(world / "videos" / row["file"])
        shown, times = reader.read(range(reader.num_frames))
        changed = [0, *(np.abs(np.diff(shown.astype(int), axis=0)).max(axis=3) > 20).sum(axis=(1, 2)).tolist()]
        for event in row["events"]:
            first, behind = (int(np.searchsorted(times, event[edge] - 1e-6)) for edge in ("start", "end"))
            assert times[first] == pytest.approx(event["start"], abs=1e-6)
            if first > 0:
                assert changed[first] > 10 and max(changed[first - 2 : first]) <= 3
                edges += 1
            if behind < reader.num_frames:
                assert times[behind] == pytest.approx(event["end"], abs=1e-6)
                assert changed[behind] > 10 and max(changed[behind + 1 : behind + 3]) <= 3
                edges += 1
    assert edges > 20


@pytest.mark.parametrize("radius", SIZES.values())
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_seen_and_stays_inside(action, radius):
    empty = paint_background("on snow", 64, np.random.default_rng(0))
    for shape in SHAPES:
        actor = Actor("red", shape, 1.07 * radius, *PLACES["at the bottom right"], angle=9)
        shown = np.array([paint(empty, actor, pose(actor, action, step / 19, 4.0)) for step in range(20)], int)
        moved = (np.abs(np.diff(shown, axis=0)).max(axis=3) > 80).sum(axis=(1, 2))
        assert (max(moved) > 30 or np.abs(shown[-1] - shown[0]).max() > 80) == can(shape, action)
        apart = np.abs(shown - paint(empty, None, None)).max(axis=3)
        assert (apart[[0, -1]] > 20).sum(axis=(1, 2)).min() > 15  # the event's first and last frame show it
        apart[:, 1:-1, 1:-1] = 0
        assert apart.max() == 0


def test_an_interrupted_world_is_finished_not_begun_again(tmp_path, monkeypatch):
    few = {"pictures": 5, "clips": 3, "videos": 0, "size": 64, "num_proc": 1}
    miniworld.build(tmp_path / "whole", **few)
    whole, frames = contents(tmp_path / "whole"), miniworld.frames

    def breaks(scene, size):
        yield from itertools.islice(frames(scene, size), 5)
        if "falls" in scene.file or "shrinks" in scene.file or "slides right" in scene.file:
            raise KeyboardInterrupt

    monkeypatch.setattr(miniworld, "frames", breaks)
    with pytest.raises(KeyboardInterrupt):
        miniworld.build(tmp_path / "half", **few)
    monkeypatch.undo()
    assert set(contents(tmp_path / "half")) < set(whole)
    assert not (tmp_path / "half/clips/train/slides right/000001.mp4").exists()

    picture = tmp_path / "whole/pictures/train/000002.jpg"
    picture.unlink()
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*.*") if "captions" not in path.name
    }
    miniworld.build(tmp_path / "whole", **few)
    assert contents(tmp_path / "whole") == whole
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_folder_with_something_else_is_refused(tmp_path, world):
    with pytest.raises(DataError, match=r"'seed': 1, .*found one of .*'seed': 0"):
        miniworld.build(world, **SMALL, seed=1)
    (tmp_path / "clips").mkdir()
    with pytest.raises(DataError, match="found 'clips' without a miniworld.json"):
        miniworld.build(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pictures": 8641}, "pictures: this world has 8640 combinations, 8641 were asked for"),
        ({"clips": 9000}, "clips: this world has 7560 combinations, 9000 were asked for"),
        ({"videos": -1}, "videos: expected a whole number from 0, found -1"),
        ({"seed": -1}, "seed: expected a whole number from 0, found -1"),
        ({"size": 63}, "size: expected an even number"),
        ({"size": 8}, "size: expected a whole number from 32, found 8"),
        ({"num_proc": 0}, "num_proc: expected a whole number from 1, found 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, setting, message):
    with pytest.raises(DataError, match=message):
        miniworld.build(tmp_path / "world", **{**SMALL, **setting})
    assert not (tmp_path / "world").exists()


def test_the_command(tmp_path):
    counts = ["--pictures", "3", "--clips", "0", "--videos", "0", "--size", "32", "--num-proc", "1"]
    miniworld.main(["--output", str(tmp_path / "world"), *counts])
    assert len(rows(tmp_path / "world", "pictures")) == 3 and rows(tmp_path / "world", "videos") == []
    with pytest.raises(DataError, match="'seed': 1, "):
        miniworld.main(["--output", str(tmp_path / "world"), *counts, "--seed", "1"])
