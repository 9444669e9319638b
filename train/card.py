"""The model card of a run: the repository's card with what was trained, on what, and how it went."""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import TrainerState

from dataset_scripts.files import atomic_writer
from modeling_seq2time import Seq2TimeConfig

from .adapter import merge
from .watching import HELD, TASK


TEMPLATE = Path(__file__).parents[1] / "model_card.md"
# Paths of a machine, what is told elsewhere, and what every run has.
_LEFT_OUT = ("model", "output_dir", "prepare", "data", "held_out", "dataset_kwargs", "remove_unused_columns", "preset")
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def describe(run: dict, state: TrainerState, reports: list[str], seconds: float | None, processes: int) -> str:
    """The run in Markdown: what it is, the reports that it printed, how it went."""
    logged = [entry for entry in state.log_history if "loss" in entry]
    lines = [f"{state.global_step:,} updates of {run['update_size']} samples: {state.epoch:.3g} epochs.", ""]
    lines += ["```", "\n\n".join(reports), "```", ""]
    if logged:
        lines += ["| | first logged | last |", "| --- | --- | --- |"]
        for name in ["loss", *sorted({name for entry in logged for name in entry if name.startswith((TASK, HELD))})]:
            values = [entry[name] for entry in logged if name in entry]
            lines.append(f"| {name} | {values[0]:.4g} | {values[-1]:.4g} |")
    settings = {name: value for name, value in run.items() if name not in _LEFT_OUT and value not in (None, {}, [])}
    lines += ["", "```json", json.dumps(settings, indent=1, ensure_ascii=False), "```", ""]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    spent = f"; {seconds / 3600:.2f} h since it was last started" if seconds else ""
    lines.append(f"On {device}, processes: {processes}{spent}.")
    lines.append("With " + ", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".")
    return "\n".join(lines) + "\n"


def describe_model(config: Seq2TimeConfig, notation: str, base: str) -> str:
    """What was trained, in its own sizes."""
    vision, text, windows = config.vision_config, config.text_config, config.window_size or config.num_frames
    over_time = f"TemporalVLM's aggregator ({config.aggregator}) → " if config.aggregator else ""
    reads = "reads each frame's time" if config.qformer_reads_time else "reads no time"
    start = f" It was trained from `{base}`." if not Path(base).is_absolute() else ""
    return (
        "A video language model for temporal grounding and dense captioning, after "
        f"[Seq2Time](https://arxiv.org/abs/2411.16932): a frozen vision tower ({vision.num_hidden_layers} layers of "
        f"{vision.hidden_size}, {vision.image_size} pixels) → an image Q-Former that {reads} → a video Q-Former over "
        f"windows of {windows} frames → {over_time}{text.model_type} ({text.num_hidden_layers} layers of "
        f"{text.hidden_size}). "
        f"{config.num_frames} frames become {config.num_video_tokens} tokens; times are written in the notation "
        f"`{notation}`.{start}\n"
    )


def write_card(folder: Path, status: str, model: str, training: str):
    """The card, in the folder of a model or of an adapter."""
    card = TEMPLATE.read_text(encoding="utf-8")
    for mark, text in (("status", status), ("model", model), ("training", training)):
        before, after = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        card = card.partition(before)[0] + before + text + after + card.partition(after)[2]
    with atomic_writer(folder / "README.md") as lines:
        lines.write(card)


def publish(adapter: Path, repository: str, model: str, description: str, private: bool | None):
    """Merges an adapter with its base and uploads the model with its card."""
    folder = adapter / "merged"
    if folder.exists():
        shutil.rmtree(folder)
    merge(adapter, folder)
    write_card(folder, f"Weights of a run of `train.sft`, merged: `{repository}`.\n", model, description)
    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model, processor, code and card")
