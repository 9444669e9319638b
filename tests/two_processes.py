"""
`train.sft` in two processes of a CPU, as the launcher would start them on two GPUs. What is imported is imported once.

torch can split a model over processes of a CPU, but accelerate trains whole ones there, without a word, and PEFT asks
for CUDA under ZeRO-3: where a model is to be split, they are told otherwise.
"""

import multiprocessing
import os
import warnings
from pathlib import Path

import torch
import transformers.training_args
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.other import get_free_port
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.integrations import gather_params_ctx

from train import sft


def train(arguments: list[str], environment: dict[str, str], log: Path):
    """
    Raises with what the processes wrote if one of them fails. If one dies of a signal, both are started once more, with
    a warning: a process whose model is split over CPUs was seen to die of a corrupt heap, probably by gloo's threads.
    """
    codes, told = _together(arguments, environment, log)
    if any(code < 0 for code in codes):
        warnings.warn(f"started once more: {told}", stacklevel=2)
        codes, told = _together(arguments, environment, log)
    if any(codes):
        raise RuntimeError(told)


def _together(arguments: list[str], environment: dict[str, str], log: Path) -> tuple[list[int], str]:
    """Both processes' exit codes and the ends of their logs: one that fails takes the other with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.two_processes"])
    group = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(get_free_port()),
    }
    own = [environment | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    logs = [log.with_suffix(f".{rank}.log") for rank in range(2)]
    processes = [context.Process(target=_work, args=(arguments, *each)) for each in zip(own, logs, strict=True)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    codes, told = [], ""
    for process, path in zip(processes, logs, strict=True):
        if process.is_alive():
            process.kill()
            process.join()
            codes.append(1)
            told += f"{path.name}: killed, as it hadn't ended in time\n"
        else:
            codes.append(process.exitcode)
        told += f"{path.name}: exit code {process.exitcode}\n{path.read_text()[-3000:]}\n"
    return codes, told


def _work(arguments: list[str], environment: dict[str, str], log: Path):
    os.environ.update(environment)
    with open(log, "a") as written:
        for stream in (1, 2):
            os.dup2(written.fileno(), stream)
    torch.set_num_threads(1)
    if "ACCELERATE_USE_CPU" not in environment:
        os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
        PartialState._prepare_backend = lambda *args: ("gloo", DistributedType.MULTI_XPU)
        TrainableTokensLayer._collect_token_weights = _own_rows
        transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    sft.main(arguments)


def _own_rows(layer: TrainableTokensLayer, weight: torch.Tensor, rows: list[int], width: int) -> torch.Tensor:
    with gather_params_ctx([weight], modifier_rank=None):
        return weight[rows].clone()
