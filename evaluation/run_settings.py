"""What the answers of a run depend on: prompts, the model to the byte, and what it is told."""

import hashlib
import tomllib
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig

from dataset_scripts.items import DataError
from dataset_scripts.sources import Source
from modeling_seq2time.native_video import NativeProcessor, is_native

from .tables import TITLES


VERSION = 3  # of the runner: raise it when the same settings give other answers
PROMPTS = Path(__file__).with_name("prompts.toml")
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def read_prompts(path: Path) -> dict[str, str]:
    """The words of every task; those that a file doesn't have are ours."""
    try:
        prompts = tomllib.loads(PROMPTS.read_text(encoding="utf-8")) | tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected TOML: {error}") from error
    for task, prompt in prompts.items():
        if task not in TITLES or not isinstance(prompt, str):
            raise DataError(f"{path}: expected texts for {', '.join(TITLES)}, found {task!r}: {prompt!r:.60}")
        if task != "dvc" and "{query}" not in prompt:
            raise DataError(f"{path}: expected {{query}} in the prompt of {task}, found {prompt!r:.60}")
    return prompts


def as_phrase(query: str) -> str:
    """A query as part of a sentence: without its full stop."""
    return query.rstrip(". ") or query


def model_folder(model: str) -> Path:
    """Where a model lies, a repository's after it was fetched (once)."""
    if Path(model).is_dir():
        return Path(model)
    repository, _, revision = model.partition("@")
    wanted = [f"*{suffix}" for suffix in MODEL_FILES]
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # the Hub's errors are among them
        expected = "expected a model's folder or a repository that can be reached"
        raise DataError(f"{model}: {expected}: {str(error).strip().splitlines()[0]}") from error


def read_settings(args, source: Source, folder: Path) -> dict:
    """All that the answers depend on, but the weights."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{args.model}: expected a model: {str(error).strip().splitlines()[0]}") from error
    try:
        told = NativeProcessor.from_pretrained(folder).settings if is_native(folder) else config
    except ValueError as error:
        raise DataError(str(error)) from error
    return {
        "version": VERSION,
        "benchmark": args.benchmark,
        "split": args.split,
        "annotations": source.annotations,
        "model": args.name,
        "revision": None if Path(args.model).is_dir() else folder.name,
        "notation": told.get("time_notation"),
        "constrained": not args.free,
        "prompts": read_prompts(args.prompts),
        "num_frames": args.num_frames or told.get("num_frames"),
        "window": args.window,
        "max_new_tokens": args.max_new_tokens,
        "search_steps": None if args.free else args.search_steps,
        "dtype": args.dtype,
    }


def fingerprint(folder: Path) -> str:
    """Of a model's folder: its configuration, tokenizers and weights, to the byte."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in ("*", "*tokenizer/*") for file in folder.glob(pattern) if file.is_file()):
        if file.suffix in MODEL_FILES:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.relative_to(folder).as_posix()} {found}\n".encode())
    return digest.hexdigest()[:16]
