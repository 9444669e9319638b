"""Several processes train what one process trains, however the model is split: losses, gradients and weights."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from datasets import load_dataset
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from trl import SFTConfig

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeForConditionalGeneration
from tests.training import TINY, draws, mini_mixture, mini_sets
from tests.two_processes import train
from train import sft
from train.adapter import load_for_training, load_weights, merge, parameter_table, prepare_base
from train.collator import Collator, Pictures
from train.recipe import read_recipe
from train.sharding import split_by
from train.trainer import SequenceTrainer


ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "train" / "accelerate"
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes packs rows of 64
SETTINGS = {
    "num_frames": 8,
    "lora_rank": 4,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "dtype": "float32",
    "bf16": False,
    "activation_checkpointing": False,
    "per_device_train_batch_size": 4,
    "max_steps": 4,
    "save_steps": 2,
    "learning_rate": 1e-2,
    "adam_epsilon": 1e-3,  # so large that a step shows by which factor a gradient is wrong
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "disable_tqdm": True,
    "report_to": "none",
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return mini_sets(tmp_path_factory)


@pytest.fixture(scope="module")
def recipe(sets, tiny_folder, tmp_path_factory):
    """A recipe without chance but that of the data, of which every run takes the same."""
    model = tiny_folder("timechat", **TINY, qformer_config=NO_DROPOUT, video_qformer_config=NO_DROPOUT)
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(yaml.safe_dump({"model": str(model), "data": [{"path": str(sets)}], **SETTINGS}))
    return file


@pytest.fixture(scope="module")
def phase1(recipe, tmp_path_factory):
    """An adapter to start from, as half of LoRA's gradients are zero in the beginning."""
    return alone(recipe, tmp_path_factory.mktemp("phase1"), "max_steps=2")


@pytest.fixture(scope="module")
def expected(recipe, phase1, tmp_path_factory):
    """The run of one process that all others are held against."""
    return alone(recipe, tmp_path_factory.mktemp("alone"), f"model={phase1}")


def alone(recipe: Path, output: Path, *overrides: str) -> Path:
    sft.main([str(recipe), f"output_dir={output}", "use_cpu=true", *overrides])
    return output


def together(config: str, recipe: Path, output: Path, *overrides: str) -> Path:
    """Two processes with half of the batch each."""
    half = ["per_device_train_batch_size=2", f"output_dir={output}", "dataloader_pin_memory=false"]
    _, environment = launched(["--config_file", str(CONFIGS / f"{config}.yaml"), "--num_processes", "2", "train.sft"])
    kept = {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    device = {"ACCELERATE_USE_CPU": "true"} if config == "ddp" else {}
    train([str(recipe), *half, *overrides], kept | device, output.with_suffix(".log"))
    return output


def launched(arguments: list[str]):
    """As far as `accelerate launch` gets without GPUs: its settings, and the environment of the processes."""
    args, found, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    args.deepspeed_fields_from_accelerate_config = ",".join(found.deepspeed_config)
    return args, prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)


def history(run: Path) -> np.ndarray:
    """Loss and norm of the gradients of each step."""
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    entries = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return np.array([[entry["loss"], entry["grad_norm"]] for entry in entries if "loss" in entry])


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter_model.safetensors")


def assert_same(run: Path, expected: Path):
    np.testing.assert_allclose(history(run), history(expected), rtol=0, atol=1e-5)
    assert_equal(adapter(run), adapter(expected), 1e-5)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0):
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=tolerance, msg=f"{name}: {{}}".format)


@pytest.mark.slow
def test_two_processes_train_as_one(recipe, phase1, expected, tmp_path):
    two = together("ddp", recipe, tmp_path / "two", f"model={phase1}")
    assert_same(two, expected)
    assert json.loads((two / "run.json").read_text())["split_by"] is None


@pytest.mark.slow
def test_the_launcher_starts_two_processes(recipe, phase1, expected, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp.yaml")]
    launch += ["--num_processes", "2", "--main_process_port", "0", "-m", "train.sft", str(recipe)]
    done = subprocess.run(
        [*launch, f"model={phase1}", "per_device_train_batch_size=2", f"output_dir={tmp_path}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path, expected)


def test_accumulated_batches_train_as_one(recipe, phase1, expected, tmp_path, monkeypatch):
    halves = [f"model={phase1}", "per_device_train_batch_size=2", "gradient_accumulation_steps=2"]
    assert_same(alone(recipe, tmp_path / "halves", *halves), expected)

    # the mean of two means, which have tokens of different number, is another one
    monkeypatch.setattr(SequenceTrainer, "_get_num_items_in_batch", lambda *args: None)
    other = alone(recipe, tmp_path / "means", *halves)
    assert np.abs(history(other) - history(expected)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp2", "zero2", "zero3"])
def test_a_split_model_trains_and_resumes_as_a_whole_one(config, recipe, phase1, expected, tmp_path):
    if config.startswith("zero") and not HAS_DEEPSPEED:
        pytest.skip("deepspeed is not installed")
    start = f"model={phase1}"
    run = together(config, recipe, tmp_path / "run", start)
    names = {path.name for path in (run / "checkpoint-4").iterdir()}
    assert ("pytorch_model_fsdp.bin" if config == "fsdp2" else "global_step4") in names, "it was split indeed"
    assert_same(run, expected)

    whole, weights = history(run), adapter(run)
    shutil.rmtree(run / "checkpoint-4")
    (run / "adapter_model.safetensors").unlink()
    together(config, recipe, run, start)
    np.testing.assert_array_equal(history(run), whole)
    assert_equal(adapter(run), weights)

    base = Seq2TimeForConditionalGeneration.from_pretrained(read_recipe(str(recipe))[0].model)
    assert_equal(get_peft_model_state_dict(PeftModel.from_pretrained(base, run)), weights)

    with pytest.raises(DataError, match="split_by"):  # a checkpoint of this form can't be continued otherwise
        alone(recipe, run, start)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp2", "zero2", "zero3"])
def test_a_split_model_computes_in_bfloat16_and_adds_up_in_float32(config, recipe, phase1, tmp_path):
    """accelerate's own settings round what FSDP returns: losses of 6.03 become 6.02 or 6.04."""
    if config.startswith("zero") and not HAS_DEEPSPEED:
        pytest.skip("deepspeed is not installed")
    low = [f"model={phase1}", "dtype=bfloat16", "bf16=true", "activation_checkpointing=true", "max_steps=2"]
    whole = history(alone(recipe, tmp_path / "alone", *low))
    found = history(together(config, recipe, tmp_path / config, *low))
    np.testing.assert_allclose(found[:, 0], whole[:, 0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(found[:, 1], whole[:, 1], rtol=1e-2)


@pytest.mark.slow
def test_a_process_without_readable_samples_keeps_step(recipe, phase1, sets, tmp_path):
    """It has a blank sample then, from which nothing is learned, and no gradient is missing."""
    media = tmp_path / "media"
    shutil.copytree(sets / "miniworld", media)
    (media / load_dataset(str(sets), "video_pool", split="train")[0]["media"]).write_bytes(b"no video")
    videos = ["data.0.config=video_grounding", f"data.0.folders={{miniworld: {media}}}", "on_problem=skip"]
    overrides = [f"model={phase1}", *videos]
    whole = alone(recipe, tmp_path / "alone", "per_device_train_batch_size=2", *overrides)
    halves = together("ddp", recipe, tmp_path / "two", "per_device_train_batch_size=1", *overrides)
    assert_same(halves, whole)
    skipped = [sorted((run / "skipped.jsonl").read_text().splitlines()) for run in (whole, halves)]
    assert skipped[0] == skipped[1] and 0 < len(skipped[0]) < 8


@pytest.mark.parametrize("notation", ["rpt", "text"])
def test_every_trained_parameter_has_a_gradient_in_every_batch(recipe, sets, notation, tmp_path):
    """So that DDP needs not look for others (`ddp_find_unused_parameters`)."""
    overrides = [f"time_notation={notation}", f"output_dir={tmp_path}", "use_cpu=true"]
    settings, options = read_recipe(str(recipe), overrides)
    args = SFTConfig(**options)
    assert args.ddp_find_unused_parameters is False
    model, processor = load_for_training(settings, prepare_base(settings, tmp_path))
    mixture = mini_mixture(sets, processor)
    collator = Collator(processor, mixture.sets)
    trainer = SequenceTrainer(
        model=model, args=args, mixture=mixture, data_collator=collator, processing_class=processor
    )
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    batches = [collator([row]) for row in first_of_each_set(mixture)]
    pictures = Pictures()
    batches.append(collator.batch([collator.blank(pictures)], pictures) | {"about": {"samples": [], "skipped": []}})
    for batch in batches:
        model.zero_grad()
        learned = int((batch["labels"] >= 0).sum())
        trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(learned)).backward()
        assert [name for name, parameter in trained.items() if parameter.grad is None] == []
        assert bool(learned) == any(bool(parameter.grad.any()) for parameter in trained.values())
    assert learned == 0, "the last one is blank"


def first_of_each_set(mixture) -> list[dict]:
    _, rows = np.unique(mixture.rows["set"], return_index=True)
    return draws(mixture, *map(int, rows))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_language_model_alone_is_quantized(bits, recipe, tiny_folder, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    folder = tiny_folder("timechat", **TINY, text_config=WIDE)
    low = [f"model={folder}", "dtype=bfloat16", "bf16=true", "max_steps=2"]
    run = alone(recipe, tmp_path / "run", *low, f"quantization={bits}")

    exact, _ = load_for_training(read_recipe(str(recipe), low)[0], Path(folder))
    settings, _ = read_recipe(str(recipe), [*low, f"model={run}", f"quantization={bits}"])
    model, _ = load_for_training(settings, Path(folder), torch.device("cpu"))
    assert parameter_table(model) == parameter_table(exact)
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    quantized = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    assert len(quantized) == 14 and all(".language_model.layers." in name for name in quantized)
    weights = adapter(run)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}, "TRL would have rounded what trains"
    assert_equal(get_peft_model_state_dict(model), weights)

    merge(run, tmp_path / "merged", "float32")  # with the weights as they were before they were quantized
    merged, base = load_weights(tmp_path / "merged"), load_weights(folder)
    key = "language_model.layers.0.self_attn.q_proj"
    factors = [weights[f"base_model.model.model.{key}.lora_{part}.weight"] for part in "BA"]
    wanted = base.model.get_submodule(key).weight + factors[0] @ factors[1]
    torch.testing.assert_close(merged.model.get_submodule(key).weight, wanted, rtol=0, atol=1e-6)
    assert not torch.equal(merged.model.get_submodule(key).weight, base.model.get_submodule(key).weight)


def test_quantized_weights_are_not_merged_with(tiny_folder, recipe, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = read_recipe(str(recipe), [f"model={tiny_folder('timechat', **TINY, text_config=WIDE)}"])[0]
    settings.quantization = 4
    model, _ = load_for_training(settings, Path(settings.model), torch.device("cpu"))
    model.save_pretrained(tmp_path / "run")
    model.unload().save_pretrained(tmp_path / "base")
    described = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    described["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "run" / "adapter_config.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="full precision"):
        merge(tmp_path / "run", tmp_path / "merged")


def test_fsdp_that_would_save_no_adapter_is_refused(monkeypatch):
    for name, value in (("ACCELERATE_USE_FSDP", "true"), ("FSDP_VERSION", "2")):
        monkeypatch.setenv(name, value)
    args = SimpleNamespace(deepspeed_plugin=None)
    with pytest.raises(DataError, match="fsdp_state_dict_type: expected FULL_STATE_DICT.* found SHARDED_STATE_DICT"):
        split_by(args)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    assert split_by(args) == "fsdp"


def commands(path: Path) -> list[str]:
    """Of a configuration's first lines: for 8 GPUs, for 1, for 2 machines of 8."""
    return re.findall(r"^# +accelerate launch ((?:[^\\\n]|\\\n)*)$", path.read_text(), re.M)


COMMANDS = {
    (path.stem, gpus): shlex.split(line.replace("\\\n#", " "))
    for path in sorted(CONFIGS.glob("*.yaml"))
    for gpus, line in zip(("8", "1", "2x8"), commands(path), strict=True)
}


def test_there_is_a_configuration_of_each_kind():
    assert {name for name, _ in COMMANDS} == {"ddp", "fsdp2", "zero2", "zero3"}
    kinds = {path.stem: load_config_from_file(str(path)) for path in CONFIGS.glob("*.yaml")}
    assert {name: kind.distributed_type.value for name, kind in kinds.items()} == {
        "ddp": "MULTI_GPU",
        "fsdp2": "FSDP",
        "zero2": "DEEPSPEED",
        "zero3": "DEEPSPEED",
    }
    assert {kind.mixed_precision for kind in kinds.values()} == {"no"}, "the recipe says it"


@pytest.mark.parametrize(("name", "gpus"), COMMANDS)
def test_the_commands_in_the_configurations_launch(name, gpus, monkeypatch):
    monkeypatch.chdir(ROOT)
    args, environment = launched(COMMANDS[name, gpus])
    assert args.module and args.training_script == "train.sft"
    assert [Path(one).is_file() for one in args.training_script_args] == [True]
    assert int(args.nproc_per_node) == (1 if gpus == "1" else 8)
    assert args.num_machines == (2 if gpus == "2x8" else 1)
    if gpus == "2x8":
        assert (args.nnodes, args.node_rank, args.rdzv_endpoint) == ("2", 0, "HOST:29500")
    wanted = {
        "ddp": {},
        "fsdp2": {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
            "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer,InstructBlipEncoderLayer",
        },
        "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
        "zero3": {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
            "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
        },
    }[name]
    assert wanted.items() <= environment.items()
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    others = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} - wanted.keys()
    assert not others & environment.keys()


def test_layers_that_fsdp_is_to_wrap_exist(tiny):
    wrapped = load_config_from_file(str(CONFIGS / "fsdp2.yaml")).fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    for preset in ("timechat", "video_llama"):
        assert set(wrapped.split(",")) <= {type(module).__name__ for module in tiny(preset)[0].modules()}
