"""The shipped mini base: a whole Hub folder, of this package's code, that knows its world."""

from pathlib import Path

import numpy as np
from transformers import AutoModelForImageTextToText, AutoProcessor

from dataset_scripts.sources import miniworld
from train.parts.sight import Album
from train.parts.views import draw_view


ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "seq2time-mini-base"


def test_it_is_a_whole_hub_folder():
    names = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 25e6
    assert not [path for path in FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    for path in FOLDER.glob("*.py"):  # transformers copies code when it saves: the copies must not grow old
        assert path.read_bytes() == (ROOT / "modeling_seq2time" / path.name).read_bytes(), f"{path.name} is another"


def test_it_sees_reads_and_looks_up():
    """Through every part, from pixels to words: pictures of pairs that it was never shown, and their times."""
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
    rng = np.random.default_rng(0)
    views = [draw_view(rng, pair) for pair in miniworld.pairs("test")]
    drawn = iter(views)
    album = Album(processor, 14, 0, len(views), lambda _: next(drawn))
    said = right = 0
    for first in range(0, len(views), 4):
        frames = album.pictures[first : first + 4].numpy()
        for view in views[first : first + 4]:
            question = f"<video>What is the size of a {view.colour} {view.shape}?"
            chat = [{"role": "user", "content": question}]
            text = processor.apply_chat_template(chat, add_generation_prompt=True)
            inputs = processor(text=text, videos=[frames], return_tensors="pt", do_sample_frames=False)
            answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            told = processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            said, right = said + (told.strip(" .") in ("small", "large")), right + (told.strip(" .") == view.size)
    assert said == len(views) and right > 0.7 * len(views), (said, right)
