import itertools
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_scripts import clip_sequences
from dataset_scripts.clip_sequences import timeline
from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from modeling_seq2time.time_notation import marks
from modeling_seq2time.video_decoding import open_video
from tests.sources import ACTIONS, is_colour, write_clip, write_clips, write_lines
from tests.videos import read_number, write_video


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def build(source, output, *options):
    options = ("--max-clips", "6", *options) if "--max-clips" not in options else options
    clip_sequences.main(["--source", f"folder={source}", "--output", str(output), "--num-proc", "1", *options])
    return output


def rows(folder, config):
    return [row for file in sorted((folder / config).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("set"), "--num-instances", "600", "--render", "2")


def test_sequences_are_the_papers(built):
    pool = rows(built, "clip_pool")
    records = rows(built, "dense_captioning") + rows(built, "grounding")
    assert Counter(row["task"] for row in records) == {"dense_captioning": 300, "grounding": 300}
    counts = Counter(len(row["sequence"]) for row in records)
    assert set(counts) == {2, 3, 4, 5, 6} and min(counts.values()) > 80
    rates = np.array([clip["rate"] for row in records for clip in row["sequence"]])
    assert rates.min() >= 0.5 and rates.max() <= 2.0 and abs(np.log(rates).mean()) < 0.05, "log-uniform around 1"
    assert np.histogram(np.log2(rates), 4, (-1, 1))[0].min() > 0.2 * len(rates)
    for row in records:
        clips = [pool[clip["clip"]] for clip in row["sequence"]]
        assert len({clip["label"] for clip in clips}) == len(clips), "classes differ"
        lengths = [clip["duration"] * one["rate"] for clip, one in zip(clips, row["sequence"], strict=True)]
        edges = np.concatenate([[0], np.cumsum(lengths) / sum(lengths)])
        spans = [(target["start"], target["end"]) for target in row["targets"]]
        question, answer = (message["content"] for message in row["messages"])
        if row["task"] == "dense_captioning":
            assert np.allclose(spans, list(itertools.pairwise(edges)), atol=0.01)
            pieces = answer.split(" seconds, ")[1:]
            for clip, piece in zip(clips, pieces, strict=True):
                assert piece.startswith(clip["caption"])
        else:
            (told,) = [clip for clip in clips if clip["caption"].rstrip(".") in question]
            place = clips.index(told)
            assert np.allclose(spans, [edges[place : place + 2]], atol=0.01)
            assert answer.startswith("The given query happens in [[") and answer.endswith("]] seconds.")
        assert [place / length for place, length, _ in marks(answer)] == [edge for span in spans for edge in span]


def test_several_questions_about_a_sequence(source, tmp_path):
    build(source, tmp_path, "--num-instances", "80", "--questions", "4")
    captions = [clip["caption"].rstrip(".") for clip in rows(tmp_path, "clip_pool")]
    assert all(len(row["messages"]) == 2 for row in rows(tmp_path, "dense_captioning"))
    records = rows(tmp_path, "grounding")
    for row in records:
        shown = [captions[clip["clip"]] for clip in row["sequence"]]
        texts = [message["content"] for message in row["messages"]]
        asked = [[place for place, one in enumerate(shown) if one in question] for question in texts[::2]]
        assert all(len(places) == 1 for places in asked)
        places = [place for (place,) in asked]
        assert len(places) == len(row["targets"]) and not any(
            abs(a - b) < 2 for a, b in itertools.combinations(places, 2)
        )
        assert (len(shown) + 2) // 3 <= len(places) <= (len(shown) + 1) // 2
        starts = [target["start"] for target in row["targets"]]
        assert np.argsort(starts).tolist() == np.argsort(places).tolist()
        said = [place / length for answer in texts[1::2] for place, length, _ in marks(answer)]
        assert said == [edge for target in row["targets"] for edge in (target["start"], target["end"])]
    assert {len(row["messages"]) for row in records} == {2, 4, 6}


def test_frames_come_from_the_clip_of_their_time(built, source):
    samples = Samples.load(built, "dense_captioning", folders={"folder": source}, num_frames=24)
    for number in (0, 7):
        sample = samples[number]
        times, length = np.array(sample["metadata"]["times"]), sample["metadata"]["duration"]
        assert len(sample["frames"]) == 24 and np.allclose(times, np.arange(24) * length / 24)
        for frame, time in zip(sample["frames"], times, strict=True):
            (place,) = [
                place
                for place, target in enumerate(sample["targets"])
                if target["start"] <= time / length + 1e-6 < target["end"]
                or math.isclose(time / length, target["start"])
            ][-1:]
            key = samples.pool[sample["sequence"][place]["clip"]]["key"]
            edge = min(abs(time - side * length) for target in sample["targets"] for side in target.values())
            assert edge < 0.02 or is_colour(frame, int(key.removesuffix(".mp4"))), (number, time)
    random = Samples.load(built, "dense_captioning", folders={"folder": source}, num_frames=24, sampling="random")
    times = np.array(random[0]["metadata"]["times"])
    assert (np.floor(times / random[0]["metadata"]["duration"] * 24) == np.arange(24)).all()
    assert random[0]["metadata"]["times"] == times.tolist() != samples[0]["metadata"]["times"]


def test_frames_are_those_of_the_clips_own_time(tmp_path):
    """Frames that carry their number: a clip at rate r shows second (t - its start) / r at second t."""
    rows = [{"file": f"{number}.mp4", "label": str(number), "caption": f"clip {number}"} for number in range(2)]
    write_lines(tmp_path / "source" / "captions.jsonl", rows)
    for number in range(2):
        write_video(tmp_path / "source" / f"{number}.mp4", 100, fps=10)
    build(tmp_path / "source", tmp_path / "set", "--num-instances", "4", "--max-clips", "2")
    samples = Samples.load(tmp_path / "set", "dense_captioning", folders={"folder": tmp_path / "source"}, num_frames=40)
    sample = samples[0]
    first, second = (clip["rate"] for clip in sample["sequence"])
    for frame, time in zip(sample["frames"], sample["metadata"]["times"], strict=True):
        inside = time / first if time < 10 * first else (time - 10 * first) / second
        assert read_number(frame) == int(inside * 10 + 1e-4)


def test_the_processor_takes_clip_sequences(built, source, tiny):
    _, processor = tiny("timechat")
    sample = Samples.load(built, "grounding", folders={"folder": source}, num_frames=12)[0]
    video = {"videos": [sample["frames"]], "video_metadata": [sample["metadata"]]}
    inputs = processor(text="<video>When?", **video, do_sample_frames=False, return_tensors="pt")
    metadata = inputs["video_metadata"][0]
    assert metadata.unit == "s" and metadata.length == sample["metadata"]["duration"]
    assert metadata.positions == pytest.approx([place / 12 for place in range(12)])


def test_rendered_videos_show_the_timeline(built, source):
    samples = Samples.load(built, "dense_captioning", folders={"folder": source})
    for number in range(2):
        record = samples.records[number]
        reader = open_video(str(built / "rendered" / f"{record['id']}.mp4"))
        rows = samples.pool[[clip["clip"] for clip in record["sequence"]]]
        length = sum(time * clip["rate"] for time, clip in zip(rows["duration"], record["sequence"], strict=True))
        assert reader.duration == pytest.approx(length, abs=0.11)
        for target, key in zip(record["targets"], rows["key"], strict=True):
            (middle,) = reader.read([round((target["start"] + target["end"]) / 2 * (reader.num_frames - 1))])[0]
            assert is_colour(middle[20:-20, 20:-20], int(key.removesuffix(".mp4")))
        subtitles = (built / "rendered" / f"{record['id']}.vtt").read_text()
        assert subtitles.count(" --> ") == len(rows["caption"]) and all(text in subtitles for text in rows["caption"])


def test_the_virtual_timeline():
    assert timeline([10.0, 10.0, 4.0], [0.5, 2.0, 1.0]) == ([0.0, 5.0, 25.0, 29.0], 29.0)


def test_captions_that_were_generated(source, tmp_path):
    captions = tmp_path / "captions"
    captions.mkdir()
    keys = [f"{number}.mp4" for number in range(12)]
    texts = ["" if number == 3 else f"A person, number {number}, moves." for number in range(12)]
    pq.write_table(pa.table({"key": keys, "caption": texts}), captions / "captions-00000.parquet")
    build(source, tmp_path / "set", "--num-instances", "20", "--captions", str(captions))
    found = {row["key"]: row["caption"] for row in rows(tmp_path / "set", "clip_pool")}
    assert found["2.mp4"] == "A person, number 2, moves."
    assert found["3.mp4"] == "Someone is drop kicking, take 3.", "the source's own where none was generated"
    pq.write_table(pa.table({"name": keys}), captions / "captions-00000.parquet")
    with pytest.raises(DataError, match="expected a column 'key', found name"):
        build(source, tmp_path / "other", "--captions", str(captions))


def test_clips_without_captions_and_too_few_classes(tmp_path):
    folder = write_clips(tmp_path / "source", 6)
    lines = (folder / "captions.jsonl").read_text().replace('"caption": "Someone', '"was": "Someone')
    (folder / "captions.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"empty caption: captions.jsonl: line 1: '0.mp4': expected a caption"):
        build(folder, tmp_path / "set", "--num-instances", "20")
    build(folder, tmp_path / "set", "--num-instances", "20", "--labels-as-captions")
    assert {row["caption"] for row in rows(tmp_path / "set", "clip_pool")} == set(ACTIONS)
    with pytest.raises(DataError, match="--max-clips 10: .* different classes, the pool has 6 of them in 6 clips"):
        build(folder, tmp_path / "more", "--labels-as-captions", "--max-clips", "10")


def test_changed_clips_are_another_set(tmp_path):
    folder = write_clips(tmp_path / "source", 6)
    build(folder, tmp_path / "set", "--num-instances", "20")
    write_clip(folder / "0.mp4", 0, 3.0)
    with pytest.raises(DataError, match="--overwrite"):
        build(folder, tmp_path / "set", "--num-instances", "20")
    build(folder, tmp_path / "set", "--num-instances", "20", "--overwrite")
    assert rows(tmp_path / "set", "clip_pool")[0]["duration"] == pytest.approx(3.0)


def test_shared_pools_of_clips(source, tmp_path):
    options = ("--num-instances", "64", "--max-clips", "6", "--shared-pool", "8", "--shared-sequences", "16")
    build(source, tmp_path, *options)
    records = rows(tmp_path, "dense_captioning") + rows(tmp_path, "grounding")
    groups = {row["group"]: set() for row in records}
    for row in records:
        groups[row["group"]] |= {clip["clip"] for clip in row["sequence"]}
    assert len(groups) == 4 and all(len(clips) <= 8 for clips in groups.values())
