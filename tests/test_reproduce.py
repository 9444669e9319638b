"""The tables in miniature's miniature: two rows, one seed, a model with random weights."""

import importlib
import json
import re
import time
from pathlib import Path

import pytest
import torch
import yaml

from dataset_scripts.items import DataError, Problems
from dataset_scripts.sources.sharegpt4video import read
from evaluation.tables import published
from modeling_seq2time import Seq2TimeProcessor
from train import reproduce
from train.reproduction import report, running, video_llama, whole_captions
from train.reproduction.declared import BENCHMARKS, Declared
from train.reproduction.plan import Plan


WORLD = "miniworld?pictures=60&clips=0&videos=5&size=56"
RECIPE = {
    **{"model": "", "data": [], "lora_rank": 4, "dtype": "float32", "bf16": False, "use_cpu": True},
    **{"activation_checkpointing": False, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "report_to": "none"},
    **{"logging_steps": 1, "num_frames": 8, "save_steps": 1},
}
TOML = """
seeds = [0, 1, 2]
figures = ["soda_c", "cider", "meteor", "f1", "r1@0.5", "r1@0.7", "miou"]
phase1 = {{ recipe = "{recipe}", set = {{ max_steps = 2, crop = false }} }}
phase2 = {{ recipe = "{recipe}", set = {{ max_steps = 1, crop = false }} }}
evaluation = {{ world = "world", arguments = "--dtype float32 --search-steps 8 --max-new-tokens 40" }}

[builds.world]
commands = ["dataset_scripts.sources.miniworld --pictures 0 --clips 0 --videos 5 --size 56 --output {{here}}"]
done = "videos/captions.jsonl"
[builds.images]
commands = ["dataset_scripts.image_sequences --source {world} --num-instances 24 --sequence-length 8 --num-proc 1 --output {{here}}"]
done = "image_sequences.train.json"
[builds.videos]
commands = ["dataset_scripts.annotated_videos --source {world} --num-proc 1 --output {{here}}"]
done = "annotated_videos.train.json"
[builds.captions]
commands = [
    "train.reproduction.whole_captions {{world}}/videos --skip 2 --output {{here}}/sharegpt4video.jsonl",
    "dataset_scripts.annotated_videos --source sharegpt4video={{here}}/sharegpt4video.jsonl --media sharegpt4video={{world}}/videos --num-proc 1 --output {{here}}",
]
done = "annotated_videos.train.json"
[builds.broken]
commands = ["dataset_scripts.annotated_videos --source folder=/nowhere --output {{here}}"]
done = "annotated_videos.train.json"

[parts]
annotated = {{ build = "videos", config = ["video_dense_captioning", "video_grounding"], count = 12 }}
is = {{ build = "images", config = ["iig", "iic", "alr"], count = 12 }}
mc = {{ build = "captions", config = ["video_captioning"], count = 2, folders = {{ sharegpt4video = "{{world}}/videos" }} }}

[default]
notation = "rpt"
phase1 = ["annotated", "is", "mc"]
phase2 = ["annotated"]

[runs]
baseline = {{ notation = "text", phase1 = ["annotated"] }}
is = {{}}
same = {{ change = {{ is.count = 12 }} }}
broken = {{ change = {{ annotated.build = "broken" }} }}

[tables.one]
title = "One"
rows = [
    {{ name = "without", run = "baseline", paper = "TimeChat*" }},
    {{ name = "with IS", run = "is", paper = "TimeChat + IS" }},
    {{ name = "with MC", paper = "TimeChat + IS + MC", not_run = "no captions" }},
]
[tables.two]
title = "Two"
x = "pictures"
rows = [{{ name = "with IS", run = "same", x = 1 }}, {{ name = "without", run = "baseline", x = 0 }}]
[tables.bad]
title = "Bad"
rows = [{{ name = "broken", run = "broken" }}, {{ name = "without", run = "baseline" }}]
"""  # noqa: E501


@pytest.fixture
def file(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    written = tmp_path / "tables.toml"
    written.write_text(TOML.format(recipe=recipe, world=WORLD))
    return written


@pytest.fixture
def options(file, tiny_folder, tmp_path):
    return ["--file", str(file), "--base", str(tiny_folder()), "--output", str(tmp_path / "tables")]


@pytest.fixture
def plan(file, tiny_folder, tmp_path):
    return Plan(file, tiny_folder(), tmp_path / "runs")


@pytest.fixture
def calls(monkeypatch):
    """Commands run in this process, and are noted."""
    noted = []

    def call(command, log, until):
        noted.append(command[0])
        log.parent.mkdir(parents=True, exist_ok=True)
        importlib.import_module(command[0]).main(command[1:])

    monkeypatch.setattr(running, "call", call)
    return noted


def finish(plan: Plan, name: str, seed: int, **figures):
    """As if a run had ended."""
    run = plan.run(name, seed)
    folder = plan.run_folder(run)
    folder.mkdir(parents=True)
    names = [name for table in plan.declared.tables.values() for name in table.figures]
    result = {"seed": seed, "id": run.id, "figures": dict.fromkeys(names, 10.0) | figures}
    result["baselines"] = {"whole video": {"f1": 8.0, "r1@0.5": 7.0}, "chance": {"f1": 5.0, "r1@0.5": 3.0}}
    result |= {"seconds": {"phase 1": 30.0, "evaluation": 6.0}, "machine": {"cores": 2, "threads": "1"}}
    (folder / "result.json").write_text(json.dumps(result))


def cells(markdown: str, section: str) -> list[dict[str, str]]:
    lines = markdown.partition(f"## {section}")[2].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = rows[: next((place for place, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


@pytest.mark.slow
def test_tables_are_trained_once_and_resumed(options, tmp_path, calls, capsys):
    options += ["--runs", str(tmp_path / "runs"), "--seeds", "0"]
    reproduce.main(["one", "two", *options])
    assert calls.count("train.sft") == 4, "two runs of two phases, though two tables have two rows each"
    assert calls.count("train.reproduction.whole_captions") == calls.count("train.adapter") / 2 == 1
    assert calls.count("evaluation.run") == 2 and calls.count("dataset_scripts.image_sequences") == 1
    assert "so far; all 2 runs are finished" in capsys.readouterr().out
    folders = sorted(path for path in (tmp_path / "runs").iterdir() if (path / "result.json").is_file())
    assert [re.sub("-[0-9a-f]{12}$", "", path.name) for path in folders] == ["baseline-0", "is-0"]
    assert not [*(tmp_path / "runs").rglob("checkpoint-*")] and [*(tmp_path / "runs" / "features").glob("*.npy")]
    one = json.loads((tmp_path / "tables" / "one.json").read_text())
    assert one["partial"] and (one["finished"], one["runs"]) == (2, 6) and one["updates"] == [[2, 4], [1, 4]]
    states = [row["seeds"] for row in cells((tmp_path / "tables" / "one.md").read_text(), "Grounding")]
    assert states == ["", "", *["partial: 1 of 3 seeds"] * 2, "not run: no captions"]
    assert one["baselines"]["chance"]["miou"] > 0
    files = {path: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    assert {path.suffix for path in files} == {".md", ".json", ".jsonl", ".svg"}
    assert "coverage" in (tmp_path / "tables" / "runs.jsonl").read_text()

    calls.clear()
    reproduce.main(["two", "one", *options])
    assert not calls and {path: path.read_bytes() for path in (tmp_path / "tables").iterdir()} == files
    (folders[0] / "result.json").unlink()  # as if it had been stopped before the last step
    reproduce.main(["one", *options])
    assert calls == ["evaluation.run"]
    again = json.loads((tmp_path / "tables" / "one.json").read_text())
    assert [row["ours"] for row in again["rows"]] == [row["ours"] for row in one["rows"]]
    seconds = [[row["seconds"][0]["evaluation"] for row in table["rows"][:2]] for table in (one, again)]
    assert seconds[0][0] < seconds[1][0] and seconds[0][1] == seconds[1][1], "of all calls"

    with pytest.raises(DataError, match=r"1 of 2 runs failed:\n  broken, seed 0: /nowhere: there is no such"):
        reproduce.main(["bad", *options])
    bad = json.loads((tmp_path / "tables" / "bad.json").read_text())
    assert [row["seeds"] for row in bad["rows"]] == [[], [0]], "the others are there"


def test_partial_rows_say_so_and_the_papers_numbers_stay_apart(plan, tmp_path):
    for seed, value in ((0, 10.0), (1, 14.0), (2, 12.0)):
        finish(plan, "baseline", seed, f1=value)
    finish(plan, "is", 1, f1=18.0)
    report.write(plan, ["one", "bad"], tmp_path / "tables")
    text = (tmp_path / "tables" / "one.md").read_text()
    ours, paper = "miniature, ours (miniworld): F1", "paper (YouCook2): F1"
    whole, chance, without, with_is, with_mc = cells(text, "Dense captioning")
    assert (whole[ours], chance[ours], whole[paper], chance["seeds"]) == ("8.0", "5.0", "", "")
    assert (without["seeds"], without[ours], without[paper]) == ("n = 3", "12.0 ± 2.0", "12.7")
    # The gain is over the same seed alone.
    assert (with_is["seeds"], with_is[ours]) == ("partial: 1 of 3 seeds", "18.0 (+28.6 %)")
    assert with_is[paper] == "13.3 (+4.7 %)" and with_mc[paper] == "15.9 (+25.2 %)"
    assert (with_mc["seeds"], with_mc[ours]) == ("not run: no captions", "not run")
    grounding = cells(text, "Grounding")[3]
    assert grounding["paper (Charades-STA): R@1 (IoU .5)"] == "28.8 (+5.9 %)"
    assert "paper (Charades-STA): mIoU" not in grounding, "the paper doesn't say it"
    assert "**Partial: 4 of 6 runs are finished.**" in text and "phase 1: 2 updates of 4 samples" in text
    for row in json.loads((tmp_path / "tables" / "one.json").read_text())["rows"]:
        assert set(row["paper"]) <= set(row["ours"]) or not row["seeds"]
        assert all(set(one) == {"mean", "values", "deviation"} for one in row["ours"].values())
    index = tmp_path / "tables" / "README.md"
    assert "- [One](one.md): partial: 4 of 6 runs\n- Two: not run\n- [Bad](bad.md)" in index.read_text()
    index.write_text(index.read_text().replace("Not written yet.", "By hand."))
    report.write(plan, ["one"], tmp_path / "tables")
    assert "By hand." in index.read_text() and index.read_text().count("](one.md)") == 1


def test_a_gain_over_next_to_nothing_has_a_bound(plan, tmp_path):
    finish(plan, "baseline", 0, f1=0.1, meteor=0.0, cider=1.0, soda_c=10.001)
    finish(plan, "is", 0, f1=10.0, meteor=10.0, cider=10.9, soda_c=10.0)
    report.write(plan, ["one"], tmp_path)
    row = cells((tmp_path / "one.md").read_text(), "Dense captioning")[3]
    shown = [row[f"miniature, ours (miniworld): {name}"] for name in ("F1", "METEOR", "CIDEr", "SODA_c")]
    assert shown == ["10.0 (over +1,000 %)", "10.0", "10.9 (+990.0 %)", "10.0 (+0.0 %)"]


def test_the_plan_and_no_hours_train_nothing(plan, options, tmp_path, calls, capsys):
    finish(plan, "baseline", 0)
    options += ["--runs", str(tmp_path / "runs")]
    reproduce.main(["one", "two", "--plan", *options])
    printed = capsys.readouterr().out
    assert (
        "  baseline, seed 0: finished, 0.01 h  (one, two)\n" in printed and "is, seed 2: to do  (one, two)" in printed
    )
    assert "5 of 6 runs are left, about 0.1 h" in printed and not (tmp_path / "tables").exists()
    reproduce.main(["one", "--limit-hours", "0", *options])
    assert "the time is up; the same command goes on" in capsys.readouterr().out
    assert not calls and (tmp_path / "tables" / "one.md").exists()
    with pytest.raises(DataError, match="expected tables of one, two, bad, or all; found three"):
        reproduce.main(["three", *options])


def test_runs_that_are_finished_elsewhere_count(plan, file, options, tiny_folder, tmp_path, calls, capsys):
    for seed in range(3):
        finish(plan, "baseline", seed)
    report.write(plan, ["one"], tmp_path / "tables")
    finish(plan, "is", 0)
    report.write(plan, ["two"], tmp_path / "tables")
    known, there = tmp_path / "tables" / "runs.jsonl", tmp_path / "there"
    assert len(known.read_text().splitlines()) == 4
    elsewhere = Plan(file, tiny_folder(), tmp_path / "elsewhere", known=known)
    report.write(elsewhere, ["two"], there)
    assert all(
        (there / name).read_bytes() == (tmp_path / "tables" / name).read_bytes() for name in ("two.md", "runs.jsonl")
    )
    options = [*options, "--runs", str(tmp_path / "elsewhere"), "--output", str(there)]
    reproduce.main(["two", "--known", str(known), "--limit-hours", "0", "--seeds", "1", *options])
    assert "1 of 2 runs are left" in capsys.readouterr().out and not calls
    assert (there / "runs.jsonl").read_bytes() == known.read_bytes(), "also of seeds that weren't asked for"

    file.write_text(file.read_text().replace("max_steps = 2", "max_steps = 3"))
    other = Plan(file, tiny_folder(), tmp_path / "elsewhere", known=known)
    assert not any(other.result(other.run(name, 0)) for name in ("is", "baseline")), "other runs have these names now"
    known.write_text("{}\n")
    with pytest.raises(DataError, match=r"runs\.jsonl: expected results of runs, .*'id'"):
        reproduce.main(["two", "--known", str(known), *options])


def test_without_a_finished_run_no_table_is_touched(plan, tmp_path):
    report.write(plan, ["one"], tmp_path / "tables")
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["README.md"]


def test_what_matters_changes_the_id(plan, file, tiny_folder, tmp_path):
    run = plan.run("is", 0)
    assert plan.run("same", 0).id == run.id and plan.run("is", 1).id != run.id
    assert plan.run("baseline", 0).id != run.id
    recipe, tables = tmp_path / "recipe.yaml", file.read_text()

    def changed(old: str, new: str, **settings) -> bool:
        assert old in tables
        file.write_text(tables.replace(old, new))
        recipe.write_text(yaml.safe_dump(RECIPE | settings))
        return Plan(file, tiny_folder(), tmp_path / "elsewhere").run("is", 0).id != run.id

    assert not changed("", "") and not changed('title = "One"', 'title = "1"')
    assert not changed("", "", logging_steps=5, save_steps=9, output_dir="x"), "what is trained is the same"
    assert changed("", "", learning_rate=2e-2) and changed("", "", per_device_train_batch_size=2)
    assert changed('notation = "rpt"', 'notation = "bins"') and changed("is = {}", "is = { num_frames = 4 }")
    assert changed("is = {}", 'is = { trained_parts = ["projector"] }')
    assert changed("is = {}", "is = { trained_parts = [] }"), "none is not all"
    assert changed("max_steps = 2", "max_steps = 3") and changed("--num-instances 24", "--num-instances 30")
    assert changed("--videos 5", "--videos 10"), "other videos are asked about"
    assert changed("--search-steps 8", "--search-steps 9")
    assert changed('world = "world", ', 'world = "world", prompts = "examples/mini_prompts.toml", ')
    assert changed('["iig", "iic", "alr"], count = 12', '["iig", "iic"], count = 12')
    file.write_text(tables)
    recipe.write_text(yaml.safe_dump(RECIPE))
    other = Plan(file, tiny_folder("timechat", num_frames=8), tmp_path / "runs")
    assert other.run("is", 0).id != run.id, "another base"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('run = "is", paper', 'run = "iss", paper', "tables.one, with IS: expected a run that is declared.*found iss"),
        ('"TimeChat + IS"', '"TimeChat + XS"', "expected a row of evaluation/paper.toml, found 'TimeChat . XS'"),
        ('phase1 = ["annotated"]', 'phase1 = ["annotate"]', "runs.baseline: expected parts of .*found annotate"),
        ('build = "images"', 'build = "pictures"', "expected builds of world, .*found pictures"),
        ('notation = "text"', 'notation = "text", frames = 8', "expected keys of notation, .*found frames"),
        ("set = { max_steps = 2, ", "set = { ", "expected max_steps, or rows of a table differ"),
        ('phase1 = ["annotated"] }', 'phase1 = ["annotated"], phase2 = [] }', "expected as many updates in each row"),
    ],
)
def test_what_cannot_be_is_named(file, tiny_folder, tmp_path, old, new, message):
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        Plan(file, tiny_folder(), tmp_path / "runs").runs(["one"])


def test_the_projects_own_file_is_sound_and_has_the_papers_tables():
    declared = Declared(reproduce.FILE)
    assert len(declared.seeds) >= 3
    for number in range(2, 8):
        table = declared.tables[f"table{number}"]
        shown = {row.paper for row in table.rows}
        for task, (_, *split) in BENCHMARKS.items():
            for one in published(*split, task, ablations=True):
                named = one["source"] == f"Seq2Time, table {number}" and one["model"] not in ("VTimeLLM", "Momentor")
                assert not named or one["model"] in shown, f"table {number} lacks {one['model']}"
    assert declared.tables["table7"].paper(declared.tables["table7"].rows[1]) == {
        **{"soda_c": 1.2, "cider": 3.6, "meteor": 1.2, "f1": 15.0, "r1@0.5": 26.8, "r1@0.7": 11.2}
    }


def test_time_that_is_up_ends_a_step_and_a_failed_one_is_told(tmp_path):
    sleep, log = ["timeit", "-n", "1", "-r", "1", "__import__('time').sleep(60)"], tmp_path / "log.txt"
    began = time.monotonic()
    with pytest.raises(running.TimeIsUp), running.spent(tmp_path, "phase 1"):
        running.call(sleep, log, began + 1)
    assert time.monotonic() - began < 30 and json.loads((tmp_path / "seconds.json").read_text())["phase 1"] >= 0.9
    with pytest.raises(DataError, match=r"python -m timeit ended with 1: NameError: .*log\.txt"):
        running.call(["timeit", "-n", "1", "nothing"], log, float("inf"))


def test_whole_captions_are_read_as_sharegpt4videos(tmp_path):
    events = [
        {"start": 5.0, "end": 9.0, "caption": "a red star falls"},
        {"start": 1.0, "end": 2.0, "caption": "a moon spins"},
    ]
    splits = ["train", "train", "train", "test"]
    rows = [{"file": f"{one}/{number:06}.mp4", "split": one, "events": events} for number, one in enumerate(splits)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole_captions.main([str(tmp_path), "--skip", "1", "--output", str(tmp_path / "sharegpt4video.jsonl")])
    found = [*read(tmp_path / "sharegpt4video.jsonl", Problems())]
    assert [item.names[0] for item in found] == ["train/000001.mp4", "train/000002.mp4"]
    assert found[0].turns[1] == ("assistant", "First, a moon spins. Then a red star falls.")
    with pytest.raises(DataError, match="more than the 3 training videos"):
        whole_captions.write(tmp_path, 3, tmp_path / "none.jsonl")


def test_a_base_is_read_as_video_llama(tiny, tiny_folder):
    """Its image Q-Former makes of a frame what the base's makes without text; one window holds all frames."""
    base, _ = tiny()
    model, processor = video_llama.as_video_llama(tiny_folder())
    patches = torch.randn(2, base.model.vision_tower.embeddings.num_positions, base.config.vision_config.hidden_size)
    whole, plain = base.model.image_qformer, model.model.image_qformer
    with torch.no_grad():
        queries = whole.query_tokens.expand(2, -1, -1)
        found = whole.qformer(None, query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
        assert torch.allclose(found, plain(patches), atol=1e-5)
        plain.qformer.layernorm.bias += 1
        assert not torch.allclose(found, plain(patches), atol=1e-5)
    assert (model.config.window_stride, processor.window_stride, model.config.qformer_reads_time) == (0, 0, False)
    assert isinstance(processor, Seq2TimeProcessor) and "video_time_input_ids" not in processor.model_input_names
    with pytest.raises(DataError, match="expected a base whose image Q-Former reads time"):
        video_llama.as_video_llama(Path(tiny_folder("video_llama")))


SHIPPED = sorted((Path(__file__).parents[1] / "examples" / "reproduction").glob("*.json"))


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_table_is_whole_and_has_the_runs_of_the_plan(shipped, tmp_path):
    """A key that recipes gained, or a base that changed, would have them all trained anew."""
    root = Path(__file__).parents[1]
    plan = Plan(root / "train/reproduction.toml", root / "examples/seq2time-mini-base", tmp_path)
    told = {run for row in json.loads(shipped.read_text(encoding="utf-8"))["rows"] for run in row["runs"]}
    assert told == plan.runs([shipped.stem]).keys()


def test_each_table_is_shipped():
    assert [path.stem for path in SHIPPED] == sorted(Declared(reproduce.FILE).tables)
