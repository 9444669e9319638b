"""
The model, asked about one batch of videos after the other; while it answers, the next is decoded (with windows only
opened: their frames would take too much memory).
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers.utils import logging

from dataset_scripts.items import Item
from dataset_scripts.media import Finder, Found
from modeling_seq2time import Answer
from modeling_seq2time.native_video import load
from modeling_seq2time.video_decoding import VideoDecodingError

from .answer_log import AnswerLog
from .benchmark_videos import Unusable, open_part
from .benchmarks import queries, video_name
from .run_settings import as_phrase


TOP_K, MAX_OVERLAP = 5, 0.5  # moments per grounding query, for R@5: of two that overlap more the better one stays


class Asker:
    """The model, asked about the videos of a batch."""

    def __init__(self, args, folder: Path, settings: dict, device: torch.device):
        logging.disable_progress_bar()
        self.args, self.prompts, self.num_frames = args, settings["prompts"], settings["num_frames"]
        self.model, self.processor = load(folder, dtype=args.dtype, device_map={"": args.device or device})

    def watch(self, part):
        return self.model.watch(
            self.processor, part, window=self.args.window, video_kwargs={"num_frames": self.num_frames}
        )

    def ask(self, task: str, watched: list, texts: list[list[str]]) -> list[list[Answer]]:
        """An answer for each text about each video."""
        model, args = self.model, self.args
        greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None}
        writing = greedy | {"batch_size": args.batch_size, "max_new_tokens": args.max_new_tokens}
        if task == "choice":
            asked = [[self.prompts[task].replace("{query}", text) for text in own] for own in texts]
            return model.reply(self.processor, watched, asked, **writing)
        common = {"constrain": not args.free, "prompt": self.prompts[task]}
        if task == "dvc":
            return [[answer] for answer in model.dense_caption(self.processor, watched, **common, **writing)]
        texts = [list(map(as_phrase, own)) for own in texts]
        if task == "vhd":
            return model.highlights(self.processor, watched, texts, **common, **writing)
        search = writing if args.free else {"search_steps": args.search_steps}
        ranked = {"top_k": TOP_K, "max_overlap": MAX_OVERLAP}
        return model.ground(self.processor, watched, texts, **common, **ranked, **search)


def as_row(item: Item, task: str, length: float, answers: list[Answer]) -> dict:
    def moments(answer: Answer) -> list:
        if task == "vhd":
            return [[moment.start, moment.score] for moment in answer]
        texts = task == "dvc"
        return [[moment.start, moment.end, *([moment.text] if texts else [])] for moment in answer]

    rows = [{"moments": moments(one), "text": one.text, "failure": one.failure} for one in answers]
    return {"video": item.key, "task": task, "length": length, "answers": rows}


def answer_all(todo, asker: Asker, source, finder: Finder, log: AnswerLog, tell) -> list[tuple[str, str, str]]:
    """
    Asks about batches of `(item, found, tasks)`; while the model answers about one, the next is decoded. Returns the
    videos that turned out to be unusable, `(kind, name, detail)`.
    """
    side = asker.processor.video_processor.size
    size = (side["height"], side["width"])

    def opened(item: Item, found: Found):
        part = open_part(source, finder, item, found, size)
        if asker.args.window is None:
            part.fetch(asker.num_frames)
        return part

    unusable: list[tuple[str, str, str]] = []
    pool = ThreadPoolExecutor(max(1, min(4, asker.args.batch_size)))
    try:
        waiting: list[tuple] = []
        for batch in [*todo, []]:
            following = [(item, tasks, pool.submit(opened, item, found)) for item, found, tasks in batch]
            seen = []
            for item, tasks, future in waiting:
                try:
                    part = future.result()
                    seen.append((item, tasks, part.duration, asker.watch(part)))
                except Unusable as error:
                    unusable.append((error.kind, video_name(item), str(error)))
                except (VideoDecodingError, OSError) as error:
                    unusable.append(("corrupt", video_name(item), str(error)))
            rows = []
            for task in asker.args.task:
                asked = [one for one in seen if task in one[1]]
                texts = [[event.caption for event in queries(task, item)] for item, *_ in asked]
                if asked:
                    answers = asker.ask(task, [watched for *_, watched in asked], texts)
                    rows += [
                        as_row(item, task, length, own)
                        for (item, _, length, _), own in zip(asked, answers, strict=True)
                    ]
            log.append(rows)
            tell()
            waiting = following
    finally:
        pool.shutdown(cancel_futures=True)
    return unusable
