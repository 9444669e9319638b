"""`share_videos`: rows about one video come together, with the same frames and crop."""

import pytest
import torch

from tests.training import TINY, mini_sets
from train.collator import Collator
from train.mixture import BatchSampler, Mixture
from train.recipe import Source


@pytest.fixture(scope="module")
def processor(tiny):
    return tiny(**TINY)[1]


@pytest.fixture(scope="module")
def mixture(processor, tmp_path_factory):
    sources = [Source(str(mini_sets(tmp_path_factory)), [name]) for name in ("video_grounding", "grounding")]
    return Mixture.load(sources, processor, "random", 0, share_videos=True)


def videos(mixture) -> list:
    """The video that each row is about, if any."""
    found = []
    for row in mixture.rows:
        sequence = mixture.sets[row["set"]].records[row["row"]]["sequence"]
        found.append(sequence[0]["clip"] if len(sequence) == 1 else None)
    return found


def batch_of(mixture, processor, rows, epoch=0, share=True) -> dict:
    collator = Collator(processor, mixture.sets, share_videos=share)
    return collator([{"epoch": epoch, **mixture.rows[row]} for row in rows])


def test_groups_are_the_videos(mixture, processor):
    about, groups = videos(mixture), mixture.rows["group"][:]
    assert None in about and len(set(about)) > 2
    for one, group in zip(about, groups, strict=True):
        mine = {other for other, own in zip(about, groups, strict=True) if own == group}
        assert (group == -1 and one is None) or mine == {one}
    plain = Mixture.load(mixture.sources, processor, "random", 0)
    assert set(plain.rows["group"][:]) == {-1}
    sampler = BatchSampler(mixture.column("group"), mixture.column("length"), 2, 2, 0)
    together = [len({about[row] for _, row in batch}) == 1 for batch in sampler if about[batch[0][1]] is not None]
    assert sum(together) > len(together) / 2


def test_a_video_is_decoded_cropped_and_encoded_once(mixture, processor, monkeypatch):
    about = videos(mixture)
    same = [row for row, one in enumerate(about) if one == about[0]][:2]
    other = next(row for row, one in enumerate(about) if one not in (None, about[0]))
    decoded = []
    decode = type(mixture.sets[0]).clip_frames

    def counted(self, sequence, rng):
        decoded.append(sequence)
        return decode(self, sequence, rng)

    monkeypatch.setattr(type(mixture.sets[0]), "clip_frames", counted)
    batch = batch_of(mixture, processor, [*same, other])
    index = batch["video_picture_index"]
    assert len(decoded) == 2 and len(batch["pixel_values_videos"]) == index[0].numel() * 2
    assert torch.equal(index[0], index[1]) and not set(index[0].tolist()) & set(index[2].tolist())
    decoded.clear()
    apart = batch_of(mixture, processor, [*same, other], share=False)
    assert len(decoded) == 3 and len(apart["pixel_values_videos"]) == index.numel()


def test_a_row_alone_sees_what_it_sees_in_a_batch_and_something_else_in_the_next_epoch(mixture, processor):
    about = videos(mixture)
    same = [row for row, one in enumerate(about) if one == about[0]][:2]
    both = batch_of(mixture, processor, same)
    alone = batch_of(mixture, processor, same[1:])
    pictures = both["pixel_values_videos"][both["video_picture_index"][1]]
    assert torch.equal(pictures, alone["pixel_values_videos"])
    assert both["input_ids"][1][both["attention_mask"][1].bool()].tolist() == alone["input_ids"][0].tolist()
    later = batch_of(mixture, processor, same[1:], epoch=1)
    assert not torch.equal(later["pixel_values_videos"], alone["pixel_values_videos"])


def test_clip_sequences_are_never_shared(mixture, processor):
    rows = [row for row, one in enumerate(videos(mixture)) if one is None][:3]
    batch = batch_of(mixture, processor, rows)
    assert len(batch["pixel_values_videos"]) == batch["video_picture_index"].numel()
