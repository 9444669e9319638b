"""Muon for matrices, AdamW for embeddings and all else, on a cosine."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import nn
from tqdm import tqdm
from transformers import AttentionInterface, AttentionMaskInterface, get_cosine_schedule_with_warmup
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class Muon(torch.optim.Optimizer):
    """
    Momentum whose matrices are made orthogonal (Jordan et al., 2024). `torch.optim.Muon` does so in bfloat16, which
    takes longer than the step itself on a CPU that has none.
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                kept = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                kept.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(kept, group["momentum"]))
                scale = 0.2 * max(parameter.shape) ** 0.5  # about as large as AdamW's
                parameter.mul_(1 - 0.01 * group["lr"]).add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


def fit(
    name: str,
    modules: list[nn.Module],
    steps: int,
    loss: Callable[[int], torch.Tensor],
    rate: float,
    report: Callable[[], str] | None = None,
):
    named = [(key, one) for module in modules for key, one in module.named_parameters() if one.requires_grad]
    inner = [one for key, one in named if one.ndim == 2 and not _at_the_edge(key)]
    rest = [one for key, one in named if one.ndim != 2 or _at_the_edge(key)]
    optimizers = [torch.optim.AdamW(rest, lr=min(rate, 3e-3), betas=(0.9, 0.98), weight_decay=0.01)]
    if inner:
        optimizers.append(Muon(inner, lr=rate))
    schedules = [get_cosine_schedule_with_warmup(one, min(50, steps // 10), steps) for one in optimizers]
    bar, mean = tqdm(range(steps), desc=name, disable=None), None
    for step in bar:
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_([one for _, one in named], 1.0)
        for one in (*optimizers, *schedules):
            one.step()
        for one in optimizers:
            one.zero_grad()
        mean = value.item() if mean is None else 0.96 * mean + 0.04 * value.item()
        bar.set_postfix_str(f"loss {mean:.3f}", refresh=False)
        if (step + 1) % 50 == 0:
            tqdm.write(f"{name}: step {step + 1}, loss {mean:.4f}" + (f", {report()}" if report else ""))


@contextmanager
def in_bfloat16(model, wanted: bool):
    """Multiplies matrices so. Attention isn't: torch's own, on a CPU, takes longer in bfloat16 than in float32."""

    def attention(module, query, key, value, *args, **kwargs):
        with torch.autocast("cpu", enabled=False):
            return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query.float(), key.float(), value.float(), *args, **kwargs)

    if not wanted:
        yield
        return
    AttentionInterface.register("sdpa_in_float32", attention)
    AttentionMaskInterface.register("sdpa_in_float32", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation("sdpa_in_float32")
    try:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # weights change all the time
            yield
    finally:
        model.set_attn_implementation("sdpa")


def _at_the_edge(name: str) -> bool:
    """Whether a matrix is an embedding or one of the heads that are thrown away."""
    return any(part in name for part in ("embed", "position", "head"))
