import json
import re

import pytest

from dataset_scripts.items import DataError, Problems
from evaluation.caption_files import predictions, references


@pytest.fixture
def read(tmp_path):
    """`read(reader, content)`: what it reads, and the problems as (kind, place: detail)."""

    def read(reader, content, name="file.json"):
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        problems = Problems()
        return reader(file, problems), [(kind, f"{place}: {detail}") for kind, place, detail, _ in problems.found]

    return read


EVENT = {"timestamp": [0, 2.5], "caption": "cut bread."}


def test_predictions_of_timechat_and_of_the_activitynet_challenge(read):
    expected = {"v": [((0, 2.5), "cut bread.")], "w": []}
    assert read(predictions, {"v": [EVENT], "w": []}) == (expected, [])
    sentence = {"timestamp": [0, 2.5], "sentence": "cut bread."}
    assert read(predictions, {"version": 1.3, "results": {"v": [sentence], "w": []}}) == (expected, [])


def test_references_of_timeit(read):
    youcook2 = {
        "image_id": "a/b/v.mp4",
        "segments": [[0, 2], [3, 4]],
        "pure_cap": "cut bread. eat it",
        "caption": "<x>",
    }
    activitynet = {"image_id": "w.mp4", "segments": [[0, 2], [3, 4]], "caption": "He cuts.  .He eats. No."}
    found, problems = read(references, {"annotations": [youcook2, activitynet]})
    assert found == {
        "v.mp4": [((0, 2), "cut bread."), ((3, 4), "eat it.")],
        "w.mp4": [((0, 2), "He cuts."), ((3, 4), "He eats.")],
    }
    assert not problems


def test_references_of_activitynet_and_youcook2(read):
    entry = {"duration": 9, "timestamps": [[0, 2]], "sentences": [" He cuts."]}
    assert read(references, {"v_1": entry}) == ({"v_1": [((0, 2), " He cuts.")]}, [])
    step = {"id": 0, "segment": [0, 2], "sentence": "cut"}
    database = {
        "a": {"subset": "validation", "annotations": [step]},
        "b": {"subset": "training", "annotations": [step]},
    }
    assert read(references, {"database": database}) == ({"a": [((0, 2), "cut")]}, [])


@pytest.mark.parametrize(
    "event, kind, said",
    [
        ({"timestamp": [5, 2], "caption": "x y"}, "inverted", r"the event \[5.0, 2.0\] ends before it starts"),
        ({"timestamp": [-0.5, 7], "caption": "x"}, "negative", r"the event \[-0.5, 7.0\] starts before the video"),
        ({"timestamp": [5, 7], "caption": " . "}, "empty caption", "expected a caption, found ' . '"),
        ({"timestamp": [5, 7], "caption": "café"}, "non-ASCII", "found 'café'"),
    ],
)
def test_odd_events_are_named_and_kept(read, event, kind, said):
    found, problems = read(predictions, {"v": [EVENT, event]})
    assert [(start, end) for (start, end), _ in found["v"]] == [(0, 2.5), tuple(event["timestamp"])]
    assert [one for one, _ in problems] == [kind]
    assert re.match(f"file.json: v, event 1: {said}", problems[0][1])


@pytest.mark.parametrize(
    "event, said",
    [
        ({"caption": "x"}, "expected a field 'timestamp', found 'caption'"),
        ({"timestamp": [1, 2]}, "expected a field 'caption', found 'timestamp'"),
        ({"timestamp": [1], "caption": "x"}, r"field 'timestamp': expected \[start, end\], found \[1\]"),
        ({"timestamp": [1, "soon"], "caption": "x"}, "field 'timestamp': expected a number, found 'soon'"),
        ({"timestamp": [1, float("nan")], "caption": "x"}, "field 'timestamp': expected a number, found nan"),
        ({"timestamp": [1, 2], "caption": None}, "field 'caption': expected a text, found None"),
        (
            {"timestamp": [1, 2], "caption": "a \ud800"},
            "field 'caption': expected text, found half of a surrogate pair",
        ),
        ("x", "expected an object with a field"),
    ],
)
def test_a_malformed_event_is_named_and_left_out(read, event, said):
    found, problems = read(predictions, {"v": [EVENT, event, EVENT]})
    assert len(found["v"]) == 2
    assert problems[0][0] == "malformed"
    assert re.match(f"file.json: v, event 1: {said}", problems[0][1])


def test_an_event_of_a_reference_at_fault_is_named_by_its_place(read):
    entry = {"timestamps": [[0, 1], [2, "x"]], "sentences": ["a", "b"]}
    found, problems = read(references, {"v": entry, "w": {"timestamps": [[0, 1]], "sentences": ["a"]}})
    assert list(found) == ["w"]
    assert problems == [("malformed", "file.json: v: event 1: field 'timestamps': expected a number, found 'x'")]


def test_short_sentences_are_none_of_timits_captions(read):
    row = {"image_id": "v", "segments": [[0, 1]], "caption": "Cuts .Cut it."}
    assert read(references, {"annotations": [row]})[0] == {"v": [((0, 1), "Cut it.")]}


def test_a_reference_at_fault_is_named_and_left_out(read):
    good = {"image_id": "v", "segments": [[0, 1]], "pure_cap": "cut bread"}
    bad = [
        good | {"image_id": "w", "segments": [[0, 1], [2, 3]]},
        good | {"image_id": "x", "segments": [], "caption": "", "pure_cap": ""},
        {"image_id": "y", "segments": [], "caption": "No."},
        {"segments": [[0, 1]], "pure_cap": "cut"},
    ]
    found, problems = read(references, {"annotations": [good, *bad]})
    assert list(found) == ["v"]
    assert [kind for kind, _ in problems] == ["malformed", "malformed", "no events", "malformed"]
    assert problems[0][1] == (
        "file.json: annotation 1: expected as many segments as captions, found 2 segments, 1 captions"
    )
    assert "expected a field 'image_id'" in problems[3][1]


@pytest.mark.parametrize(
    "reader, content, said",
    [
        (predictions, '{"v": [], "v": []}', "'v' stands twice in one object"),
        (predictions, '{"v": [{"timestamp": [0, 1], "capt', "expected JSON: Unterminated string"),
        (predictions, [], "expected a JSON object, found a list"),
        (predictions, "[" * 100_000, "expected JSON: maximum recursion depth"),
        (predictions, {"annotations": []}, "expected predictions, found references"),
        (predictions, {"v": {"timestamps": [[0, 1]], "sentences": ["x"]}}, "expected predictions, found references"),
        (
            references,
            {"annotations": [{"image_id": "a/v", "segments": [[0, 1]], "pure_cap": "x"}] * 2},
            "found 'v' twice",
        ),
        (references, {"annotations": []}, "expected references, found none that can be used"),
        (references, {"v": [EVENT]}, "found none that can be used: file.json: v: expected an object with a field"),
    ],
)
def test_a_file_that_cant_be_used_is_refused_by_name(read, reader, content, said):
    with pytest.raises(DataError, match=rf"file\.json: .*{said}"):
        read(reader, content)
