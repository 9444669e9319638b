"""Each benchmark's annotations, what is asked about them, and answers as files and figures: true answers score 100."""

import json

import pytest

from dataset_scripts.items import DataError
from evaluation.benchmarks import BENCHMARKS, as_files, clip_scores, open_benchmark, queries, read_items
from evaluation.score import score_files
from tests.sources import write_lines


def highlight_row(qid, query, clips, scores, vid="abcdefghijk_60.0_210.0"):
    windows = [[2 * clips[0], 2 * clips[-1] + 2]]
    row = {"qid": qid, "query": query, "duration": 150, "vid": vid, "relevant_windows": windows}
    return row | {"relevant_clip_ids": clips, "saliency_scores": scores}


def videos_of(name, folder):
    """Annotations of two videos in the split of the benchmark and, where a file may hold it, another one."""
    if name == "youcook2":
        events = [
            {"id": 0, "segment": [2, 9], "sentence": "cut the onion"},
            {"id": 1, "segment": [12, 30], "sentence": "fry it in a pan with oil"},
        ]
        video = {"duration": 40.5, "subset": "validation", "annotations": events}
        database = {"a": video, "t": video | {"subset": "training"}, "b": video | {"annotations": events[::-1]}}
        (folder / "youcookii_annotations_trainval.json").write_text(json.dumps({"database": database}))
    elif name == "charades_sta":
        lines = [
            "AAAAA 24.3 30.4##person turn a light on.",
            "BBBBB 0.0 6.9##a person sits.",
            "AAAAA 1.0 2.5##they run.",
        ]
        (folder / "charades_sta_test.txt").write_text("\n".join(lines) + "\n")
        (folder / "charades_sta_train.txt").write_text("CCCCC 1.0 2.0##a person reads.\n")
    elif name == "qvhighlights":
        rows = [
            highlight_row(7, "A dog runs.", [3, 4, 5], [[4, 4, 4], [4, 4, 4], [4, 4, 4]]),
            highlight_row(12, "a cat", [0, 1], [[4, 4, 4], [4, 4, 4]], vid="bbbbbbbbbbb_0.0_150.0"),
            highlight_row(3, "A man waves.", [70, 71], [[4, 4, 4], [4, 4, 4]]),
        ]
        write_lines(folder / "highlight_val_release.jsonl", rows)
        write_lines(folder / "highlight_train_release.jsonl", [highlight_row(7, "Else.", [9], [[4, 4, 4]])])
    elif name == "activitynet":
        video = {"duration": 73.1, "timestamps": [[40.5, 69.08], [6.94, 30.1]]}
        video["sentences"] = [" A man waves.", "He goes."]
        (folder / "val_1.json").write_text(json.dumps({"v_aaa": video | {"sentences": ["First set.", "Here too."]}}))
        (folder / "val_2.json").write_text(json.dumps({"v_aaa": video, "v_bbb": video}))
        (folder / "train.json").write_text(json.dumps({"v_ccc": video}))
    elif name == "tempcompass":
        rows = [{"question": "What is done?\nA. jumps\nB. runs\nC. sits", "answer": "B. runs"}]
        other = [{"question": "Which way?\nA. up\nB. down", "answer": "A. up"}, {"question": "", "answer": "A. up"}]
        content = {"1": {"action": rows, "direction": other}, "2": {"speed": rows}}
        (folder / "questions").mkdir()
        (folder / "questions" / "multi-choice.json").write_text(json.dumps(content))
    elif name == "miniworld":
        event = {"start": 1.5, "end": 4, "caption": "a red circle spins around"}
        again = {"windows": [[5, 6.5], [9, 12]], "caption": "a blue star blinks"}
        events = {"duration": 15, "events": [event, again]}
        rows = [{"file": f"{split}/{name}.mp4", "split": split, **events} for split, name in (("test", 1), ("test", 2))]
        rows += [{"file": "train/3.mp4", "split": "train", **events}]
        rows += [{"file": "test/clip.mp4", "split": "test", "caption": "no events: a clip"}]
        write_lines(folder / "captions.jsonl", rows)
    return folder


@pytest.fixture(params=list(BENCHMARKS))
def benchmark(request, tmp_path):
    """Name, source and videos of each."""
    source = open_benchmark(request.param, str(videos_of(request.param, tmp_path)), BENCHMARKS[request.param].split)
    return request.param, source, read_items(source, BENCHMARKS[request.param].split)[0]


def truth(task, item):
    """What a model that knows everything answers."""

    def answer(moments=(), text=""):
        return {"moments": [list(one) for one in moments], "text": text, "failure": None}

    asked = queries(task, item)
    if task == "dvc":
        told = [answer((*window, event.caption) for event in item.events for window in event.windows)]
    elif task == "tvg":
        told = [answer(event.windows) for event in asked]
    elif task == "vhd":
        told = [answer((start, score) for start, score in event.saliency) for event in asked]
    else:
        told = [answer(text="B" if "runs" in event.caption else "A. up") for event in asked]
    return {"video": item.key, "task": task, "length": 99.0, "answers": told}


PERFECT = {
    "dvc": ("f1", "precision@0.9", "recall@0.3", "soda_c"),
    "tvg": ("r1@0.3", "r1@0.7", "r5@0.5", "miou"),
    "vhd": ("map_fair", "map_very_good", "hit1_very_good"),
    "choice": ("accuracy",),
}


def scored(task, folder, predictions, references):
    """The figures that `evaluation.score` gets from the files."""
    paths = [folder / name for name in ("predictions.json", "references.json")]
    for path, content in zip(paths, (predictions, references), strict=True):
        path.write_text(json.dumps(content))
    figures, problems = score_files(task, *paths, protocol="seq2time")
    assert not problems.found
    return figures


def test_true_answers_are_perfect(benchmark, tmp_path):
    name, source, items = benchmark
    assert len(items) == 2
    for task in BENCHMARKS[name].tasks + BENCHMARKS[name].on_demand:
        answers = {item.key: truth(task, item) for item in items}
        figures = scored(task, tmp_path, *as_files(task, source, items, answers, "seq2time"))
        for figure in PERFECT[task]:
            # TimeChat's IoU divides by the union and 1e-8; METEOR of equal sentences stays a little below 1
            assert figures[figure] == pytest.approx(100, abs=1 if figure == "soda_c" else 1e-4), figure
        assert figures["protocol"] == "seq2time" and not figures["missing"]


def test_unanswered_videos_are_left_out_and_ids_stay(benchmark):
    name, source, items = benchmark
    for task in BENCHMARKS[name].tasks:
        whole = as_files(task, source, items, {item.key: truth(task, item) for item in items}, "seq2time")
        part = as_files(task, source, items, {items[1].key: truth(task, items[1])}, "seq2time")
        for content, own in zip(whole, part, strict=True):
            rows, few = (
                one["annotations"] if task == "tvg" and "annotations" in one else one for one in (content, own)
            )
            assert 0 < len(few) < len(rows)
            assert all(rows[name] == few[name] if isinstance(few, dict) else name in rows for name in few)


def test_files_are_the_peers(tmp_path):
    source = open_benchmark("charades_sta", str(videos_of("charades_sta", tmp_path)), "test")
    items, _ = read_items(source, "test")
    unread = truth("tvg", items[1])
    unread["answers"][0] = {"moments": [], "text": "no idea", "failure": "no start and end"}
    answers = {"AAAAA": truth("tvg", items[0]), "BBBBB": unread}
    predictions, references = as_files("tvg", source, items, answers, "seq2time")
    figures = scored("tvg", tmp_path, predictions, references)
    assert predictions["1"] == {"timestamp": [[1.0, 2.5]], "query": "they run.", "vid": "AAAAA"}
    assert predictions["2"] == {"timestamp": [], "query": "a person sits.", "vid": "BBBBB"}
    one = {"image_id": "BBBBB", "caption": "a person sits.", "timestamp": [0.0, 6.9], "id": 2}
    assert references["annotations"][2] == one
    assert figures["unparsed"] == 1 and figures["r1@0.3"] == pytest.approx(200 / 3)


def test_highlights_are_the_rows_of_their_split(tmp_path):
    source = open_benchmark("qvhighlights", str(videos_of("qvhighlights", tmp_path)), "validation")
    items, _ = read_items(source, "validation")
    answers = {item.key: truth("vhd", item) for item in items}
    predictions, references = as_files("vhd", source, items, answers, "seq2time")
    assert [row["qid"] for row in references] == [7, 12, 3] and references[0]["query"] == "A dog runs."
    assert set(predictions[0]) == {"qid", "query", "vid", "pred_saliency_scores"}
    assert predictions[0]["pred_saliency_scores"] == [0, 0, 0, 4, 4, 4] + [0] * 69


def test_seconds_become_clips():
    moments = [[0.0, 2.0], [1.9999, 3.0], [3.5, 1.0], [149.9, 4.0], [150.0, 2.0], [151.0, 9.0]]
    clips = clip_scores(moments, 150, "seq2time")
    assert len(clips) == 75 and clips[:3] == [2.0, 2.0, 0.0] and clips[-1] == 3.0  # 1.9999 was 2 before it was written
    # TimeChat's script: int((t - 1) / 2); beyond the end is nothing
    assert clip_scores([[82.0, 1.5], [83.0, 2.5], [0.0, 1.0]], 150, "timechat")[40:43] == [1.5, 2.5, 0.0]
    assert clip_scores([[82.0, 1.5], [83.0, 2.5]], 150, "seq2time")[40:43] == [0.0, 2.0, 0.0]
    assert clip_scores([[0.0, 1.0]], 150, "timechat")[0] == 1.0
    assert clip_scores([[0.5, 1.0]], 1.0, "seq2time") == []


def test_activitynet_takes_its_second_set_unless_told(tmp_path):
    videos_of("activitynet", tmp_path)
    items, _ = read_items(open_benchmark("activitynet", str(tmp_path), "validation"), "validation")
    assert [item.events[0].caption for item in items] == ["A man waves.", "A man waves."]
    first = open_benchmark("activitynet", str(tmp_path / "val_1.json"), "validation")
    items, _ = read_items(first, "validation")
    assert [item.events[0].caption for item in items] == ["First set."]
    train = open_benchmark("activitynet", str(tmp_path), "train")
    assert [item.key for item in read_items(train, "train")[0]] == ["v_ccc"]
    source = open_benchmark("activitynet", str(tmp_path), "validation")
    items, _ = read_items(source, "validation")
    _, references = as_files("dvc", source, items, {item.key: truth("dvc", item) for item in items}, "seq2time")
    assert list(references) == ["v_aaa", "v_bbb"] and references["v_aaa"]["duration"] == 73.1
    assert references["v_aaa"]["timestamps"] == [[6.94, 30.1], [40.5, 69.08]]  # in order of time


def test_tempcompass_names_what_is_wrong(tmp_path):
    source = open_benchmark("tempcompass", str(videos_of("tempcompass", tmp_path)), "test")
    items, problems = read_items(source, "test")
    assert [event.id for event in items[0].events] == ["1/action/0", "1/direction/0"]
    (problem,) = problems.found
    assert problem[:2] == ("empty caption", "multi-choice.json: 1, event 1") and "'question'" in problem[2]
    (tmp_path / "questions" / "multi-choice.json").write_text(json.dumps({"1": [], "2": {"action": {}}, "3": {}}))
    with pytest.raises(DataError, match="split 'validation'"):
        read_items(source, "validation")
    _, problems = read_items(source, "test")
    assert [detail for _, _, detail, _ in problems.found] == [
        "expected an object with a field '', found a list",
        "field 'action': expected a list, found {}",
    ]
    with pytest.raises(DataError, match="there is no such"):
        open_benchmark("tempcompass", str(tmp_path / "nowhere"), "test")


def test_a_key_counts_once(tmp_path):
    rows = [{"file": "a.mp4", "id": "x", "split": "test", "events": [{"start": 0, "end": 1, "caption": "b"}]}] * 2
    write_lines(tmp_path / "captions.jsonl", rows)
    items, problems = read_items(open_benchmark("miniworld", str(tmp_path), "test"), "test")
    assert len(items) == 1 and problems.counts == {"duplicate id": 1}


def test_a_query_counts_once(tmp_path):
    """Files of predictions know a query by its number, or by its question: asked twice it would have two answers."""
    rows = [highlight_row(qid, query, [1], [[4, 4, 4]]) for qid, query in ((7, "a"), (8, "b"), (7, "c"))]
    write_lines(tmp_path / "highlight_val_release.jsonl", rows)
    items, problems = read_items(open_benchmark("qvhighlights", str(tmp_path), "validation"), "validation")
    assert [event.id for item in items for event in item.events] == ["7", "8"]
    assert [(kind, detail) for kind, _, detail, _ in problems.found] == [("duplicate id", "query '7' was there before")]
    question = {"question": "what?\nA. red\nB. blue", "answer": "B. blue"}
    content = {"1": {"action": [question, question], "speed": [question]}}
    (tmp_path / "multi-choice.json").write_text(json.dumps(content))
    items, problems = read_items(open_benchmark("tempcompass", str(tmp_path / "multi-choice.json"), "test"), "test")
    assert [event.id for event in items[0].events] == ["1/action/0", "1/speed/0"]
    assert [kind for kind, *_ in problems.found] == ["duplicate id"]
