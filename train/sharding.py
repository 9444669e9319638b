"""
What a model needs that is split over processes, by FSDP2 or by DeepSpeed's ZeRO-3. TRL's loss reads the weights of the
language model's head without calling it, and PEFT makes these weights anew, with the trained rows of time tokens.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
import trl.trainer.utils
from accelerate import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, StateDictType
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import SFTConfig, SFTTrainer

from dataset_scripts.items import DataError

from .adapter import keep_exact


def split_by(args: SFTConfig) -> str | None:
    """What splits this run, as its checkpoints have another form then."""
    if args.deepspeed_plugin:
        return f"zero{args.deepspeed_plugin.zero_stage}"
    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return None
    form = FullyShardedDataParallelPlugin().state_dict_type  # as the launcher says
    if form != StateDictType.FULL_STATE_DICT:
        raise DataError(f"fsdp_state_dict_type: expected FULL_STATE_DICT, which has the adapter, found {form.name}")
    return "fsdp"


def make_ready(trainer: SFTTrainer):
    """To be called before the trainer's model is split."""
    plugin, model = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None, trainer.model
    model.get_base_model().register_forward_pre_hook(gather_head)
    keep_exact(model)  # TRL rounds what trains of a quantized model to bfloat16, where small steps are lost
    if plugin and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        # accelerate's own rounds losses, and the sums of gradients, to the dtype of the computation
        exact = {"reduce_dtype": torch.float32, "output_dtype": None}
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, **exact)
    rows = not isinstance(model.get_output_embeddings(), nn.Linear)
    if plugin and rows and model.config.tie_word_embeddings:
        raise DataError(
            "FSDP: expected a model with separate input and output embeddings, found tied ones, whose time tokens it "
            "can't train; DDP and DeepSpeed can"
        )
    if is_deepspeed_zero3_enabled() and rows:
        # These weights are whole already, but no parameter that could be asked whether it is.
        trl.trainer.utils.maybe_gather_lm_head_ctx = lambda *weights: nullcontext()


def gather_head(model: PreTrainedModel, inputs: tuple):
    """FSDP gathers weights before a module's forward pass, which the head never has."""
    head = model.get_output_embeddings()
    if isinstance(head, FSDPModule):
        head.unshard()


@contextmanager
def unsplit(args: SFTConfig) -> Iterator[None]:
    """Models that are loaded here are whole, and no process waits for the others to load its part."""
    unset_hf_deepspeed_config()
    yield
    if args.deepspeed_plugin:
        args.deepspeed_plugin.set_deepspeed_weakref()
