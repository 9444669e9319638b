"""The shipped mini model and its base: whole Hub folders, of this package's code, that know their world."""

import json
from copy import copy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from dataset_scripts.sources import miniworld
from dataset_scripts.sources.miniworld_drawing import ACTIONS, COLOURS, SHAPES
from evaluation.run_settings import read_prompts
from examples.quickstart import PROMPTS
from modeling_seq2time.moments import overlap
from train.parts.lists import draw_films, draw_pictures
from train.parts.reading import Reading
from train.parts.sight import ACTION, COLOUR, SHAPE, SIZE, Album
from train.parts.views import PAIRS, UNSEEN, draw_view


ROOT = Path(__file__).parents[1]
MINI, BASE = (ROOT / "examples" / name for name in ("seq2time-mini", "seq2time-mini-base"))
TRUSTED = {"trust_remote_code": True, "local_files_only": True}


def checked(folder: Path) -> Path:
    """Code is run only where it is known to be this package's; transformers copies it when it saves."""
    for path in folder.glob("*.py"):  # the copies must not grow old
        assert path.read_bytes() == (ROOT / "modeling_seq2time" / path.name).read_bytes(), f"{path.name} is another"
    return folder


def loaded(folder: Path):
    model = AutoModelForImageTextToText.from_pretrained(checked(folder), use_safetensors=True, **TRUSTED).eval()
    return model, AutoProcessor.from_pretrained(folder, **TRUSTED)


@pytest.mark.parametrize("folder", [MINI, BASE], ids=lambda folder: folder.name)
def test_it_is_a_whole_hub_folder(folder):
    checked(folder)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


@pytest.fixture(scope="module")
def base():
    return loaded(BASE)


def told(base, album: Album) -> torch.Tensor:
    """What its tokens say of pictures, one after the other: words, actions, digits."""
    model, processor = base
    asked = {"videos": [album.pictures.numpy()], "return_tensors": "pt", "do_sample_frames": False}
    inputs = {
        name: one for name, one in processor(text="<video>", **asked).items() if name.startswith(("pix", "video_t"))
    }
    with torch.no_grad():
        (tokens,) = model.get_video_features(**inputs).pooler_output
        return tokens @ torch.linalg.pinv(Reading(model.get_input_embeddings(), processor.tokenizer).codes())


def test_its_tokens_say_what_a_frame_shows(base):
    """Of pairs of colour and shape that it was never shown."""
    rng = np.random.default_rng(5)
    album = Album(base[1], 14, 5, [draw_view(rng, pair) for pair in 2 * UNSEEN])
    said = told(base, album)
    digits = said[:, ACTION.stop :].unflatten(1, (4, 10)).argmax(-1).tolist()
    assert digits == [[*map(int, f"{10 * number:04d}")] for number in range(1, 33)]
    for words, least in ((COLOUR, 0.95), (SIZE, 0.85), (SHAPE, 0.6)):
        right = said[:, words].argmax(-1) == album.weights[:, words].argmax(-1)
        assert right.float().mean() > least, words


def test_its_tokens_say_what_is_done_in_a_film(base):
    """Of such pairs; a sixteenth would be right by chance. Of frames in any order little can be said."""
    rng, shares = np.random.default_rng(6), []
    views = draw_films(rng, 192, UNSEEN)
    for shown in (views, [views[place] for place in rng.permutation(len(views))]):
        album, right = Album(base[1], 14, 6, shown), []
        for pictures in torch.arange(len(shown)).split(64):
            part = copy(album)
            part.pictures = album.pictures[pictures]
            words, said = album.weights[pictures][:, ACTION], told(base, part)[:, ACTION]
            doing = words.any(-1)
            right.append(said[doing].argmax(-1) == words[doing].argmax(-1))
        shares.append(torch.cat(right).float().mean().item())
    assert shares[0] > 0.6 and shares[1] < 0.4, shares


def test_it_finds_a_picture_of_a_list(base):
    """By colour and shape, of new pictures that are alike; by chance a quarter would be right."""
    model, processor = base
    rng, right = np.random.default_rng(1), 0
    for seed in range(8):
        drawn = draw_pictures(rng, 4, PAIRS)
        pictures = Album(processor, 14, seed, drawn).pictures.numpy()
        for number in (2, 3):
            asked = f"<video>What is the number of a {drawn[number - 1].colour} {drawn[number - 1].shape}?"
            text = processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
            inputs = processor(text=text, videos=[pictures], do_sample_frames=False, return_tensors="pt")
            answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            right += processor.decode(answer, skip_special_tokens=True).strip() == f"It has the number {number}."
    assert right >= 8, f"{right} of 16"


@pytest.fixture(scope="module")
def mini():
    return loaded(MINI)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Of a seed that nothing was trained or chosen with, of pairs of colour and shape that no training file shows."""
    folder = tmp_path_factory.mktemp("films")
    miniworld.build(folder, pictures=0, clips=0, videos=6, seed=77, only="test")
    rows = (folder / "videos" / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return [(str(folder / "videos" / row["file"]), row) for row in map(json.loads, rows)]


def test_it_grounds_events_of_unseen_videos(mini, films):
    """By chance it would be about 0.1."""
    model, processor = mini
    shared, prompt = [], read_prompts(PROMPTS)["tvg"]
    for film, row in films:
        queries = [event["caption"] for event in row["events"]]
        answers = model.ground(processor, film, queries, prompt=prompt)
        for event, (moment,) in zip(row["events"], answers, strict=True):
            shared.append(overlap((moment.start, moment.end), (event["start"], event["end"])))
    assert np.mean(shared) > 0.5, f"mean IoU {np.mean(shared):.2f} of {len(shared)} queries"


def test_it_tells_what_happens_when(mini, films):
    """Nearly all are told of colours, shapes and ways that there are; its card says how many not."""
    model, processor = mini
    prompt = read_prompts(PROMPTS)["dvc"]
    said = model.dense_caption(processor, [film for film, _ in films], prompt=prompt, max_new_tokens=256)
    assert all(said), "something happens in each"
    texts = [moment.text.rstrip(".") for answer in said for moment in answer[:-1]]  # the last may be cut short
    known = {caption for row in product(COLOURS, SHAPES, ACTIONS) for caption in miniworld.event_captions(*row)}
    assert np.mean([text in known for text in texts]) > 0.9, [text for text in texts if text not in known]
