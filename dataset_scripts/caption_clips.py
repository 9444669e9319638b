"""
accelerate launch -m dataset_scripts.caption_clips --source kinetics=DIR --model OWNER/NAME --output CAPTIONS

Describes each clip with any video-text model of transformers that has a chat template, told the clip's action label, as
the paper does it. Also runs under plain `python -m`; on several machines CAPTIONS is a folder that all of them see.

Each shard of clips, a Parquet file, belongs to one process and is done once: after a kill, the same command goes on
where it stopped. A clip that failed is a row without caption and listed in failures.jsonl; --retry-failed tries again.
"""

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_seq2time.video_decoding import open_video
from modeling_seq2time.video_processing_seq2time import uniform_indices

from .building import ingredients, parser
from .command import run
from .files import atomic_writer, replacing
from .items import DataError, Item, Problems
from .media import video_path


PROMPT = 'The video shows the action "{label}". Describe in detail who or what takes part, how it goes on, and where.'
PROMPT_WITHOUT_LABEL = "Describe in detail what the video shows: who or what takes part, what happens, and where."
SETTINGS = ("model", "prompt", "prompt_without_label", "num_frames", "max_new_tokens", "dtype", "split", "shard_size")
SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "caption", "label", "error", "model")])


class Clip(NamedTuple):
    item: Item
    entry: dict  # of the lock file
    folder: Path

    def frames(self, num_frames: int) -> tuple:
        """The left edges of equal intervals of its frames, and what processors want to know about them."""
        start, end = self.entry["start"], self.entry["end"]
        reader = open_video(str(video_path(self.folder, self.entry["media"])))
        inside = reader.shown(start, end)
        picks = uniform_indices(len(inside), num_frames)
        facts = {"total_num_frames": len(inside), "fps": len(inside) / (end - start), "duration": end - start}
        return reader.read(inside[picks])[0], facts | {"frames_indices": picks.tolist()}


class Describer:
    def __init__(self, args, device: torch.device):
        self.args, self.described, self.refused = args, 0, 0
        trust = {"trust_remote_code": args.trust_remote_code}
        try:
            processor = self.processor = AutoProcessor.from_pretrained(args.model, **trust)
            content = [{"type": "video"}, {"type": "text", "text": "?"}]
            chats = [[{"role": "user", "content": some}] for some in (content, content[1:])]
            if not hasattr(processor, "video_processor") or len(set(processor.apply_chat_template(chats))) == 1:
                raise ValueError("expected a model that takes videos, found one whose processor leaves them out")
            self.model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=args.dtype, **trust)
        except ValueError as error:
            raise DataError(f"--model {args.model}: {error}") from error
        self.model.to(device).eval()

    def rows(self, batch: list[tuple[Clip, Future]]) -> dict[str, dict]:
        decoded, answers = [], []
        for clip, frames in batch:
            try:
                decoded.append((clip.item, *frames.result()))
            except (ValueError, OSError) as error:
                answers.append((clip.item, "", str(error)))
        answers += self._answers(decoded) if decoded else []
        rows = [(item.key, text, item.label, error, self.args.model) for item, text, error in answers]
        return {row[0]: dict(zip(SCHEMA.names, row, strict=True)) for row in rows}

    def _answers(self, batch: list[tuple]) -> list[tuple[Item, str, str]]:
        """Caption and error of each. A batch that fails is tried one by one, so that one clip fails alone."""
        try:
            captions = [text.strip() for text in self._generate(batch)]
        except (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError, ImportError):
            raise  # none of these is about a clip
        except Exception as error:  # models and processors raise what they like
            if len(batch) > 1:
                return [answer for one in batch for answer in self._answers([one])]
            self.refused += 1
            if self.refused == 16 and not self.described and not self.args.retry_failed:  # it isn't the clips' fault
                raise DataError(f"the model failed on the first 16 clips, at last with {error!r}") from error
            return [(batch[0][0], "", repr(error))]
        self.described += len(batch)
        errors = ["" if caption else "the model's answer is empty" for caption in captions]
        return list(zip([item for item, *_ in batch], captions, errors, strict=True))

    @torch.inference_mode()
    def _generate(self, batch: list[tuple]) -> list[str]:
        chats = []
        for item, frames, _ in batch:
            fits = item.label or "{label}" not in self.args.prompt
            prompt = (self.args.prompt if fits else self.args.prompt_without_label).replace("{label}", item.label)
            content = [{"type": "video", "video": frames}, {"type": "text", "text": prompt}]
            chats.append([{"role": "user", "content": content}])
        given = {"do_sample_frames": False, "padding": True, "padding_side": "left"}
        given["video_metadata"] = [facts for *_, facts in batch]
        layout = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        inputs = self.processor.apply_chat_template(chats, processor_kwargs=given, **layout)
        inputs = inputs.to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.args.max_new_tokens)
        return self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def plan(args, is_main: bool) -> dict[Path, list[Clip]]:
    """The shards with their clips. Other captions in the folder are an error, or are removed if so told."""
    sources = ingredients(args)
    clips = [Clip(*one, source.folder) for source in sources for one in source.items("clips", args.split, Problems())]
    count, keys = len(clips), len({clip.item.key for clip in clips})
    if not 0 < count == keys:
        raise DataError(f"expected {args.split} clips, each with a key of its own; found {count} with {keys} keys")
    facts = json.dumps([[one.item.key, one.item.label, one.entry["start"], one.entry["end"]] for one in clips])
    settings = {name: getattr(args, name) for name in SETTINGS} | {"clips": f"{count}, {crc32(facts.encode()):08x}"}
    parts = [clips[first : first + args.shard_size] for first in range(0, count, args.shard_size)]
    name = f"captions-{{:05d}}-of-{len(parts):05d}-{crc32(json.dumps(settings).encode()):08x}.parquet"
    shards = {args.output / name.format(number): part for number, part in enumerate(parts)}
    if is_main:
        mark, others = args.output / "captions.json", set(args.output.glob("captions-*.parquet")) - set(shards)
        known = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else settings
        changed = [name for name in settings if known.get(name) != settings[name]]
        if (changed or others) and not args.overwrite:
            found = "; ".join(f"{name} {known.get(name)!r}, not {settings[name]!r}" for name in changed)
            raise DataError(f"{args.output} holds captions that only --overwrite replaces: {found or min(others).name}")
        for file in others:
            file.unlink()
        with atomic_writer(mark) as lines:
            json.dump(settings, lines, indent=1, ensure_ascii=False)
    return shards


def rows_of(path: Path, described: bool) -> list[dict]:
    return [row for row in pq.read_table(path).to_pylist() if bool(row["caption"]) == described]


def write_shard(path: Path, clips: list[Clip], describer: Describer, args, bar: tqdm):
    """Describes the clips that have no caption yet; while one batch is described, the next is decoded."""
    rows = {row["key"]: row for row in rows_of(path, described=True)} if path.exists() else {}
    bar.update(len(rows))
    todo, size, waiting = [clip for clip in clips if clip.item.key not in rows], args.batch_size, []
    with ThreadPoolExecutor(size) as pool:
        for first in range(0, len(todo) + size, size):
            following = [(clip, pool.submit(clip.frames, args.num_frames)) for clip in todo[first : first + size]]
            rows |= describer.rows(waiting)
            bar.update(len(waiting))
            waiting = following
    with replacing(path) as part:
        pq.write_table(pa.Table.from_pylist([rows[one.item.key] for one in clips], SCHEMA), part, compression="zstd")


def main(arguments: list[str] | None = None):
    options = parser(__doc__)
    options.set_defaults(shard_size=1_000)
    options.add_argument("--model", required=True, help="on the Hub or in a folder")
    options.add_argument("--prompt", default=PROMPT, help="{label} stands for the clip's label")
    options.add_argument("--prompt-without-label", default=PROMPT_WITHOUT_LABEL, help="for clips that have none")
    for name, default in (("--num-frames", 16), ("--batch-size", 4), ("--max-new-tokens", 256)):
        options.add_argument(name, type=int, default=default)
    options.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32", "auto"))
    options.add_argument("--trust-remote-code", action="store_true")
    options.add_argument("--retry-failed", action="store_true", help="describe the clips again that failed before")
    args = options.parse_args(arguments)
    if min(args.shard_size, args.num_frames, args.batch_size, args.max_new_tokens) < 1:
        raise DataError("expected --shard-size, --num-frames, --batch-size and --max-new-tokens of at least 1")
    # Without `cpu`, processes on CPUs don't know of each other. All of them wait while a source is examined, for hours.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    with state.main_process_first(), redirect_stdout(sys.stdout if state.is_main_process else None):
        shards = plan(args, state.is_main_process)
    own = list(shards.items())[state.process_index :: state.num_processes]  # whatever is done, so that all agree
    todo = [one for one in own if not one[0].exists() or (args.retry_failed and rows_of(one[0], described=False))]
    total = sum(len(clips) for _, clips in todo)
    with tqdm(total=total, unit="clip", disable=not state.is_local_main_process or None) as bar:
        with state.local_main_process_first():  # it fetches the model
            describer = Describer(args, state.device) if todo else None
        for path, clips in todo:
            write_shard(path, clips, describer, args, bar)
    state.wait_for_everyone()
    if state.is_main_process:
        failed = [row for path in shards for row in rows_of(path, described=False)]
        with atomic_writer(args.output / "failures.jsonl") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in failed)
        print(f"{args.output}: {sum(map(len, shards.values())):,} clips, {len(failed):,} failed (failures.jsonl)")
    state.destroy_process_group()


if __name__ == "__main__":
    run(main)
