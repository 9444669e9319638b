"""Small sets of the mini world, and sets of videos whose frames say which they are."""

from pathlib import Path

import numpy as np
from datasets import Dataset

from dataset_scripts import annotated_videos, clip_sequences, image_sequences
from dataset_scripts.record import clip_features, clip_pool_features
from dataset_scripts.samples import Samples
from modeling_seq2time.time_notation import mark
from tests.videos import COLUMNS, ROWS, write_video
from train.mixture import Mixture
from train.recipe import Source


WORLD = "miniworld?pictures=60&clips=20&videos=4&size=64"
IMAGES, CLIPS, VIDEOS = ["iig", "iic", "alr"], ["dense_captioning", "grounding"], ["video_grounding"]
TINY = {"num_frames": 8, "window_size": 4, "window_stride": 4}  # of `tiny`: two windows, as many frames as pictures


def mini_sets(tmp_path_factory) -> Path:
    """
    A folder with sets of all kinds, made once a session: 24 image sequences of 8 pictures, groups of 4 from pools of
    12; 8 clip sequences; questions about 3 videos, and about one of split `test`.
    """
    folder = tmp_path_factory.getbasetemp() / "mini-sets"
    if (folder / "annotated_videos.test.json").is_file():
        return folder
    common = ["--source", WORLD, "--output", str(folder), "--num-proc", "1"]
    pools = ["--shared-pool", "12", "--shared-sequences", "4"]
    image_sequences.main([*common, "--num-instances", "24", "--sequence-length", "8", *pools])
    clip_sequences.main([*common, "--num-instances", "8", "--max-clips", "4"])
    annotated_videos.main(common)
    annotated_videos.main([*common, "--split", "test"])
    return folder


def mini_mixture(folder: Path, processor, sampling: str = "random", sources: list[Source] | None = None) -> Mixture:
    """Of all that is in `mini_sets`, or of other sources."""
    kinds = [Source(str(folder), config) for config in (IMAGES, CLIPS, VIDEOS)]
    return Mixture.load(kinds if sources is None else sources, processor, sampling, seed=0)


def draws(mixture: Mixture, *rows: int, epoch: int = 0) -> list[dict]:
    """Rows as the data loader hands them to the collator; all of them by default."""
    return [{"epoch": epoch, **mixture.rows[row]} for row in rows or range(len(mixture.rows))]


def numbered_samples(folder: Path, lengths: list[int], sequences: list[list[dict]] | None = None, **options) -> Samples:
    """
    Questions about videos of so many numbered frames, 10 a second; or about sequences of {clip, rate} of them. The
    options are those of `Samples`.
    """
    for length in lengths:
        if not (folder / f"{length}.mp4").is_file():
            write_video(folder / f"{length}.mp4", length, fps=10, size=(56, 56))
    shared = {"source": "numbered", "label": "", "caption": "a", "start": 0.0}
    pool = [
        {"id": number, "key": str(number), "media": f"{length}.mp4", "end": length / 10, "duration": length / 10}
        for number, length in enumerate(lengths)
    ]
    sequences = sequences or [[{"clip": number, "rate": 1.0}] for number in range(len(lengths))]
    records = []
    for number, sequence in enumerate(sequences):
        end = round(sum(lengths[clip["clip"]] / 10 * clip["rate"] for clip in sequence), 3)
        answer = f"In {mark(0.0, end, 's')} - {mark(end, end, 's')} seconds."
        messages = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": answer}]
        records.append({"id": f"video-{number}", "source": "numbered", "group": "all", "task": "grounding"})
        records[-1] |= {"sequence": sequence, "targets": [{"start": 0.0, "end": 1.0}], "messages": messages}
    return Samples(
        Dataset.from_list(records, features=clip_features()),
        Dataset.from_list([one | shared for one in pool], features=clip_pool_features()),
        {"numbered": folder},
        **{"num_frames": 8, "size": (56, 56)} | options,
    )


def shown_number(pixels) -> int:
    """The number of a frame that the processor prepared, `(3, height, width)`."""
    grey = np.asarray(pixels.mean(0))
    high, wide = grey.shape[0] / ROWS, grey.shape[1] / COLUMNS
    number = 0
    for bit in range(ROWS * COLUMNS):
        row, column = divmod(bit, COLUMNS)
        y, x = round((row + 0.5) * high), round((column + 0.5) * wide)
        number |= int(grey[y - 2 : y + 3, x - 2 : x + 3].mean() > 0.3) << bit
    return number
