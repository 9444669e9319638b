"""The readers of `dataset_scripts/sources`, on small files in exactly the published formats."""

import json

import pytest

from dataset_scripts.fields import Malformed
from dataset_scripts.items import DataError, Event, Item, Problems
from dataset_scripts.sources import (
    activitynet,
    charades_sta,
    coin,
    didemo,
    kinetics,
    qvhighlights,
    sharegpt4video,
    timeit,
    valley,
    youcook2,
)
from dataset_scripts.sources.reading import part_of


READERS = (activitynet, charades_sta, coin, didemo, kinetics, qvhighlights, sharegpt4video, timeit, valley, youcook2)


@pytest.fixture
def read(tmp_path):
    """`read(module, name, content)` → (items, problems) of one file; `content` is text or what is written as JSON."""

    def run(module, name, content):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str):
            lines = content if name.endswith("jsonl") else [content]
            content = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        file.write_text(content, encoding="utf-8")
        problems = Problems()
        return list(module.read(file, problems)), [found[:3] for found in problems.found]

    return run


def faults(found):
    return [(kind, place) for kind, place, _ in found]


@pytest.mark.parametrize("module", READERS)
def test_every_reader_says_what_it_reads(module, tmp_path):
    assert module.KIND in ("clips", "videos") and module.TASKS and module.LICENCE and module.__doc__
    with pytest.raises(DataError, match="expected annotations named .*, found none"):
        list(module.read(tmp_path, Problems()))
    with pytest.raises(DataError, match="there is no such file or folder"):
        list(module.read(tmp_path / "absent", Problems()))


def test_charades_sta_keeps_inverted_rows_and_groups_by_video(read):
    lines = (
        "3MSZA 24.3 30.4##person turn a light on.",
        "LG0RR 21.5 18.2##a person closes the door.",
        "3MSZA 30.4 9.1##a person sits down.",
        "LG0RR 5.0 4.9##a person opens the door.",
        "PKPYK 12.0 3.0##person eats.",
        "",
        "PKPYK 1.0 2.0## ",
        "PKPYK 1.0-2.0##person drinks.",
    )
    items, problems = read(charades_sta, "charades_sta_train.txt", "\n".join(lines))
    assert items[0] == Item(
        "3MSZA",
        ("3MSZA",),
        "charades_sta_train.txt: line 1",
        events=[
            Event("person turn a light on.", [(24.3, 30.4)], "1"),
            Event("a person sits down.", [(30.4, 9.1)], "3"),
        ],
    )
    assert [event.windows for item in items for event in item.events] == [
        [(24.3, 30.4)],
        [(30.4, 9.1)],
        [(21.5, 18.2)],
        [(5.0, 4.9)],
        [(12.0, 3.0)],
    ]
    place = "charades_sta_train.txt: line"
    assert faults(problems) == [("empty caption", f"{place} 7"), ("malformed", f"{place} 8")]
    assert "found 'PKPYK 1.0-2.0##person drinks.'" in problems[1][2]
    assert read(charades_sta, "charades_sta_test.txt", "\n".join(lines))[0][0].split == "test"


def test_kinetics(read):
    rows = """label,youtube_id,time_start,time_end,split
abseiling,0wR5jVB-WPk,417,427,val
"playing ""ukulele"", seated",--07WQ2iBlw,1,11,train
zumba,x,-1,9,train
zumba,,1,9,train
zumba,x,1,9,spring
zumba,x,1
"""
    items, problems = read(kinetics, "val.csv", rows)
    assert items == [
        Item("0wR5jVB-WPk_000417_000427", ("0wR5jVB-WPk_000417_000427",), "val.csv: line 2", "validation",
             label="abseiling", duration=10.0),
        Item("--07WQ2iBlw_000001_000011", ("--07WQ2iBlw_000001_000011",), "val.csv: line 3", "train",
             label='playing "ukulele", seated', duration=10.0),
    ]  # fmt: skip
    assert faults(problems) == [("malformed", f"val.csv: line {line}") for line in (4, 5, 6, 7)]
    assert [word in problems[number][2] for number, word in enumerate(("'-1'", "id", "'spring'", "'time_end'"))] == [
        True
    ] * 4

    (item,), _ = read(kinetics, "k400.csv", "label,youtube_id,time_start,time_end,split\na,b,1,2,validate\n")
    assert item.split == "validation"
    (item,), problems = read(kinetics, "test.csv", "youtube_id,time_start,time_end,split\n---QUuC4vJs,84,94,test\n")
    assert (item.label, item.split, item.key, problems) == ("", "test", "---QUuC4vJs_000084_000094", [])
    with pytest.raises(DataError, match=r"odd\.csv: expected a column 'time_start', found label, youtube_id, start"):
        read(kinetics, "odd.csv", "label,youtube_id,start\na,b,1\n")


def test_youcook2(read):
    name = "youcookii_annotations_trainval.json"
    video = {
        "duration": 241.64,
        "subset": "validation",
        "recipe_type": "212",
        "video_url": "https://www.youtube.com/watch?v=fn9anlEL4FI",
        "annotations": [
            {"id": 0, "segment": [25, 37], "sentence": "spread margarine on two slices of white bread"},
            {"id": 1, "segment": [48, 53], "sentence": " "},
            {"id": 2, "segment": [-1, 53], "sentence": "cut"},
            {"id": 3, "segment": [60, "61.5"], "sentence": " cook for 30 seconds\n"},
            {"id": 4, "sentence": "serve"},
            "serve",
        ],
    }
    database = {
        "fn9anlEL4FI": video,
        "testing0000": {"duration": 100, "subset": "testing"},
        "lacks000000": {"duration": 100, "subset": "training"},
        "nolength000": video | {"duration": "long"},
    }
    items, problems = read(youcook2, name, {"database": database})
    assert items == [
        Item(
            "fn9anlEL4FI",
            ("fn9anlEL4FI",),
            f"{name}: fn9anlEL4FI",
            "validation",
            duration=241.64,
            events=[
                Event("spread margarine on two slices of white bread", [(25.0, 37.0)], "0"),
                Event("cook for 30 seconds", [(60.0, 61.5)], "3"),
            ],
        ),
        Item("testing0000", ("testing0000",), f"{name}: testing0000", "test", duration=100.0),
    ]
    events = [f"{name}: fn9anlEL4FI, event {number}" for number in (1, 2, 4, 5)]
    kinds = ("empty caption", "malformed", "malformed", "malformed", "malformed", "malformed")
    places = (*events, f"{name}: lacks000000", f"{name}: nolength000")
    assert faults(problems) == list(zip(kinds, places, strict=True))
    assert "'segment'" in problems[2][2] and "'annotations', found 'duration', 'subset'" in problems[4][2]


def test_coin_counts_events_since_ids_name_the_kind_of_step(read):
    step = {"id": "169", "segment": [60.0, 69.0], "label": "tighten the screws"}
    entry = {
        "duration": 109.2,
        "class": "ChangeCarTire",
        "video_url": "…",
        "start": 52.0,
        "end": 90.0,
        "recipe_type": 13,
    }
    entry |= {"subset": "training", "annotation": [step, step | {"segment": [80, 85.5]}]}
    items, problems = read(coin, "COIN.json", {"database": {"NLy71UrHElw": entry, "x": entry | {"annotation": None}}})
    assert items == [
        Item(
            "NLy71UrHElw",
            ("NLy71UrHElw",),
            "COIN.json: NLy71UrHElw",
            label="ChangeCarTire",
            duration=109.2,
            events=[
                Event("tighten the screws", [(60.0, 69.0)], "0"),
                Event("tighten the screws", [(80.0, 85.5)], "1"),
            ],
        )
    ]
    assert faults(problems) == [("malformed", "COIN.json: x")]


def test_activitynet_has_two_reference_sets(tmp_path):
    captions = {"duration": 73.1, "timestamps": [[6.94, 69.08], [60, 73.1]], "sentences": [" A man sits. ", "  "]}
    for name in ("train", "val_1", "val_2"):
        (tmp_path / f"{name}.json").write_text(json.dumps({f"v_{name[0]}MinmayCk2N": captions}))
    (tmp_path / "train_ids.json").write_text("[]")
    short = {"v_short": captions | {"sentences": ["one"]}}
    (tmp_path / "val_2.json").write_text(json.dumps({"v_vMinmayCk2N": captions, **short}))
    problems = Problems()
    items = list(activitynet.read(tmp_path, problems))
    assert [(item.key, item.names, item.split) for item in items] == [
        ("v_tMinmayCk2N", ("v_tMinmayCk2N", "tMinmayCk2N"), "train"),
        ("v_vMinmayCk2N", ("v_vMinmayCk2N", "vMinmayCk2N"), "validation"),
        ("v_vMinmayCk2N/val_2", ("v_vMinmayCk2N", "vMinmayCk2N"), "validation"),
    ]
    assert all(item.events == [Event("A man sits.", [(6.94, 69.08)], "0")] and item.duration == 73.1 for item in items)
    assert problems.counts == {"empty caption": 3, "malformed": 1}
    assert problems.found[-1][1:3] == (
        "val_2.json: v_short",
        "expected as many timestamps as sentences, found 2 timestamps, 1 sentences",
    )


@pytest.mark.parametrize(
    ("times", "window"),
    [
        ([[4, 4], [0, 0], [4, 4], [4, 4]], (20.0, 25.0)),
        ([[1, 1], [1, 1], [1, 1], [1, 1]], (5.0, 10.0)),
        ([[0, 5], [2, 3], [2, 3], [0, 5], [1, 1]], (0.0, 30.0)),  # equals: the first
        ([[3, 3], [2, 3], [2, 3], [0, 1]], (10.0, 20.0)),
    ],
)
def test_didemo_takes_the_window_of_most_annotators(read, times, window):
    row = {
        "annotation_id": 1,
        "num_segments": 6,
        "description": "someone kicks the bug.",
        "dl_link": "…",
        "times": times,
    }
    items, problems = read(didemo, "train_data.json", [row | {"video": "26292851@N04_4253489686_265c3c8051.m4v"}])
    assert items[0].events == [Event("someone kicks the bug.", [window], "1")] and not problems
    assert didemo.TOLERANCE == 5.0


def test_didemo_groups_rows_by_video(read):
    row = {"annotation_id": 7, "description": "a dog", "times": [[0, 0]] * 4, "video": "a.mov"}
    rows = [
        row,
        row | {"video": "b"},
        row | {"annotation_id": 8, "description": " a cat"},
        row | {"times": []},
        row | {"times": [[0.5, 1]]},
        row | {"description": ""},
        [row],
    ]
    items, problems = read(didemo, "val_data.json", rows)
    assert [(item.key, item.names, item.split, item.place) for item in items] == [
        ("a.mov", ("a.mov",), "validation", "val_data.json: row 0"),
        ("b", ("b",), "validation", "val_data.json: row 1"),
    ]
    assert [(event.id, event.caption) for event in items[0].events] == [("7", "a dog"), ("8", "a cat")]
    kinds = ["malformed", "malformed", "empty caption", "malformed"]
    assert faults(problems) == [(kind, f"val_data.json: row {row}") for row, kind in enumerate(kinds, 3)]


def test_qvhighlights(read):
    row = {
        "qid": 2579,
        "query": "A girl and her mother cooked.",
        "duration": 150,
        "vid": "NUsG9BgSes0_210.0_360.0",
        "relevant_windows": [[0, 4], [82, 150]],
        "relevant_clip_ids": [0, 1, 41],
        "saliency_scores": [[4, 1, 1], [3, 3, 3], [2, 3, 3]],
    }
    bad = [
        row | {"saliency_scores": [[4, 1, 1]]},
        {name: value for name, value in row.items() if name != "relevant_windows"},
        row | {"saliency_scores": [[1], [2], ["high"]]},
        "{broken",
        "[]",
    ]
    items, problems = read(qvhighlights, "highlight_train_release.jsonl", [row, row | {"query": "Again."}, *bad])
    assert items == [
        Item(
            "NUsG9BgSes0_210.0_360.0",
            ("NUsG9BgSes0_210.0_360.0", "v_NUsG9BgSes0_210.0_360.0"),
            "highlight_train_release.jsonl: line 1",
            duration=150.0,
            whole="NUsG9BgSes0",
            start=210.0,
            end=360.0,
            events=[
                Event(caption, [(0.0, 4.0), (82.0, 150.0)], "2579", [(0.0, 2.0), (2.0, 3.0), (82.0, 2.6667)])
                for caption in ("A girl and her mother cooked.", "Again.")  # one id twice stays visible
            ],
        )
    ]
    assert faults(problems) == [("malformed", f"highlight_train_release.jsonl: line {line}") for line in range(3, 8)]
    assert "'relevant_windows'" in problems[1][2] and "scores from 0, found 'high'" in problems[2][2]

    hidden = {name: row[name] for name in ("qid", "query", "duration", "vid")}
    (item,), problems = read(qvhighlights, "highlight_test_release.jsonl", [hidden])
    assert item.split == "test" and item.events == [Event(row["query"], [], "2579")] and not problems


@pytest.mark.parametrize(
    ("answer", "task", "marked"),
    [
        (
            "90.0 - 102.0 seconds, spread butter.  114.0 - 127.5 seconds, cook for 30 seconds.",
            "dense_captioning",
            "[[90.0 s]] - [[102.0 s]] seconds, spread butter.  [[114.0 s]] - [[127.5 s]] seconds, cook for 30 seconds.",
        ),
        (
            "0 - 4 seconds, stir 5 - 10 seconds, then wait. 9 - 12 seconds, add 2.5 - 3.0 kg. 3 seconds, rest.",
            "dense_captioning",
            "[[0 s]] - [[4 s]] seconds, stir 5 - 10 seconds, then wait. [[9 s]] - [[12 s]] seconds, add 2.5 - 3.0 kg. "
            "3 seconds, rest.",
        ),
        (
            "1.0 - 2.0 seconds, no stop [[1/2 s]] 3.0 - 4.0 seconds, as [[7/96 image]].",
            "dense_captioning",
            "[[1.0 s]] - [[2.0 s]] seconds, no stop [\\[1/2 s]] [[3.0 s]] - [[4.0 s]] seconds, as [\\[7/96 image]].",
        ),
        (
            "Transcribed speech: 0.0 - 4.2 seconds, hello. 4.2 - 9.0 seconds, for 20 seconds.",
            "dense_captioning",
            "Transcribed speech: [[0.0 s]] - [[4.2 s]] seconds, hello. [[4.2 s]] - [[9.0 s]] seconds, for 20 seconds.",
        ),
        (
            "2.7 seconds, Introduction.  15.0 seconds, Boil for 30.5 seconds. 30 seconds, no more.",
            "dense_captioning",
            "[[2.7 s]] seconds, Introduction.  [[15.0 s]] seconds, Boil for 30.5 seconds. 30 seconds, no more.",
        ),
        (
            "3 seconds, Introduction. 15 seconds, Boil.",
            "dense_captioning",
            "[[3 s]] seconds, Introduction. [[15 s]] seconds, Boil.",
        ),
        (
            "The given query happens in 0.0 - 6.9 seconds.",
            "grounding",
            "The given query happens in [[0.0 s]] - [[6.9 s]] seconds.",
        ),
        (
            "The given query happens in 5 - 10 seconds.",
            "grounding",
            "The given query happens in [[5 s]] - [[10 s]] seconds.",
        ),
        ("The given query happens in 12.3 seconds.", "grounding", "The given query happens in [[12.3 s]] seconds."),
        (
            "The highlight timestamps are in the 57.0, 62.4 seconds. Their saliency scores are 2.1, 1.8.",
            "highlights",
            "The highlight timestamps are in the [[57.0 s]], [[62.4 s]] seconds. Their saliency scores are 2.1, 1.8.",
        ),
        (
            "There are 2 highlight moments in the 82, 84 second. Their saliency scores are 1.3, 1.7.",
            "highlights",
            "There are 2 highlight moments in the [[82 s]], [[84 s]] second. Their saliency scores are 1.3, 1.7.",
        ),
    ],
)
def test_timeit_answers(answer, task, marked):
    assert timeit.mark_answer(answer) == (task, marked)


@pytest.mark.parametrize(
    "answer",
    [
        "Transcribed speech: None.",
        "cook for 30 seconds",
        "They wait 3.0 - 4.0 seconds, then leave.",
        "There are 0 highlight moments in the  second.",
        "1.0 - 2.0 seconds, it says [[12.3 s]].",  # nothing escapes a mark that lacks the duration
    ],
)
def test_timeit_answers_without_times_are_malformed(answer):
    with pytest.raises(Malformed):
        timeit.mark_answer(answer)


EXAMPLE = "An specific example is : 90.0 - 102.0 seconds, spread margarine on [[1/2 s]] bread."
BASED = "Based on the video content and possible transcribed speech,"
FORMAT = "The output format should be like: 'The highlight timestamps are in the 82, 84 seconds.'"


@pytest.mark.parametrize(
    ("question", "marked"),
    [
        (f"Localize events. {EXAMPLE}", f"Localize events. {EXAMPLE}".replace("[[", "[\\[")),
        (
            f"Transcribed speech: 0.0 - 4.2 seconds, for 30 seconds. 5.0 - 6.0 seconds, go. {BASED} {FORMAT} {EXAMPLE}",
            "Transcribed speech: [[0.0 s]] - [[4.2 s]] seconds, for 30 seconds. [[5.0 s]] - [[6.0 s]] seconds, go. "
            f"{BASED} {FORMAT} {EXAMPLE}".replace("[[1/", "[\\[1/"),
        ),
        (
            f"Transcribed speech: 0.0 - 4.2 seconds, hi. {BASED} what is in 1.0 - 2.0 seconds, roughly?",
            f"Transcribed speech: [[0.0 s]] - [[4.2 s]] seconds, hi. {BASED} what is in 1.0 - 2.0 seconds, roughly?",
        ),
        (f"Transcribed speech: None. {EXAMPLE}", f"Transcribed speech: None. {EXAMPLE}".replace("[[", "[\\[")),
    ],
)
def test_timeit_questions_have_times_in_their_speech_alone(question, marked):
    assert timeit.mark_question(question) == marked


GROUNDED = {"q": "When does 'a dog' happen?", "a": "The given query happens in 0.0 - 6.9 seconds."}
DENSE = {"q": "Describe the events.", "a": "1.0 - 2.0 seconds, go."}
SCORED = {
    "q": "Find highlights.",
    "a": "The highlight timestamps are in the 2.0 seconds. Their saliency scores are 4.0.",
}


@pytest.mark.parametrize(
    ("name", "pair", "source", "label", "task"),
    [
        ("data/temporal_video_grounding/didemo/instruct_tvg_33.0k_didemo.json", GROUNDED, None, "didemo", "grounding"),
        ("data/step_localization/hirest_step/instruct_action_0.5k_hirest.json", DENSE, None, "hirest_step",
         "step_localization"),
        ("data/transcribed_speech_generation/yttemporal/instruct_tsg_31.6k_yttemporal_15asr.json", DENSE, None,
         "yttemporal", "speech"),
        ("data/video_summarization/summe/instruct_vhd_25_summe.json", SCORED, None, "summe", "summarization"),
        ("data/step_localization/own/instruct_1k.json", DENSE, None, "own", "step_localization"),
        ("instruct_action_1k_own.json", DENSE, None, "own", "step_localization"),
        ("instruct_vhd_25_summe.json", SCORED, None, "summe", "summarization"),
        ("instruct_vhd_6.9k_qvhighlights.json", SCORED, None, "qvhighlights", "highlights"),
        ("instruct_dvc_10.0k_anet_15asr.json", DENSE, None, "anet", "dense_captioning"),
        ("instruct_1.2k_dvc_youcook2.json", DENSE, None, "youcook2", "dense_captioning"),
        ("data/time/instruct_time-sensitive_104k_asr.json", GROUNDED, "charades", "charades", "grounding"),
        ("data/time/instruct_time-sensitive_104k_asr.json", DENSE, "coin", "coin", "step_localization"),
        ("data/time/instruct_time-sensitive_104k_asr.json", DENSE, "Activitynet_Captions", "Activitynet_Captions",
         "dense_captioning"),
        ("data/time/instruct_time-sensitive_104k_asr.json", SCORED, "tvsum", "tvsum", "summarization"),
    ],
)  # fmt: skip
def test_timeit_data_set_and_task(read, name, pair, source, label, task):
    row = {"video": "COIN/videos_ali/116/NLy71UrHElw.mp4", "QA": [pair]} | ({"source": source} if source else {})
    (item,), problems = read(timeit, name, [row])
    assert (item.label, item.task, problems) == (label, task, [])
    assert item.key.startswith(f"{label}/COIN/videos_ali/116/NLy71UrHElw.mp4#") and task in timeit.TASKS


def test_timeit_items(read):
    video = "QVhighlights/videos/train/v_zzWIB6kuuAQ_210.0_360.0.mp4"
    spoken = "Transcribed speech: None. Based on the video content and possible transcribed speech, "
    rows = [
        {"video": video, "QA": [SCORED, GROUNDED]},
        {"video": video, "QA": [{"q": spoken + SCORED["q"], "a": SCORED["a"]}, GROUNDED]},
        {"video": "Charades/videos/AO8RW.mp4", "QA": [GROUNDED]},
        {"video": video, "QA": [{"q": "Where?", "a": "Somewhere."}]},
        {"video": video, "QA": [{"q": "Where?", "a": ""}]},
        {"video": video, "QA": []},
        {"QA": [GROUNDED]},
    ]
    items, problems = read(timeit, "instruct_vhd_6.9k_qvhighlights.json", rows)
    assert items[0] == Item(
        items[0].key,
        (video,),
        "instruct_vhd_6.9k_qvhighlights.json: row 0",
        label="qvhighlights",
        whole="zzWIB6kuuAQ",
        start=210.0,
        end=360.0,
        task="highlights",
        turns=[
            ("user", "Find highlights."),
            ("assistant", "The highlight timestamps are in the [[2.0 s]] seconds. Their saliency scores are 4.0."),
            ("user", "When does 'a dog' happen?"),
            ("assistant", "The given query happens in [[0.0 s]] - [[6.9 s]] seconds."),
        ],
    )
    assert items[1].key == items[0].key and items[2].key != items[0].key  # with and without speech: one dialogue
    assert (items[2].whole, items[2].start) == ("", None)
    kinds = ["malformed", "empty caption", "malformed", "malformed"]
    assert faults(problems) == [
        (kind, f"instruct_vhd_6.9k_qvhighlights.json: row {row}") for row, kind in enumerate(kinds, 3)
    ]


def human(value):
    return {"from": "human", "value": value}


def gpt(value):
    return {"from": "gpt", "value": value}


def test_valley(read):
    vatex = {"source": "VATEX", "v_id": "--07WQ2iBlw_000001_000011", "video": "--07WQ2iBlw.mp4"}
    jukin = {"source": "jukinmedia", "v_id": "v_1000045", "video": "v_1000045"}
    rows = [
        vatex
        | {
            "conversations": [
                human("<video>\nWhat is said?"),
                gpt("[[7/96 image]] <video> tag."),
                human("So?"),
                gpt("No"),
            ]
        },
        jukin | {"conversations": [human("Describe it.\n<video>"), gpt(" A dog.\n")]},
        jukin | {"video": "clips/v_1000045.mp4", "conversations": [human("<video> Why?"), gpt("Because.")]},
        vatex | {"video": "vatex/--07WQ2iBlw_000001_000011.mp4", "conversations": [human("Why?"), gpt("Because.")]},
        jukin | {"conversations": [gpt("A dog."), human("Describe it.")]},
        jukin | {"conversations": [human("Describe it.")]},
        jukin | {"conversations": []},
        jukin | {"conversations": [human("<video>\n"), gpt("A dog.")]},
        jukin | {"conversations": [{"from": "system", "value": "x"}]},
        jukin,
    ]
    items, problems = read(valley, "Valley_instruct_73k.json", rows)
    first = "Valley_instruct_73k.json: row"
    assert items[0] == Item(
        items[0].key,
        ("--07WQ2iBlw_000001_000011",),  # `video` is the whole of it
        f"{first} 0",
        label="VATEX",
        whole="--07WQ2iBlw",
        start=1.0,
        end=11.0,
        turns=[
            ("user", "What is said?"),
            ("assistant", "[\\[7/96 image]] <video> tag."),
            ("user", "So?"),
            ("assistant", "No"),
        ],
        task="conversation",
    )
    assert [item.names for item in items[1:]] == [
        ("v_1000045",),
        ("clips/v_1000045.mp4", "v_1000045"),
        ("vatex/--07WQ2iBlw_000001_000011.mp4", "--07WQ2iBlw_000001_000011"),
    ]
    assert items[1].turns == [("user", "Describe it."), ("assistant", "A dog.")] and items[2].turns[0][1] == "Why?"
    assert items[1].key != items[2].key and items[1].key.startswith("v_1000045#") and not items[1].whole
    kinds = ["malformed"] * 3 + ["empty caption"] + ["malformed"] * 2
    assert faults(problems) == [(kind, f"{first} {row}") for row, kind in enumerate(kinds, 4)]


def test_valley_finds_its_file_in_either_case(tmp_path):
    for name in ("Valley_instruct_73k.json", "valley_instruct_65k.json"):
        (tmp_path / name).write_text("[]")
        assert list(valley.read(tmp_path, Problems())) == []
        (tmp_path / name).unlink()


def test_sharegpt4video(read):
    row = {
        "video_id": "j5JqNXjGufw",
        "video_path": "panda/j5JqNXjGufw.mp4",
        "zip_folder": "panda_videos_16.zip",
        "captions": [
            {"idx": "1", "content": "It begins."},
            {"idx": "2", "content": " "},
            {"idx": "-1", "content": "A video of [[1/2 s]]. "},
        ],
    }
    rows = [
        row,
        row | {"timestamp": [[0, 2.5], [2.5, 4]], "video_id": "b"},
        row | {"timestamp": [0, 2.5]},
        row | {"captions": row["captions"][:2]},
        row | {"captions": [{"idx": "-1", "content": ""}]},
        {"video_id": "c"},
    ]
    items, problems = read(sharegpt4video, "sharegpt4video_40k.jsonl", rows)
    question = items[0].turns[0][1]
    assert items[0] == Item(
        "j5JqNXjGufw",
        ("panda/j5JqNXjGufw.mp4", "j5JqNXjGufw"),
        "sharegpt4video_40k.jsonl: line 1",
        turns=[("user", question), ("assistant", "A video of [\\[1/2 s]].")],
        task="captioning",
    )
    assert question == "Write a detailed caption for this video."  # the same in every run
    assert items[1].events == [Event("It begins.", [(0.0, 2.5)], "1")] and not items[2].events
    place = "sharegpt4video_40k.jsonl: line"
    assert faults(problems) == [
        ("empty caption", f"{place} 2, event 1"),
        ("malformed", f"{place} 4"),
        ("empty caption", f"{place} 5"),
        ("malformed", f"{place} 6"),
    ]
    keys = [
        {"video_id": str(number), **{name: row[name] for name in ("video_path", "captions")}} for number in range(50)
    ]
    assert len({item.turns[0][1] for item in read(sharegpt4video, "sharegpt4video_40k.jsonl", keys)[0]}) == 5


@pytest.mark.parametrize(
    ("module", "name", "content", "message"),
    [
        (youcook2, "youcookii_annotations_trainval.json", "{", r"trainval\.json: expected JSON"),
        (
            youcook2,
            "youcookii_annotations_trainval.json",
            '{"taxonomy": []}',
            "expected an object 'database', found 'taxonomy'",
        ),
        (coin, "COIN.json", "[]", "expected a JSON object, found a list"),
        (coin, "COIN.json", '{"database": {"a": {}, "b": {}, "a": {}}}', "'a' stands twice in one object"),
        (didemo, "train_data.json", "{}", "expected a JSON list"),
        (activitynet, "train.json", "[]", "expected a JSON object, found a list"),
        (timeit, "instruct_dvc_x.json", '"x"', "expected a JSON list, found a text"),
        (valley, "valley_instruct_65k.json", "", "expected JSON"),
    ],
)
def test_files_that_are_no_annotations(read, module, name, content, message):
    with pytest.raises(DataError, match=message):
        read(module, name, content)


@pytest.mark.parametrize("module", READERS)
def test_files_in_another_encoding(module, tmp_path):
    (tmp_path / "file").write_bytes("label,é".encode("latin-1"))
    with pytest.raises(DataError, match="expected text in UTF-8|expected JSON: 'utf-8'"):
        list(module.read(tmp_path / "file", Problems()))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("NUsG9BgSes0_210.0_360.0", ("NUsG9BgSes0", 210.0, 360.0)),
        ("a/b/v_zzWIB6kuuAQ_60.0_210.0.mp4", ("zzWIB6kuuAQ", 60.0, 210.0)),
        ("HiREST/clips/_7urSjT6sQY_35_79.3gp", ("_7urSjT6sQY", 35.0, 79.0)),
        ("--07WQ2iBlw_000001_000011", ("--07WQ2iBlw", 1.0, 11.0)),
        ("v_abcdefghi_0_5.5", ("v_abcdefghi", 0.0, 5.5)),
        ("9999999@N01_3655084291_1234567890.mp4", None),  # DiDeMo's names are no parts
        ("NUsG9BgSes0_360.0_210.0", None),
        ("NUsG9BgSes0.mp4", None),
    ],
)
def test_names_of_parts(name, part):
    assert part_of(name) == (dict(zip(("whole", "start", "end"), part, strict=True)) if part else {})
