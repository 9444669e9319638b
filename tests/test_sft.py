"""Runs as a user starts them: whole, killed and started again, on bad data, on a full disk."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import load_dataset
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset_scripts import annotated_videos, clip_sequences, image_sequences
from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from modeling_seq2time import Seq2TimeForConditionalGeneration
from modeling_seq2time.time_notation import marks
from train import card, sft, watching


ROOT = Path(__file__).parents[1]
WORLD = "miniworld?pictures=60&clips=24&videos=5&size=56"


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """A folder with small sets of all kinds."""
    folder = tmp_path_factory.mktemp("sets")
    common = ["--source", WORLD, "--output", str(folder), "--num-proc", "1"]
    shared = ["--shared-pool", "12", "--shared-sequences", "4"]
    image_sequences.main([*common, "--num-instances", "24", "--sequence-length", "8", *shared])
    clip_sequences.main([*common, "--num-instances", "8", "--max-clips", "3"])
    annotated_videos.main(common)
    return folder


@pytest.fixture
def recipe(sets, tiny_folder, tmp_path):
    """`recipe(**settings)` → the file of a recipe whose runs take seconds."""

    def write(**settings):
        values = {
            "model": str(tiny_folder()),
            "output_dir": str(tmp_path / "run"),
            "data": [
                {"path": str(sets), "config": ["iig", "iic", "alr"]},
                {"path": str(sets), "config": ["dense_captioning", "grounding"]},
            ],
            "num_frames": 8,
            "lora_rank": 4,
            "dtype": "float32",
            "bf16": False,
            "use_cpu": True,
            "activation_checkpointing": False,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "report_to": "none",
        }
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(values | settings))
        return str(file)

    return write


def history(run: Path) -> list[dict]:
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    entries = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [
        {name: entry[name] for name in ("step", "loss", "grad_norm", "learning_rate")}
        for entry in entries
        if "loss" in entry
    ]


def command(recipe: str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "train.sft", recipe, *overrides]


def environment() -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_run_learns_and_says_so(recipe, sets, tmp_path, capsys):
    held_out = {"path": str(sets), "config": "video_grounding", "count": 2, "steps": 4}
    sft.main([recipe(held_out=held_out, report_to="tensorboard", num_train_epochs=2)])
    run, printed = tmp_path / "run", capsys.readouterr()
    entries = json.loads((run / "checkpoint-16" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in entries if "loss" in entry]
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert {name for entry in steps for name in entry if name.startswith("loss/task/")} == {
        f"loss/task/{task}" for task in ("iig", "iic", "alr", "dense_captioning", "grounding")
    }
    for entry in steps:  # a batch's loss is the mean over its tokens, and so is that of its only source
        assert entry["loss/source/miniworld"] == pytest.approx(entry["loss"], abs=1e-5)
        assert entry["samples_per_second"] > 0 and entry["tokens_per_second"] > 0 and 0 <= entry["data_wait"] <= 1
    assert [entry["step"] for entry in steps if "held_out/miou" in entry] == [4, 8, 12, 16]
    assert "held out: " in printed.err and "step     16  loss " in printed.out
    assert "image Q-Former" in printed.out and "together" in printed.out, "what trains, and the mixture"

    events = EventAccumulator(str(next((run / "runs").rglob("events*")).parent))
    events.Reload()
    wanted = {"train/loss", "train/learning_rate", "train/loss/task/iig", "train/samples_per_second", "train/data_wait"}
    assert wanted <= set(events.Tags()["scalars"])

    names = {path.name for path in run.iterdir()}
    assert "adapter_model.safetensors" in names and "training_args.bin" not in names
    written = (run / "README.md").read_text()
    assert "16 updates of 4 samples" in written and "None yet" in written and "Not run by this project" not in written
    assert str(tmp_path) not in written and str(sets) not in written, "no path of this machine"
    for phrase in ("--> ", "output_dir"):
        assert phrase not in written


def test_phase_two_starts_from_phase_one(recipe, sets, tmp_path):
    sft.main([recipe(max_steps=3)])
    first = load_file(tmp_path / "run" / "adapter_model.safetensors")
    data = [{"path": str(sets), "config": ["video_dense_captioning", "video_grounding"]}]
    second = {"model": str(tmp_path / "run"), "output_dir": str(tmp_path / "second"), "data": data}
    sft.main([recipe(**second, max_steps=1, learning_rate=0.0)])
    same = load_file(tmp_path / "second" / "adapter_model.safetensors")
    assert first.keys() == same.keys() and all(torch.equal(first[name], same[name]) for name in first)
    loaded = Seq2TimeForConditionalGeneration.from_pretrained(tmp_path / "second")
    assert loaded.num_parameters() > 0


def test_rows_of_time_tokens_may_have_a_rate_of_their_own(recipe, tmp_path):
    adapters = []
    for name, rates in (("without", None), ("with", {"time_tokens": 1e-2})):
        settings = {"learning_rate": 0.0, "learning_rates": rates, "max_steps": 1, "trained_parts": []}
        sft.main([recipe(output_dir=str(tmp_path / name), **settings)])
        adapters.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    still, moved = adapters
    changed = {name for name in still if not torch.equal(still[name], moved[name])}
    assert len(changed) == 2 and all("lora" not in name for name in changed), "those read, and those said"
    with pytest.raises(DataError, match="learning_rates: expected some of lora, .* found time_tokens"):
        sft.main([recipe(time_notation="text", **settings | {"output_dir": str(tmp_path / "text")})])


def test_the_same_seed_gives_the_same_bytes(recipe, tmp_path):
    file = recipe(max_steps=4, save_steps=2)
    for name, more in (("one", []), ("two", []), ("three", ["seed=1"])):
        sft.main([file, f"output_dir={tmp_path / name}", *more])
    one, two, three = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two", "three"))
    assert one == two and one != three
    assert history(tmp_path / "one") == history(tmp_path / "two")


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on_as_if_nothing_had_been(recipe, tmp_path):
    file = recipe(num_train_epochs=3, save_steps=3, dataloader_num_workers=1, lora_dropout=0.3)  # 24 steps, 8 an epoch
    sft.main([file, f"output_dir={tmp_path / 'whole'}"])
    run = tmp_path / "killed"
    again = command(file, f"output_dir={run}")
    for stop in ("checkpoint-3", "checkpoint-12"):
        with subprocess.Popen(
            again, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            deadline = time.monotonic() + 180
            while not (run / stop).is_dir() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
        assert (run / stop).is_dir() and not (run / "adapter_model.safetensors").exists()
    (run / ".writing" / "checkpoint-99").mkdir(parents=True, exist_ok=True)  # half-written
    sft.main([file, f"output_dir={run}"])
    assert history(run) == history(tmp_path / "whole")
    for name in ("adapter_model.safetensors", "checkpoint-24/optimizer.pt"):
        assert (run / name).stat().st_size == (tmp_path / "whole" / name).stat().st_size
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (run / ".writing").exists() or not any((run / ".writing").iterdir())


def test_another_run_is_not_continued(recipe, tmp_path):
    file = recipe(max_steps=1)
    sft.main([file])
    sft.main([file, "logging_steps=2", "save_total_limit=1"])  # these may change
    with pytest.raises(DataError, match=r"learning_rate 0.01, not 0.02.*Choose another output_dir"):
        sft.main([file, "learning_rate=0.02"])


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(recipe, tmp_path):
    file, run = recipe(max_steps=4, save_steps=2), tmp_path / "run"
    sft.main([file, "max_steps=2"])
    shutil.rmtree(run / "runs", ignore_errors=True)
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(settings | {"max_steps": 4}))
    before = {path: path.read_bytes() for path in (run / "checkpoint-2").rglob("*") if path.is_file()}
    limit = max(len(content) for content in before.values()) - 1000  # the optimizer's file doesn't fit

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        command(file), cwd=ROOT, env=environment(), preexec_fn=small_disk, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "error: " in done.stderr.splitlines()[-1], done.stderr[-2000:]
    assert "checkpoint-4: not written, earlier checkpoints are as they were" in done.stderr
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2"} and not (run / ".writing").exists()
    assert all(path.read_bytes() == content for path, content in before.items())
    sft.main([file])
    assert (run / "checkpoint-4").is_dir()


def test_of_a_run_without_a_checkpoint_nothing_is_taken_over(recipe, tiny_folder, tmp_path):
    """Neither the copy of its base in another notation, nor the finished model."""
    file = recipe(max_steps=1, save_strategy="no")
    with pytest.raises(DataError, match="longer than max_length=20"):
        sft.main([file, "time_notation=bins", "max_length=20"])
    assert (tmp_path / "run" / "base").is_dir()
    sft.main([file, "time_notation=percent"])
    settings = json.loads((tmp_path / "run" / "base" / "config.json").read_text())
    assert settings["time_notation"] == "percent"
    with pytest.raises(DataError, match=r"time_notation 'percent', not 'text'"):
        sft.main([file, "time_notation=text"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bf16=yess", "bf16: expected true or false, found 'yess'"),
        ("learning_rate=abc", "learning_rate: expected a number, found 'abc'"),
        ("save_steps=0", "save_steps: expected a number above 0, found 0"),
        ("per_device_train_batch_size=0", "expected a number above 0"),
        ("lr_scheduler_type=cosin", r"recipe\.yaml: .*cosin"),
        ("time_notation=rtp", "unknown time notation 'rtp'"),
        ("lora_targets=[qq_proj]", r"recipe\.yaml: No modules were targeted"),
        ("held_out={path: x, config: [grounding, iig]}", r"held_out, config: expected .* found grounding\+iig"),
    ],
)
def test_wrong_values_are_one_error(recipe, override, message):
    with pytest.raises(DataError, match=message):
        sft.main([recipe(), override])


def test_no_is_a_strategy(recipe, tmp_path):
    sft.main([recipe(max_steps=1), "save_strategy=no"])
    assert not list((tmp_path / "run").glob("checkpoint-*")) and (tmp_path / "run" / "adapter_config.json").is_file()


def test_what_a_recipe_prepares_is_none_of_this_launch(recipe, tmp_path, monkeypatch):
    """Under a launcher, a training run that is prepared would wait for the other processes."""
    monkeypatch.setenv("MASTER_PORT", "1")
    code = tmp_path / "show.py"
    code.write_text("import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sft.prepare(SimpleNamespace(prepare={str(tmp_path / "made"): f"show {tmp_path / 'made'}"}))
    names = json.loads((tmp_path / "made").read_text())
    assert "MASTER_PORT" not in names and "PATH" in names


def test_an_exploding_loss_names_the_batch(recipe, tmp_path):
    with pytest.raises(
        DataError, match=r"step 1: expected a loss of at most 0\.01, found \d.*in the batch of \w+-\d{7}, "
    ):
        sft.main([recipe(max_loss=0.01)])


def test_nan_names_the_batch_and_leaves_the_checkpoint(recipe, tiny_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder(), broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.projector.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"step 1: expected a loss.* found nan in the batch of"):
        sft.main([recipe(model=str(broken))])
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()


def test_gradients_that_are_not_finite_stop(recipe, monkeypatch):
    monkeypatch.setattr("trl.SFTTrainer._get_grad_norm", lambda *args, **kwargs: float("inf"))
    with pytest.raises(DataError, match=r"step 1: expected finite gradients.*in the update of \w+-\d{7}, "):
        sft.main([recipe()])


def test_a_broken_picture_stops_or_is_skipped_and_counted(recipe, sets, tmp_path, capsys):
    copy = tmp_path / "broken"
    shutil.copytree(sets, copy)
    one = load_dataset(str(copy), "iic", split="train")[0]["sequence"][0]
    gone = copy / "miniworld" / load_dataset(str(copy), "image_pool", split="train")[one]["media"]
    gone.write_bytes(b"no picture")
    file = recipe(data=[{"path": str(copy), "config": ["iig", "iic", "alr"]}], num_train_epochs=1)
    for workers in (0, 1):
        with pytest.raises(DataError, match=rf"^sample '\w+-\d{{7}}': .*{gone.name}.*on_problem=skip[^\n]*$"):
            sft.main([file, f"output_dir={tmp_path / f'stopped-{workers}'}", f"dataloader_num_workers={workers}"])
    sft.main([file, "on_problem=skip"])
    told = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert told and all(gone.name in one["why"] for one in told)
    entries = json.loads((tmp_path / "run" / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [entry for entry in entries if "loss" in entry][-1]["skipped"] == len(told)
    assert f"skipped {len(told)} samples" in capsys.readouterr().out


def test_samples_that_are_too_long_stop_or_are_left_out(recipe, capsys):
    file = recipe(max_steps=1)
    with pytest.raises(DataError, match=r"\d+ samples are longer than max_length=150, such as .*on_long=skip"):
        sft.main([file, "max_length=150"])
    with pytest.raises(
        DataError, match="at least one update of 4 samples, found 0, and 32 that are longer than max_length=20"
    ):
        sft.main([file, "max_length=20", "on_long=skip"])
    sft.main([file, "max_length=240", "on_long=skip"])
    left_out = capsys.readouterr().out.partition("left out, as they are longer than 240 tokens: ")[2].split()[0]
    assert 0 < int(left_out) < 28


def test_what_is_missing_is_made_first(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    made = tmp_path / "made"
    file = recipe(
        prepare={f"{made}/config.json": f"examples.make_tiny_model --preset timechat --output {made}"},
        model=str(made),
        max_steps=1,
    )
    sft.main([file])
    assert (made / "config.json").is_file() and "python -m examples.make_tiny_model" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"prepare, .*nothing.*didn't make it"):
        sft.main([recipe(prepare={str(tmp_path / "nothing"): "examples.make_tiny_model --help"})])


def test_what_fills_no_update_is_told(recipe, sets, capsys):
    data = [{"path": str(sets), "config": ["iig", "iic", "alr"], "count": 23}]
    sft.main([recipe(data=data, max_steps=1)])
    assert "as they don't fill an update of 4: 3\n" in capsys.readouterr().out


def test_a_disk_that_is_full_at_the_end_is_one_error(recipe, tmp_path):
    file, run = recipe(max_steps=1, save_strategy="no"), tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"adapter_model\.safetensors: not written, earlier checkpoints are as they"):
            sft.main([file])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in run.iterdir()} == {"run.json"}
    sft.main([file])
    assert (run / "adapter_model.safetensors").is_file()


def test_several_gpus_need_a_launcher(recipe, monkeypatch):
    monkeypatch.setattr(sft.SFTConfig, "n_gpu", 2)
    with pytest.raises(DataError, match="expected a process for each of the 2 GPUs"):
        sft.main([recipe()])


def test_of_held_out_dialogues_the_first_question_counts(recipe, tmp_path, monkeypatch):
    questions = ["--num-instances", "8", "--min-clips", "3", "--max-clips", "3", "--questions", "3"]
    clip_sequences.main(["--source", WORLD, "--output", str(tmp_path / "held"), "--num-proc", "1", *questions])
    truths = {}
    monkeypatch.setattr(watching, "score", lambda found, true: truths.update(true) or {"r1@0.5": 0, "miou": 0})
    held_out = {"path": str(tmp_path / "held"), "config": "grounding", "count": 4, "steps": 1}
    sft.main([recipe(held_out=held_out, max_steps=1)])
    samples = Samples.load(tmp_path / "held", "grounding", num_frames=8)
    assert [len(samples.records[number]["messages"]) for number in range(4)].count(4) > 0, "dialogues"
    for number in range(4):
        times = [time for time, _, _ in marks(samples.records[number]["messages"][1]["content"])]
        assert truths[number] == [pytest.approx(times, abs=0.01)]


def test_low_precision_needs_autocast(recipe):
    with pytest.raises(DataError, match="dtype: bfloat16 needs bf16"):
        sft.main([recipe(dtype="bfloat16")])


def test_bfloat16_with_checkpointing_trains_and_is_asked(recipe, sets, tmp_path):
    held_out = {"path": str(sets), "config": "video_grounding", "count": 2, "steps": 2}
    sft.main([recipe(dtype="bfloat16", bf16=True, activation_checkpointing=True, max_steps=3, held_out=held_out)])
    assert len(history(tmp_path / "run")) == 3
    assert all(
        value.dtype == torch.float32 for value in load_file(tmp_path / "run" / "adapter_model.safetensors").values()
    )


def test_checkpointing_changes_no_number(recipe, tmp_path):
    file = recipe(max_steps=3)
    sft.main([file, f"output_dir={tmp_path / 'plain'}"])
    sft.main([file, f"output_dir={tmp_path / 'checkpointed'}", "activation_checkpointing=true"])
    for one, other in zip(history(tmp_path / "plain"), history(tmp_path / "checkpointed"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_the_hub_gets_the_merged_model_with_its_card(recipe, tmp_path, monkeypatch):
    uploads = []

    class Hub:
        def create_repo(self, name, private, exist_ok):
            uploads.append((name, private))

        def upload_folder(self, repo_id, folder_path, commit_message):
            kept = tmp_path / "uploaded"
            shutil.copytree(folder_path, kept)
            uploads.append(kept)

    monkeypatch.setattr(card, "HfApi", Hub)
    sft.main([recipe(max_steps=1, hub_private_repo=True), "--push-to-hub", "someone/seq2time"])
    created, folder = uploads
    assert created == ("someone/seq2time", True)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "modeling_seq2time.py", "README.md", "processor_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))], "no pickle"
    assert "someone/seq2time" in (folder / "README.md").read_text()
    assert Seq2TimeForConditionalGeneration.from_pretrained(folder).config.num_frames == 8
