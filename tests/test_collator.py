import re
import shutil
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from modeling_seq2time.time_notation import render, worded
from tests.training import (
    TINY,
    draws,
    mini_mixture,
    mini_sets,
    numbered_samples,
    shown_number,
)
from train.collator import CROP_RATIO, CROP_SCALE, Collator, random_crop
from train.conversation import IGNORED
from train.recipe import Source


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    return mini_sets(tmp_path_factory)


@pytest.fixture(scope="session")
def model(tiny):
    return tiny("timechat", **TINY)[0]


@pytest.fixture(scope="session")
def processor(tiny):
    return tiny("timechat", **TINY)[1]


@pytest.fixture(scope="session")
def mixture(sets, processor):
    return mini_mixture(sets, processor)


@pytest.fixture(scope="session")
def numbered(tmp_path_factory):
    return tmp_path_factory.mktemp("numbered")


def row(number, epoch=0, copy=0, of=0, pool=0):
    return {"set": of, "row": number, "copy": copy, "pool": pool, "epoch": epoch}


def plain(processor, samples, number):
    """A sample the plain way: its own frames, its whole conversation as text, through the processor."""
    sample = samples[number]
    turns = [dict(turn) for turn in sample["messages"]]
    for turn in turns:
        told = worded(turn["content"], processor.notation) if turn["role"] == "assistant" else turn["content"]
        turn["content"] = render(told, processor.notation)
    turns[0]["content"] = [{"type": "video"}, {"type": "text", "text": turns[0]["content"]}]
    return processor(
        text=processor.apply_chat_template(turns),
        videos=[sample["frames"]],
        video_metadata=[sample["metadata"]],
        do_sample_frames=False,
        return_tensors="pt",
    )


def inputs(batch):
    return {name: value for name, value in batch.items() if name not in ("about", "labels")}


def numbers(batch, place=0):
    """The numbered frames of a sample of a batch."""
    return [shown_number(batch["pixel_values_videos"][one]) for one in batch["video_picture_index"][place] if one >= 0]


# What the plain way gives


OF_EIGHT = {
    "timechat": TINY,
    "video_llama": {"num_frames": 8},
    "temporalvlm": TINY | {"segment_size": 4, "window_size": 3, "window_stride": 2},
    "grounded_videollm": {"num_frames": 8, "segment_size": 4, "temporal_config": {"num_frames": 4}},
}


@pytest.mark.parametrize("preset", OF_EIGHT)
def test_a_batch_is_what_the_processor_gives_of_each_sample(sets, numbered, tiny, preset):
    """Image sequences of one pool, clip sequences, videos, a short one among them, padded together."""
    model, processor = tiny(preset, **OF_EIGHT[preset])
    mixture = mini_mixture(sets, processor, "uniform")
    short = numbered_samples(numbered, [40, 3])
    collate = Collator(processor, [*mixture.sets, short], crop=False)
    rows = [*draws(mixture, 0, 3, 8, 25, 30, 33, -1), row(1, of=len(mixture.sets))]
    batch = collate(rows)
    assert [len(set(one.tolist())) for one in batch["video_picture_index"]] == [8] * 7 + [4]  # three frames and -1
    with torch.no_grad():
        together = model(**inputs(batch)).logits
    for place, one in enumerate(rows):
        alone = plain(processor, collate.sets[one["set"]], one["row"])
        length, frames = alone["input_ids"].shape[1], alone["pixel_values_videos"].shape[1]
        assert batch["input_ids"][place, :length].tolist() == alone["input_ids"][0].tolist()
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        index = batch["video_picture_index"][place, :frames]
        assert torch.equal(batch["pixel_values_videos"][index], alone["pixel_values_videos"][0])
        if processor.qformer_reads_time:
            words = alone["video_time_input_ids"].shape[2]
            for name in ("video_time_input_ids", "video_time_attention_mask"):
                assert torch.equal(batch[name][place, :frames, :words], alone[name][0])
            assert not batch["video_time_attention_mask"][place, frames:].any()
        with torch.no_grad():
            logits = model(**{name: value for name, value in alone.items() if name != "video_metadata"}).logits
        torch.testing.assert_close(together[place : place + 1, :length], logits, atol=2e-5, rtol=0)
    about = [collate.sets[one["set"]].records[one["row"]] for one in rows]
    assert ("video_time_input_ids" in batch) == processor.qformer_reads_time
    assert batch["about"]["samples"] == [{key: one[key] for key in ("id", "task", "source")} for one in about]
    assert batch["about"]["skipped"] == []


def test_samples_of_which_nothing_is_learned_are_no_samples(mixture, processor):
    processor = deepcopy(processor)
    processor.chat_template = re.sub(r"{%-? (end)?generation -?%}", "", processor.chat_template)
    with pytest.raises(DataError, match="expected tokens to learn, found none"):
        Collator(processor, mixture.sets)(draws(mixture, 0))
    about = Collator(processor, mixture.sets, on_problem="skip")(draws(mixture, 0, 30))["about"]
    assert not about["samples"] and len(about["skipped"]) == 2


def test_what_is_padded_is_not_learned(mixture, processor):
    batch = Collator(processor, mixture.sets)(draws(mixture, 0, 24, 33))
    assert (batch["labels"] != IGNORED).sum(dim=1).tolist() == [mixture.rows[one]["answers"] for one in (0, 24, 33)]
    learned = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    assert not (learned & (batch["attention_mask"] == 0)).any()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == processor.tokenizer.pad_token_id).all()


# Pictures


def test_image_sequences_are_whole_whatever_a_video_has(sets, tiny):
    _, processor = tiny("timechat", **TINY | {"num_frames": 5})
    mixture = mini_mixture(sets, processor)
    batch = Collator(processor, mixture.sets)(draws(mixture, 0, 24))
    assert (batch["video_picture_index"] >= 0).sum(dim=1).tolist() == [8, 5] and len(batch["pixel_values_videos"]) == 13
    assert mixture.column("frames")[[0, 24]].tolist() == [8, 5]


def test_every_picture_of_a_batch_is_there_once(mixture, processor):
    """Also when it is asked for by another configuration of the same set."""
    collate = Collator(processor, mixture.sets)
    group = [one for one in draws(mixture) if one["group"] == 0]
    assert {one["set"] for one in group} == {0, 1, 2}
    batch = collate(group)
    wanted = [collate.sets[one["set"]].records[one["row"]]["sequence"] for one in group]
    unique = list(dict.fromkeys(one for sequence in wanted for one in sequence))
    assert len(batch["pixel_values_videos"]) == len(unique) <= 12 < sum(map(len, wanted))
    expected = [[unique.index(one) for one in sequence] for sequence in wanted]
    assert batch["video_picture_index"].tolist() == expected


def test_pools_with_equal_ids_are_told_apart(sets, processor, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(sets, other)
    for picture in (other / "miniworld" / "pictures").rglob("*.jpg"):
        picture.write_bytes(next((sets / "miniworld" / "pictures").rglob("*.jpg")).read_bytes())
    mixture = mini_mixture(sets, processor, sources=[Source(str(sets), ["iig"]), Source(str(other), ["iig"])])
    first, second = mixture.rows[0], mixture.rows[8]
    assert (first["row"], second["row"]) == (0, 0) and first["pool"] != second["pool"]
    assert first["group"] != second["group"]
    batch = Collator(processor, mixture.sets)(draws(mixture, 0, 8))
    assert batch["video_picture_index"].tolist() == [list(range(8)), list(range(8, 16))]
    assert not torch.equal(batch["pixel_values_videos"][:8], batch["pixel_values_videos"][8:])
    assert torch.equal(batch["pixel_values_videos"][8], batch["pixel_values_videos"][15])


def test_a_sample_may_be_in_a_batch_more_than_once(mixture, processor):
    """A picture sequence shares its pictures; a video has the frames and the crop of its copy."""
    collate = Collator(processor, mixture.sets)
    for number in (0, 30):
        one = draws(mixture, number)[0]
        batch = collate([one, one, draws(mixture, 33)[0], one])
        index = batch["video_picture_index"].tolist()
        assert index[0] == index[1] == index[3] and not set(index[0]) & set(index[2])
        assert len(batch["pixel_values_videos"]) == 16
        assert torch.equal(batch["pixel_values_videos"][index[2]], collate(draws(mixture, 33))["pixel_values_videos"])


def boxes(frames):
    """Left, right, top and bottom of what is seen of pictures made by `ramps`, as shares."""
    mean, std = np.array([0.48145466, 0.4578275]), np.array([0.26862954, 0.26130258])
    across, down = (frames[:, channel] * std[channel] + mean[channel] for channel in (0, 1))
    side = frames.shape[-1] - 1
    found = []
    for left, right, top, bottom in zip(
        across[:, :, 1].mean(1), across[:, :, -2].mean(1), down[:, 1].mean(1), down[:, -2].mean(1), strict=True
    ):
        # One pixel inside the edge, where no border is copied.
        wide, high = (right - left) / (side - 2) * (side + 1), (bottom - top) / (side - 2) * (side + 1)
        found.append([float(value) for value in (left - 1.5 / 56 * wide, wide, top - 1.5 / 56 * high, high)])
    return np.array(found)


def ramps(count, size=56):
    """Pictures whose red says how far right, whose green how far down one is."""
    across = np.tile(np.linspace(0, 255, size), (size, 1))
    return [np.stack([across, across.T, np.full_like(across, number)], 2).astype(np.uint8) for number in range(count)]


def test_a_video_has_one_crop(processor):
    collate, seen = Collator(processor, []), []
    for seed in range(40):
        found = boxes(collate.pixels(ramps(3), np.random.default_rng(seed)))
        assert np.abs(found - found[0]).max() < 0.01, "the same for all frames"
        left, wide, top, high = found[0]
        assert 0.45 < wide * high < 1.05 and 0.7 < wide / high < 1.4
        assert min(left, top) > -0.03 and max(left + wide, top + high) < 1.03
        seen.append(found[0])
    assert (np.std(seen, axis=0) > 0.05).all(), "each video has its own"
    whole = boxes(collate.pixels(ramps(1), None))[0]
    assert whole == pytest.approx([0, 1, 0, 1], abs=0.03)


def test_a_crop_of_everything_changes_nothing(processor, monkeypatch):
    """Also of pictures that aren't of the model's size."""
    collate = Collator(processor, [])
    monkeypatch.setattr("train.collator.random_crop", lambda rng, high, wide: (0, 0, high, wide))
    for frames in (ramps(2), [frame[::2, ::3].copy() for frame in ramps(2, 112)]):
        assert torch.equal(collate.pixels(frames, np.random.default_rng(0)), collate.pixels(frames, None))


def test_videos_are_cropped_unless_told_otherwise(mixture, processor, monkeypatch):
    known = {"times": [0.0, 1.0], "duration": 2.0, "total_num_frames": 2, "frames_indices": [0, 1]}
    monkeypatch.setattr(Samples, "clip_frames", lambda self, sequence, rng: (ramps(2), known))
    rows = [*draws(mixture, 24, 33), *draws(mixture, 33, epoch=1)]
    found = [boxes(Collator(processor, mixture.sets)([one])["pixel_values_videos"]) for one in rows]
    for number, one in enumerate(found):
        assert np.abs(one - one[0]).max() < 0.01
        assert all(np.abs(one - other).max() > 0.03 for other in found[:number])
    whole = Collator(processor, mixture.sets, crop=False)(rows[:2])
    assert boxes(whole["pixel_values_videos"]) == pytest.approx(np.array([[0, 1, 0, 1]] * 4), abs=0.03)


def test_crops_are_timechats():
    rng = np.random.default_rng(0)
    crops = np.array([random_crop(rng, 224, 224) for _ in range(4000)])
    top, left, high, wide = crops.T
    assert (top >= 0).all() and (left >= 0).all() and (top + high <= 224).all() and (left + wide <= 224).all()
    area, ratio = high * wide / 224**2, wide / high
    assert CROP_SCALE == (0.5, 1.0) and 0.49 < area.min() < 0.52 and 0.95 < area.max() <= 1.0
    assert CROP_RATIO == (3 / 4, 4 / 3) and 0.73 < ratio.min() < 0.77 and 1.30 < ratio.max() < 1.36
    assert abs(np.log(ratio).mean()) < 0.01, "as often wide as high"
    assert abs((top / np.maximum(224 - high, 1)).mean() - 0.5) < 0.02
    assert abs((left / np.maximum(224 - wide, 1)).mean() - 0.5) < 0.02

    always = SimpleNamespace(uniform=lambda low, high: high)  # the whole area, four by three
    assert random_crop(always, 224, 224) == (0, 0, 224, 224)
    assert random_crop(always, 100, 224) == (0, 62, 100, 100)
    assert random_crop(always, 224, 101) == (61, 0, 101, 101)


def test_crops_of_image_sequences(mixture, processor):
    """Off by default. With them no picture is shared."""
    group = [one for one in draws(mixture) if one["group"] == 0]
    whole = Collator(processor, mixture.sets)(group)
    assert torch.equal(
        whole["pixel_values_videos"], Collator(processor, mixture.sets, crop=False)(group)["pixel_values_videos"]
    )
    collate = Collator(processor, mixture.sets, crop_images=True)
    batch = collate(group)
    assert batch["video_picture_index"].flatten().tolist() == list(range(8 * len(group)))
    for place, one in enumerate(group):
        alone = collate([one])["pixel_values_videos"]
        assert torch.equal(batch["pixel_values_videos"][8 * place : 8 * place + 8], alone)
    assert not torch.equal(collate([group[0] | {"epoch": 1}])["pixel_values_videos"], batch["pixel_values_videos"][:8])
    for name in ("input_ids", "labels"):
        assert torch.equal(batch[name], whole[name])


def test_a_sequences_crop_is_one(mixture, processor, monkeypatch):
    monkeypatch.setattr(Samples, "picture", lambda self, one: ramps(one + 1)[one])
    batch = Collator(processor, mixture.sets, crop_images=True)(draws(mixture, 0, 1))
    found = boxes(batch["pixel_values_videos"])
    assert np.abs(found[:8] - found[0]).max() < 0.01 and np.abs(found[8:] - found[8]).max() < 0.01
    assert np.abs(found[0] - found[8]).max() > 0.03


# Frames of videos


def test_frames_are_random_in_their_intervals_and_new_each_epoch(numbered, processor):
    collate = Collator(processor, [numbered_samples(numbered, [40, 200], sampling="random")], crop=False)
    seen = [numbers(collate([row(1, epoch)])) for epoch in range(6)]
    assert len({tuple(one) for one in seen}) == 6
    for found in seen:
        assert [number // 25 for number in found] == list(range(8)), "one of each of eight intervals"
    assert len({number % 25 for found in seen for number in found}) > 12
    assert numbers(collate([row(1, copy=1)])) not in seen, "a second copy shows other frames"
    other = Collator(processor, collate.sets, seed=1, crop=False)
    assert numbers(other([row(1)])) not in seen
    assert numbers(collate([row(1)])) == seen[0]


def test_uniform_sampling(numbered, processor):
    collate = Collator(processor, [numbered_samples(numbered, [40, 200], sampling="uniform")], crop=False)
    for epoch in range(2):
        assert numbers(collate([row(1, epoch)])) == list(range(0, 200, 25))


def told_times(processor, batch, place=0):
    text = processor.decode(batch["input_ids"][place])
    return [float(one) for one in re.search(r"sampled at (.*) seconds\. When", text)[1].split(", ")]


def qformer_times(processor, batch, place=0):
    sentences = [processor.qformer_tokenizer.decode(ids) for ids in batch["video_time_input_ids"][place]]
    return [float(re.search(r"at([\d.]+)second", sentence.replace(" ", ""))[1]) for sentence in sentences]


@pytest.mark.parametrize("sampling", ["random", "uniform"])
def test_times_are_those_of_the_frames_taken(numbered, tiny, sampling):
    """In the prompt, in the Q-Former's sentences, and on the timeline of clips whose rates differ."""
    _, processor = tiny("timechat", **TINY, time_notation="text")
    slow = [{"clip": 0, "rate": 2.0}, {"clip": 1, "rate": 0.5}]  # 8 seconds of the first, 10 of the second
    sequences = [[{"clip": 1, "rate": 1.0}], slow]
    collate = Collator(processor, [numbered_samples(numbered, [40, 200], sequences, sampling=sampling)])
    collate.crop = False
    batch = collate([row(0), row(1)])
    assert told_times(processor, batch) == qformer_times(processor, batch) == [one / 10 for one in numbers(batch)]
    times = told_times(processor, batch, 1)
    assert qformer_times(processor, batch, 1) == times
    for time, number in zip(times, numbers(batch, 1), strict=True):
        inside = time / 2.0 if time < 8 else (time - 8) / 0.5
        assert abs(number - inside * 10) < 1.01 + (0.5 if time < 8 else 1)  # times are rounded to 0.1 s
    assert processor.decode(batch["input_ids"][1]).removesuffix("<unk>").endswith("In 0.0 - 18.0 seconds. </s>")


def test_a_sample_is_the_same_in_any_batch_and_worker(mixture, processor):
    collate = Collator(processor, mixture.sets, seed=3, crop_images=True)
    rows = draws(mixture, 0, 24, 33, 26, -1)
    alone = [collate([one]) for one in rows]
    loader = DataLoader([*rows, *rows], batch_size=5, num_workers=2, collate_fn=collate)
    for batch in (collate(rows), *loader):
        assert batch["about"]["samples"] == [one["about"]["samples"][0] for one in alone]
        for place, one in enumerate(alone):
            length = one["input_ids"].shape[1]
            assert torch.equal(batch["input_ids"][place, :length], one["input_ids"][0])
            assert torch.equal(batch["labels"][place, :length], one["labels"][0])
            index = batch["video_picture_index"][place]
            assert torch.equal(batch["pixel_values_videos"][index], one["pixel_values_videos"])


def test_short_videos_have_fewer_frames(numbered, processor, model):
    collate = Collator(processor, [numbered_samples(numbered, [40, 3, 1])], crop=False)
    batch = collate([row(1), row(0), row(2)])
    index = batch["video_picture_index"]
    assert (index >= 0).sum(dim=1).tolist() == [3, 8, 1] and index[0, 3:].tolist() == [-1] * 5
    assert numbers(batch) == [0, 1, 2] and numbers(batch, 2) == [0] and len(batch["pixel_values_videos"]) == 12
    tokens = (batch["input_ids"] == processor.video_token_id).sum(dim=1).tolist()
    assert tokens == [4, 8, 4]
    loss = model(**inputs(batch), labels=batch["labels"]).loss
    assert torch.isfinite(loss)


# What can't be taken


def test_too_long_samples_stop_or_are_counted(mixture, processor):
    lengths = [mixture.rows[one]["length"] for one in (0, 24)]
    rows = draws(mixture, 0, 24)
    assert lengths[0] > lengths[1]
    fits = Collator(processor, mixture.sets, max_length=lengths[0], crop=False)(rows)
    assert fits["input_ids"].shape[1] == lengths[0]
    name = mixture.sets[0].records[0]["id"]
    message = f"sample '{name}': expected at most max_length={lengths[0] - 1} tokens, found {lengths[0]} (on_long=skip"
    with pytest.raises(DataError, match=re.escape(message)):
        Collator(processor, mixture.sets, max_length=lengths[0] - 1, on_problem="skip")(rows)
    rows = draws(mixture, 0, 24, epoch=2)
    batch = Collator(processor, mixture.sets, max_length=lengths[0] - 1, on_long="skip", crop=False)(rows)
    why = f"expected at most max_length={lengths[0] - 1} tokens, found {lengths[0]}"
    assert batch["about"]["skipped"] == [{"id": name, "epoch": 2, "why": why}]
    assert [one["task"] for one in batch["about"]["samples"]] == ["dense_captioning"]
    assert len(batch["input_ids"]) == 1 and len(batch["pixel_values_videos"]) == 8, "nor are its pictures there"


def test_what_is_skipped_leaves_no_trace(mixture, processor):
    """In the others of its batch, though they show the same pictures, or frames of the same video."""
    for first, second in ((0, 8), (32, 33)):
        long = mixture.sets[draws(mixture, first)[0]["set"]]
        (one,), (other,) = draws(mixture, first), draws(mixture, second)
        record = long.records[one["row"]]
        told = record["messages"][1]["content"] + " Indeed." * 300
        records = long.records.select([one["row"]]).map(
            lambda row, told=told: row | {"messages": [row["messages"][0], {"role": "assistant", "content": told}]}
        )
        extra = Samples(records, long.pool, long.folders, 8, "random", size=(56, 56))
        collate = Collator(
            processor, [*mixture.sets, extra], max_length=1000, on_long="skip", share_videos=True, crop_images=first > 0
        )
        batch = collate([one | {"set": len(mixture.sets), "row": 0}, other])
        assert [skipped["id"] for skipped in batch["about"]["skipped"]] == [record["id"]]
        alone = collate([other])
        for name in inputs(alone):
            assert torch.equal(batch[name], alone[name]), name


@pytest.fixture
def spoilt(sets, processor, tmp_path):
    """A copy of the sets where one picture of the first image sequence and all videos are damaged."""
    folder = tmp_path / "spoilt"
    shutil.copytree(sets, folder)
    mixture = mini_mixture(folder, processor)
    picture = mixture.sets[0].pool[mixture.sets[0].records[0]["sequence"][5]]["media"]
    (folder / "miniworld" / picture).unlink()
    for video in (folder / "miniworld" / "videos").rglob("*.mp4"):
        video.write_bytes(video.read_bytes()[:2000])
    return SimpleNamespace(folder=folder, mixture=mixture, picture=picture)


def test_unreadable_media_stop_and_are_named(spoilt, processor):
    collate = Collator(processor, spoilt.mixture.sets, on_long="skip")
    rows = draws(spoilt.mixture)
    name = spoilt.mixture.sets[0].records[0]["id"]
    with pytest.raises(DataError, match=f"sample '{name}': .*{spoilt.picture}: expected.*on_problem=skip leaves"):
        collate(rows[:1])
    video = collate.sets[-1].records[rows[-1]["row"]]
    media = collate.sets[-1].pool[video["sequence"][0]["clip"]]["media"]
    with pytest.raises(DataError, match=f"sample '{video['id']}': .*{media}.*on_problem=skip leaves"):
        collate(rows[-1:])
    shutil.rmtree(spoilt.folder / "miniworld" / "clips")
    with pytest.raises(DataError, match="there is no such video; is .*miniworld the folder that the pool"):
        collate(rows[24:25])


def test_unreadable_media_are_skipped_and_counted(spoilt, processor):
    collate = Collator(processor, spoilt.mixture.sets, on_problem="skip")
    rows = draws(spoilt.mixture)
    sound = next(one for one in rows[1:24] if "about" in collate([one]) and not collate([one])["about"]["skipped"])
    batch = collate([rows[0], sound, rows[-1]])
    names = [spoilt.mixture.sets[one["set"]].records[one["row"]]["id"] for one in (rows[0], sound, rows[-1])]
    assert [one["id"] for one in batch["about"]["samples"]] == [names[1]]
    assert [one["id"] for one in batch["about"]["skipped"]] == [names[0], names[2]]
    assert spoilt.picture in batch["about"]["skipped"][0]["why"]
    alone = collate([sound])
    for name in inputs(alone):
        assert torch.equal(batch[name], alone[name]), name


def test_nothing_left_is_a_blank_sample(spoilt, processor, tiny):
    for preset in ("timechat", "video_llama"):
        model, processor = tiny(preset, **OF_EIGHT[preset])
        collate = Collator(processor, spoilt.mixture.sets, on_problem="skip")
        batch = collate(draws(spoilt.mixture, -1, -2))
        assert len(batch["about"]["skipped"]) == 2 and batch["about"]["samples"] == []
        assert len(batch["input_ids"]) == len(batch["pixel_values_videos"]) == 1
        assert set(batch["labels"].flatten().tolist()) == {IGNORED}
        model.train()
        loss = model(**inputs(batch), labels=batch["labels"], num_items_in_batch=torch.tensor(1)).loss
        loss.backward()
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        assert loss == 0 and gradients and all(torch.isfinite(one).all() for one in gradients)
        model.zero_grad(set_to_none=True)
        model.eval()


def test_bad_records_are_bad_data(mixture, processor):
    """A record that says what can't be, or holds what only the template may write."""
    for change, message in (
        ({"targets": [99]}, "targets: expected distinct places"),
        ({"sequence": [0, 1, 2, 3, 4, 5, 6, 10_000]}, "sequence: expected ids of the pool"),
        ({"messages": [{"role": "user", "content": "<video>"}]}, "expected user and assistant in turns"),
    ):
        records = mixture.sets[0].records.select([0]).map(lambda one, change=change: one | change)
        samples = Samples(records, mixture.sets[0].pool, mixture.sets[0].folders)
        with pytest.raises(DataError, match=f"sample '{records[0]['id']}': .*{message}"):
            Collator(processor, [samples])([row(0)])
        assert len(Collator(processor, [samples], on_problem="skip")([row(0)])["about"]["skipped"]) == 1


def test_mistakes_of_ours_are_not_skipped(mixture, processor, monkeypatch):
    monkeypatch.setattr(Samples, "picture", lambda self, one: None + one)
    with pytest.raises(TypeError):
        Collator(processor, mixture.sets, on_problem="skip", on_long="skip")(draws(mixture, 0))
