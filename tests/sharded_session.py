"""
Run by test_scaling.py: `train.sft` with a model that is split over processes of a CPU. torch can do that, but
accelerate trains whole models there, without a word, and PEFT asks for CUDA under ZeRO-3.
"""

import torch
import transformers.training_args
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.integrations import gather_params_ctx

from dataset_scripts.command import run
from train.sft import main


def own_rows(layer: TrainableTokensLayer, weight: torch.Tensor, rows: list[int], width: int) -> torch.Tensor:
    with gather_params_ctx([weight], modifier_rank=None):
        return weight[rows].clone()


PartialState._prepare_backend = lambda *args: ("gloo", DistributedType.MULTI_XPU)  # of ACCELERATE_TORCH_DEVICE
TrainableTokensLayer._collect_token_weights = own_rows
transformers.training_args.is_torch_bf16_gpu_available = lambda: True

if __name__ == "__main__":
    run(main)
