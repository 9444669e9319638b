"""Features of the frozen vision tower in place of pixels: the same training, on less work."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from torch.utils.data import DataLoader

from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from tests.training import TINY, draws, mini_mixture, mini_sets, numbered_samples
from train import features, sft
from train.collator import Collator
from train.features import fingerprint, keep_features, patches_of
from train.mixture import Mixture
from train.recipe import Source, read_recipe


# Weights so large that a wrong frame is noticed.
SPREAD = {"initializer_range": 0.3} | {
    f"{part}_config": {"initializer_range": 0.3} for part in ("vision", "qformer", "video_qformer", "text")
}
ROWS = (0, 3, 8, 25, 30, 33, -1)  # of `mini_mixture`: all kinds


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return mini_sets(tmp_path_factory)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("timechat", **TINY, **SPREAD)[0]


@pytest.fixture(scope="module")
def processor(tiny):
    return tiny("timechat", **TINY, **SPREAD)[1]


def keep(mixture, model, processor, folder, on_problem="stop"):
    """The mixture's collator of features."""
    tower = model.model.vision_tower
    keep_features(mixture, tower, fingerprint(tower), processor, folder, on_problem, torch.device("cpu"))
    options = {"crop": False, "on_problem": on_problem, "patches": patches_of(model.config)}
    return Collator(processor, mixture.sets, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def plain(sets, processor):
    return Collator(processor, mini_mixture(sets, processor).sets, crop=False)


@pytest.fixture(scope="module")
def kept(sets, model, processor, folder):
    mixture = mini_mixture(sets, processor)
    return mixture, keep(mixture, model, processor, folder)


@pytest.fixture
def count(monkeypatch):
    """How many frames pass the vision tower while features are made."""
    found, encode = [], features._encoded
    monkeypatch.setattr(features, "_encoded", lambda batch, *args: (found.append(len(batch)), encode(batch, *args))[1])
    return found


def inputs(batch):
    return {name: value for name, value in batch.items() if name != "about"}


@torch.no_grad()
def seen(model, batch):
    return model.model.vision_tower(batch["pixel_values_videos"]).last_hidden_state


def learned(model, batch):
    model = copy.deepcopy(model).eval()  # without dropout
    loss = model(**inputs(batch)).loss
    loss.backward()
    return loss.detach(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


# The same training


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_batch_is_the_same_but_for_its_pixels(model, plain, kept, epoch):
    mixture, collate = kept
    rows = draws(mixture, *ROWS, epoch=epoch)
    with_pixels, with_features = plain(rows), collate(rows)
    assert with_features.keys() - with_pixels.keys() == {"video_patches"}
    for name in with_pixels.keys() - {"pixel_values_videos", "about"}:
        assert torch.equal(with_pixels[name], with_features[name]), name
    assert with_features["about"] == with_pixels["about"]
    patches = with_features["video_patches"]
    assert patches.dtype == torch.float16 and patches.shape[1:] == (17, 32)
    expected = seen(model, with_pixels)
    torch.testing.assert_close(patches.float(), expected, atol=2e-3, rtol=2e-3)
    apart = (expected[1:] - expected[:-1]).abs().amax(dim=(1, 2))
    assert apart.median() > 1, "so that a wrong frame would be noticed"
    other = collate(draws(mixture, *ROWS, epoch=1 - epoch))["video_patches"]
    assert not torch.equal(other, patches), "random frames are new in each epoch"


def test_loss_and_gradients_are_the_same(model, plain, kept):
    mixture, collate = kept
    rows = draws(mixture, *ROWS)
    batch = collate(rows)
    loss, gradients = learned(model, plain(rows))
    found, others = learned(model, batch)
    wrong, strange = learned(model, batch | {"video_patches": batch["video_patches"].flip(0)})
    assert gradients.keys() == others.keys()
    assert abs(found - loss) < 2e-4 and abs(wrong - loss) > 2e-3

    def distance(given):
        return sum((given[name] - one).square().sum() for name, one in gradients.items()).sqrt()

    size = sum(one.square().sum() for one in gradients.values()).sqrt()
    assert distance(others) < 0.01 * size and distance(strange) > 0.3 * size


@pytest.mark.parametrize("sampling", ["random", "uniform"])
def test_frames_of_parts_are_those_that_a_decoder_gives(model, processor, tmp_path, sampling):
    """Of parts in the middle of a file and at its end, with durations that aren't theirs, slower and faster, short."""
    lengths = [200, 200, 40, 3]
    clips = [[0], [1], [2], [3], [0, 2], [1, 3, 2]]
    sequences = [[{"clip": one, "rate": 0.5 + one} for one in clip] for clip in clips]
    plain = numbered_samples(tmp_path, lengths, sequences, sampling=sampling)
    changes = {"start": [3.05, 10.0, 0.0, 0.0], "end": [9.0, 10.01, 3.9, 0.3], "duration": [5.95, 4.0, 6.0, 0.3]}
    columns = plain.pool.to_dict() | changes
    plain.pool = Dataset.from_dict(columns, features=plain.pool.features)
    options = (plain.num_frames, sampling, 0, plain.size)
    cached = Samples(plain.records, plain.pool, plain.folders, *options)
    count = len(sequences)
    names = ("set", "pool", "copy", "source")
    table = (
        dict.fromkeys(names, [0] * count)
        | {"row": list(range(count))}
        | dict.fromkeys(("length", "frames"), [1] * count)
    )
    mixture = Mixture([cached], Dataset.from_dict(table), [])
    keep(mixture, model, processor, tmp_path / "features")
    for sequence in sequences:
        for seed in range(6):
            frames, known = plain.clip_frames(sequence, np.random.default_rng(seed))
            found, told = cached.clip_frames(sequence, np.random.default_rng(seed))
            assert told == known
            pixels = features.as_pixels(processor, frames)
            expected = seen(model, {"pixel_values_videos": pixels})
            torch.testing.assert_close(torch.from_numpy(np.stack(found)).float(), expected, atol=2e-3, rtol=2e-3)
            apart = (expected[1:] - expected[:-1]).abs().amax(dim=(1, 2))
            assert len(frames) == 1 or apart.max() > 1, "neighbours differ by more than float16 rounds"


def test_workers_read_without_decoding(sets, kept, monkeypatch):
    """Also where they are started anew, with what can be pickled."""
    mixture, collate = kept
    monkeypatch.setattr("dataset_scripts.samples.read_picture", None)
    monkeypatch.setattr("dataset_scripts.samples.video_path", None)
    rows = draws(mixture, *ROWS)
    expected = collate(rows)
    for context in ("fork", "forkserver"):
        loader = DataLoader(rows, len(rows), num_workers=1, collate_fn=collate, multiprocessing_context=context)
        (batch,) = loader
        assert all(torch.equal(batch[name], expected[name]) for name in inputs(batch))


def test_generation_is_the_same_with_patches(model, plain, kept):
    mixture, _ = kept
    batch = {name: value for name, value in inputs(plain(draws(mixture, 0, 1, 33))).items() if name != "labels"}
    patches = {"video_patches": seen(model, batch)}
    without = {name: value for name, value in batch.items() if name != "pixel_values_videos"}
    for way in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}, {"use_cache": False}):
        settings = {"do_sample": False, "max_new_tokens": 4, "output_logits": True} | way
        outputs = []
        for given in (batch, without | patches, without | {"video_patches": patches["video_patches"].flip(0)}):
            torch.manual_seed(0)
            outputs.append(model.generate(**given, **settings, return_dict_in_generate=True))
        same, other = [one.logits[0] for one in outputs[1:]]
        assert torch.equal(outputs[0].sequences, outputs[1].sequences)
        assert torch.equal(outputs[0].logits[0], same) and not torch.equal(same, other)


# The cache


def test_what_was_killed_goes_on(sets, model, processor, folder, kept, tmp_path, monkeypatch, count):
    monkeypatch.setattr(features, "BATCH", 16)
    keep(mini_mixture(sets, processor), model, processor, tmp_path / "whole")
    whole = sum(count)
    assert whole > 200
    encode = features._encoded
    for stop in (20, 3):
        left = [None] * stop
        monkeypatch.setattr(features, "_encoded", lambda *args, left=left: (left.pop(), encode(*args))[1])
        with pytest.raises(IndexError):
            keep(mini_mixture(sets, processor), model, processor, tmp_path / "killed")
    (part,) = (tmp_path / "killed").glob("*.part")
    with part.open("ab") as file:
        file.write(b"half a frame")
    before = sum(count) - whole
    monkeypatch.setattr(features, "_encoded", encode)
    keep(mini_mixture(sets, processor), model, processor, tmp_path / "killed")
    assert before > 300 and sum(count) == 2 * whole, "each frame once"
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == files
    for name in files:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_there_is_taken(sets, model, processor, folder, kept, count):
    """Also by a mixture of less, with other numbers of frames, in another precision of the same weights."""
    before = {path.name for path in folder.iterdir()}
    keep(mini_mixture(sets, processor), model, processor, folder)
    other = copy.deepcopy(processor)
    other.video_processor.num_frames = 5
    less = mini_mixture(sets, other, "uniform", [Source(str(sets), ["iic", "video_grounding"], count=9)])
    batch = keep(less, model, other, folder)(draws(less))
    assert batch["video_patches"].dtype == torch.float16
    assert not count and {path.name for path in folder.iterdir()} == before
    low = copy.deepcopy(model.model.vision_tower).bfloat16()
    assert fingerprint(low) == fingerprint(copy.deepcopy(low).float()) != fingerprint(model.model.vision_tower)


@pytest.mark.parametrize("change", ["weights", "epsilon", "pixels", "file", "set"])
def test_other_weights_or_data_have_a_cache_of_their_own(sets, model, processor, tmp_path, count, change):
    media = tmp_path / "media"
    shutil.copytree(sets / "miniworld", media)
    (tmp_path / "set").mkdir()
    for name in ("iig", "image_pool"):
        shutil.copytree(sets / name, tmp_path / "set" / name)
    card = (sets / "README.md").read_text()
    (tmp_path / "set" / "README.md").write_text(card)

    def made():
        source = Source(str(tmp_path / "set"), ["iig"], folders={"miniworld": str(media)})
        count.clear()
        mixture = mini_mixture(sets, processor, sources=[source])
        patches = keep(mixture, model, processor, tmp_path / "features")(draws(mixture, 0))["video_patches"]
        return patches, sum(count)

    first, frames = made()
    assert frames > 20 and made()[1] == 0
    model, processor = copy.deepcopy(model), copy.deepcopy(processor)
    picture = mini_mixture(sets, processor).sets[0]
    record = picture.records[0]["sequence"]
    if change == "weights":
        with torch.no_grad():
            model.model.vision_tower.embeddings.patch_embedding.weight[0, 0, 0, 0] += 1
    elif change == "epsilon":
        model.model.vision_tower.post_layernorm.eps = 0.1
    elif change == "pixels":
        processor.video_processor.image_mean = (0.5, 0.5, 0.5)
    elif change == "file":
        one, other = (media / picture.pool[place]["media"] for place in record[:2])
        one.write_bytes(other.read_bytes())
    else:
        (file,) = (tmp_path / "set" / "image_pool").glob("*.parquet")
        table = Dataset.from_parquet(str(file)).to_dict()
        table["media"][record[0]] = table["media"][record[1]]
        Dataset.from_dict(table, features=picture.pool.features).to_parquet(str(file))
    second, again = made()
    assert again == frames and made()[1] == 0
    assert not torch.equal(first[0], second[0])
    if change in ("file", "set"):
        assert torch.equal(second[0], second[1]) and torch.equal(first[1:], second[1:])
    assert len([*(tmp_path / "features").glob("*.npy")]) == 2


def test_a_full_disk_is_noticed_before(sets, model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2000, 1000, 1000))
    with pytest.raises(DataError, match=r"frames need 0\.0 GB more, found 0\.0 GB free"):
        keep(mini_mixture(sets, processor), model, processor, tmp_path)


# What can't be read


@pytest.fixture
def spoilt(sets, tmp_path):
    """A copy of the sets where a picture is damaged and the videos are."""
    shutil.copytree(sets, tmp_path / "spoilt")
    for number, path in enumerate((tmp_path / "spoilt" / "miniworld" / "videos").rglob("*.mp4")):
        path.write_bytes(path.read_bytes()[:2000] if number else b"")
    return tmp_path / "spoilt"


def test_what_cannot_be_read_stops_or_is_skipped(spoilt, model, processor, tmp_path, capsys):
    mixture = mini_mixture(spoilt, processor)
    gone = mixture.sets[0].pool[mixture.sets[0].records[0]["sequence"][5]]["media"]
    (spoilt / "miniworld" / gone).unlink()
    with pytest.raises(DataError, match=rf"{gone}: expected a readable picture.*on_problem=skip"):
        keep(mixture, model, processor, tmp_path / "features")
    collate = keep(mixture, model, processor, tmp_path / "features", on_problem="skip")
    assert f"{gone}: expected a readable picture" in capsys.readouterr().err
    plain = Collator(processor, mini_mixture(spoilt, processor).sets, crop=False, on_problem="skip")
    for rows in ([one] for one in draws(mixture)):
        ours, theirs = collate(rows)["about"], plain(rows)["about"]
        assert ours["samples"] == theirs["samples"]
        assert [one["id"] for one in ours["skipped"]] == [one["id"] for one in theirs["skipped"]]
    name = mixture.sets[0].records[0]["id"]
    assert (
        "no features, as the picture or video couldn't be read"
        in collate(draws(mixture, 0))["about"]["skipped"][0]["why"]
    )
    collate.on_problem = "stop"
    with pytest.raises(DataError, match=f"sample '{name}': .*no features"):
        collate(draws(mixture, 0))


def test_nothing_left_is_a_blank_sample(spoilt, model, processor, tmp_path):
    mixture = mini_mixture(spoilt, processor)
    batch = keep(mixture, model, processor, tmp_path / "features", on_problem="skip")(draws(mixture, -1, -2))
    assert batch["about"]["samples"] == [] and len(batch["video_patches"]) == 1
    loss, gradients = learned(model, batch | {"num_items_in_batch": torch.tensor(1)})
    assert loss == 0 and gradients and all(torch.isfinite(one).all() for one in gradients.values())


def test_features_must_fit(sets, model, processor, tmp_path):
    model = copy.deepcopy(model)
    torch.nn.init.constant_(model.model.vision_tower.post_layernorm.weight, 1e6)
    with pytest.raises(DataError, match="expected features that fit into float16"):
        keep(mini_mixture(sets, processor), model, processor, tmp_path)


# Runs


@pytest.fixture
def recipe(sets, tiny_folder, tmp_path):
    """`recipe(**settings)` → the file of a recipe of all kinds of data."""

    def write(**settings):
        values = {
            "model": str(tiny_folder(**TINY)),
            "output_dir": str(tmp_path / "run"),
            "num_frames": 8,
            "lora_rank": 4,
        }
        values |= {"data": [{"path": str(sets)}], "crop": False, "dtype": "float32", "bf16": False, "use_cpu": True}
        values |= {"activation_checkpointing": False, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
        values |= {"logging_steps": 1, "report_to": "none", "lora_dropout": 0.0, "max_steps": 4, "save_steps": 2}
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(values | settings))
        return str(file)

    return write


def losses(run):
    log = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def test_a_run_decodes_nothing_and_learns_the_same(recipe, sets, tmp_path, monkeypatch):
    file, kept = recipe(), f"feature_cache={tmp_path / 'features'}"
    sft.main([file, f"output_dir={tmp_path / 'plain'}"])
    held_out = f"held_out={{path: {sets}, split: test, count: 1, steps: 2}}"
    sft.main([file, kept, "dataloader_num_workers=1", held_out])
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "plain"), abs=2e-3)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    monkeypatch.setattr(features, "_encoded", None)
    sft.main([file, kept, "feature_cache=null"])  # goes on without it
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "plain"), abs=2e-3)
    assert "features" not in (tmp_path / "run" / "README.md").read_text().partition("feature_cache")[2], "no path"


def test_crops_are_refused(recipe):
    for override in ("crop=true", "crop_images=true"):
        with pytest.raises(
            DataError, match=r"feature_cache: expected crop: false and crop_images: false.*found crop: "
        ):
            read_recipe(recipe(feature_cache="x"), [override])


def test_a_tower_that_learns_is_refused(recipe, tiny_folder, tmp_path):
    unfrozen = str(tiny_folder(**TINY, freeze_vision=False))
    with pytest.raises(
        DataError, match="feature_cache: expected a model with freeze_vision: true, found a vision tower"
    ):
        sft.main([recipe(model=unfrozen, feature_cache=str(tmp_path / "features"))])
