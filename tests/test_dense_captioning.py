import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_scripts.items import Problems
from evaluation import caption_files, dense_captioning
from evaluation.dense_captioning import SODA, iou, longest_chain, score


DATA = Path(__file__).parent / "data/youcook2"
PUBLISHED = json.loads((DATA / "published.json").read_text())
FIGURES = {
    *("f1", "precision", "recall", "soda_c", "cider", "meteor", "para_cider", "para_meteor", "mean_predictions"),
    *("l_avg", "ttr", *(f"{name}@{at}" for name in ("precision", "recall") for at in (0.3, 0.5, 0.7, 0.9))),
}
SCENE = [((0.0, 10.0), "a man cuts bread."), ((10.0, 20.0), "he puts butter on the bread.")]


@pytest.fixture(scope="module")
def references():
    return caption_files.references(DATA / "references.json", Problems())


@pytest.fixture(scope="module")
def predictions():
    return caption_files.predictions(DATA / "predictions.json", Problems())


@pytest.fixture(scope="module")
def with_missing(predictions):
    return {name: events for name, events in predictions.items() if name not in PUBLISHED["missing"]}


def close(expected):
    return pytest.approx(expected, rel=1e-11)


def test_timechat_is_the_published_script_to_the_digit(predictions, references):
    found = score(predictions, references, "timechat")
    expected = PUBLISHED["timechat"]
    assert {name: found[name] for name in expected} == close(expected)
    assert (found["videos"], found["missing"], found["protocol"]) == (19, 0, "timechat")


def test_timechat_is_the_published_script_with_missing_videos_too(with_missing, references):
    found = score(with_missing, references, "timechat")
    expected = PUBLISHED["timechat_missing"]
    assert {name: found[name] for name in expected} == close(expected)
    assert found["missing"] == 3


BEGINNINGS, ENDINGS = ("", "Then ", "5 "), (" no", " by J", "", " in the u.s", " at 5 p.m")


def changed(videos):
    """The tokenizer takes the last dot for this or that, by how the next caption begins."""
    made, number = {}, itertools.count()
    for name, events in videos.items():
        made[name] = []
        for span, text in events:
            at = next(number)
            begin, end = BEGINNINGS[at % len(BEGINNINGS)], ENDINGS[at % len(ENDINGS)]
            made[name].append((span, f"{begin}{text.rstrip('.')}{end}."))
    return made


def test_timechat_has_the_published_words_even_where_they_depend_on_the_next_caption(predictions, references):
    predictions, references = changed(predictions), changed(references)
    found = score(predictions, references, "timechat")
    expected = PUBLISHED["timechat_changed"]
    assert {name: found[name] for name in expected} == close(expected)
    ours = score(predictions, references, soda="timechat")
    assert {name for name, value in expected.items() if ours[name] != close(value)} == {"cider", "meteor", "soda_c"}


def test_vtimellm_is_the_published_script_to_the_digit(with_missing, references):
    found = score(with_missing, references, "vtimellm")
    expected = PUBLISHED["vtimellm_missing"]
    assert {name: found[name] for name in expected} == close(expected)


def test_the_default_mends_what_timechats_script_confuses(predictions, with_missing, references):
    """Only SODA_c differs; and with missing videos the paragraphs, which then meet their own truths."""
    ours = score(predictions, references)
    published = PUBLISHED["timechat"]
    assert ours["protocol"] == "seq2time"
    assert {name for name, value in published.items() if ours[name] != close(value)} == {"soda_c"}
    assert score(predictions, references, soda="timechat")["soda_c"] == close(published["soda_c"])
    ours, published = score(with_missing, references), PUBLISHED["timechat_missing"]
    different = {name for name, value in published.items() if ours[name] != close(value)}
    assert different == {"soda_c", "para_cider", "para_meteor"}
    assert ours["para_cider"] > published["para_cider"]


def test_official_soda_of_the_default_is_that_of_vtimellm(with_missing, references):
    found = score(with_missing, references, soda="official")
    assert found["soda_c"] == close(PUBLISHED["vtimellm_missing"]["soda_c"])
    assert found["soda"] == "official"


def test_the_truth_scores_100():
    found = score({"v": SCENE}, {"v": SCENE})
    whole = {"f1", "precision", "recall", "para_meteor", *(name for name in FIGURES if "@" in name)}
    assert {name: found[name] for name in whole} == pytest.approx(dict.fromkeys(whole, 100))
    assert found["soda_c"] == pytest.approx(100, abs=1e-5)  # the field's IoU divides by the union + 1e-8
    assert found["meteor"] == pytest.approx(100, abs=1e-9)
    assert found["cider"] == pytest.approx(1_000)  # CIDEr is 10 at best
    assert (found["mean_predictions"], found["l_avg"], found["ttr"]) == (2, 5, pytest.approx(90))
    assert set(found["interval"]) == FIGURES
    assert all(
        low <= found[name] + 1e-9 and found[name] <= high + 1e-9 for name, (low, high) in found["interval"].items()
    )


def test_by_hand():
    """
    IoUs: [0, 8] meets [0, 10] with .8; [0, 9] with .9 (not more than .9, but at least: no place at .9, but words);
    [30, 40] meets nothing. Precision at .3, .5, .7 is 2/3, at .9 is 0; recall 1/2, 0.
    """
    guess = [((0.0, 8.0), "a man cuts bread."), ((0.0, 9.0), "a man cuts bread."), ((30.0, 40.0), "a man cuts bread.")]
    found = score({"v": guess}, {"v": SCENE})
    for at in (0.3, 0.5, 0.7):
        assert found[f"precision@{at}"] == pytest.approx(200 / 3)
        assert found[f"recall@{at}"] == pytest.approx(50)
    assert found["precision@0.9"] == found["recall@0.9"] == 0
    precision, recall = 200 / 3 * 3 / 4, 50 * 3 / 4
    assert (found["precision"], found["recall"]) == pytest.approx((precision, recall))
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    best = 0.9  # one pair of the chain: IoU .9 with METEOR 1
    assert found["soda_c"] == pytest.approx(100 * 2 * (best / 3) * (best / 2) / (best / 3 + best / 2), abs=1e-5)
    assert found["meteor"] < 100 * 3 / 4  # what meets nothing counts


def test_a_missing_video_scores_0_or_isnt_counted():
    truth = {"v": SCENE, "w": SCENE}
    assert score({"v": SCENE}, truth)["f1"] == pytest.approx(50)
    assert score({"v": SCENE, "w": []}, truth)["f1"] == pytest.approx(50)
    assert score({"v": SCENE}, truth, "timechat")["f1"] == pytest.approx(50)
    found = score({"v": SCENE}, truth, "vtimellm")
    assert found["f1"] == pytest.approx(100)
    assert (found["videos"], found["missing"]) == (1, 1), (
        "those that the figures are about, and those that aren't there"
    )
    assert score({"v": SCENE, "w": []}, truth, "vtimellm")["f1"] == pytest.approx(2 / (1 / 0.5 + 1 / 0.5) * 100)
    found = score({}, truth)
    assert {found[name] for name in FIGURES} == {0}
    assert (found["videos"], found["missing"]) == (2, 2)


def test_only_so_many_predictions_count_for_vtimellm():
    late = [((30.0, 40.0), "x")] * 999 + SCENE
    assert score({"v": late}, {"v": SCENE}, "vtimellm")["recall"] == pytest.approx(50)
    assert score({"v": late}, {"v": SCENE})["recall"] == pytest.approx(100)


def test_an_end_before_its_start_is_turned_round_or_meets_nothing():
    turned = [((10.0, 0.0), SCENE[0][1]), SCENE[1]]
    assert score({"v": turned}, {"v": SCENE})["f1"] == pytest.approx(100)
    assert score({"v": turned}, {"v": SCENE}, "vtimellm")["f1"] == pytest.approx(50)
    assert score({"v": turned}, {"v": SCENE}, soda="official")["soda_c"] < 60


def test_the_wealth_of_words_is_that_of_videos_with_words():
    found = score({"v": SCENE, "w": [], "x": [((0.0, 1.0), "go go go go")]}, dict.fromkeys("vwx", SCENE))
    assert found["ttr"] == pytest.approx((90 + 25) / 2)
    assert found["l_avg"] == pytest.approx((10 + 4) / 3)


def test_captions_without_words_are_places_only():
    found = score({"v": [(span, "") for span, _ in SCENE]}, {"v": SCENE})
    assert found["f1"] == pytest.approx(100)
    assert found["cider"] == found["meteor"] == found["soda_c"] == found["para_meteor"] == found["ttr"] == 0


def test_events_out_of_order_lose_in_timechats_chain_only():
    swapped = {"v": SCENE[::-1]}
    assert score(swapped, {"v": SCENE})["soda_c"] == pytest.approx(100, abs=1e-5)
    assert score(swapped, {"v": SCENE}, "timechat")["soda_c"] < 60


def test_the_same_files_have_the_same_figures(with_missing, references):
    assert score(with_missing, references) == score(with_missing, references)


def test_an_unmatched_caption_costs_the_same_every_time_and_asks_no_chance(monkeypatch, predictions, references):
    for name in ("random", "choice", "randint"):
        monkeypatch.setattr(random, name, lambda *_: pytest.fail("asked for a random number"))
    name, guess = next((name, events) for name, events in predictions.items() if len(events) > 3)
    score({name: guess}, {name: references[name]})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (({}, {"v": SCENE}, "timchat"), "unknown protocol 'timchat', expected one of seq2time, timechat, vtimellm"),
        (({}, {"v": SCENE}, "seq2time", "c"), "unknown SODA_c 'c', expected one of mended, timechat, official"),
        (({}, {"v": []}), "at least one true event of each video, found none of 'v'"),
        (({}, {"v": SCENE}, "vtimellm"), "found 1 true ones without a prediction"),
        (({}, {}), "found 0 true ones"),
    ],
)
def test_what_cant_be_scored_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        score(*arguments)


def test_every_protocol_has_its_soda():
    assert tuple(SODA) == dense_captioning.PROTOCOLS


@given(st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_chain_is_the_best_of_all_chains(rows, columns, chance):
    gains = np.array([[chance.choice([0, chance.random()]) for _ in range(columns)] for _ in range(rows)])
    best = 0.0
    for size in range(1, min(rows, columns) + 1):
        for down in itertools.combinations(range(rows), size):
            for across in itertools.combinations(range(columns), size):
                best = max(best, sum(gains[pair] for pair in zip(down, across, strict=True)))
    assert longest_chain(gains) == pytest.approx(best)


def test_iou_of_what_touches_overlaps_and_is_apart():
    one = np.array([[0.0, 10.0], [10.0, 0.0]])
    true = np.array([[10.0, 20.0], [5.0, 15.0], [0.0, 10.0], [30.0, 40.0]])
    assert iou(one, true)[0] == pytest.approx([0, 1 / 3, 1, 0])
    assert iou(one, true)[1] == pytest.approx([0, 1 / 3, 1, 0])
    assert iou(one, true, turned=False)[1] == pytest.approx([0, 0, 0, 0])
    assert iou(np.empty((0, 2)), true).shape == (0, 4)
