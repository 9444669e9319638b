import json
import re
from pathlib import Path

import pytest
from trl import SFTConfig

from dataset_scripts.items import DataError
from train.recipe import OURS, UNUSED, HeldOut, Recipe, Source, as_run, claim, read_recipe


ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "train/recipes").glob("*.yaml"))
SMALL = "model: some/model\ndata:\n  - {path: some/set}\n"


@pytest.fixture
def read(tmp_path):
    def get(text=SMALL, *overrides):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return read_recipe(str(tmp_path / "recipe.yaml"), list(overrides))

    return get


@pytest.mark.filterwarnings("error::FutureWarning")
def test_the_name_that_trl_documents_is_known(read):
    _, settings = read(SMALL, "gradient_checkpointing=false", "gradient_checkpointing_kwargs={use_reentrant: true}")
    args = SFTConfig(**settings | {"bf16": False, "use_cpu": True})
    assert args.activation_checkpointing is False and args.activation_checkpointing_kwargs == {"use_reentrant": True}
    assert args.gradient_checkpointing is False, "which TRL reads"
    assert read(SMALL)[1]["activation_checkpointing"] is True, "TRL's default"
    order = ("gradient_checkpointing=true", "activation_checkpointing=false")
    assert read(SMALL, *order)[1]["activation_checkpointing"] is False, "the last one holds"
    with pytest.raises(DataError, match="activation_checkpointing or its old name gradient_checkpointing, found both"):
        read(SMALL + "gradient_checkpointing: true\nactivation_checkpointing: true\n")
    with pytest.raises(DataError, match="activation_checkpointing: expected true or false, found None"):
        read(SMALL, "activation_checkpointing=null")


@pytest.mark.filterwarnings("error::FutureWarning")  # of names that will go
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_one(path):
    recipe, settings = read_recipe(str(path))
    assert recipe.data and recipe.model and settings["output_dir"]
    SFTConfig(**settings | {"bf16": False, "use_cpu": True, "activation_checkpointing": False})
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# accelerate launch "), "how it is started comes first"
    named = re.findall(r"train/[\w/]+\.yaml", text)
    assert named and all((ROOT / name).is_file() for name in named)


def test_defaults_are_the_papers(read):
    recipe, settings = read()
    assert (recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout) == (32, 32, 0.1)
    assert recipe.lora_targets == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (recipe.sampling, recipe.crop, recipe.crop_images) == ("random", True, False)
    assert (recipe.on_problem, recipe.on_long) == ("stop", "stop")
    assert recipe.data == [Source("some/set")] and recipe.held_out is None
    assert settings == OURS and settings["max_length"] == 2048 and not settings["remove_unused_columns"]


def test_learning_rates_are_above_zero(read):
    assert read(SMALL + "learning_rates: {lora: 2e-4}\n")[0].learning_rates == {"lora": 2e-4}
    with pytest.raises(DataError, match=r"learning_rates\.lora: expected a number above 0, found -1\.0"):
        read(SMALL + "learning_rates: {lora: -1.0}\n")


def test_keys_go_where_they_belong(read):
    text = SMALL + "lora_rank: 8\nlearning_rate: 1.0e-4\nmax_length: 512\nheld_out: {path: x, config: a}\n"
    recipe, settings = read(text)
    assert recipe.lora_rank == 8 and recipe.held_out == HeldOut("x", ["a"], count=8, steps=100)
    assert settings == OURS | {"learning_rate": 1e-4, "max_length": 512}
    assert list(settings)[-1] == "learning_rate" and "model" not in settings


def test_a_data_set_in_full(read):
    text = "model: m\ndata:\n  - path: x\n    config: iig\n    split: test\n    source: valley\n    weight: 2\n"
    text += "    folders: {valley: /media}\n    expect: {rows: 40000, tokens: 812.5}\n"
    text += "  - {path: y, config: [a, b], count: 7}\n"
    first, second = read(text)[0].data
    expected = {"config": ["iig"], "split": "test", "source": "valley", "weight": 2, "folders": {"valley": "/media"}}
    assert first == Source("x", **expected, expect={"rows": 40000, "tokens": 812.5})
    assert second == Source("y", config=["a", "b"], count=7)


@pytest.mark.parametrize(
    ("text", "number"),
    [("3e-5", 3e-5), ("1E3", 1000.0), ("-2e-1", -0.2), ("1.5e+2", 150.0), ("+4.e-1", 0.4), ("0.00003", 3e-5), ("7", 7)],
)
def test_numbers_as_people_write_them(read, text, number):
    assert read(f"{SMALL}learning_rate: {text}\n")[1]["learning_rate"] == number
    assert read(SMALL, f"learning_rate={text}")[1]["learning_rate"] == number
    assert read(SMALL, f"lr_scheduler_kwargs={{min_lr: [{text}]}}")[1]["lr_scheduler_kwargs"] == {"min_lr": [number]}


@pytest.mark.parametrize("text", ["'3e-5'", "3e-5x", "x3e-5", "e5", "run-1e3"])
def test_names_stay_names(read, text):
    assert read(f"{SMALL}run_name: {text}\n")[1]["run_name"] == text.strip("'")


def test_overrides(read):
    text = SMALL + "held_out: {path: x}\nlora_rank: 8\ntime_notation_options: {num_bins: 100}\noptim_args: a\n"
    overrides = ["data.0.count=3", "lora_targets=[a,b]", "held_out=null", "learning_rate=3e-5", "model=a=b"]
    recipe, settings = read(text, *overrides, "time_notation_options.num_bins=7", "optim_args=", "data.-1.split=test")
    assert recipe.data == [Source("some/set", split="test", count=3)]
    assert recipe.lora_targets == ["a", "b"] and recipe.held_out is None and recipe.model == "a=b"
    assert recipe.lora_rank == 8 and recipe.time_notation_options == {"num_bins": 7}
    assert settings["learning_rate"] == 3e-5 and settings["optim_args"] is None
    assert read(text, "held_out.steps=5")[0].held_out.steps == 5
    assert read(text, "data=[{path: y}]", "data.0.weight=0.5")[0].data == [Source("y", weight=0.5)]
    assert read(text, "max_length=null")[1]["max_length"] is None
    assert read(text, "data.0={path: y}")[0].data == [Source("y")]
    assert read(text, "data.0.weight=3", "data.0.weight=1", "data.0.count=2")[0].data[0].count == 2
    assert read(text, "data.0.count=2", "data.0.count=null", "data.0.weight=3")[0].data[0].weight == 3


@pytest.mark.parametrize(
    "override",
    [
        "learning_rate",
        "--learning_rate 3",
        "data.1.count=3",
        "data.x.count=3",
        "held_out.steps=3",
        "model.x=3",
        "a=[",
        "",
    ],
)
def test_overrides_that_are_none(read, override):
    with pytest.raises(DataError, match="expected key=value with a key of the recipe, or a path in it such as data.0"):
        read(SMALL, override)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "lerning_rate: 1",
            r"recipe\.yaml, lerning_rate: expected a key of a Recipe or of TRL's.*mean learning_rate\?",
        ),
        ("lora_rnak: 1", r"lora_rnak: .*did you mean lora_rank\?"),
        ("heldout: {}", r"heldout: .*did you mean held_out\?"),
        ("zzzzzzzz: 1", r"zzzzzzzz: expected a key of a Recipe or .*; it has model, data, prepare"),
        ("packing: true", "packing: .* as far as it is used here"),
        ("remove_unused_columns: true", "remove_unused_columns: .* as far as it is used here"),
        ("7: 1", "7: expected a key"),
        ("yes: 1", "True: expected a key"),
        ("data: 3", "data: expected a list of data sets, found 3"),
        ("data: []", r"data: expected a list of data sets, found \[\]"),
        ("data: [x]", r"data\.0: expected a mapping with a `path`, found 'x'"),
        ("data: [{path: x}, {config: x}]", r"data\.1: expected the key 'path', found config"),
        ("data: [{path: x, cuont: 3}]", r"data\.0, cuont: expected a key of a Source; did you mean count\?"),
        ("data: [{path: x, count: 3, weight: 2}]", r"data\.0: expected count or weight, found both"),
        ("data: [{path: x, count: 0}]", r"data\.0, count: expected a number above 0, found 0"),
        ("data: [{path: x, count: -1}]", r"data\.0, count: expected a number above 0, found -1"),
        ("data: [{path: x, weight: 0}]", r"data\.0, weight: expected a number above 0, found 0"),
        ("data: [{path: x, weight: .nan}]", r"data\.0, weight: expected a number above 0, found nan"),
        ("data: [{path: x, weight: .inf}]", r"data\.0, weight: expected a number above 0, found inf"),
        ("data: [{path: x, count: many}]", r"data\.0: Field 'count' .*expected int, got str \(value: 'many'\)"),
        ("data: [{path: x, count: 1.5}]", r"data\.0: Field 'count' .*expected int, got float"),
        ("data: [{path: [x]}]", r"data\.0: Field 'path' expected str, got list"),
        ("data: [{path: x, config: [a, 3]}]", r"data\.0: Field 'config'"),
        ("held_out: x", "held_out: expected a mapping with a `path`, found 'x'"),
        ("held_out: {path: x, weight: 2}", "held_out, weight: expected a key of a HeldOut; it has path, config"),
        ("held_out: {path: x, count: 0}", "held_out, count: expected a number above 0, found 0"),
        ("held_out: {path: x, steps: 0}", "held_out, steps: expected a number above 0, found 0"),
        ("dtype: bf16", r"recipe\.yaml: Field 'dtype' expected one of \('bfloat16', 'float16', 'float32'\), got bf16"),
        ("quantization: 5", r"Field 'quantization' expected one of \(None, 4, 8\), got 5"),
        ("sampling: even", "Field 'sampling' expected one of .*got even"),
        ("on_problem: ignore", "Field 'on_problem' expected one of .*got ignore"),
        ("on_long: cut", "Field 'on_long' expected one of .*got cut"),
        ("num_frames: ninety", "Field 'num_frames' .*expected int, got str"),
        ("lora_targets: q_proj", "Field 'lora_targets' expected a list, got str"),
        ("crop: 1", "Field 'crop' expected bool, got int"),
    ],
)
def test_what_is_wrong_is_named(read, lines, message):
    text = SMALL.partition("data:")[0] if lines.startswith("data:") else SMALL
    with pytest.raises(DataError, match=message):
        read(f"{text}{lines}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected `key: value` lines, found NoneType"),
        ("- a\n", "expected `key: value` lines, found list"),
        ("a: b: c\n", "expected YAML, found: mapping values are not allowed here"),
        ("model: m\n", "expected the key 'data', found model"),
        ("data: [{path: x}]\n", "expected the key 'model', found data"),
    ],
)
def test_files_that_are_no_recipe(read, text, message):
    with pytest.raises(DataError, match=message):
        read(text)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(DataError, match="expected YAML, found: 'utf-8'"):
        read_recipe(str(tmp_path / "recipe.yaml"))
    with pytest.raises(FileNotFoundError, match=r"no\.yaml"):
        read_recipe(str(tmp_path / "no.yaml"))


def test_names_of_trl_are_its_own():
    known = set(SFTConfig.__dataclass_fields__)
    assert known >= UNUSED and known >= set(OURS)
    assert not known & set(Recipe.__dataclass_fields__)


# Continuing a run


@pytest.fixture
def go_on(tmp_path, read):
    """`go_on(override, …)`: begins a run where none is, else goes on with its folder."""

    def start(*overrides, update_size=8):
        recipe, settings = read(SMALL + "learning_rate: 1e-4\nseed: 1\noutput_dir: a\n", *overrides)
        claim(tmp_path, as_run(recipe, settings, update_size))
        (tmp_path / "checkpoint-10").mkdir(exist_ok=True)
        return json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))

    return start


def test_a_run_is_noted(go_on):
    run = go_on("run_name=é", "hub_token=secret")
    assert run["model"] == "some/model" and run["data"][0]["path"] == "some/set" and run["learning_rate"] == 1e-4
    assert run["update_size"] == 8 and run["lora_rank"] == 32 and run["max_length"] == 2048 and run["run_name"] == "é"
    assert "secret" not in json.dumps(run), "the card shows all of it"
    assert go_on("run_name=é") == run == go_on("run_name=é")


@pytest.mark.parametrize(
    "override",
    [
        "output_dir=b",
        "held_out={path: x}",
        "prepare={a: b}",
        "max_loss=3.0",
        "per_device_train_batch_size=2",
        "gradient_accumulation_steps=4",
        "gradient_checkpointing=false",
        "activation_checkpointing=false",
        "attn_implementation=eager",
        "dataloader_num_workers=3",
        "dataloader_prefetch_factor=3",
        "save_steps=3",
        "save_total_limit=3",
        "logging_steps=3",
        "report_to=none",
        "run_name=x",
        "use_cpu=true",
        "on_problem=skip",
        "data.0.folders={a: b}",
        "data.0.expect={rows: 3}",
    ],
)
def test_what_does_not_touch_training_may_change(go_on, override):
    assert go_on() != go_on(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate=2e-4", "learning_rate 0.0001, not 0.0002"),
        ("seed=2", "seed 1, not 2"),
        ("lora_rank=4", "lora_rank 32, not 4"),
        ("num_train_epochs=2", "num_train_epochs None, not 2"),
        ("num_frames=4", "num_frames None, not 4"),
        ("crop=false", "crop True, not False"),
        ("sampling=uniform", "sampling 'random', not 'uniform'"),
        ("max_length=100", "max_length 2048, not 100"),
        ("data.0.count=3", r"data \[\{'path': 'some/set'"),
        ("data.0.split=test", "data .*'split': 'train'"),
        ("model=other", "model 'some/model', not 'other'"),
        ("bf16=true", "bf16 None, not True"),
    ],
)
def test_another_training_is_refused_and_told(go_on, tmp_path, override, message):
    before = go_on()
    with pytest.raises(DataError, match=f"holds a run with {message}.*Choose another output_dir"):
        go_on(override)
    assert go_on() == before
    with pytest.raises(DataError, match="holds a run with update_size 8, not 16. Choose"):
        go_on(update_size=16)


def test_all_changes_are_named(go_on):
    go_on("optim=adamw_torch")
    with pytest.raises(DataError, match="seed 1, not 2; optim 'adamw_torch', not None|optim .*; seed 1, not 2"):
        go_on("seed=2")


def test_checkpoints_of_nobody_are_refused(go_on, tmp_path):
    go_on()
    (tmp_path / "run.json").unlink()
    with pytest.raises(DataError, match=r"expected an empty folder or an earlier run's, found a model without run"):
        go_on()
    (tmp_path / "checkpoint-10").rmdir()
    go_on()


def test_before_its_first_checkpoint_a_run_may_become_another(go_on, tmp_path):
    go_on()
    (tmp_path / "checkpoint-10").rmdir()
    assert go_on("seed=2")["seed"] == 2
    assert not list(tmp_path.glob(".run.json*"))
