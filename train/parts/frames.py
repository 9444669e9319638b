"""Q-Formers and projector hand on each frame of a sequence as the token that the language model reads."""

import numpy as np
import torch
from torch.nn import functional

from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata

from .fitting import fit
from .lists import DIGITS
from .reading import Reading
from .sight import COLOUR, SHAPE, Album
from .views import WORDS


NOTATIONS = ("text", "rpt")  # that the image Q-Former reads times in
SHARP = 5.0  # how far apart the loss sees a digit and another
BATCH, MOST = 8, 96  # sequences, and frames of one


def draw_sequence(rng: np.random.Generator, most: int) -> tuple[Seq2TimeVideoMetadata, str, list[str]]:
    """Frames of a video or of an image sequence, a notation, and each frame's digits in it."""
    count = int(rng.integers(1, most + 1)) if rng.random() < 0.3 else 8 * int(rng.integers(1, most // 8 + 1))
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


def learn_frames(model, processor, albums: tuple[Album, Album, Album], steps: int, rng: np.random.Generator):
    """
    From pictures of the miniworld and of objects in any colour. As for sight, those teach the shape, the others the
    colour, and tokens may say the other as they see it: so a shape is handed on whatever its colour. The third album is
    only asked about.
    """
    named, any_colour, unseen = albums
    embeddings = model.get_input_embeddings().requires_grad_(False)
    with torch.no_grad():
        codes = Reading(embeddings, processor.tokenizer).codes()
        decoder, nothing = torch.linalg.pinv(codes), embeddings.weight[processor.tokenizer.unk_token_id]
    size = codes.square().sum(-1).mean()
    patches, asked_about = see(model, named, any_colour), see(model, unseen)
    weights = torch.cat([named.weights, any_colour.weights])

    def told(notation: str, drawn: list, patches: torch.Tensor):
        """Tokens of frames, tokens of what is left of their windows, and what the first ones say."""
        said, rest = say(model, processor, notation, [metadata for metadata, *_ in drawn], patches)
        told = said @ decoder
        return said, rest, told[:, : len(WORDS)], SHARP * told[:, len(WORDS) :].unflatten(1, (DIGITS, 10))

    def loss(step: int) -> torch.Tensor:
        total, count, drawn = 0.0, 0, [draw_sequence(rng, MOST) for _ in range(BATCH)]
        for notation in NOTATIONS:
            if not (mine := [one for one in drawn if one[1] == notation]):
                continue
            times = torch.tensor([[*map(int, one)] for *_, digits in mine for one in digits])
            picks = torch.from_numpy(rng.integers(len(patches), size=len(times)))
            said, rest, seen, digits = told(notation, mine, patches[picks])
            words = weights[picks]
            is_named = picks[:, None] < len(named.views)
            for kind, taught in ((COLOUR, is_named), (SHAPE, ~is_named)):
                words[:, kind] = words[:, kind].where(taught, seen[:, kind].detach())
            wanted = torch.cat([words, functional.one_hot(times, 10).flatten(1)], dim=1) @ codes
            total = total + functional.cross_entropy(digits.flatten(0, 1), times.flatten(), reduction="sum") / DIGITS
            total = total + (seen - words).square().sum()
            total = total + ((said - wanted).square().sum() + (rest - nothing).square().sum()) / size
            count += len(times)
        return total / count

    @torch.no_grad()
    def report() -> str:
        """Of pictures of the test split: colours, shapes and digits told right."""
        figures = []
        for notation in NOTATIONS:
            drawn = [one for one in (draw_sequence(rng, MOST) for _ in range(2 * BATCH)) if one[1] == notation]
            times = torch.tensor([[*map(int, one)] for *_, digits in drawn for one in digits])
            picks = torch.from_numpy(rng.integers(len(asked_about), size=len(times)))
            *_, seen, digits = told(notation, drawn, asked_about[picks])
            words = unseen.weights[picks]
            kinds = [(seen[:, one].argmax(-1) == words[:, one].argmax(-1)).float().mean() for one in (COLOUR, SHAPE)]
            places = (digits.argmax(-1) == times).float().mean(0)
            figures.append(f"{notation}: " + " ".join(f"{one:.2f}" for one in (*kinds, *places)))
        return ", ".join(figures)

    trained = [model.model.image_qformer, model.model.video_qformer, model.model.projector]
    fit("frames", trained, steps, loss, 1e-2, report)
    embeddings.requires_grad_(True)


def say(model, processor, notation: str, videos: list[Seq2TimeVideoMetadata], patches: torch.Tensor):
    """Frames of several videos, one after the other: their tokens, and those of what is left of windows."""
    parts, counts = model.model, [len(video.positions) for video in videos]
    processor.time_notation = notation
    time = processor._time_inputs(videos)
    processor.time_notation = model.config.time_notation
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    ids, read = (torch.tensor(time[f"video_time_{key}"]) for key in ("input_ids", "attention_mask"))
    tokens = parts.image_qformer(patches.float(), ids[mask], read[mask])
    padded = tokens.new_zeros(*mask.shape, *tokens.shape[1:]).masked_scatter(mask[:, :, None, None], tokens)
    lengths = read.sum(-1).amax(1) + model.config.num_query_tokens
    windows = parts.video_qformer(padded, mask, torch.arange(tokens.shape[1]) < lengths[:, None])
    said = [parts.projector(window).flatten(0, 1) for window in windows]
    split = [(one[:count], one[count:]) for one, count in zip(said, counts, strict=True)]
    return tuple(map(torch.cat, zip(*split, strict=True)))


@torch.no_grad()
@torch.autocast("cpu", enabled=False)
def see(model, *albums: Album) -> torch.Tensor:
    """What the vision tower makes of the pictures, one album after the other."""
    tower = model.model.vision_tower.eval()
    batches = [(album, batch) for album in albums for batch in torch.arange(len(album.views)).split(64)]
    return torch.cat([tower(album.pixels(batch)).last_hidden_state.half() for album, batch in batches])
