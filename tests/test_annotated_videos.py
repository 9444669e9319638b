import json

import pyarrow.parquet as pq
import pytest

from dataset_scripts import annotated_videos
from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from modeling_seq2time.time_notation import render
from tests.sources import write_clip, write_lines


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_clip(folder / "charades" / "AAAAA.mp4", 1, 5.0)
    lines = ["AAAAA 0.0 3.0##person turn a light on.", "AAAAA 4.0 1.0##b.", "AAAAA 2.0 5.6##a [[7/96 image]] sign"]
    (folder / "charades" / "charades_sta_train.txt").write_text("\n".join(lines))
    anet = folder / "timeit" / "data" / "dense_video_captioning" / "anet"
    write_clip(anet / "v_a.mp4", 2, 6.0)
    answer = "0.0 - 2.0 seconds, cook for 30 seconds.  2.0 - 6.4 seconds, he stands."
    starts = "0.5 seconds, a sign ]] - [[ says. 3.0 seconds, the end."
    (anet / "instruct_dvc_0k_anet.json").write_text(
        json.dumps(
            [
                {"video": "v_a.mp4", "QA": [{"q": "What happens?", "a": answer}]},
                {"video": "v_a.mp4", "QA": [{"q": "When?", "a": starts}]},
            ]
        )
    )
    write_clip(folder / "own" / "b.mp4", 3, 8.0)
    events = [{"start": 4.0, "end": 6.0, "caption": "Two."}, {"windows": [[0, 1], [7, 8]], "caption": "one"}]
    write_lines(folder / "own" / "captions.jsonl", [{"file": "b.mp4", "events": events}])
    row = {"qid": 8, "query": "a goal", "duration": 8, "vid": "qqqqqqqqqqq_0.0_8.0", "relevant_windows": [[2, 6]]}
    row |= {"relevant_clip_ids": [1, 2], "saliency_scores": [[4, 4, 3], [1, 2, 2]]}
    write_lines(folder / "qv" / "highlight_train_release.jsonl", [row])
    write_clip(folder / "qv" / "v_qqqqqqqqqqq_0.0_8.0.mp4", 4, 8.0)
    return folder


def build(sources, output, *options):
    names = {"charades_sta": "charades", "timeit": "timeit", "folder": "own", "qvhighlights": "qv"}
    arguments = [f"--source={name}={sources / folder}" for name, folder in names.items()]
    annotated_videos.main([*arguments, "--output", str(output), "--num-proc", "1", "--on-problem", "skip", *options])
    return output


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    return build(sources, tmp_path_factory.mktemp("set"))


def rows(folder, config):
    records = [row for file in sorted((folder / config).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["id"]: row for row in records}


def text(row, role=1, notation="text"):
    return render(row["messages"][role]["content"], notation)


def test_dialogues_keep_their_words_and_get_marks(built):
    row, starts = (row for name, row in rows(built, "video_dense_captioning").items() if name.startswith("timeit/"))
    assert [(target["start"] * 6, target["end"] * 6) for target in starts["targets"]] == [(0.5, 0.5), (3.0, 3.0)]
    assert row["messages"][1]["content"] == (
        "[[0.0/6.0 s]] - [[2.0/6.0 s]] seconds, cook for 30 seconds.  [[2.0/6.0 s]] - [[6.0/6.0 s]] seconds, he stands."
    )
    assert text(row, notation="rpt").startswith("<0><0><0><0> - <3><3><3><3>, cook for 30 seconds.")
    assert row["targets"] == [{"start": 0.0, "end": 1 / 3}, {"start": 1 / 3, "end": 1.0}]
    assert text(row, 0) == "What happens?"


def test_events_become_questions(built):
    dense = rows(built, "video_dense_captioning")["folder/b.mp4"]
    assert text(dense) == "0.0 - 1.0 seconds, one. 4.0 - 6.0 seconds, Two. 7.0 - 8.0 seconds, one."
    grounding = rows(built, "video_grounding")
    assert {name for name in grounding if name.startswith("charades")} == {
        "charades_sta/AAAAA#1",
        "charades_sta/AAAAA#3",
    }
    assert text(grounding["charades_sta/AAAAA#1"]) == "The given query happens in 0.0 - 3.0 seconds."
    assert text(grounding["charades_sta/AAAAA#3"]) == "The given query happens in 2.0 - 5.0 seconds.", "cut at the end"
    assert "a [[7/96 image]] sign" in text(grounding["charades_sta/AAAAA#3"], 0)
    assert text(grounding["folder/b.mp4#1"]) == "The given query happens in 0.0 - 1.0, 7.0 - 8.0 seconds."
    (highlight,) = rows(built, "video_highlights").values()
    assert highlight["id"] == "qvhighlights/qqqqqqqqqqq_0.0_8.0#8"
    assert text(highlight) == (
        "The highlight timestamps are in the 2.0, 4.0 seconds. Their saliency scores are 3.7, 1.7."
    )
    assert "a goal" in text(highlight, 0)


def test_a_video_gives_its_frames_with_their_own_times(built, sources):
    folders = {"charades_sta": sources / "charades", "timeit": sources / "timeit", "folder": sources / "own"}
    samples = Samples.load(built, "video_grounding", folders=folders | {"qvhighlights": sources / "qv"}, num_frames=10)
    sample = samples[0]
    assert sample["metadata"]["times"] == pytest.approx([number / 2 for number in range(10)])
    assert sample["metadata"]["duration"] == 5.0 and len(sample["frames"]) == 10


def test_records_refer_to_their_own_video(built, sources, tmp_path):
    for folder in (built, build(sources, tmp_path / "set", "--shard-size", "1")):
        (shard,) = (folder / "video_pool").glob("*.parquet")
        pool = {row["id"]: f"{row['source']}/{row['key']}" for row in pq.read_table(shard).to_pylist()}
        records = rows(folder, "video_grounding") | rows(folder, "video_dense_captioning")
        assert len(records) == 8 and len(pool) == 5
        for name, row in records.items():
            assert name.startswith(pool[row["sequence"][0]["clip"]]), name
    assert len(list((tmp_path / "set" / "video_grounding").glob("*.parquet"))) == 5


def test_a_part_between_two_frames_shows_the_one_before(tmp_path):
    write_clip(tmp_path / "own" / "b.mp4", 3, 4.0, fps=1)
    events = [{"start": 0.0, "end": 0.3, "caption": "x"}]
    rows_of = [{"file": "b.mp4", "start": 2.2, "end": 2.6, "events": events}]
    write_lines(tmp_path / "own" / "captions.jsonl", rows_of)
    arguments = ["--source", f"folder={tmp_path / 'own'}", "--output", str(tmp_path / "set"), "--num-proc", "1"]
    annotated_videos.main(arguments)
    sample = Samples.load(tmp_path / "set", "video_grounding", folders={"folder": tmp_path / "own"})[0]
    assert len(sample["frames"]) == 1 and sample["metadata"]["times"] == [0.0]


def test_tasks_can_be_chosen(sources, tmp_path):
    build(sources, tmp_path / "set", "--tasks", "grounding")
    assert {folder.name for folder in (tmp_path / "set").iterdir() if folder.is_dir()} == {
        "video_grounding", "video_pool", "locks",
    }  # fmt: skip
    with pytest.raises(DataError, match="--tasks tennis: expected tasks of dense_captioning"):
        build(sources, tmp_path / "other", "--tasks", "tennis")
