"""The mini base in a few steps: what is taught is what is meant, and a run that was stopped goes on."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from dataset_scripts.items import DataError
from dataset_scripts.sources import miniworld
from train import parts


STEPS = ["--language-steps", "2", "--sight-steps", "2", "--frames-steps", "2", "--pictures", "200"]


@pytest.fixture(scope="module")
def made():
    model, processor = parts.make_model(0)
    return model, processor, parts.World.draw(processor, model.config.vision_config.patch_size, 0, 96)


@pytest.mark.slow
def test_a_base_is_made_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    parts.main(["--output", str(tmp_path / "one"), *STEPS])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "one", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(tmp_path / "one", trust_remote_code=True)
    assert model.config.time_notation == processor.time_notation == "text" and not model.config.time_token_ids
    assert not (tmp_path / ".one.parts").exists()
    size = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert size < 25e6

    with monkeypatch.context() as broken:
        broken.setattr(parts, "learn_sight", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            parts.main(["--output", str(tmp_path / "two"), *STEPS])
    assert not (tmp_path / "two").exists()
    with pytest.raises(DataError, match="holds parts of .*'seed': 0.* not of .*'seed': 1"):
        parts.main(["--output", str(tmp_path / "two"), *STEPS, "--seed", "1"])
    with pytest.raises(DataError, match="expected a folder that isn't there yet"):
        parts.main(["--output", str(tmp_path / "one"), *STEPS])
    monkeypatch.setattr(parts, "learn_language", lambda *args: 1 / 0)  # was learned, and isn't again
    parts.main(["--output", str(tmp_path / "two"), *STEPS])
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two, "the same seed, the same bytes"


def test_the_world_is_that_of_the_training_split(made):
    _, _, world = made
    assert world.pixels.shape == (96, 3, 112, 112) and world.shown.shape == (96, 64)
    assert world.shown.sum(dim=1).min() >= 1 and world.shown.sum(dim=1).max() < 40
    unseen = {f"{colour} {shape}" for colour, shape in miniworld.pairs("test")}
    assert not [caption for caption in world.captions if any(pair in caption for pair in unseen)]
    for caption, ground in zip(world.captions, world.grounds, strict=True):
        assert ground in caption
    places = np.array([np.argwhere(shown.reshape(8, 8)).mean(axis=0) for shown in world.shown.numpy()])
    for words, (row, column) in {"top left": (2, 2), "bottom right": (6, 6)}.items():
        mine = places[[words in caption for caption in world.captions]]
        assert len(mine) and np.abs(mine - (row - 0.5, column - 0.5)).max() < 1.5


def test_a_token_reads_as_its_caption_and_its_time(made):
    model, processor, _ = made
    embeddings = model.get_input_embeddings()
    reading = parts.Reading(embeddings, processor.tokenizer)
    captions = ["a small red circle at the top left on grass", "a large blue moon on the right in the night sky"]
    words = parts.bags(processor.tokenizer, captions)
    assert [processor.tokenizer.decode(bag).strip() for bag in words] == captions
    tokens = reading(words, ["0729", "1234"])
    assert tokens.shape == (2, embeddings.embedding_dim) and tokens.requires_grad
    said = tokens @ embeddings.weight.T
    for place, caption in enumerate(captions):
        own = processor.tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in caption.split()[1:4]])
        others = processor.tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in captions[1 - place].split()[1:4]])
        assert said[place, own].min() > said[place, others].max()
    told = torch.einsum("nv,dwv->ndw", tokens, reading.turns) @ embeddings.weight[reading.digits].T
    assert told[0].argmax(dim=-1).tolist() == [0, 7, 2, 9] and told[1].argmax(dim=-1).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["image", "s", "position"])
def test_times_are_drawn_as_their_digits_say(kind):
    rng = np.random.default_rng(0)
    drawn = [one for one in (parts.draw_time(rng) for _ in range(300)) if one[0] == kind]
    for _, written, digits in drawn:
        assert len(digits) == parts.DIGITS
        assert float(written) == pytest.approx(int(digits) / (10_000 if kind == "position" else 10))


def test_every_word_of_the_miniworld_is_one_token(made):
    tokenizer = made[1].tokenizer
    captions = miniworld.picture_captions("red", "circle", "small", "at the top left", "on a brick wall")
    captions += miniworld.event_captions("orange", "moon", "bounces")
    for caption in captions:
        assert len(tokenizer.tokenize(" " + caption.replace(",", ""))) == len(caption.split()), caption
    assert len(tokenizer.tokenize(" 12.3")) == 5, "digits stay single"
