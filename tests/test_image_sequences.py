import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_scripts import doctor, image_sequences
from dataset_scripts.building import numbering, parse_mix, shares
from dataset_scripts.command import run
from dataset_scripts.image_sequences import draw
from dataset_scripts.items import DataError
from dataset_scripts.wording import TEMPLATES
from modeling_seq2time.time_notation import marks, unescape
from tests.sources import write_lines, write_pictures


PICTURES = 130


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), PICTURES)


def build(source, output, *options, num_proc=1):
    arguments = ["--source", f"folder={source}", "--output", str(output), "--num-proc", str(num_proc), *options]
    image_sequences.main(arguments)
    return output


def records(folder, *tasks):
    shards = [file for task in tasks or ("iig", "iic", "alr") for file in sorted((folder / task).glob("*.parquet"))]
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def files(folder):
    """Everything that is published, by name."""
    names = [path for path in folder.rglob("*") if path.is_file() and not {"locks", ".work"} & set(path.parts)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("set"), "--num-instances", "3000", "--shard-size", "400")


@pytest.fixture(scope="module")
def captions(built):
    return [row["caption"] for row in pq.read_table(next(built.glob("image_pool/*.parquet"))).to_pylist()]


def test_the_distribution_is_the_papers(built):
    rows = records(built)
    assert Counter(row["task"] for row in rows) == {"iig": 1000, "iic": 1000, "alr": 1000}
    assert len({row["id"] for row in rows}) == 3000
    for task in ("iig", "iic"):
        counts = Counter(len(row["targets"]) for row in rows if row["task"] == task)
        assert set(counts) == {1, 2, 3, 4, 5} and all(150 <= count <= 250 for count in counts.values()), counts
    places = np.array([place for row in rows for place in row["targets"]])
    assert set(range(1, 97)) == set(places) and abs(places.mean() - 48.5) < 1.5
    used = Counter(one for row in rows for one in row["sequence"])
    assert len(used) == PICTURES and max(used.values()) / min(used.values()) < 1.1
    sides = Counter(" before " in row["messages"][0]["content"] for row in rows if row["task"] == "alr")
    assert 440 <= sides[True] <= 560
    for task in ("iig", "iic"):
        asked = Counter(row["messages"][0]["content"][:30] for row in rows if row["task"] == task)
        assert len(asked) >= 18, "all templates are used"


def spoken_of(task, shown, question, answer):
    """
    Targets of a question, and all places that are given away, as the templates' words say; captions of the 96 pictures
    that are shown must belong to their places, in order.
    """
    targets = [int(place) for place, _, _ in marks(answer)]
    wanted = [shown[place - 1] for place in targets]
    for text in (question, answer):
        assert ".." not in text and ".?" not in text and "  " not in text and not text.endswith(" "), text
        assert text[-1] in ".?" and "{" not in text
    if task == "iig":
        spots = [question.index(f"{caption}") for caption in wanted]
        assert spots == sorted(spots)
        if len(wanted) > 1:
            assert f"The 1st caption is {wanted[0]}; the 2nd caption is {wanted[1]}" in question
            assert question.endswith(f"{wanted[-1]}. {TEMPLATES['iig']['multi']['after'][2:]}")
    elif task == "iic":
        assert [place for place, _, _ in marks(question)] == targets
        spots = [answer.index(caption) for caption in wanted]
        between = [answer.index(f"[[{place}/96 image]]") for place in targets]
        assert all(mark < spot for mark, spot in zip(between, spots, strict=True))
        assert all(spot < mark for spot, mark in zip(spots, between[1:], strict=False))
    else:
        (target,) = targets
        asked = target + 1 if " before " in question else target - 1
        assert 1 <= asked <= 96 and shown[asked - 1] in question and wanted[0] in answer
        assert marks(answer) == [(target, 96, "image")]
        return targets, [asked, target]
    return targets, targets


def test_questions_and_answers_say_what_is_there(built, captions):
    for row in records(built):
        assert len(row["sequence"]) == 96 == len(set(row["sequence"]))
        shown = [captions[one].rstrip(".") for one in row["sequence"]]
        question, answer = (message["content"] for message in row["messages"])
        assert spoken_of(row["task"], shown, question, answer)[0] == row["targets"]


def test_no_question_about_a_sequence_gives_another_away(source, captions, tmp_path):
    rows = records(build(source, tmp_path, "--num-instances", "90", "--questions", "19"))
    for row in rows:
        shown = [captions[one].rstrip(".") for one in row["sequence"]]
        texts = [message["content"] for message in row["messages"]]
        assert len(texts) == 38
        turns = [spoken_of(row["task"], shown, *turn) for turn in zip(texts[::2], texts[1::2], strict=True)]
        assert [target for targets, _ in turns for target in targets] == row["targets"]
        every = [place for _, places in turns for place in places]
        assert len(set(every)) == len(every)
    assert len({row["messages"][2]["content"][:30] for row in rows}) > 20, "each question is worded anew"
    first = {row["messages"][0]["content"] for row in records(build(source, tmp_path / "one", "--num-instances", "90"))}
    assert first == {row["messages"][0]["content"] for row in rows}, "the first is the one that would be alone"


def test_questions_about_neighbours_always_find_some(source, tmp_path):
    """At worst a question leaves a place alone on either side, which no other can use."""
    for length, questions in ((9, 3), (12, 4), (18, 6)):
        options = ("--tasks", "alr", "--max-targets", "1", "--num-instances", "300")
        sizes = ("--sequence-length", str(length), "--questions", str(questions))
        assert len(records(build(source, tmp_path / str(length), *options, *sizes), "alr")) == 300


def test_neighbours_that_do_not_exist_are_never_asked_for(source, tmp_path):
    rows = records(
        build(source, tmp_path, "--num-instances", "200", "--sequence-length", "2", "--max-targets", "1"), "alr"
    )
    for row in rows:
        assert row["targets"] == ([1] if " before " in row["messages"][0]["content"] else [2])


def test_same_seed_same_bytes_whatever_the_processes(source, tmp_path):
    options = ("--num-instances", "90", "--shard-size", "10")
    one = files(build(source, tmp_path / "one", *options))
    two = files(build(source, tmp_path / "two", *options, num_proc=2))
    assert one == two and len(one) == 12
    other = files(build(source, tmp_path / "other", *options, "--seed", "1"))
    shards = {name for name in one if name.startswith(("iig", "iic", "alr"))}
    assert not shards & set(other), "another seed has other names, so that no cache can mistake them"
    assert not {one[name] for name in shards} & set(other.values())
    larger = build(source, tmp_path / "larger", "--num-instances", "90", "--shard-size", "50")
    assert records(larger) == records(tmp_path / "one"), "the size of shards changes nothing else"


def stopped_in_the_middle(source, output, by, *options):
    """The build as a command with two processes, which get a signal once three shards are there."""
    command = [
        sys.executable,
        "-m",
        "dataset_scripts.image_sequences",
        "--source",
        f"folder={source}",
        "--num-proc",
        "2",
    ]
    command += ["--output", str(output), *options]

    def listen():
        """In the background SIGINT may be ignored, under nohup SIGHUP is, and children inherit that."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    unblock = {"start_new_session": True, "preexec_fn": listen}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **unblock)
    for _ in range(1200):
        if len(list(output.glob("*/*.parquet"))) >= 3:
            break
        time.sleep(0.05)
    if by == signal.SIGINT:
        os.killpg(process.pid, by)  # as Ctrl-C does: to all processes
    else:
        process.send_signal(by)
    _, errors = process.communicate(timeout=60)  # which waits for all who hold the pipe
    return process.returncode, errors


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_stopped(source, tmp_path):
    options = ["--num-instances", "6000", "--shard-size", "200"]
    whole = files(build(source, tmp_path / "whole", *options))
    stopped_in_the_middle(source, tmp_path / "killed", signal.SIGKILL, *options)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/*.parquet")}
    assert 3 <= len(done) < 30
    next(iter(done)).with_name(".train-00007-of-00010-00000000.parquet.77.part").touch()
    with pytest.raises(DataError, match="holds a train set of other sources or options"):
        build(source, tmp_path / "killed", *options, "--seed", "1")
    assert files(build(source, tmp_path / "killed", *options)) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_says_how_to_go_on(source, tmp_path, by):
    options = ("--num-instances", "60000", "--shard-size", "200")
    code, errors = stopped_in_the_middle(source, tmp_path / "set", by, *options)
    assert code == 130 and "Traceback" not in errors
    assert errors.rstrip().endswith("interrupted; the same command goes on from here")
    assert not list(tmp_path.glob("set/*/.*.part"))


def test_another_build_is_refused_or_replaced_whole(source, tmp_path):
    build(source, tmp_path, "--num-instances", "30")
    first = files(tmp_path)
    with pytest.raises(DataError, match="--overwrite"):
        build(source, tmp_path, "--num-instances", "60")
    assert files(tmp_path) == first and not (tmp_path / ".work").exists()
    build(source, tmp_path, "--num-instances", "60", "--overwrite", "--tasks", "iig,alr")
    assert len(records(tmp_path)) == 60 and not records(tmp_path, "iic")
    assert "iic" not in (tmp_path / "README.md").read_text().split("---")[1]
    build(source, tmp_path, "--num-instances", "60", "--tasks", "iig,alr")


def test_shared_pools(source, tmp_path):
    options = ("--num-instances", "240", "--shared-pool", "110", "--shared-sequences", "8")
    groups = defaultdict(list)
    for row in records(build(source, tmp_path, *options)):
        assert len(set(row["sequence"])) == 96
        groups[row["group"]].append(row)
    assert len(groups) == 30
    for rows in groups.values():
        assert len(rows) == 8 and {row["task"] for row in rows} == {"iig", "iic", "alr"}
        assert 96 < len({one for row in rows for one in row["sequence"]}) <= 110
    assert len({frozenset(one for row in rows for one in row["sequence"]) for rows in groups.values()}) == 30
    used = Counter(one for rows in groups.values() for row in rows for one in row["sequence"])
    assert len(used) == PICTURES
    with pytest.raises(DataError, match="--shared-pool 90: expected at least --sequence-length 96"):
        build(source, tmp_path / "small", "--shared-pool", "90")


def test_equal_captions_never_meet_in_a_sequence(tmp_path):
    folder = write_pictures(tmp_path / "source", 60, caption="Thing.")
    rows = [{"file": f"{number}.png", "caption": f"Thing {number % 20}."} for number in range(60)]
    write_lines(folder / "captions.jsonl", rows)
    options = ("--num-instances", "60", "--sequence-length")
    for row in records(build(folder, tmp_path / "set", *options, "20")):
        assert len({one % 20 for one in row["sequence"]}) == 20
    with pytest.raises(
        DataError, match=r"21 pictures of different captions are needed, the pool has 20 \(60 pictures\)"
    ):
        build(folder, tmp_path / "more", *options, "21")


def test_draw_is_uniform_and_in_random_order():
    rng, keys = np.random.default_rng(0), np.arange(5000, dtype=np.uint64)
    drawn = np.array([draw(rng, 5000, keys, 4) for _ in range(4000)])
    assert (np.diff(np.sort(drawn)) > 0).all()
    assert np.abs(drawn.mean(0) - 2500).max() < 100, "every place holds any picture"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tasks", "iig,xyz"), "expected tasks of iig, iic, alr"),
        (("--tasks", "iig:0"), "a weight above 0"),
        (("--num-instances", "0"), "--num-instances: expected at least 1, found 0"),
        (("--seed", "-1"), "--seed: expected at least 0, found -1"),
        (("--questions", "0"), "--questions: expected at least 1, found 0"),
        (("--questions", "20"), "--questions 20: .* at least 100, --max-targets 5 of each, found 96"),
        (("--questions", "33", "--max-targets", "1"), "at least 99, 3 of each for alr, found 96"),
        (
            ("--questions", "97", "--max-targets", "1", "--tasks", "iig"),
            "at least 97, --max-targets 1 of each, found 96",
        ),
        (("--max-targets", "97"), "--max-targets ≤ --sequence-length"),
        (("--sequence-length", "131"), "131 pictures of different captions are needed, the pool has 130"),
        (("--split", "test"), "expected pictures of split 'test' in folder at .* found none"),
        (("--media", "folder=/nowhere"), "expected NAME=DIR with a folder that exists"),
    ],
)
def test_bad_options_are_named(source, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        build(source, tmp_path, *options)


def test_a_build_stops_or_skips_as_told(tmp_path, capsys):
    folder = write_pictures(tmp_path / "source", 12)
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    rows[3]["caption"] = ""
    write_lines(folder / "captions.jsonl", [*rows, rows[5]])
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:50])
    (folder / "8.png").unlink()
    options = ("--num-instances", "9", "--sequence-length", "8")
    with pytest.raises(DataError, match="9 of 13 can be used; problems: ") as error:
        build(folder, tmp_path / "set", *options)
    problems = {"1 empty caption", "1 missing", "1 corrupt", "1 duplicate id"}
    assert set(str(error.value).partition("problems: ")[2].partition(". ")[0].split(", ")) == problems
    assert not list((tmp_path / "set").glob("*/*.parquet"))
    build(folder, tmp_path / "set", *options, "--on-problem", "skip")
    printed = capsys.readouterr().out
    assert all(problem in printed.partition("skipped ")[2] for problem in problems)
    pool = pq.read_table(next((tmp_path / "set" / "image_pool").glob("*.parquet"))).to_pylist()
    assert [row["key"] for row in pool] == [f"{number}.png" for number in (0, 1, 2, 4, 5, 6, 9, 10, 11)]
    assert [row["id"] for row in pool] == list(range(9))


def test_the_lock_file_decides_what_goes_in(source, tmp_path):
    """A set is built from what was examined, and from nothing else."""
    folder = write_pictures(tmp_path / "source", 12)
    options = ("--num-instances", "9", "--sequence-length", "8")
    build(folder, tmp_path / "one", *options)
    (lock,) = (tmp_path / "one" / "locks").glob("folder-*.lock.jsonl")
    header, *entries = lock.read_text().splitlines()
    (folder / "folder.lock.jsonl").write_text("\n".join([header, *entries[:9]]) + "\n")
    build(folder, tmp_path / "two", *options)
    pool = pq.read_table(next((tmp_path / "two" / "image_pool").glob("*.parquet"))).to_pylist()
    assert [row["key"] for row in pool] == [f"{number}.png" for number in range(9)]
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    write_lines(folder / "captions.jsonl", rows[:11])
    with pytest.raises(DataError, match=r"the annotations or options changed since; run the doctor again"):
        build(folder, tmp_path / "three", *options)


def test_literal_marks_in_captions_stay_text(tmp_path):
    folder = write_pictures(tmp_path / "source", 9, caption="A sign [[7/96 image]] number {}.")
    rows = records(build(folder, tmp_path / "set", "--num-instances", "30", "--sequence-length", "8"))
    for row in rows:
        assert len(marks(row["messages"][1]["content"])) == len(row["targets"])
        assert "[[7/96 image]]" in unescape(" ".join(message["content"] for message in row["messages"]))


def test_shares_and_numbering():
    assert shares({"iig": 1, "iic": 1, "alr": 1}, 300_000) == {"iig": 100_000, "iic": 100_000, "alr": 100_000}
    assert shares({"iig": 1, "iic": 1}, 300_000) == {"iig": 150_000, "iic": 150_000}, "what is left out is made up for"
    assert shares({"iig": 2, "iic": 1, "alr": 1}, 10) == {"iig": 5, "iic": 3, "alr": 2}
    assert sum(shares({"iig": 0.1, "iic": 0.7, "alr": 0.3}, 9_999).values()) == 9_999
    assert parse_mix("iig:2, alr", ("iig", "iic", "alr")) == {"iig": 2.0, "alr": 1.0}
    order = numbering({"iig": 100, "iic": 50, "alr": 50})
    every = np.concatenate(list(order.values()))
    assert sorted(every) == list(range(200))
    for start in range(0, 200, 20):
        assert 8 <= ((order["iig"] >= start) & (order["iig"] < start + 20)).sum() <= 12
    assert all(a < b for task in order.values() for a, b in pairwise(task))


def test_several_places_of_one_reader(source, tmp_path):
    other = write_pictures(tmp_path / "other", 20, caption="Something else {}.")
    arguments = ["--source", f"folder:a={source}", "--source", f"folder:b={other}", "--num-instances", "9"]
    image_sequences.main([*arguments, "--output", str(tmp_path / "set"), "--num-proc", "1"])
    pool = pq.read_table(next((tmp_path / "set" / "image_pool").glob("*.parquet"))).to_pylist()
    assert Counter(row["source"] for row in pool) == {"folder_a": 130, "folder_b": 20}
    assert records(tmp_path / "set")[0]["source"] == "folder_a+folder_b"
    assert not Path(tmp_path / "set" / ".work").exists()
    with pytest.raises(DataError, match="folder was named before; folder:ALIAS=PATH tells two apart"):
        arguments = ["--source", f"folder={source}", "--source", f"folder={other}"]
        image_sequences.main([*arguments, "--output", str(tmp_path / "again"), "--num-proc", "1"])


def test_a_lock_of_other_files_is_not_meant(source, tmp_path):
    folder = write_pictures(tmp_path / "source", 12)
    (folder / "more").mkdir()
    write_lines(folder / "more" / "captions.jsonl", [{"file": "x.png", "caption": "gone"}])
    run(lambda: doctor.main(["folder", str(folder), "--num-proc", "1"]))
    options = ("--num-instances", "9", "--sequence-length", "8")
    build(folder / "captions.jsonl", tmp_path / "set", *options)
    with pytest.raises(DataError, match="12 of 13 can be used; problems: 1 missing"):
        build(folder, tmp_path / "other", *options)
    with pytest.raises(DataError, match="expected a path without"):
        build(source, tmp_path / "a [set]", *options)
