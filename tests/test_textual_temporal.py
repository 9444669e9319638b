"""T3's questions: a solver by rules, which reads nothing but the question, answers every one of them."""

import hashlib
import json
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import load_dataset
from safetensors.torch import load_file

from dataset_scripts import preview, publish, textual_temporal
from dataset_scripts.items import DataError
from dataset_scripts.record import CHOICE_TASKS, check
from dataset_scripts.textual_temporal import (
    PLACES,
    TEMPLATES,
    VALUES,
    attribute,
    attribute_of,
    first_sentence,
    key_phrase,
)
from modeling_seq2time import Seq2TimeModel
from tests.test_scaling import NO_DROPOUT, SETTINGS, TINY, alone, assert_same, together
from tests.test_sft import recipe, sets  # noqa: F401
from train import sft
from train.collator import Collator
from train.mixture import Mixture
from train.recipe import Source


WORLD = "miniworld?pictures=120&clips=4&videos=1&size=56"
COUNT = 480


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    build(folder)
    return folder


def build(folder, *options):
    textual_temporal.main(["--source", WORLD, "--num-instances", str(COUNT), "--output", str(folder), *options])


def read(question: str) -> tuple[list[str], str, dict[str, str]]:
    """Lines, what is asked, and options."""
    context, lines, asked, options, closing = question.split("\n\n")
    assert (context, closing) == (TEMPLATES["context"], TEMPLATES["closing"])
    options = dict(re.fullmatch(r"\((\w)\) (.*?)\.?", line).groups() for line in options.split("\n"))
    return [line.removesuffix(".") for line in lines.split("\n")], asked, options


def solve(question: str) -> str:
    lines, asked, options = read(question)
    whole = [" ".join(re.findall(r"[\w'-]+", line.lower())) for line in lines]
    asked, *listed = asked.split("\n")
    named = {letter: place for place in PLACES.values() for letter, text in options.items() if text == place}
    if named:  # at which place is it seen?
        (place,) = [place for place, line in enumerate(lines) if line in asked]
        return next(letter for letter, text in options.items() if text == [*PLACES.values()][place])
    if listed:  # which numbers, in order?
        numbers = {re.fullmatch(r"\((\d)\) (.*)", line).group(2): line[:3] for line in listed}
        return next(letter for letter, text in options.items() if text == "".join(numbers[line] for line in lines))
    if any(text.startswith("it stays ") for text in options.values()):
        kind, noun = re.search(r"the (\w+) of the (\w+)", asked).groups()
        before, after = (
            next(word for word in line.split() if word in VALUES[kind])
            for line in whole
            if re.search(rf"\b{noun}\b", line)
        )
        return next(letter for letter, text in options.items() if text == f"from {before} to {after}")
    for place, name in enumerate(PLACES.values()):
        if name in asked:
            return next(letter for letter, text in options.items() if text == lines[place])
    for letter, text in options.items():
        for joint in (", ", "; ", ". "):
            parts = text.split(joint)
            if len(parts) == len(lines) and all(
                " ".join(re.findall(r"[\w'-]+", part.lower())) in line for part, line in zip(parts, whole, strict=True)
            ):
                return letter
    raise AssertionError(question)


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_every_question_can_be_solved(folder, task):
    records = load_dataset(str(folder), task, split="train")
    captions = load_dataset(str(folder), "caption_pool", split="train")
    assert len(records) == COUNT // 4
    letters, sizes, places, both = Counter(), Counter(), Counter(), Counter()
    for record in records:
        check(record, len(captions))
        question, answer = (message["content"] for message in record["messages"])
        letter = solve(question)
        lines, asked, options = read(question)
        assert answer.removesuffix(".") == f"({letter}) {options[letter]}" and record["targets"] == [
            ord(letter) - ord("A") + 1
        ]
        assert len(set(options.values())) == len(options), "options differ"
        quoted = {first_sentence(captions[one]["caption"]) for one in record["sequence"]}
        assert len(set(lines) - quoted) == (task == "text_attribute"), "one line has another value"
        letters[len(options), letter] += 1
        both[len(lines), letter] += 1
        sizes[len(lines)] += 1
        places[next((place for place in PLACES.values() if place in asked), "")] += 1
    for count in {count for count, _ in letters}:
        own = [number for (size, _), number in letters.items() if size == count]
        assert len(own) == count and max(own) - min(own) <= 4, "each letter equally often, but for the last turns"
    if task == "text_attribute":
        assert sizes == dict.fromkeys((4, 6, 10, 18), 30), "distractors once, twice, 4 and 8 times"
        assert set(both.values()) == {7, 8} and len(both) == 16, "the number of lines tells nothing of the letter"
    if task == "text_order":
        assert set(letters) == {(6, one) for one in "ABCDEF"} | {(4, one) for one in "ABCD"}
    if task == "text_referring":
        assert places == dict.fromkeys(PLACES.values(), 40)


def test_orders_are_asked_for_in_four_ways(folder):
    seen = Counter()
    for record in load_dataset(str(folder), "text_order", split="train"):
        lines, asked, options = read(record["messages"][0]["content"])
        one = next(iter(options.values()))
        whole = all(line in one for line in lines)
        seen["arrange" if "\n" in asked else "prefix" if "…" in one else "sentence" if whole else "phrase"] += 1
    assert set(seen) == {"arrange", "prefix", "sentence", "phrase"} and min(seen.values()) > 15


def test_a_wrong_line_would_be_seen(folder):
    """Negative control of the solver: it reads the lines, not the options alone."""
    fooled = 0
    for task in ("text_order", "text_referring", "text_grounding"):
        for record in load_dataset(str(folder), task, split="train").select(range(20)):
            question, answer = (message["content"] for message in record["messages"])
            context, lines, *rest = question.split("\n\n")
            turned = "\n\n".join([context, "\n".join(lines.split("\n")[::-1]), *rest])
            try:
                fooled += f"({solve(turned)})" == answer[:3]
            except (AssertionError, StopIteration):
                continue
    assert fooled == 14, "those about the middle stay: of 20 and 20, 7 each"


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    build(tmp_path / "again", "--num-proc", "1", "--shard-size", "100000")
    build(tmp_path / "other", "--seed", "1")

    def digests(place):
        files = sorted(place.glob("text_*/*.parquet"))
        return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    first, again, other = (digests(place) for place in (folder, tmp_path / "again", tmp_path / "other"))
    assert first == again and first.keys() == other.keys() == set(CHOICE_TASKS)
    assert not any(first[task] == other[task] for task in CHOICE_TASKS)


def test_captions_alone_will_do(tmp_path, capsys):
    """The pictures they are of need not be there."""
    lines = [
        {"id": str(one), "file_name": f"{one}.jpg", "text": f"A {colour} {thing} stands {one} steps away. It is old."}
        for one, (colour, thing) in enumerate(
            (c, t) for c in VALUES["colour"][:6] for t in ("cat", "dog", "lamp", "cup", "tree")
        )
    ]
    source = tmp_path / "captions"
    source.mkdir()
    (source / "metadata.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    textual_temporal.main(["--source", f"folder={source}", "--num-instances", "40", "--output", str(tmp_path / "out")])
    assert "skipped" not in capsys.readouterr().err
    question = load_dataset(str(tmp_path / "out"), "text_referring", split="train")[0]["messages"][0]["content"]
    assert "steps away" in question and "It is old" not in question, "first sentences"


DIALOGUES = [
    {"conversations": [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Red, at [[3 s."}]},
    {"messages": [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}]},
    {"instruction": "Say it in German.", "input": "tree", "output": "Baum"},
    {"instruction": "Say hello.", "input": "", "output": "Hello\u2028you."},
]
SEEN = {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]}
SYSTEM = {"messages": [{"role": "system", "content": "Be brief."}, *DIALOGUES[1]["messages"]]}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_general_dialogues_are_mixed_in(tmp_path, capsys, suffix):
    file = tmp_path / f"dialogues{suffix}"
    rows = [*DIALOGUES, SEEN, SYSTEM]
    if suffix == ".parquet":
        names = ("conversations", "messages", "instruction", "input", "output")
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), file)
    else:
        file.write_text(json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    common = ["--source", WORLD, "--num-instances", "2", "--tasks", "text_order", "--instructions", str(file)]
    with pytest.raises(DataError, match="about a picture: .*row 4|about a picture: .*line 5"):
        textual_temporal.main([*common, "--output", str(tmp_path / "out")])
    textual_temporal.main([*common, "--output", str(tmp_path / "out"), "--on-problem", "skip"])
    assert "skipped 1 about a picture, 1 malformed" in capsys.readouterr().err
    records = load_dataset(str(tmp_path / "out"), "text_instruction", split="train")
    assert len(records) == 4 and {len(record["sequence"]) for record in records} == {0}
    said = {tuple(message["content"] for message in record["messages"]) for record in records}
    assert ("Say it in German.\n\ntree", "Baum") in said and ("Two and two?", "Four.") in said
    for record in records:
        check(record)
    publish.main([str(tmp_path / "out"), "--repo-id", "someone/texts", "--dry-run"])
    with pytest.raises(DataError, match="expected 6 dialogues .*found 4"):
        textual_temporal.main(
            [*common, "--output", str(tmp_path / "more"), "--on-problem", "skip", "--instruction-ratio", "3"]
        )


def test_too_few_captions_are_one_error(tmp_path):
    with pytest.raises(DataError, match="17 different captions are needed, the pool has"):
        textual_temporal.main(
            [
                "--source",
                "miniworld?pictures=3&clips=1&videos=1&size=56",
                "--num-instances",
                "4",
                "--output",
                str(tmp_path),
            ]
        )


def test_it_is_published_and_shown_like_the_others(folder, tmp_path, capsys):
    publish.main([str(folder), "--repo-id", "someone/texts", "--dry-run"])
    assert f"{COUNT} records checked" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert "T3, text alone" in card and "`caption_pool`" in card
    preview.main([str(folder), "text_order", "--output", str(tmp_path / "sheet.png")])
    assert (tmp_path / "sheet.png").stat().st_size > 3000


def test_text_trains_the_language_model_alone(folder, recipe, tmp_path, monkeypatch):  # noqa: F811
    """Nothing is seen; the loss falls."""
    monkeypatch.setattr(Seq2TimeModel, "get_video_features", None)
    data = [{"path": str(folder), "config": ["text_grounding", "text_referring"], "count": 32}]
    sft.main([recipe(data=data, trained_parts=[], num_train_epochs=2, max_length=4096)])
    trained = load_file(tmp_path / "run/adapter_model.safetensors")
    assert trained and all("lora_" in name or "token_adapter" in name or "trainable_tokens" in name for name in trained)
    (state,) = (tmp_path / "run").glob("checkpoint-16/trainer_state.json")
    losses = [one["loss"] for one in json.loads(state.read_text())["log_history"] if "loss" in one]
    assert losses[-1] < losses[0] - 0.1


def test_text_goes_with_videos(folder, sets, tiny):  # noqa: F811
    """In one batch a row of text is what it is alone, and so is the video beside it."""
    model, processor = tiny("timechat", num_frames=8, window_size=4, window_stride=4)
    sources = [Source(str(folder), ["text_order"]), Source(str(sets), ["grounding"])]
    mixture = Mixture.load(sources, processor, "uniform", seed=0)
    frames = mixture.column("frames")
    assert set(frames.tolist()) == {0, 8} and len(mixture.pools()) == 1, "text has nothing to be kept"
    collate = Collator(processor, mixture.sets, crop=False)
    rows = [{"epoch": 0, **mixture.rows[int(row)]} for row in (0, np.flatnonzero(frames)[0], 1)]

    def logits(some):
        batch = collate(some)
        given = {name: batch[name] for name in batch if name not in ("about", "labels")}
        with torch.no_grad():
            return batch["input_ids"], model(**given).logits

    ids, together = logits(rows)
    assert [processor.video_token_id in one for one in ids.tolist()] == [False, True, False]
    for place, row in enumerate(rows):
        own, alone = logits([row])
        torch.testing.assert_close(together[place, : own.shape[1]], alone[0], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_train_text_and_videos_as_one(folder, sets, tiny_folder, tmp_path):  # noqa: F811
    """Also where one of them has a batch of text alone, which reaches none of the parts that see."""
    model = tiny_folder("timechat", **TINY, qformer_config=NO_DROPOUT, video_qformer_config=NO_DROPOUT)
    data = [
        {"path": str(folder), "config": ["text_grounding"], "count": 12},
        {"path": str(sets), "config": ["grounding"]},
    ]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"model": str(model), "data": data, **SETTINGS}))
    assert_same(together("ddp", file, tmp_path / "two"), alone(file, tmp_path / "one"))


@pytest.mark.slow
def test_a_split_model_has_no_text_beside_videos(folder, sets, tiny_folder, tmp_path):  # noqa: F811
    """A process without a picture would not take part, and the others would wait for it."""
    data = [{"path": str(folder), "config": ["text_grounding"]}, {"path": str(sets), "config": ["grounding"]}]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"model": str(tiny_folder("timechat", **TINY)), "data": data, **SETTINGS}))
    with pytest.raises(RuntimeError, match="text and videos can't be mixed where .* splits the model; use ddp.yaml"):
        together("fsdp2", file, tmp_path / "two")


def test_text_is_in_the_plan(folder, recipe, capsys):  # noqa: F811
    """Without frames the parts that see cost nothing."""
    sft.main([recipe(data=[{"path": str(folder), "config": ["text_order"]}], trained_parts=[]), "--plan"])
    told = capsys.readouterr().out
    for part in ("vision tower", "image Q-Former", "video Q-Former", "projector"):
        assert re.search(rf"{part} +[\d,]+ +0 +0.000 +0.000", told), part
    assert re.search(r"text_order +120 +measured +0\.0 +0\.0 ", told), told


def test_parts_of_captions():
    assert first_sentence("A dog runs. It barks.") == "A dog runs"
    assert first_sentence("  A dog, 3.5 years old, runs!  ") == "A dog, 3.5 years old, runs"
    assert key_phrase("a small red circle on grass", ["a small red square on grass"]) == "small red circle"
    assert key_phrase("a dog", ["a dog and a cat"]) == ""
    assert attribute_of("A red circle in the small room") == ("colour", "red", "circle")
    assert attribute_of("A red and blue flag") == ("colour", "blue", "flag")
    assert attribute_of("Two dogs near two cats") is None
    assert attribute_of("A blue-red kite beside the red ball") is None
    assert attribute_of("The two-story house with two windows") is None
    assert first_sentence("Mr. Smith stands. He waits.") == "Mr. Smith stands"
    assert first_sentence("A dog runs!") == "A dog runs" and first_sentence("...") == ""
    rng = np.random.default_rng(0)
    seen = {tuple(line for line in attribute(rng, "A red circle", ["x"] * 2)[0] if line != "x") for _ in range(40)}
    assert ("A red circle", "An orange circle") in seen and ("An orange circle", "A red circle") in seen, "either first"
