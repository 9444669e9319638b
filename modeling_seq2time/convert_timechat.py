"""
Makes a Hub folder from the files of TimeChat or Video-LLaMA.

    python -m modeling_seq2time.convert_timechat --checkpoint timechat_7b.pth --eva eva_vit_g.pth \\
        --instructblip instruct_blip_vicuna7b_trimmed.pth --llama Llama-2-7b-chat-hf --bert bert-base-uncased \\
        --output timechat-7b-hf

Every file may be a `.pth` (read with `weights_only=True`) or safetensors. Tensors are streamed: at no time is more than
one input file and one output shard in memory. `conversion_report.json` says what became of every key.
"""

import argparse
import json
import re
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, BertTokenizer, GenerationConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from . import Seq2TimeConfig, Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from .time_notation import get_notation, seed_ids


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

_QFORMER = [
    (r"embeddings\.LayerNorm\.", "{norm}."),
    (r"\.attention\.self\.", ".attention.attention."),
    (r"\.crossattention\.self\.", ".crossattention.attention."),
]
_VIT = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
]


class Weights:
    """The tensors of one file, read one at a time."""

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: there is no such checkpoint file")
        if self.path.suffix == ".safetensors":
            self._file = safe_open(self.path, "pt")
            self.shapes = {key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.keys()}  # noqa: SIM118
        else:
            self._file = None
            try:
                content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files from before PyTorch 1.6 can't be mapped
                content = torch.load(self.path, map_location="cpu", weights_only=True)
            self._tensors = content.get("model", content)
            wrong = next((key for key, value in self._tensors.items() if not isinstance(value, torch.Tensor)), None)
            if wrong is not None:
                raise ValueError(f"{path}: expected tensors (or a 'model' entry with tensors), found {wrong!r} in it")
            self.shapes = {key: tuple(value.shape) for key, value in self._tensors.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that must be there, under this name or a longer one that ends in it."""
        found = next((shape for key, shape in self.shapes.items() if key == name or key.endswith(f".{name}")), None)
        if found is None:
            raise ValueError(f"{self.path}: expected a tensor {name!r}, found {len(self.shapes)} others")
        return found

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._file.get_tensor(key) if self._file is not None else self._tensors[key]


def open_folder(folder: Path) -> list[Weights]:
    """The weight files of a Hugging Face folder."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(Path(folder).glob(pattern)):
            return [Weights(file) for file in files]
    raise FileNotFoundError(f"{folder}: expected model*.safetensors or pytorch_model*.bin, found neither")


class Plan:
    """Which new tensor comes from which old ones, and what becomes of every old key."""

    def __init__(self):
        self.tensors = {}  # new name → function that makes it
        self.lora = {}  # (module, "A" or "B") → function
        self.report = defaultdict(dict)

    def use(self, weights: Weights, key: str, name: str, make=None):
        self.tensors[name] = make or (lambda: weights[key])
        self.report[weights.path.name][key] = f"used: {name}"

    def ignore(self, weights: Weights, key: str, why: str):
        self.report[weights.path.name][key] = f"ignored: {why}"

    def unexpected(self, weights: Weights, key: str):
        self.report[weights.path.name][key] = "unexpected"

    def keys_that_are(self, fate: str) -> list[str]:
        return [
            f"{file}: {key}" for file, keys in self.report.items() for key, is_ in keys.items() if is_.startswith(fate)
        ]


def plan_vision(plan: Plan, eva: Weights, depth: int, image_size: int, patch_size: int):
    prefix = "visual_encoder." if any(key.startswith("visual_encoder.") for key in eva.shapes) else ""
    for key in eva.shapes:
        old = key.removeprefix(prefix)
        block = re.match(r"blocks\.(\d+)\.", old)
        if (block and int(block[1]) >= depth) or re.match(r"(norm|fc_norm|head)\.", old):
            plan.ignore(eva, key, "TimeChat's ViT ends before it")
            continue
        new = old
        for pattern, replacement in _VIT:
            new = re.sub(pattern, replacement, new)
        new = f"model.vision_tower.{new}"
        if old.endswith(".attn.q_bias"):
            start = key.removesuffix("q_bias")
            bias = lambda start=start: torch.cat(  # noqa: E731 (EVA has no bias of the keys)
                [eva[start + "q_bias"], torch.zeros_like(eva[start + "q_bias"]), eva[start + "v_bias"]]
            )
            plan.use(
                eva, key, new.replace(".attn.q_bias", ".self_attn.qkv.bias").replace("blocks", "encoder.layers"), bias
            )
        elif old.endswith(".attn.v_bias"):
            plan.report[eva.path.name][key] = "used: with q_bias"
        elif old == "pos_embed":
            plan.use(eva, key, new, lambda key=key: _resize_patches(eva[key], image_size // patch_size))
        elif new == f"model.vision_tower.{old}":
            plan.unexpected(eva, key)
        else:
            plan.use(eva, key, new)


def plan_blip(plan: Plan, blip: Weights, has_image_qformer: bool, reads_time: bool):
    """InstructBLIP's or BLIP-2's file: the norm behind the ViT, and the image Q-Former if the checkpoint has none."""
    for key in blip.shapes:
        if key.startswith("ln_vision."):
            plan.use(blip, key, key.replace("ln_vision", "model.vision_tower.post_layernorm"))
        elif key == "query_tokens" or key.startswith("Qformer."):
            if has_image_qformer:
                plan.ignore(blip, key, "the checkpoint has its own image Q-Former")
            else:
                plan_image_qformer(plan, blip, key, reads_time)
        else:
            plan.ignore(blip, key, "not a part of TimeChat")


def plan_image_qformer(plan: Plan, weights: Weights, key: str, reads_time: bool):
    text_only = r"Qformer\.bert\.(embeddings\.(word|position)_embeddings|encoder\.layer\.\d+\.(intermediate|output)\.)"
    if key == "query_tokens":
        plan.use(weights, key, "model.image_qformer.query_tokens")
    elif key.endswith("position_ids"):
        plan.ignore(weights, key, "a buffer")
    elif key.startswith("Qformer.cls."):
        plan.ignore(weights, key, "BERT's own head")
    elif not reads_time and re.match(text_only, key):
        plan.ignore(weights, key, "the image Q-Former reads no text")
    elif key.startswith("Qformer.bert."):
        new = _rename_qformer(key.removeprefix("Qformer.bert."), reads_time)
        plan.use(weights, key, f"model.image_qformer.qformer.{new}")
    else:
        plan.unexpected(weights, key)


def plan_checkpoint(plan: Plan, checkpoint: Weights, reads_time: bool, num_positions: int):
    for key in checkpoint.shapes:
        if key.startswith("video_Qformer.bert.") and not key.endswith("position_ids"):
            new = _rename_qformer(key.removeprefix("video_Qformer.bert."), reads_text=False)
            plan.use(checkpoint, key, f"model.video_qformer.qformer.{new}")
        elif key == "video_query_tokens":
            plan.use(checkpoint, key, "model.video_qformer.query_tokens")
        elif key == "video_frame_position_embedding.weight":
            name = "model.video_qformer.frame_positions.weight"
            plan.use(checkpoint, key, name, lambda key=key: _resize_table(checkpoint[key], num_positions))
        elif key.startswith("llama_proj."):
            plan.use(checkpoint, key, key.replace("llama_proj", "model.projector"))
        elif key.startswith("llama_model."):
            plan_llama(plan, checkpoint, key)
        elif key == "query_tokens" or key.startswith("Qformer."):
            plan_image_qformer(plan, checkpoint, key, reads_time)
        elif key.endswith("position_ids"):
            plan.ignore(checkpoint, key, "a buffer")
        else:
            plan.unexpected(checkpoint, key)


def plan_llama(plan: Plan, weights: Weights, key: str):
    old = key.removeprefix("llama_model.").removeprefix("base_model.model.").replace(".base_layer.", ".")
    new = re.sub(r"^model\.", "model.language_model.", old)
    lora = re.fullmatch(r"(.+)\.lora_([AB])\.default\.weight", new)
    if lora:
        plan.lora[lora[1], lora[2]] = lambda: weights[key]
        plan.report[weights.path.name][key] = "used: LoRA"
    elif "rotary_emb" in old:
        plan.ignore(weights, key, "a buffer")
    elif new.startswith("model.language_model.") or new == "lm_head.weight":
        plan.use(weights, key, new)
    else:
        plan.unexpected(weights, key)


def _rename_qformer(key: str, reads_text: bool) -> str:
    for pattern, replacement in _QFORMER:
        key = re.sub(pattern, replacement.format(norm="embeddings.layernorm" if reads_text else "layernorm"), key)
    return key


def _resize_table(table: torch.Tensor, rows: int) -> torch.Tensor:
    """TimeChat's resize of Video-LLaMA's frame positions: the nearest row."""
    if len(table) == rows:
        return table
    return torch.nn.functional.interpolate(table.T[None].float(), size=rows, mode="nearest")[0].T.to(table.dtype)


def _resize_patches(table: torch.Tensor, side: int) -> torch.Tensor:
    """The ViT's positions at another image size: bicubic, the class position kept."""
    old = round((table.shape[1] - 1) ** 0.5)
    if old == side:
        return table
    patches = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(patches, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def read_config(files: dict, llama: Path, given: dict, time_notation: str) -> Seq2TimeConfig:
    """Sizes from the tensors, what they cannot tell from `given` or TimeChat-7B."""
    told = {
        key: value | given.get(key, {}) if isinstance(value, dict) else given.get(key, value)
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


def lora_config(plan: Plan, alpha: float, targets: list[str]) -> dict:
    rank = next(iter(plan.lora.values()))().shape[0] if plan.lora else 0
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": ".",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.1,
        "bias": "none",
        "target_modules": rf"model\.language_model\.layers\.\d+\.self_attn\.({'|'.join(targets)})",
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
        (self.folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def make_plan(files: dict, llama: Path, config: Seq2TimeConfig, merge_lora: bool, alpha: float) -> Plan:
    plan = Plan()
    vision, reads_time = config.vision_config, config.qformer_reads_time
    plan_vision(plan, files["eva"], vision.num_hidden_layers, vision.image_size, vision.patch_size)
    plan_blip(plan, files["instructblip"], "query_tokens" in files["checkpoint"].shapes, reads_time)
    for weights in open_folder(llama):
        for key in weights.shapes:
            plan_llama(plan, weights, key)
    plan_checkpoint(plan, files["checkpoint"], reads_time, config.max_frame_positions)
    if merge_lora:
        for module in {module for module, _ in plan.lora}:
            plan.tensors[f"{module}.weight"] = _merged(plan, module, alpha)
    return plan


def _merged(plan: Plan, module: str, alpha: float):
    base, a, b = plan.tensors[f"{module}.weight"], plan.lora[module, "A"], plan.lora[module, "B"]

    def make():
        weight, down = base(), a().float()
        return (weight.float() + alpha / len(down) * (b().float() @ down)).to(weight.dtype)

    return make


def _extended(make, rows: int, seeds: dict[int, int]):
    """An embedding matrix with the new tokens' rows, each a copy of the row it starts from."""

    def extend():
        old = make()
        new = torch.cat([old, old.new_zeros(max(0, rows - len(old)), old.shape[1])])
        for token_id, seed in seeds.items():
            new[token_id] = old[seed]
        return new

    return extend


def convert(args) -> None:
    if args.output.exists() and any(args.output.iterdir()):
        raise FileExistsError(f"{args.output}: expected a new or empty folder, found files in it")
    given = json.loads(args.config.read_text()) if args.config else {}
    files = {name: Weights(getattr(args, name)) for name in ("checkpoint", "eva", "instructblip")}
    config = read_config(files, args.llama, given, args.time_notation)
    alpha = given.get("lora", {}).get("alpha", TIMECHAT_7B["lora"]["alpha"])

    tokenizer = AutoTokenizer.from_pretrained(args.llama)
    qformer_tokenizer = BertTokenizer.from_pretrained(args.bert, bos_token="[DEC]")
    processor = Seq2TimeProcessor.from_config(config, tokenizer, qformer_tokenizer)
    notation, old_rows = get_notation(config.time_notation), config.text_config.vocab_size
    config.video_token_id = processor.video_token_id
    config.time_token_ids = tokenizer.convert_tokens_to_ids(list(notation.tokens))
    config.text_config.vocab_size = max(len(tokenizer), old_rows)

    plan = make_plan(files, args.llama, config, args.merge_lora, alpha)
    # The placeholder's rows are never used; a copy of <unk>'s keeps its score from standing out.
    seeds = {config.video_token_id: tokenizer.unk_token_id or 0}
    seeds |= dict(zip(config.time_token_ids, seed_ids(notation, tokenizer), strict=True))
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in plan.tensors:
            config.dtype = plan.tensors[name]().dtype
            plan.tensors[name] = _extended(plan.tensors[name], config.text_config.vocab_size, seeds)
    with torch.device("meta"):
        model = Seq2TimeForConditionalGeneration(config)
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    for name in sorted(plan.tensors.keys() - expected.keys()):
        plan.tensors.pop(name)
        for file, keys in plan.report.items():
            plan.report[file] = {k: "unexpected" if fate == f"used: {name}" else fate for k, fate in keys.items()}
    missing = sorted(expected.keys() - plan.tensors.keys())
    for fate in ("used", "ignored", "unexpected"):
        print(f"{fate}: {len(plan.keys_that_are(fate))} keys")
    for key in plan.keys_that_are("unexpected"):
        print(f"unexpected: {key}", file=sys.stderr)
    for name in missing:
        print(f"missing: {name}", file=sys.stderr)
    if missing and not args.allow_incomplete:
        raise ValueError(
            f"expected {len(expected)} tensors, {len(missing)} of them are in no file (listed above); nothing was "
            "written. --allow-incomplete writes the model without them"
        )

    partial = args.output.with_name(args.output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writer = ShardWriter(partial, int(args.max_shard_size * 1e9))
    for name in tqdm(sorted(expected.keys() & plan.tensors.keys()), desc="tensors", unit=""):
        tensor = plan.tensors[name]()
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(f"{name}: expected shape {expected[name]}, found {tuple(tensor.shape)}")
        writer.add(name, tensor)
    writer.close()
    if plan.lora and not args.merge_lora:
        targets = sorted({module.rsplit(".", 1)[1] for module, _ in plan.lora})
        adapter = {
            f"base_model.model.{module}.lora_{side}.weight": make() for (module, side), make in plan.lora.items()
        }
        save_file(adapter, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        settings = lora_config(plan, alpha, targets)
        (partial / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    config.architectures = ["Seq2TimeForConditionalGeneration"]
    custom_object_save(model, partial, config=config)
    config.save_pretrained(partial)
    processor.save_pretrained(partial)
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[config.video_token_id],
    ).save_pretrained(partial)
    report = plan.report | {"missing": missing}
    (partial / "conversion_report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    if args.output.exists():
        args.output.rmdir()
    partial.rename(args.output)
    lora = "no LoRA" if not plan.lora else "LoRA merged" if args.merge_lora else "LoRA as a PEFT adapter"
    print(f"{args.output}: {len(expected) - len(missing)} tensors, {writer.total / 1e9:.2f} GB, {lora}")


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
        "--time-notation", default="text", help="'text', which TimeChat speaks, or 'rpt' to train Seq2Time"
    )
    parser.add_argument("--max-shard-size", type=float, default=2.0, help="in GB")
    args = parser.parse_args()
    try:
        convert(args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
