"""Q-Formers and projector hand on each frame of a sequence as the token that the language model reads."""

import numpy as np
import torch
from torch.nn import functional

from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata

from .fitting import fit
from .language import DIGITS, Reading
from .sight import Album
from .views import WORDS


NOTATIONS = ("text", "rpt")  # that the image Q-Former reads times in
SHARP = 5.0


def draw_sequence(rng: np.random.Generator, most: int) -> tuple[Seq2TimeVideoMetadata, str, list[str]]:
    """Frames of a video or of an image sequence, a notation, and each frame's digits in it."""
    count = int(rng.integers(1, most + 1)) if rng.random() < 0.3 else 8 * int(rng.integers(1, 5))
    known = {"total_num_frames": count, "frames_indices": list(range(count))}
    if rng.random() < 0.5:
        duration = rng.uniform(10, 130)
        places = (np.arange(count) + (rng.random(count) if rng.random() < 0.5 else 0)) / count
        known |= {"times": (places * duration).tolist(), "duration": duration}
    metadata, notation = Seq2TimeVideoMetadata(**known), NOTATIONS[rng.integers(2)]
    if notation == "rpt":
        written = [min(round(position * 10**DIGITS), 10**DIGITS - 1) for position in metadata.positions]
    else:
        written = [round(position * metadata.length * 10) for position in metadata.positions]
    return metadata, notation, [f"{number:0{DIGITS}d}" for number in written]


def learn_frames(model, processor, album: Album, steps: int, rng: np.random.Generator, batch: int = 16):
    parts, embeddings = model.model, model.get_input_embeddings()
    patches = see(model, album)
    with torch.no_grad():
        codes = Reading(embeddings, processor.tokenizer).codes()
        decoder, nothing = torch.linalg.pinv(codes), embeddings.weight[processor.tokenizer.unk_token_id]
    kept = {}

    def loss(step: int) -> torch.Tensor:
        drawn = [draw_sequence(rng, 64) for _ in range(batch)]
        total = 0.0
        for name in NOTATIONS:
            mine = [one for one in drawn if one[1] == name]
            if not mine:
                continue
            processor.time_notation = name
            time = processor._time_inputs([metadata for metadata, *_ in mine])
            processor.time_notation = model.config.time_notation
            counts = [len(metadata.positions) for metadata, *_ in mine]
            mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
            ids, read = (torch.tensor(time[f"video_time_{key}"]) for key in ("input_ids", "attention_mask"))
            picks = torch.from_numpy(rng.integers(len(album.views), size=sum(counts)))
            tokens = parts.image_qformer(patches[picks].float(), ids[mask], read[mask])
            padded = tokens.new_zeros(*mask.shape, *tokens.shape[1:]).masked_scatter(mask[:, :, None, None], tokens)
            lengths = read.sum(-1).amax(1) + model.config.num_query_tokens
            windows = parts.video_qformer(padded, mask, torch.arange(tokens.shape[1]) < lengths[:, None])
            said = [parts.projector(window).flatten(0, 1) for window in windows]
            rest = torch.cat([one[count:] for one, count in zip(said, counts, strict=True)])
            said = torch.cat([one[:count] for one, count in zip(said, counts, strict=True)])
            words = album.weights[picks]
            times = torch.tensor([[*map(int, one)] for *_, digits in mine for one in digits])
            told = said @ decoder
            wanted = torch.cat([words, functional.one_hot(times, 10).flatten(1)], dim=1) @ codes
            logits = SHARP * told[:, len(WORDS) :].unflatten(1, (DIGITS, 10))
            digits = functional.cross_entropy(logits.flatten(0, 1), times.flatten(), reduction="sum") / DIGITS
            seen = (told[:, : len(WORDS)] - words).square().sum()
            total = total + digits + seen + (said - wanted).square().sum() / codes.square().sum(-1).mean()
            total = total + (rest - nothing).square().sum() / codes.square().sum(-1).mean()
            right = (logits.argmax(-1) == times).float().mean(0)
            kept[name] = f"{name} digits " + " ".join(f"{one:.2f}" for one in right)
            kept["seen"] = f"words {((told[:, : len(WORDS)] - words).square().sum() / words.square().sum()).item():.3f}"
        return total / sum(len(metadata.positions) for metadata, *_ in drawn)

    embeddings.requires_grad_(False)
    trained = [parts.image_qformer, parts.video_qformer, parts.projector]
    fit("frames", trained, steps, loss, 1e-2, lambda: ", ".join(kept.values()))
    embeddings.requires_grad_(True)


@torch.no_grad()
def see(model, album: Album) -> torch.Tensor:
    """What the vision tower makes of the pictures."""
    tower = model.model.vision_tower.eval()
    numbers = torch.arange(len(album.views))
    return torch.cat([tower(album.pixels(batch)).last_hidden_state.half() for batch in numbers.split(64)])
