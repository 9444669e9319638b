"""Where every tensor of TimeChat's and Video-LLaMA's files goes, and how it changes on the way."""

import re
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open

from .configuration_seq2time import Seq2TimeConfig


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
    """The tensors of one file, read one at a time; `close` gives its memory back until the next one is read."""

    def __init__(self, path: Path):
        self.path, self._tensors = Path(path), None
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: there is no such checkpoint file")
        try:
            self._open()
        except Exception as error:  # damaged files raise what they please
            raise ValueError(f"{path}: expected tensors that can be read safely, found: {error}") from error
        self.shapes = {key: self._shape_of(key) for key in self._tensors}

    def _open(self):
        if self.path.suffix == ".safetensors":
            file = safe_open(self.path, "pt")
            self._tensors, self._get, self._shape_of = list(file.keys()), file.get_tensor, self._safe_shape(file)
            return
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before PyTorch 1.6 can't be mapped
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} in place of a dictionary")
        tensors = content.get("model", content)
        wrong = next((key for key, value in tensors.items() if not isinstance(value, torch.Tensor)), None)
        if wrong is not None:
            raise TypeError(f"{wrong!r}, which is no tensor")
        self._tensors, self._get = list(tensors), tensors.__getitem__
        self._shape_of = lambda key: tuple(tensors[key].shape)

    @staticmethod
    def _safe_shape(file):
        return lambda key: tuple(file.get_slice(key).get_shape())

    def close(self):
        self._tensors = self._get = self._shape_of = None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that must be there, under this name or a longer one that ends in it."""
        found = next((shape for key, shape in self.shapes.items() if key == name or key.endswith(f".{name}")), None)
        if found is None:
            raise ValueError(f"{self.path}: expected a tensor {name!r}, found {len(self.shapes)} others")
        return found

    def __getitem__(self, key: str) -> torch.Tensor:
        if self._tensors is None:
            self._open()
        return self._get(key)


def open_folder(folder: Path) -> list[Weights]:
    """The weight files of a Hugging Face folder."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(Path(folder).glob(pattern)):
            return [Weights(file) for file in files]
    raise FileNotFoundError(f"{folder}: expected model*.safetensors or pytorch_model*.bin, found neither")


class Plan:
    """Which new tensor comes from which old ones, and what becomes of every old key."""

    def __init__(self):
        self.tensors = {}  # new name → function that makes it, file by file
        self.sources = {}  # new name → the file it is made from
        self.lora = {}  # (module, "A" or "B") → function
        self.report = defaultdict(dict)

    def use(self, weights: Weights, key: str, name: str, make=None):
        self.tensors[name], self.sources[name] = make or (lambda: weights[key]), weights
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
            if f"{module}.weight" in plan.tensors:  # if not, it is reported as missing
                plan.tensors[f"{module}.weight"] = _merged(plan, module, alpha)
    return plan


def _merged(plan: Plan, module: str, alpha: float):
    base, a, b = plan.tensors[f"{module}.weight"], plan.lora[module, "A"], plan.lora[module, "B"]

    def make():
        weight, down = base(), a().float()
        return (weight.float() + alpha / len(down) * (b().float() @ down)).to(weight.dtype)

    return make


def extended(make, rows: int, seeds: dict[int, int | None]):
    """An embedding matrix with the new tokens' rows, each a copy of the row it starts from; None: of their mean."""

    def extend():
        old = make()
        new = torch.cat([old, old.new_zeros(max(0, rows - len(old)), old.shape[1])])
        for token_id, seed in seeds.items():
            new[token_id] = old.float().mean(dim=0) if seed is None else old[seed]
        return new

    return extend
