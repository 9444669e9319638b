import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub.utils import filter_repo_objects

from dataset_scripts import clip_sequences, image_sequences, publish
from dataset_scripts.items import DataError
from tests.sources import write_clips, write_pictures


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_pictures(folder / "pictures", 20)
    write_clips(folder / "clips", 6)
    return folder


def build(source, output, *options):
    common = ["--output", str(output), "--num-proc", "1"]
    arguments = ["--source", f"folder={source / 'pictures'}", "--num-instances", "60", "--sequence-length", "8"]
    image_sequences.main([*arguments, "--shard-size", "12", *common, *options])
    arguments = ["--source", f"folder={source / 'clips'}", "--num-instances", "10", "--max-clips", "4"]
    clip_sequences.main([*arguments, *common, *options])
    return output


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("set"))


LOAD = """
import json, sys
sys.path = [place for place in sys.path if place and place != sys.argv[2]]
from datasets import get_dataset_config_names, load_dataset
found = {}
for config in get_dataset_config_names(sys.argv[1]):
    rows = load_dataset(sys.argv[1], config, split="train")
    streamed = list(load_dataset(sys.argv[1], config, split="train", streaming=True))
    found[config] = [len(rows), streamed == list(rows), rows[0], str(rows.features)]
found["modules"] = [name for name in sys.modules if name.split(".")[0] in ("dataset_scripts", "modeling_seq2time")]
print(json.dumps(found))
"""


def test_a_fresh_process_loads_it_without_this_package(built, tmp_path):
    command = [sys.executable, "-I", "-c", LOAD, str(built), "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("modules") == []
    assert {config: facts[0] for config, facts in found.items()} == {
        "iig": 20, "iic": 20, "alr": 20, "dense_captioning": 5, "grounding": 5, "image_pool": 20, "clip_pool": 6,
    }  # fmt: skip
    assert all(same for _, same, _, _ in found.values())
    record = found["iig"][2]
    assert list(record) == ["id", "source", "group", "task", "sequence", "targets", "messages"]
    assert "List(Value('int32'), length=8)" in found["iig"][3]
    assert set(found["dense_captioning"][2]["sequence"][0]) == {"clip", "rate"}
    assert found["image_pool"][2]["caption"] == "The image shows thing 0. It stands there."


def test_a_rebuilt_set_is_never_an_old_one_out_of_the_cache(source, tmp_path):
    build(source, tmp_path)
    first = load_dataset(str(tmp_path), "iig", split="train")
    build(source, tmp_path, "--seed", "1", "--overwrite")
    second = load_dataset(str(tmp_path), "iig", split="train")
    rows = [row for file in sorted(tmp_path.glob("iig/*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert list(second) == rows != list(first)
    assert load_dataset(str(tmp_path), "image_pool", split="train")[0]["id"] == 0


def test_dry_run_lists_what_would_go(built, capsys):
    publish.main([str(built), "--repo-id", "someone/sequences", "--dry-run"])
    printed = capsys.readouterr().out
    assert "someone/sequences: 70 records checked, " in printed and "nothing was uploaded" in printed
    assert "README.md" in printed and "image_sequences.train.json" in printed and ".png" not in printed
    assert printed.count("iig/train-") == 2 and "locks" not in printed
    card = (built / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in head["configs"]] == [
        "iig", "iic", "alr", "dense_captioning", "grounding", "image_pool", "clip_pool",
    ]  # fmt: skip
    assert head["pretty_name"] == "sequences" and 'load_dataset("someone/sequences", "iig", split="train")' in card
    assert (
        "licence: the user's own" in card
        and "examined: 20 expected, 20 present, 20 usable" in card
        and "seed 0" in card
    )
    assert str(built) not in card and str(built.parent) not in card, "no path of this machine"
    for file in built.glob("*.json"):
        assert str(built.parent) not in file.read_text()


def test_upload_sends_what_the_dry_run_lists(built, monkeypatch, capsys):
    sent, names = Counter(), []
    (built / "miniworld").mkdir()
    (built / "miniworld" / "miniworld.json").write_text("{}")  # not ours to send unless told

    class Api:
        def create_repo(self, repo_id, **options):
            sent["created", repo_id, options["repo_type"]] += 1

        def upload_large_folder(self, repo_id, folder, repo_type, allow_patterns):
            sent["uploaded", repo_id, repo_type] += 1
            paths = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
            names.extend(filter_repo_objects(paths, allow_patterns=allow_patterns))

    monkeypatch.setattr(publish, "HfApi", Api)
    publish.main([str(built), "--repo-id", "someone/sequences"])
    assert set(sent) == {("created", "someone/sequences", "dataset"), ("uploaded", "someone/sequences", "dataset")}
    publish.main([str(built), "--repo-id", "someone/sequences", "--dry-run"])
    listed = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("   ")]
    assert sorted(names) == sorted(listed) and len(listed) > 8


def spoil(file, change):
    table = pq.read_table(file)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(targets=[9]), "targets: expected distinct places from 1 to 8, found"),
        (
            lambda rows: rows[0].update(sequence=[0, 1, 2, 3, 4, 5, 6, 20]),
            "sequence: expected ids of the pool, 0 to 19",
        ),
        (lambda rows: rows[1].update(id=rows[0]["id"]), "expected 20 records with ids of their own, found 19"),
        (lambda rows: rows.pop(), "expected 20 records with ids of their own, found 19"),
    ],
)
def test_a_spoilt_set_is_not_published(source, tmp_path, change, message):
    build(source, tmp_path)
    spoil(next(tmp_path.glob("iig/*.parquet")), change)
    with pytest.raises(DataError, match=message):
        publish.main([str(tmp_path), "--repo-id", "someone/sequences", "--dry-run"])


def test_other_parquet_in_the_folder_is_none_of_the_set(source, tmp_path, capsys):
    build(source, tmp_path)
    (tmp_path / "captions").mkdir()
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "captions" / "captions-0.parquet")
    (tmp_path / "notes.json").write_text("{}")
    publish.main([str(tmp_path), "--repo-id", "someone/sequences", "--dry-run"])
    assert "captions" not in yaml.safe_dump(
        yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])["configs"]
    )
    printed = capsys.readouterr().out.partition("records checked")[2]
    assert "captions-0" not in printed and "notes" not in printed
    (tmp_path / ".image_sequences.train.unfinished").write_text("{}")
    with pytest.raises(DataError, match="a build was interrupted"):
        publish.main([str(tmp_path), "--repo-id", "someone/sequences", "--dry-run"])


def test_what_is_no_finished_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a set that the builders wrote"):
        publish.main([str(tmp_path), "--repo-id", "someone/sequences"])
