"""The shipped mini base: a whole Hub folder, of this package's code, that knows its world."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from train.parts.language import Reading
from train.parts.sight import COLOUR, SHAPE, SIZE, Album
from train.parts.views import WORDS, draw_unseen


ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "seq2time-mini-base"


def test_it_is_a_whole_hub_folder():
    names = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 25e6
    assert not [path for path in FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    for path in FOLDER.glob("*.py"):  # transformers copies code when it saves: the copies must not grow old
        assert path.read_bytes() == (ROOT / "modeling_seq2time" / path.name).read_bytes(), f"{path.name} is another"


@pytest.fixture(scope="module")
def mini():
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, trust_remote_code=True).eval()
    return model, AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)


def test_its_tokens_say_what_a_frame_shows(mini):
    """Of pairs of colour and shape that it was never shown; their shapes it knows but in part."""
    model, processor = mini
    album = Album(processor, 14, 5, 32, draw_unseen)
    asked = {"videos": [album.pictures.numpy()], "return_tensors": "pt", "do_sample_frames": False}
    inputs = {
        name: one for name, one in processor(text="<video>", **asked).items() if name.startswith(("pix", "video_t"))
    }
    with torch.no_grad():
        (tokens,) = model.get_video_features(**inputs).pooler_output
        told = tokens @ torch.linalg.pinv(Reading(model.get_input_embeddings(), processor.tokenizer).codes())
    digits = told[:, len(WORDS) :].unflatten(1, (4, 10)).argmax(-1).tolist()
    assert digits == [[*map(int, f"{10 * number:04d}")] for number in range(1, 33)]
    for words, least in ((COLOUR, 0.95), (SIZE, 0.85), (SHAPE, 0.3)):
        right = told[:, words].argmax(-1) == album.weights[:, words].argmax(-1)
        assert right.float().mean() > least, words


def test_it_tells_the_time_of_a_picture(mini):
    model, processor = mini
    picture = Album(processor, 14, 6, 1, draw_unseen).pictures.numpy()
    chat = [{"role": "user", "content": "<video>When is the image?"}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    for second in (0.5, 12.3, 47.6, 63.2):
        known = {"times": [second], "duration": 140.0, "total_num_frames": 1, "frames_indices": [0]}
        given = {"videos": [picture], "video_metadata": [known], "do_sample_frames": False, "return_tensors": "pt"}
        inputs = processor(text=text, **given)
        answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(answer, skip_special_tokens=True).strip() == f"It is at {second} seconds."
