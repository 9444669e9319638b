"""Q-Formers and projector hand on each frame of a sequence as the token that the language model reads."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from modeling_seq2time.video_processing_seq2time import Seq2TimeVideoMetadata

from .fitting import fit
from .lists import DIGITS
from .reading import Reading
from .sight import ACTION, COLOUR, SHAPE, Album


NOTATIONS = ("text", "rpt")  # that the image Q-Former reads times in
SHARP = 5.0  # how far apart the loss sees a digit and another
BATCH, MOST = 5, 96  # sequences, and frames of one


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


class Aim:
    """What tokens of frames are to say, and how far from it they are."""

    @torch.no_grad()
    def __init__(self, model, processor):
        embeddings = model.get_input_embeddings()
        self.codes = Reading(embeddings, processor.tokenizer).codes()
        self.decoder = torch.linalg.pinv(self.codes)
        self.nothing = embeddings.weight[processor.tokenizer.unk_token_id].clone()
        self.size = self.codes.square().sum(-1).mean()

    def told(self, said: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How much of each word and action tokens say, `(frames, words + actions)`, and digits `(frames, 4, 10)`."""
        told = said @ self.decoder
        return told[:, : ACTION.stop], SHARP * told[:, ACTION.stop :].unflatten(1, (DIGITS, 10))

    def missed(self, said, rest, words, times, named) -> torch.Tensor:
        """
        Of all frames together, and of what is left of their windows. Objects in any colour teach the shape, the `named`
        the colour, and tokens may say the other as they see it: so a shape is handed on whatever its colour.
        """
        seen, digits = self.told(said)
        words = words.clone()
        for kind, taught in ((COLOUR, named), (SHAPE, ~named)):
            words[:, kind] = words[:, kind].where(taught[:, None], seen[:, kind].detach())
        wanted = torch.cat([words, functional.one_hot(times, 10).flatten(1)], dim=1) @ self.codes
        missed = functional.cross_entropy(digits.flatten(0, 1), times.flatten(), reduction="sum") / DIGITS
        missed = missed + (seen - words).square().sum()
        return missed + ((said - wanted).square().sum() + (rest - self.nothing).square().sum()) / self.size

    def right(self, said, words, times, *kinds: slice) -> str:
        """Of frames on which something is, shares that are told right: of each kind of words, and of each digit."""
        (seen, digits), shares = self.told(said), []
        for kind in kinds:
            there = words[:, kind].any(-1)
            shares.append((seen[there, kind].argmax(-1) == words[there, kind].argmax(-1)).float().mean())
        return " ".join(f"{one:.2f}" for one in (*shares, *(digits.argmax(-1) == times).float().mean(0)))


def learn_frames(model, processor, albums: Iterable[Album], steps: int, rng: np.random.Generator):
    """
    From single pictures, put one behind the other in any order. A head, of which nothing is kept, tells from what the
    image Q-Former hands on where and how turned things are. The third album is only asked about.
    """
    named, any_colour, unseen = albums
    aim, parts = Aim(model, processor), model.model
    patches, asked_about = see(model, named, any_colour), see(model, unseen)
    weights, poses = (torch.cat([getattr(one, kind) for one in (named, any_colour)]) for kind in ("weights", "poses"))
    queries = model.config.num_query_tokens
    head = nn.Linear(queries * model.config.qformer_config.hidden_size, poses.shape[1])

    def told(notation: str, drawn: list, patches: torch.Tensor):
        """What is told of frames and of what is left of their windows, what of where things are, digits of times."""
        times = torch.tensor([[*map(int, one)] for *_, digits in drawn for one in digits])
        picks = torch.from_numpy(rng.integers(len(patches), size=len(times)))
        tokens, *masks = look(model, processor, notation, [metadata for metadata, *_ in drawn], patches[picks])
        where = head(tokens[masks[0]][:, :queries].flatten(1))
        return picks, *map(parts.projector, think(model, tokens, *masks)), where, times

    def loss(step: int) -> torch.Tensor:
        total, count, drawn = 0.0, 0, [draw_sequence(rng, MOST) for _ in range(BATCH)]
        for notation in NOTATIONS:
            if mine := [one for one in drawn if one[1] == notation]:
                picks, said, rest, where, times = told(notation, mine, patches)
                total = total + aim.missed(said, rest, weights[picks], times, picks < len(named.views))
                total = total + (where.float() - poses[picks]).square().sum()
                count += len(times)
        return total / count

    @torch.no_grad()
    def report() -> str:
        """Of pictures of the test split: colours, shapes and digits told right."""
        figures = []
        for notation in NOTATIONS:
            drawn = []
            while not drawn:
                drawn = [one for one in (draw_sequence(rng, MOST) for _ in range(2 * BATCH)) if one[1] == notation]
            picks, said, *_, times = told(notation, drawn, asked_about)
            figures.append(f"{notation}: {aim.right(said, unseen.weights[picks], times, COLOUR, SHAPE)}")
        return ", ".join(figures)

    trained = [parts.image_qformer, parts.video_qformer, parts.projector, nn.ModuleDict({"head": head})]
    fit("frames", trained, steps, loss, 1e-2, report)


def look(model, processor, notation: str, videos: list[Seq2TimeVideoMetadata], patches: torch.Tensor):
    """What the image Q-Former makes of frames of videos, one after the other: tokens, which frames and tokens exist."""
    counts = [len(video.positions) for video in videos]
    processor.time_notation = notation
    time = processor._time_inputs(videos)
    processor.time_notation = model.config.time_notation
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    ids, read = (torch.tensor(time[f"video_time_{key}"]) for key in ("input_ids", "attention_mask"))
    tokens = model.model.image_qformer(patches.float(), ids[mask], read[mask])
    padded = tokens.new_zeros(*mask.shape, *tokens.shape[1:]).masked_scatter(mask[:, :, None, None], tokens)
    lengths = read.sum(-1).amax(1) + model.config.num_query_tokens
    return padded, mask, torch.arange(tokens.shape[1]) < lengths[:, None]


def think(model, tokens: torch.Tensor, frame_mask: torch.Tensor, token_mask: torch.Tensor):
    """What the video Q-Former makes of that: of the frames, one after the other, and of what is left of windows."""
    windows = [window.flatten(0, 1) for window in model.model.video_qformer(tokens, frame_mask, token_mask)]
    split = [(one[:count], one[count:]) for one, count in zip(windows, frame_mask.sum(1).tolist(), strict=True)]
    return tuple(map(torch.cat, zip(*split, strict=True)))


@torch.no_grad()
@torch.autocast("cpu", enabled=False)
def see(model, *albums: Album) -> torch.Tensor:
    """What the vision tower makes of the pictures, one album after the other."""
    tower = model.model.vision_tower.eval()
    batches = [(album, batch) for album in albums for batch in torch.arange(len(album.views)).split(64)]
    return torch.cat([tower(album.pixels(batch)).last_hidden_state.half() for album, batch in batches])
