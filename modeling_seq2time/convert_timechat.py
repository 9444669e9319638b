"""
Makes a Hub folder from the files of TimeChat or Video-LLaMA.

    python -m modeling_seq2time.convert_timechat --checkpoint timechat_7b.pth --eva eva_vit_g.pth \\
        --instructblip instruct_blip_vicuna7b_trimmed.pth --llama Llama-2-7b-chat-hf --bert bert-base-uncased \\
        --output timechat-7b-hf

Every file may be a `.pth` (read with `weights_only=True`) or safetensors. Tensors are streamed, input file
by input file and output shard by output shard. `conversion_report.json` says what became of every key.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, BertTokenizer, GenerationConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from . import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from .time_notation import NOTATIONS, seed_ids
from .timechat_checkpoint import Plan, Weights, extended, make_plan


# What tensors cannot tell, at TimeChat-7B's values; `--config` overrides it.
TIMECHAT_7B = {
    "window_size": 32,
    "stride": 32,
    "n_frames": 96,
    "vit": {"num_heads": 16, "eps_blocks": 1e-6, "eps_ln_vision": 1e-5},
    "qformer": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "cross_attention_freq": 2},
    "video_qformer": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "cross_attention_freq": 1},
    "lora": {"alpha": 32},
}


def read_config(files: dict, llama: Path, given: dict, time_notation: str) -> Seq2TimeConfig:
    """Sizes from the tensors, what they cannot tell from `given` or TimeChat-7B."""
    told = {
        key: value | (given.get(key) or {}) if isinstance(value, dict) else given.get(key, value)
        for key, value in TIMECHAT_7B.items()
    }
    checkpoint, eva, blip = (files[name] for name in ("checkpoint", "eva", "instructblip"))
    patch, positions = eva.shape("patch_embed.proj.weight"), eva.shape("pos_embed")
    image_qformer = checkpoint if "query_tokens" in checkpoint.shapes else blip
    words = image_qformer.shapes.get("Qformer.bert.embeddings.word_embeddings.weight")
    places = image_qformer.shapes.get("Qformer.bert.embeddings.position_embeddings.weight")
    reads_time = given.get("qformer_text_input", image_qformer is checkpoint and words is not None)
    max_positions = given.get("max_frame_pos", checkpoint.shape("video_frame_position_embedding.weight")[0])
    # The EVA file holds one block more than BLIP's ViT runs.
    blocks = {int(match[1]) for key in eva.shapes if (match := re.search(r"blocks\.(\d+)\.", key))}
    return Seq2TimeConfig(
        vision_config={
            "hidden_size": patch[0],
            "intermediate_size": eva.shape("blocks.0.mlp.fc1.weight")[0],
            "num_hidden_layers": told["vit"].get("depth", min(len(blocks), 39)),
            "num_attention_heads": told["vit"]["num_heads"],
            "patch_size": patch[2],
            "image_size": given.get("image_size", round((positions[1] - 1) ** 0.5) * patch[2]),
            "layer_norm_eps": told["vit"]["eps_blocks"],
        },
        vision_post_layernorm_eps=told["vit"]["eps_ln_vision"],
        qformer_config={
            "model_type": "instructblip_qformer" if reads_time else "blip_2_qformer",
            "pad_token_id": None,
            **_qformer_sizes(image_qformer, "Qformer.bert.", told["qformer"]),
            **({"vocab_size": words[0]} if words else {}),
            **({"max_position_embeddings": places[0]} if places else {}),
        },
        video_qformer_config=_qformer_sizes(checkpoint, "video_Qformer.bert.", told["video_qformer"]),
        text_config=AutoConfig.from_pretrained(llama),
        time_notation=time_notation,
        num_frames=min(told["n_frames"], max_positions),
        max_frame_positions=max_positions,
        window_size=told["window_size"] or 0,
        window_stride=told["stride"] or 0,
        num_query_tokens=image_qformer.shape("query_tokens")[1],
        num_video_query_tokens=checkpoint.shape("video_query_tokens")[1],
    )


def _qformer_sizes(weights: Weights, prefix: str, told: dict) -> dict:
    layer = re.compile(re.escape(prefix) + r"encoder\.layer\.(\d+)\.")
    first = weights.shape(f"{prefix}encoder.layer.0.intermediate_query.dense.weight")
    return {
        "hidden_size": first[1],
        "intermediate_size": first[0],
        "num_hidden_layers": len({match[1] for key in weights.shapes if (match := layer.match(key))}),
        "num_attention_heads": told["num_attention_heads"],
        "layer_norm_eps": told["layer_norm_eps"],
        "cross_attention_frequency": told["cross_attention_freq"],
    }


def lora_config(plan: Plan, alpha: float, base: Path) -> dict:
    targets = sorted({module.rsplit(".", 1)[1] for module, _ in plan.lora})
    rank = min(next(iter(plan.lora.values()))().shape)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.1,
        "bias": "none",
        "target_modules": rf"(model\.)?language_model\.layers\.\d+\.self_attn\.({'|'.join(targets)})",
        "inference_mode": True,
    }


class ShardWriter:
    """Safetensors shards of limited size and their index, named when their number is known."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.pending, self.pending_size, self.shards, self.total = {}, 0, [], 0

    def add(self, name: str, tensor: torch.Tensor):
        size = tensor.numel() * tensor.element_size()
        if self.pending and self.pending_size + size > self.limit:
            self.flush()
        self.pending[name] = tensor.contiguous().clone()
        self.pending_size, self.total = self.pending_size + size, self.total + size

    def flush(self):
        file = self.folder / f"shard-{len(self.shards)}"
        save_file(self.pending, file, metadata={"format": "pt"})
        self.shards.append((file, list(self.pending)))
        self.pending, self.pending_size = {}, 0

    def close(self):
        self.flush()
        if len(self.shards) == 1:
            self.shards[0][0].rename(self.folder / "model.safetensors")
            return
        weight_map = {}
        for number, (file, names) in enumerate(self.shards, 1):
            final = f"model-{number:05d}-of-{len(self.shards):05d}.safetensors"
            file.rename(self.folder / final)
            weight_map |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self.total}, "weight_map": weight_map}
        write_json(self.folder / SAFE_WEIGHTS_INDEX_NAME, index)


def prepare(args):
    """Configuration, processor and plan of a conversion; nothing is written."""
    try:
        given = json.loads(args.config.read_text()) if args.config else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{args.config}: expected JSON, found: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{args.config}: expected a JSON object, found a {type(given).__name__}")
    files = {name: Weights(getattr(args, name)) for name in ("checkpoint", "eva", "instructblip")}
    config = read_config(files, args.llama, given, args.time_notation)
    tokenizer = AutoTokenizer.from_pretrained(args.llama)
    processor = Seq2TimeProcessor.from_config(
        config, tokenizer, BertTokenizer.from_pretrained(args.bert, bos_token="[DEC]")
    )
    notation = processor.notation
    config.video_token_id = processor.video_token_id
    config.time_token_ids = tokenizer.convert_tokens_to_ids(list(notation.tokens))
    config.text_config.vocab_size = max(len(tokenizer), config.text_config.vocab_size)

    alpha = (given.get("lora") or {}).get("alpha", TIMECHAT_7B["lora"]["alpha"])
    plan = make_plan(files, args.llama, config, args.merge_lora, alpha)
    # The placeholder's rows are never used; a copy of <unk>'s keeps its score from standing out.
    seeds = {config.video_token_id: tokenizer.unk_token_id or 0}
    start_from = seed_ids(notation, tokenizer)
    seeds |= (
        dict.fromkeys(config.time_token_ids)
        if start_from is None
        else dict(zip(config.time_token_ids, start_from, strict=True))
    )
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in plan.tensors:
            config.dtype = plan.tensors[name]().dtype
            plan.tensors[name] = extended(plan.tensors[name], config.text_config.vocab_size, seeds)
    return config, processor, plan, alpha


def check(plan: Plan, expected: dict, allow_incomplete: bool) -> list[str]:
    """Says what became of the old keys; returns the new names that no file has."""
    for name in plan.tensors.keys() - expected.keys():
        del plan.tensors[name]
        for keys in plan.report.values():
            keys.update({key: "unexpected" for key, fate in keys.items() if fate == f"used: {name}"})
    missing = sorted(expected.keys() - plan.tensors.keys())
    for fate in ("used", "ignored", "unexpected"):
        print(f"{fate}: {len(plan.keys_that_are(fate))} keys")
    for key in plan.keys_that_are("unexpected"):
        print(f"unexpected: {key}", file=sys.stderr)
    for name in missing:
        print(f"missing: {name}", file=sys.stderr)
    if missing and not allow_incomplete:
        raise ValueError(
            f"expected {len(expected)} tensors, {len(missing)} of them are in no file (listed above); nothing was "
            "written. --allow-incomplete writes the model without them"
        )
    return missing


def write_tensors(plan: Plan, expected: dict, folder: Path, max_shard_size: float) -> int:
    """All tensors in the order of the files they come from, each file closed behind its last one."""
    largest_input = max(weights.path.stat().st_size for weights in plan.sources.values())
    writer, current = ShardWriter(folder, min(int(max_shard_size * 1e9), max(largest_input, 10**8))), None
    for name, make in tqdm(plan.tensors.items(), desc="tensors", unit=""):
        if current not in (None, plan.sources[name]):
            current.close()
        current, tensor = plan.sources[name], make()
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(f"{name}: expected shape {expected[name]}, found {tuple(tensor.shape)}")
        writer.add(name, tensor)
    writer.close()
    return writer.total


def convert(args) -> None:
    if args.output.exists() and any(args.output.iterdir()):
        raise FileExistsError(f"{args.output}: expected a new or empty folder, found files in it")
    config, processor, plan, alpha = prepare(args)
    with torch.device("meta"):
        model = Seq2TimeForConditionalGeneration(config)
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    missing = check(plan, expected, args.allow_incomplete)

    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{args.output.name}.", dir=args.output.parent) as staging:
        folder = Path(staging) / "model"
        folder.mkdir()
        size = write_tensors(plan, expected, folder, args.max_shard_size)
        if plan.lora and not args.merge_lora:
            adapter = {
                f"base_model.model.{module}.lora_{side}.weight": make for (module, side), make in plan.lora.items()
            }
            adapter = {name: make() for name, make in adapter.items()}
            save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            write_json(folder / "adapter_config.json", lora_config(plan, alpha, args.output))
        config.architectures = ["Seq2TimeForConditionalGeneration"]
        custom_object_save(model, folder, config=config)
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        special = {
            f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
        }
        GenerationConfig(**special, suppress_tokens=[config.video_token_id]).save_pretrained(folder)
        write_json(folder / "conversion_report.json", plan.report | {"missing": missing})
        if args.output.exists():
            args.output.rmdir()
        folder.rename(args.output)
    lora = "no LoRA" if not plan.lora else "LoRA merged" if args.merge_lora else "LoRA as a PEFT adapter"
    print(f"{args.output}: {len(expected) - len(missing)} tensors, {size / 1e9:.2f} GB, {lora}")


def write_json(path: Path, content: dict):
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what TimeChat or Video-LLaMA saved")
    parser.add_argument("--eva", type=Path, required=True, help="EVA ViT-g (eva_vit_g.pth)")
    parser.add_argument(
        "--instructblip", type=Path, required=True, help="InstructBLIP's file; BLIP-2's for Video-LLaMA"
    )
    parser.add_argument("--llama", type=Path, required=True, help="Hugging Face folder of the language model")
    parser.add_argument("--bert", type=Path, required=True, help="folder with BERT's vocabulary")
    parser.add_argument(
        "--config", type=Path, help="JSON with what tensors cannot tell; TimeChat-7B's values if absent"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--merge-lora", action="store_true", help="add the LoRA update to the language model's weights")
    parser.add_argument("--allow-incomplete", action="store_true", help="write even if tensors are missing")
    parser.add_argument(
        "--time-notation", choices=NOTATIONS, default="text", help="TimeChat speaks text; rpt to train Seq2Time"
    )
    parser.add_argument("--max-shard-size", type=float, default=2.0, help="in GB")
    args = parser.parse_args()
    try:
        convert(args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
