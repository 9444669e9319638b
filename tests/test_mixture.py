import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st

from dataset_scripts import image_sequences
from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from modeling_seq2time import Seq2TimeProcessor
from tests.training import CLIPS, IMAGES, TINY, VIDEOS, WORLD, draws, mini_mixture, mini_sets, numbered_samples
from train import mixture as module
from train.collator import Collator
from train.mixture import BatchSampler, Mixture, measure, nominal
from train.recipe import Source


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    return mini_sets(tmp_path_factory)


@pytest.fixture(scope="session")
def processor(tiny):
    return tiny("timechat", **TINY)[1]


@pytest.fixture(scope="session")
def mixture(sets, processor):
    return mini_mixture(sets, processor)


@pytest.fixture
def load(sets, processor):
    """`load(source, …, seed=0)`: a mixture of sources of `mini_sets`, given by their settings."""

    def get(*sources, seed=0, **options):
        made = [Source(**{"path": str(sets)} | one) for one in sources]
        return Mixture.load(made, processor, "uniform", seed, **options)

    return get


def records(mixture):
    """The id of each row's record."""
    return [mixture.sets[row["set"]].records[row["row"]]["id"] for row in mixture.rows]


# What is taken


def test_rows_are_those_of_the_configurations(mixture, sets):
    table = {name: mixture.column(name) for name in mixture.rows.column_names}
    configs = [*IMAGES, *CLIPS, *VIDEOS]
    assert [len(samples) for samples in mixture.sets] == np.bincount(table["set"]).tolist()
    assert [samples.records[0]["task"] for samples in mixture.sets] == [name.removeprefix("video_") for name in configs]
    for number, samples in enumerate(mixture.sets):
        assert table["row"][table["set"] == number].tolist() == list(range(len(samples)))
    assert table["source"].tolist() == [0] * 24 + [1] * 8 + [2] * (len(mixture.rows) - 32)
    assert table["pool"].tolist() == [0] * 24 + [1] * 8 + [2] * (len(mixture.rows) - 32)
    assert set(table["copy"]) == {0} and len(mixture.rows) > 40
    assert all((one.size, one.sampling, one.num_frames) == ((56, 56), "random", 8) for one in mixture.sets)


def test_groups_are_the_shared_pools(mixture):
    groups = mixture.column("group")
    names = [mixture.sets[row["set"]].records[row["row"]]["group"] for row in mixture.rows]
    assert (groups[24:] == -1).all() and set(names[24:]) == {"all"}
    pairs = set(zip(groups[:24].tolist(), names[:24], strict=True))
    assert len(pairs) == 6 and {number for number, _ in pairs} == set(range(6))
    assert np.bincount(groups[:24]).tolist() == [4] * 6


def test_groups_of_another_set_are_others(sets, processor, tmp_path):
    shutil.copytree(sets, tmp_path / "set")
    sources = [Source(str(sets), IMAGES), Source(str(tmp_path / "set"), IMAGES)]
    first, second = np.split(mini_mixture(sets, processor, sources=sources).column("group"), 2)
    assert len(set(first)) == len(set(second)) == 6 and not set(first) & set(second)


def test_sequences_without_a_shared_pool_are_in_no_group(sets, processor, tmp_path):
    options = ["--num-proc", "1", "--num-instances", "6", "--sequence-length", "8", "--tasks", "iig"]
    image_sequences.main(["--source", WORLD, "--output", str(tmp_path), *options])
    mixture = mini_mixture(tmp_path, processor, sources=[Source(str(tmp_path)), Source(str(sets), IMAGES)])
    assert mixture.column("group").tolist()[:6] == [-1] * 6 and mixture.column("group").min() == -1
    assert sorted(set(mixture.column("group")[6:])) == list(range(6))
    assert mixture.column("pool").tolist() == [0] * 6 + [1] * 24


def test_all_configurations_that_have_the_split(load):
    assert len(load({"config": None}).sets) == len(load({}).sets) == 7
    test = load({"split": "test"})
    assert {samples.records[0]["task"] for samples in test.sets} == {"dense_captioning", "grounding"}
    assert len(test.rows) < 12 and test.column("pool").tolist() == [0] * len(test.rows)
    both = load({"config": VIDEOS}, {"config": VIDEOS, "split": "test"})
    assert sorted(set(both.column("pool"))) == [0, 1], "another split has a pool of its own"


def test_one_source_of_several(sets, processor, tmp_path):
    shutil.copytree(sets, tmp_path / "set")
    (file,) = (tmp_path / "set" / "iig").glob("*.parquet")
    table = pq.read_table(file)
    names = pa.array(["valley" if number % 3 == 0 else "other" for number in range(len(table))])
    pq.write_table(table.set_column(table.column_names.index("source"), "source", names), file)

    def get(**settings):
        source = Source(str(tmp_path / "set"), ["iig", "iic"], **settings)
        return mini_mixture(tmp_path / "set", processor, sources=[source])

    valley = get(source="valley")
    assert valley.column("row").tolist() == [0, 3, 6] and valley.column("set").tolist() == [0] * 3
    assert "set iig+iic (valley)" in valley.report()
    assert len(get(source="valley", weight=2.0).rows) == 6 and len(get(source="valley", count=2).rows) == 2
    with pytest.raises(DataError, match=r"set, train: expected records of source 'xyz', found none"):
        get(source="xyz")


def test_counts_and_weights_are_whole_passes_and_a_rest(load):
    for settings, count in (({"weight": 0.5}, 12), ({"weight": 2}, 48), ({"weight": 2.25}, 54), ({"count": 7}, 7)):
        mixture = load({"config": IMAGES, **settings})
        found = records(mixture)
        assert len(found) == count
        times = np.unique(found, return_counts=True)[1]
        assert times.max() - times.min() <= 1 and len(times) == min(24, count)
        copies = mixture.column("copy")
        assert copies.tolist() == sorted(copies) == [number // 24 for number in range(count)]
    assert records(load({"config": IMAGES, "count": 24})) == records(load({"config": IMAGES}))
    with pytest.raises(DataError, match=r"mini-sets, train: weight 0.01 of 24 records is none of them"):
        load({"config": IMAGES, "weight": 0.01})


def test_the_rest_is_drawn_from_the_seed(load):
    half = {"config": VIDEOS, "weight": 0.5}
    drawn = [records(load(half, seed=seed)) for seed in range(4)]
    assert len(set(map(tuple, drawn))) == 4 and len({name for one in drawn for name in one}) > len(drawn[0])
    assert records(load(half, seed=1)) == drawn[1]
    assert records(load(half, {"config": IMAGES}, seed=1))[: len(drawn[1])] == drawn[1], "whatever comes behind it"
    first, second = np.split(np.array(records(load(half, half))), 2)
    assert first.tolist() != second.tolist()
    assert all(one == sorted(one, key=lambda name: name) for one in [load(half).column("row").tolist()])


def test_the_rest_takes_shared_pools_as_wholes(load):
    for seed in range(5):
        taken = np.unique(load({"config": IMAGES, "count": 10}, seed=seed).column("group"), return_counts=True)[1]
        assert sorted(taken.tolist()) == [2, 4, 4]


def test_copies_are_groups_of_their_own(load):
    """Or a sample would be in a batch twice. Two sources of one set share their groups."""
    mixture = load({"config": IMAGES, "weight": 2.5}, {"config": ["iig"]})
    groups, copies = mixture.column("group"), mixture.column("copy")
    for number in np.unique(groups):
        assert len(set(copies[groups == number])) == 1
        names = np.array(records(mixture))[(groups == number) & (mixture.column("source") == 0)]
        assert len(set(names)) == len(names)
    assert len(np.unique(groups)) == 15
    assert set(load({"config": IMAGES}, {"config": CLIPS, "weight": 3}).column("group")[24:]) == {-1}
    assert set(groups[mixture.column("source") == 1]) <= set(groups[(mixture.column("source") == 0) & (copies == 0)])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"config": ["iig", "nonsense"]}, "nonsense"),
        ({"config": ["image_pool"]}, "image_pool: expected a configuration of records, found a pool"),
        ({"config": ["iig"], "split": "validation"}, "validation"),
        ({"split": "validation"}, "expected configurations of records of split 'validation', found none"),
        ({"path": "nowhere/at/all"}, "nowhere/at/all: "),
        ({"path": "nowhere/at/all", "config": ["iig"]}, "nowhere/at/all, iig, train: "),
    ],
)
def test_what_is_not_there_is_named(load, source, message):
    with pytest.raises(DataError, match=message):
        load(source)


# How long it is


def real_lengths(mixture, processor):
    collate = Collator(processor, mixture.sets)
    batches = [collate([one]) for one in draws(mixture)]
    return [
        (batch["input_ids"].shape[1], int((batch["labels"] >= 0).sum()), int((batch["video_picture_index"] >= 0).sum()))
        for batch in batches
    ]


@pytest.mark.parametrize("notation", ["rpt", "text", "bins"])
def test_lengths_are_those_of_the_batches(sets, tiny, notation):
    """Exactly; where times are written in plain text, a video's own times may be a little longer than even ones."""
    _, processor = tiny("timechat", **TINY, time_notation=notation)
    mixture = mini_mixture(sets, processor)
    told = list(zip(*(mixture.column(name).tolist() for name in ("length", "answers", "frames")), strict=True))
    real = real_lengths(mixture, processor)
    assert told[:24] == real[:24]
    if notation == "text":
        assert [one[1:] for one in told] == [one[1:] for one in real]
        assert np.abs(np.array(told) - real).max() <= 8
    else:
        assert told == real


def test_clips_are_measured_at_their_pace(sets):
    """Their times are told before they are decoded: those of uniform sampling, to the digit."""
    samples = Samples.load(str(sets), "dense_captioning", num_frames=8)
    for record in samples.records:
        metadata, (_, known) = nominal(record, samples), samples.clip_frames(record["sequence"], None)
        assert metadata.times == pytest.approx(known["times"], abs=1e-9) and len(set(metadata.times)) == 8
        assert metadata.duration == pytest.approx(known["duration"])
        assert metadata.frames_indices == known["frames_indices"]
    assert {clip["rate"] for record in samples.records for clip in record["sequence"]} != {1.0}


def test_the_report_adds_up(mixture):
    lines = [line.rsplit(maxsplit=5) for line in mixture.report().splitlines()]
    assert [line[0].split() for line in lines[1:]] == [
        ["mini-sets", "+".join(IMAGES)],
        ["mini-sets", "+".join(CLIPS)],
        ["mini-sets", "+".join(VIDEOS)],
        ["together"],
    ]
    figures = np.array([[int(line[place].replace(",", "")) for place in (1, 3, 4, 5)] for line in lines[1:]])
    assert figures[:3].sum(axis=0).tolist() == figures[3].tolist()
    for name, column in (("length", 1), ("answers", 2), ("frames", 3)):
        values, sources = mixture.column(name), mixture.column("source")
        assert figures[:3, column].tolist() == [int(values[sources == number].sum()) for number in range(3)]
    shares = [float(line[2].rstrip("%")) for line in lines[1:]]
    assert sum(shares[:3]) == pytest.approx(100, abs=0.2) and shares[3] == 100
    assert shares[0] == pytest.approx(100 * 24 / len(mixture.rows), abs=0.1)
    assert len({len(line) for line in mixture.report().splitlines()}) == 1


def test_lengths_are_measured_once(sets, processor, monkeypatch):
    samples = Samples.load(str(sets), "iig", num_frames=8)
    before = measure(samples, processor)[:]

    def again(*args, **kwargs):
        raise TypeError("measured again")

    monkeypatch.setattr(module, "_measured", again)
    assert measure(samples, processor)[:] == before
    assert measure(Samples.load(str(sets), "iig", num_frames=8), processor)[:] == before
    with pytest.raises(TypeError, match="measured again"):
        measure(Samples.load(str(sets), "iic", num_frames=8), processor_with(processor, chat_template="x"))


def processor_with(processor, **changes):
    """The same parts in a new processor."""
    made = Seq2TimeProcessor(
        processor.video_processor,
        processor.tokenizer,
        processor.qformer_tokenizer,
        **{"window_stride": 4, "num_video_query_tokens": 4, "time_notation": processor.time_notation} | changes,
    )
    return made


@pytest.mark.parametrize(
    "change",
    [
        {"time_notation": "percent"},
        {"time_notation": "bins", "time_notation_options": {"num_bins": 7}},
        {"window_stride": 2},
        {"sequence_template": {"s": "Times: {times}. ", "image": "{times}. "}},
        {"chat_template": "{% generation %}{{ messages[-1].content }}{% endgeneration %}"},
        {"num_frames": 5},
        {"words": ["frames sampled"]},
        {"bos": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_lengths_of_another_processor_are_measured_anew(sets, tiny_folder, change):
    """Whatever it is that differs; each of them gives other lengths."""
    other = Seq2TimeProcessor.from_pretrained(tiny_folder("timechat", **TINY))
    known = measure(Samples.load(str(sets), "grounding", num_frames=8), processor_with(other))[:]
    other.tokenizer.add_tokens(change.get("words", []))
    if "bos" in change:
        tokenizer = json.loads(other.tokenizer.backend_tokenizer.to_str())
        tokenizer["post_processor"]["single"] = tokenizer["post_processor"]["single"][-1:]
        other.tokenizer._tokenizer = other.tokenizer.backend_tokenizer.from_str(json.dumps(tokenizer))
    settings = {name: value for name, value in change.items() if name not in ("num_frames", "words", "bos")}
    other = processor_with(other, **settings)
    samples = Samples.load(str(sets), "grounding", num_frames=change.get("num_frames", 8), sampling="uniform")
    found = measure(samples, other)[:]
    assert found["problem"] == [""] * len(samples)
    assert found["length"] != known["length"]
    rows = [{"epoch": 0, "set": 0, "row": row, "copy": 0, "pool": 0} for row in range(len(samples))]
    collate = Collator(other, [samples])
    assert found["length"] == [collate([one])["input_ids"].shape[1] for one in rows]


def test_lengths_of_other_records_are_measured_anew(sets, processor, tmp_path):
    """Of a set that was edited in place, and of one in another folder of the same name."""
    for name in ("one", "other"):
        shutil.copytree(sets, tmp_path / name / "set")
    before = measure(Samples.load(str(tmp_path / "one" / "set"), "iig", num_frames=8), processor)[:]
    assert before["length"] == measure(Samples.load(str(sets), "iig", num_frames=8), processor)["length"][:]
    for name, more in (("one", " Really?"), ("one", ""), ("other", " Are you sure?")):
        (file,) = (tmp_path / name / "set" / "iig").glob("*.parquet")
        table = pq.read_table(file)
        rows = table.to_pylist()
        rows[3]["messages"][0]["content"] += more
        rows[4]["messages"][0]["content"] += "?"
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
        mixture = mini_mixture(tmp_path, processor, sources=[Source(str(tmp_path / name / "set"), ["iig"])])
        assert mixture.column("length").tolist() == [one[0] for one in real_lengths(mixture, processor)]
        assert (mixture.column("length") != before["length"]).nonzero()[0].tolist() == [3, 4]


def test_lengths_by_several_processes(sets, processor):
    samples = Samples.load(str(sets), "video_grounding", num_frames=8)
    alone = measure(samples, processor)[:]
    samples.num_frames = 7
    shared = measure(samples, processor, num_proc=2)[:]
    assert shared["frames"] == [7] * len(samples) and shared["answers"] == alone["answers"]


def test_short_videos_count_as_if_they_were_long_enough(processor, tmp_path):
    samples = numbered_samples(tmp_path, [40, 3])
    assert measure(samples, processor)["frames"][:] == [8, 8]


def test_rows_that_are_too_long(mixture):
    lengths = mixture.column("length")
    limit = int(np.sort(lengths)[-4])
    fitting, long = mixture.without_long(limit)
    assert sorted(fitting.column("length")) == sorted(lengths[lengths <= limit])
    assert sorted(long) == sorted(np.array(records(mixture))[lengths > limit]) and 1 <= len(long) <= 3
    assert fitting.rows.column_names == mixture.rows.column_names and fitting.sets is mixture.sets
    assert sorted([*records(fitting), *long]) == sorted(records(mixture))
    assert all(row in mixture.rows for row in fitting.rows)
    assert mixture.without_long(int(lengths.max())) == (mixture, [])
    assert len(mixture.without_long(0)[1]) == len(mixture.rows)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda row: row["messages"][0].update(content="a </s>"), "expected no </s> in a message, found 'a </s>'"),
        (lambda row: row.update(targets=[9]), "record .*, targets: expected distinct places from 1 to 8"),
    ],
)
def test_bad_records_stop_before_anything_is_trained(sets, processor, tmp_path, spoil, message):
    """Or are left to the collator, which counts them."""
    shutil.copytree(sets, tmp_path / "set")
    (file,) = (tmp_path / "set" / "iig").glob("*.parquet")
    table = pq.read_table(file)
    rows = table.to_pylist()
    spoil(rows[1])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    source = Source(str(tmp_path / "set"), ["iic", "iig"])
    with pytest.raises(DataError, match=f"^1 records are no good, the first is sample '{rows[1]['id']}': {message}"):
        Mixture.load([source], processor, "uniform", 0)
    mixture = Mixture.load([source], processor, "uniform", 0, on_problem="skip")
    assert np.flatnonzero(mixture.column("length") == 0).tolist() == [9]
    batch = Collator(processor, mixture.sets, on_problem="skip")(draws(mixture, 8, 9))
    assert [one["id"] for one in batch["about"]["skipped"]] == [rows[1]["id"]] and len(batch["input_ids"]) == 1
    source.config = ["iic"]
    assert Mixture.load([source], processor, "uniform", 0).column("length").all()


def test_a_template_that_marks_no_answers_is_bad(sets, processor):
    plain = processor_with(processor, chat_template="{{ messages[0].content }} {{ messages[-1].content }}")
    with pytest.raises(DataError, match=r"8 records are no good.*marks \{% generation %\}"):
        mini_mixture(sets, plain, sources=[Source(str(sets), ["iig"])])


# Batches


def sampler(groups, lengths=None, batch=4, update=8, seed=0):
    groups = np.array(groups)
    lengths = np.random.default_rng(1).integers(100, 900, len(groups)) if lengths is None else np.array(lengths)
    return BatchSampler(groups, lengths, batch, update, seed)


def epochs(one, count):
    for epoch in range(count):
        one.set_epoch(epoch)
        yield [[row for _, row in batch] for batch in one]


def flat(batches):
    return [row for batch in batches for row in batch]


@given(
    sizes=st.lists(st.integers(1, 9), max_size=12),
    alone=st.integers(0, 90),
    batch=st.integers(1, 4),
    factor=st.integers(1, 4),
    seed=st.integers(0, 3),
)
def test_an_epoch_has_each_row_at_most_once(sizes, alone, batch, factor, seed):
    groups = np.random.default_rng(seed).permutation([*np.repeat(np.arange(len(sizes)), sizes), *[-1] * alone])
    one = sampler(groups.astype(int), batch=batch, update=batch * factor, seed=seed)
    found = list(one)
    assert len(found) == len(one) == len(groups) // (batch * factor) * factor
    assert all(len(rows) == batch for rows in found)
    rows = [row for batch in found for _, row in batch]
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(len(groups)))
    assert {epoch for batch in found for epoch, _ in batch} <= {0}
    assert all(type(row) is int for row in rows)


def test_order_depends_on_seed_and_epoch_alone():
    groups = [*np.repeat(np.arange(10), 4), *[-1] * 60]
    first, second = epochs(sampler(groups), 2)
    assert first != second and sorted(map(sorted, first)) != sorted(map(sorted, second))
    assert list(epochs(sampler(groups), 2)) == [first, second] == list(epochs(sampler(np.array(groups, float)), 2))
    assert next(epochs(sampler(groups, seed=1), 1)) != first
    late = sampler(groups)
    late.set_epoch(1)
    assert list(late) == list(late) == [[(1, row) for row in batch] for batch in second]


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_an_update_has_the_same_rows_however_it_is_shared(batch):
    groups = [*np.repeat(np.arange(9), [8, 8, 7, 8, 3, 8, 8, 5, 8]), *[-1] * 70]
    whole = next(epochs(sampler(groups, batch=16, update=16), 1))
    parts = next(epochs(sampler(groups, batch=batch, update=16), 1))
    assert [flat(parts[first : first + 16 // batch]) for first in range(0, len(parts), 16 // batch)] == whole


def test_processes_share_the_batches():
    """As accelerate does it: each batch is of one process, and an update is what all of them do between two steps."""
    one = sampler([*np.repeat(np.arange(5), 8), *[-1] * 53], batch=2, update=8)
    shards = [list(BatchSamplerShard(one, num_processes=2, process_index=number)) for number in range(2)]
    every = list(one)
    assert [len(shard) for shard in shards] == [len(every) // 2] * 2
    assert [batch for pair in zip(*shards, strict=True) for batch in pair] == every
    for update, first in zip(one.updates().tolist(), range(0, len(every) // 2, 2), strict=True):
        rows = [row for shard in shards for batch in shard[first : first + 2] for _, row in batch]
        assert sorted(rows) == sorted(update)


def test_groups_come_together():
    groups = np.random.default_rng(0).permutation([*np.repeat(np.arange(20), 8), *[-1] * 100])
    for batches in epochs(sampler(groups, batch=8, update=16), 3):
        kinds = [set(groups[rows]) for rows in batches]
        assert sum(kind != {-1} for kind in kinds) == 20 and all(len(kind) == 1 for kind in kinds)
        assert {next(iter(kind)) for kind in kinds} == set(range(-1, 20))
        mixed = [groups[rows].tolist() for rows in batches if groups[rows[0]] >= 0]
        assert mixed != sorted(mixed), "in random order"


def test_groups_that_lack_rows_do_not_break_the_others():
    for alone in (0, 51):
        groups = np.append(np.delete(np.repeat(np.arange(40), 8), [3, 100, 101, 200]), [-1] * alone)
        for batches in epochs(sampler(groups, batch=8, update=16), 4):
            together = [len(set(groups[rows])) for rows in batches]
            assert together.count(1) >= 35 and sum(together) <= len(together) + 6


def test_rows_of_a_group_and_of_a_bucket_are_sorted_by_length():
    groups, lengths = np.repeat([0, 1], 32), np.random.default_rng(0).integers(0, 999, 64)
    for update in sampler(groups, lengths, batch=4, update=32).updates():
        assert len(set(groups[update])) == 1 and lengths[update].tolist() == sorted(lengths[update])
    (bucket,) = sampler(np.full(64, -1), lengths, batch=4, update=64).updates()
    assert lengths[bucket].tolist() == sorted(lengths)


def test_less_padding_than_in_random_order():
    lengths = np.random.default_rng(0).integers(100, 900, 5000)
    one = sampler(np.full(5000, -1), lengths, batch=8, update=32)

    def padding(batches):
        return sum(max(lengths[rows]) * len(rows) - sum(lengths[rows]) for rows in batches)

    mine = next(epochs(one, 1))
    others = np.random.default_rng(0).permutation(5000)[: len(flat(mine))].reshape(-1, 8)
    assert padding(mine) < 0.05 * padding(others)
    means = np.array([lengths[rows].mean() for rows in one.updates()])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.25, "short and long ones in turn"
    widths = [np.ptp(lengths[rows]) for rows in one.updates()]
    assert np.mean(widths) > 5, "and neighbours of one bucket, not of the whole set"
    assert len({frozenset(rows) for rows in one.updates().tolist()} & {frozenset(flat(mine[:4]))}) <= 1


@pytest.mark.parametrize(
    "groups", [np.full(45, -1), np.repeat(np.arange(9), 5), np.repeat([*range(6), -1], [7, 7, 7, 7, 7, 7, 3])]
)
def test_what_is_left_over_is_random(groups):
    """Each row is left out now and then, the longest not more often than others."""
    lengths, out = np.arange(len(groups)), np.zeros(len(groups))
    runs = 600
    for batches in epochs(sampler(groups, lengths, batch=4, update=8), runs):
        missing = set(range(len(groups))) - set(flat(batches))
        assert len(missing) == len(groups) % 8 == 5
        out[list(missing)] += 1
    free = groups < 0 if 0 < (groups < 0).sum() <= 5 else np.ones(len(groups), dtype=bool)
    rates = out[~free] if not free.all() else out
    expected = 2 / 42 if not free.all() else 5 / 45
    assert (out[free & ~free.all()] == runs).all(), "rows of no group first"
    assert np.abs(rates / runs - expected).max() < 5 * np.sqrt(expected / runs)


def test_fewer_rows_than_an_update():
    for groups in ([-1] * 7, [0] * 7, []):
        one = sampler(np.array(groups, dtype=int))
        assert len(one) == 0 and list(one) == []
