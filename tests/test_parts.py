"""The mini base in a few steps: what is taught is what is meant, and a run that was stopped goes on."""

import json
import re
from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.llama import modeling_llama

from dataset_scripts.items import DataError
from dataset_scripts.sources import miniworld
from dataset_scripts.sources.miniworld_drawing import ACTIONS, SHAPES
from dataset_scripts.wording import TEMPLATES
from train.parts import __main__ as command
from train.parts import asking, fitting, frames, lists, motion, pointing, sight, speech, views
from train.parts.lesson import Lesson, places_of_digits
from train.parts.model import make_model
from train.parts.reading import Reading
from train.parts.views import View


STEPS = [
    "--language-steps",
    "2",
    "--sight-steps",
    "4",
    "--frames-steps",
    "2",
    "--motion-steps",
    "2",
    "--speech-steps",
    "2",
    "--pictures",
    "200",
    "--film-frames",
    "200",
]


@pytest.fixture(scope="module")
def made():
    return make_model(asking.corpus(), 0)


@pytest.mark.slow
def test_a_base_is_made_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    command.main(["--output", str(tmp_path / "one"), *STEPS])
    assert np.float64(5e-324) * 1.0 > 0, "small numbers are flushed to zero in the command's own process only"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "one", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(tmp_path / "one", trust_remote_code=True)
    assert model.config.time_notation == processor.time_notation == "text" and not model.config.time_token_ids
    assert not (tmp_path / ".one.parts").exists()
    size = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert size < 25e6
    facts = json.loads((tmp_path / "one" / "parts.json").read_text())
    assert facts["sight_steps"] == 4 and set(facts["seconds"]) == set(command.PARTS)

    with monkeypatch.context() as broken:
        broken.setattr(command, "learn_sight", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command.main(["--output", str(tmp_path / "two"), *STEPS])
    assert not (tmp_path / "two").exists()
    with pytest.raises(DataError, match=r"holds parts of .*'seed': 0.* not of .*'seed': 1"):
        command.main(["--output", str(tmp_path / "two"), *STEPS, "--seed", "1"])
    with pytest.raises(DataError, match="expected a folder that isn't there yet"):
        command.main(["--output", str(tmp_path / "one"), *STEPS])
    monkeypatch.setattr(command, "learn_language", lambda *args: 1 / 0)  # was learned, and isn't again
    command.main(["--output", str(tmp_path / "two"), *STEPS])
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two, "the same seed, the same bytes"


def test_each_part_trains_its_own(made):
    """And together they train all of the model; motion and speech go on with what others began."""
    state = made[0].state_dict()
    names = {part: {name for name in state if name.startswith(own)} for part, own in command.PARTS.items()}
    assert names.pop("motion") < names["frames"]
    assert names.pop("speech") == names["language"]
    assert all(names.values()) and set.union(*names.values()) == set(state)
    assert sum(map(len, names.values())) == len(state), "no part trains another's"


@pytest.mark.parametrize("draw", [views.draw_views, lists.draw_films])
def test_nothing_of_the_test_split_is_shown(made, draw):
    """But to ask about; and in any colour nothing is of a colour that captions name."""
    named, any_colour, unseen = command._albums(*made, draw, 0, 200)
    for album in (named, any_colour):
        assert len(album.views) == 200 and {view[:2] for view in album.views if view.shape} < set(
            miniworld.pairs("train")
        )
    assert {view[:2] for view in unseen.views if view.shape} <= set(miniworld.pairs("test"))
    assert not any(view.fill for view in named.views) and all(view.fill for view in any_colour.views)
    assert any(not view.shape for view in named.views), "some show nothing"
    assert any(view.doing for view in named.views) == (draw == lists.draw_films)


def test_what_is_done_is_as_sure_as_a_window_tells():
    rng, sure = np.random.default_rng(0), {1: [], 2: [], 8: []}
    for _ in range(40):
        pictures, stays = lists.draw_stays(rng, 64, views.READ, window=8)
        for stay in stays:
            for window in range(0, 64, 8):
                shown = pictures[max(stay.first, window) : min(stay.last + 1, window + 8)]
                assert len({view.doing for view in shown}) < 2, "one window, one guess"
                if len(shown) in sure:
                    sure[len(shown)].append(dict(shown[0].doing).get(stay.action, 0))
        certain, stays = lists.draw_stays(rng, 24, views.READ)
        assert all(certain[stay.last].doing == ((stay.action, 1.0),) for stay in stays)
    assert not any(sure[1]) and np.mean(sure[2]) < 0.4 < np.mean(sure[8]) < 0.8, "of one picture alone nothing"


def test_what_is_said_of_a_picture_is_what_it_shows():
    view = View("red", "circle", *(0.24, 0.5), views.LARGE, "in the night sky")
    assert (view.size, view.place) == ("large", "on the left")
    names = (*views.WORDS, *ACTIONS)
    said = dict(zip(names, view.weights(), strict=True))
    assert " ".join(word for word, weight in said.items() if weight) == "red circle large left night sky"
    between = dict(zip(names, view._replace(x=0.37).weights(), strict=True))
    assert between["left"] == pytest.approx(0.5) and between["centre"] == pytest.approx(0.5)
    faint = view._replace(opacity=0.5, doing=(("blinks", 0.7),))
    faint = dict(zip(names, faint.weights(), strict=True))
    assert faint["red"] == 0.5 and faint["night"] == 1, "the background doesn't fade"
    assert faint["blinks"] == np.float32(0.7), "nor does what is done"
    assert view._replace(colour="", shape="").weights().sum() == 2

    pictures, shown = views.paint_views([view, view._replace(x=0.76), view._replace(shape="")], 0, 112, 14, 1)
    columns = [np.argwhere(one.reshape(8, 8)).mean(axis=0)[1] for one in shown[:2]]
    assert columns[0] < 2.5 and columns[1] > 4.5 and not shown[2].any()
    red = pictures[0][50:62, 20:34].reshape(-1, 3).mean(axis=0)
    assert red[0] > 180 and red[1:].max() < 80


def test_a_pose_is_where_and_how_turned_something_is():
    """As it looks: a square is the same after a quarter of a turn, a circle always."""
    square = View("red", "square", 0.24, 0.5, views.LARGE, "on grass")
    names = dict(zip((*views.WORDS[views.POSE], "cos", "sin"), square.pose(), strict=True))
    assert {word for word, weight in names.items() if weight} == {"large", "left", "cos"} and names["cos"] == 1
    assert slice(sight.SIZE.start, sight.PLACE.stop) == views.POSE
    for shape, alike, other in (("square", 90, 45), ("triangle", 120, 60), ("moon", 360, 180), ("star", 72, 36)):
        upright, same, turned = (square._replace(shape=shape, angle=angle).pose()[-2:] for angle in (0.0, alike, other))
        assert np.allclose(upright, same, atol=1e-6) and np.allclose(upright, -turned, atol=1e-6)
    assert np.allclose(*(square._replace(shape="ring", angle=angle).pose() for angle in (0.0, 77.0)))
    assert np.allclose(square._replace(opacity=0.5).pose(), square.pose() * 0.5)
    assert not square._replace(colour="", shape="").pose().any()


def test_words_are_asked_about_the_time_before_them(made):
    """In dense captions: by the last digit of when a thing went all digits of that are to be known."""
    lesson = Lesson(*made, np.random.default_rng(0))
    for _ in range(6):
        sample = lesson.talk_of_stays(16, 2, back=1.0)
        said = made[1].tokenizer.decode(sample.ids)
        spans = re.findall(r"([0-9.]+) - ([0-9.]+) seconds", said.partition("[/INST]")[2])
        assert len(sample.means) == len(spans) > 0
        for (_, went), means in zip(spans, sample.means.values(), strict=True):
            digits = went.replace(".", "")
            assert "".join(map(str, means[3:])).lstrip("0").startswith(digits.lstrip("0")) and means[0] == -100
        words = [label for label, place, *_ in sample.looks if place == pointing.WORD]
        asked = dict(sample.asks)
        assert words and all(label in asked and asked[label] in sample.means for label in words)
        assert not any(place != pointing.WORD and label in asked for label, place, *_ in sample.looks)


def test_a_token_reads_as_its_caption_and_its_time(made):
    model, processor = made
    reading = Reading(model.get_input_embeddings(), processor.tokenizer)
    drawn = [View("red", "circle", 0.24, 0.24, views.SMALL, "on grass")]
    drawn.append(View("blue", "moon", 0.76, 0.5, views.LARGE, "in the night sky", doing=(("rises", 0.8),)))
    weights = torch.from_numpy(np.stack([view.weights() for view in drawn]))
    tokens = reading(weights, torch.tensor([[0, 7, 2, 9], [1, 2, 3, 4]]))
    assert tokens.shape == (2, model.config.text_config.hidden_size) and tokens.requires_grad
    told = tokens @ torch.linalg.pinv(reading.codes())
    assert torch.allclose(told[:, : sight.ACTION.stop], weights, atol=1e-3), "all that is said can be read"
    assert told[:, sight.ACTION.stop :].unflatten(1, (4, 10)).argmax(-1).tolist() == [[0, 7, 2, 9], [1, 2, 3, 4]]


@pytest.mark.parametrize("kind", ["image", "s", "position"])
def test_times_are_drawn_as_their_digits_say(kind):
    rng = np.random.default_rng(0)
    drawn = [one for one in (lists.draw_time(rng) for _ in range(300)) if one[0] == kind]
    for _, written, digits, _ in drawn:
        assert len(digits) == lists.DIGITS
        assert float(written) == pytest.approx(int(digits) / (10_000 if kind == "position" else 10))


def test_pictures_of_a_list_come_one_after_the_other():
    rng, kinds = np.random.default_rng(0), set()
    for count in range(2, 60):
        times = lists.draw_times(rng, count)
        kinds |= {time.kind for time in times}
        assert len(times) == count and len({(time.kind, time.bare) for time in times}) == 1
        written, digits = [float(time.written) for time in times], [int(time.digits) for time in times]
        assert written == sorted(written) and digits == sorted(digits)
        scale = 10_000 if times[0][0] == "position" else 10
        assert digits == pytest.approx([scale * one for one in written])
    assert kinds == set(asking.TIMED)


def test_frames_are_asked_for_in_the_notation_that_they_are_read_in():
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(200):
        metadata, notation, digits = frames.draw_sequence(rng, 64)
        kinds.add((notation, metadata.unit))
        scale = 10_000 if notation == "rpt" else 10 * metadata.length
        for position, written in zip(metadata.positions, digits, strict=True):
            assert int(written) == pytest.approx(position * scale, abs=1) and len(written) == 4
    assert len(kinds) == 4


def test_questions_have_their_answers(made):
    lesson = Lesson(*made, np.random.default_rng(0))
    view = View("orange", "circle", 0.24, 0.24, views.SMALL, "on grass")
    for kind, written, digits in (("image", "7", "0070"), ("s", "12.3", "0123"), ("position", "0.0729", "0729")):
        for bare in (False, True) * 10:
            time = lists.Time(kind, written, digits, bare)
            question, answer, about = asking.look_up(lesson.rng, view, time, back=0.0)
            assert "orange circle" in about and about in question and digits not in question
            assert written in answer or (bare and digits in answer)
            question, answer, about = asking.look_up(lesson.rng, view, time, back=1.0)
            assert written in question or (bare and digits in question)
            assert "orange circle" in answer and about in (written, digits) and question.count(about) == 1
    times = [lists.as_time("position", code, True) for code in (0, 2500, 5000, 7500)]
    stays = [lists.Stay(("red", "circle"), "rises", 0, 0, 0.0, 0.2)]
    stays.append(lists.Stay(("orange", "moon"), "slides left", 1, 3, 0.6, 3.1))
    asked = []
    for _ in range(20):
        question, answer, about = asking.look_up_stay(lesson.rng, stays[1], times)
        assert "an orange moon" in about and about in question and "1500" in answer and "7750" in answer
        question, *_ = asking.look_up_stay(lesson.rng, stays[1]._replace(once=False), times)
        assert any(f"moon {way}" in question for way in ACTIONS["slides left"]), "what it does tells it from another"
        question, answer = asking.list_stays(lesson.rng, stays, times)
        assert question in TEMPLATES["dense_captioning"]["questions"]
        asked.append(re.sub("slides to the left|moves from right to left", "…", re.sub("rises|moves up", "…", answer)))
    assert set(asked) == {"0000 - 0500 seconds, a red circle …. 1500 - 7750 seconds, an orange moon …."}
    texts = [" ".join(asking.filled(lesson.rng)) for _ in range(200)]
    assert not any("{" in text for text in texts) and any("The given query happens in" in text for text in texts)


def test_things_stay_as_long_as_is_said_and_do_it():
    rng, lasted, again = np.random.default_rng(0), [], 0
    for count in [*range(2, 33), 96] * 4:
        pictures, stays = lists.draw_stays(rng, count, views.PAIRS)
        assert len(pictures) == count and len({view.background for view in pictures}) == 1
        for stay in stays:
            alike = [one for one in stays if one.pair == stay.pair]
            assert len({one.action for one in alike}) == len(alike) and not (stay.once and len(alike) > 1)
            again += not stay.once
            places = [place for place, view in enumerate(pictures) if (view.colour, view.shape) == stay.pair]
            assert {place for one in alike for place in range(one.first, one.last + 1)} == set(places)
            shown = pictures[stay.first : stay.last + 1]
            lasted.append(len(shown) / count)
            way = [view.x for view in shown]
            if stay.action in ("slides left", "slides right"):
                assert way == sorted(way, reverse=stay.action == "slides left")
            if stay.action == "shakes":
                assert np.ptp(way) <= 0.16 + 1e-9
    assert min(lasted) < 0.05 and max(lasted) == 1, "short and long"
    assert again > 50


def test_in_some_lists_it_takes_what_things_do():
    rng, asked = np.random.default_rng(0), 0
    for count in [*range(1, 65)] * 2:
        shown = lists.draw_pictures(rng, count, views.READ)
        assert len(shown) == count
        told = {(*view[:2], view.doing[0][0] if view.doing else "") for view in shown}
        assert len(told) == count, "each can be told from the others"
        asked += len({view[:2] for view in shown}) < count
        for view in shown:
            assert all(0 <= weight <= 1 for _, weight in view.doing)
            said = f"{asking.named(rng, view, 0.5)} {asking.caption(rng, view)}"
            assert not view.doing or sum(said.count(way) for way in ACTIONS[view.doing[0][0]]) >= 2
    assert 30 < asked < 70


def test_sequences_are_thought_of_as_each_alone(made):
    """And where frames are from anywhere, nothing is said to be done."""
    album = sight.Album(made[1], 14, 0, lists.draw_films(np.random.default_rng(0), 60, views.PAIRS))
    assert sum(bool(view.doing) for view in album.views) > 20
    watched = motion.watch(*made, album, True, 0.5, np.random.default_rng(0))
    assert sum(len(one.times) for one in watched) >= motion.SEEN * 60
    some = sorted(watched, key=lambda one: one.tokens.shape[:2])[:: len(watched) // 3]
    assert len({one.tokens.shape for one in some}) > 1
    with torch.no_grad():
        together, _ = frames.think(made[0], *motion.padded(some))
        alone = [frames.think(made[0], *motion.padded([one]))[0] for one in some]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    assert {bool(one.words[:, sight.ACTION].any()) for one in watched if len(one.times) > 30} == {False, True}


def test_what_layers_hand_on_is_told_of_frames(made):
    """The last layer's is what the video Q-Former makes of them, whatever is left of windows."""
    model, width = made[0], made[0].config.qformer_config.hidden_size
    window, counts = model.config.window_size, [5, 40, 16]
    sequences = [motion.Watched(torch.randn(count, 3, width), *4 * [torch.zeros(count)]) for count in counts]
    layers = model.model.video_qformer.qformer.encoder.layer
    with torch.no_grad(), motion.overheard(layers, (0, len(layers) - 1)) as said:
        thought, _ = frames.think(model, *motion.padded(sequences))
    assert said[0].shape == said[len(layers) - 1].shape == (1 + 3 + 1, window, thought.shape[1])
    assert torch.equal(motion.frames_of(said[len(layers) - 1], counts), thought)
    assert not torch.equal(motion.frames_of(said[0], counts), thought)
    said.clear()
    with torch.no_grad():
        frames.think(model, *motion.padded(sequences))
    assert not said, "no longer"


def test_a_step_from_query_to_query_is_the_same_everywhere(made):
    """And it is the one from frame to frame of a window."""
    windows = made[0].model.video_qformer
    queries, places = (
        windows.query_tokens[0].detach(),
        windows.frame_positions.weight.detach()[: len(windows.query_tokens[0])],
    )
    for one in (queries, places):
        near = one @ one.T
        assert all(torch.allclose(near.diagonal(step), near.diagonal(step)[0], atol=1e-4) for step in range(len(one)))
        assert (near.argmax(-1) == torch.arange(len(one))).all()


def test_a_frame_is_next_to_those_of_its_window():
    assert motion.inside([3, 2], 2, 1).tolist() == [True, False, False, True, False]
    assert motion.inside([3, 2], 2, -1).tolist() == [False, True, False, False, True]
    assert motion.inside([5], 4, 2).tolist() == [True, True, False, False, False]


def test_places_between_pictures_have_times():
    digits = ["0100", "0200", "0400"]
    assert [lists.between(digits, place) for place in (0, 0.5, 1.25, 2)] == [100, 150, 250, 400]
    assert lists.between(digits, -0.5) == 50 and lists.between(digits, 2.5) == 500, "as far as to the next"
    assert lists.between(["0000", "9999"], 1.5) == 9999 and lists.between(["0100", "2000"], -0.9) == 0, "four digits"
    assert lists.as_time("s", 123, False) == lists.Time("s", "12.3", "0123", False)
    assert [lists.as_time("s", 123, bare).told for bare in (False, True)] == ["12.3", "0123"]


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        ("It is at 0.1234.", [(0, -1), (0, 0), (0, 1), (0, 2), (0, 3)]),
        ("Refer to image 0071.", [(0, 0), (0, 1), (0, 2), (0, 3)]),
        ("From number 7 to number 12.", [(0, 2), (1, 1), (1, 2)]),
        ("From 9.5 to 123.4 seconds.", [(0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]),
    ],
)
def test_digits_are_known_by_their_places(answer, places):
    assert places_of_digits(answer) == places


@pytest.mark.parametrize("make", ["notes", "stays", "talk", "talk_of_stays"])
def test_heads_are_to_look_at_what_is_said(made, make):
    tokenizer, lesson = made[1].tokenizer, Lesson(*made, np.random.default_rng(0))
    kinds, about_times = set(), set()
    for back in (0.0, 1.0):
        for _ in range(8):
            sample = getattr(lesson, make)(12, 4, back=back)
            assert sample.ids.count(made[1].video_token_id) == 16, "a window holds twelve and more"
            learned = [place for place, label in enumerate(sample.labels) if label != -100]
            assert {label for label, *_ in sample.looks} <= set(learned)
            for label, place, first, last in sample.looks:
                kinds.add(place == pointing.WORD)
                said, shown = tokenizer.decode([sample.ids[label]]).strip(), sample.views[first : last + 1]
                if place != pointing.WORD:
                    digits = place % pointing.LATER + 1  # of a time's beginning or end
                    one, other = sample.digits[first], sample.digits[last]
                    if first < last or make in ("notes", "talk"):  # the list's ends have times of no picture
                        assert one[:digits] != other[:digits] or said == one[digits - 1]
                elif said in views.COLOURS:
                    assert said == shown[0].colour
                elif said in views.SHAPES:
                    assert said in (shown[0].shape, "circle"), "some move in a circle"
            assert "[INST]" not in tokenizer.decode([sample.ids[place] for place in learned])
            for label, token in sample.asks:
                assert label in learned and token < label and token in sample.means, "what is asked about comes first"
                said = tokenizer.decode(sample.ids[max(0, token - 16) : token + 1])
                colour, shape, action, *digits = sample.means[token]
                about_times.add(colour < 0)
                if colour < 0:  # of a time, whose last digit it is
                    assert action < 0 and said[-1].isdigit(), said
                    written = re.findall(r"[0-9.]+", said.replace(" ", ""))[-1].replace(".", "")
                    told = "".join(map(str, digits))
                    assert written.endswith(told) or told.lstrip("0") in (
                        written.lstrip("0"),
                        f"{written.lstrip('0')}0",
                    )
                    continue
                assert (
                    [*views.COLOURS][colour] in said
                    and [*views.SHAPES][shape] in said
                    and not any(digit >= 0 for digit in digits)
                )
                ways = ACTIONS[[*ACTIONS][action]] if action >= 0 else [""]
                assert any(way in said for way in ways)
    assert kinds == {False, True}, "words and digits"
    assert about_times == {False, True}, "things and times"


def test_of_a_list_what_comes_second_is_learned(made):
    lesson = Lesson(*made, np.random.default_rng(0))
    for make, back in product((lesson.notes, lesson.talk), (0.0, 1.0)):
        sample = make(5, 3, back=back)
        assert sample.ids.count(made[1].video_token_id) == 16, "a window holds five and more"
        assert len(sample.views) == len(sample.digits) == 5
        learned = made[1].tokenizer.decode([label for label in sample.labels if label != -100])
        assert any(view.colour in learned for view in sample.views) == bool(back)
        assert back or any(letter.isdigit() for letter in learned)
        assert "[INST]" not in learned and learned.count("</s>") == (3 if make == lesson.talk else 0)


def test_of_a_lone_picture_all_is_learned(made):
    lesson = Lesson(*made, np.random.default_rng(0))
    (view,), (time,) = (sample := lesson.note()).views, sample.digits
    learned = made[1].tokenizer.decode([label for label in sample.labels if label != -100])
    assert f"{view.colour} {view.shape}" in learned and time in learned.replace(" ", "")


def test_looking_elsewhere_costs(made):
    """The less, the more a head looks at what it should; of a range, anything in it will do."""
    lesson = Lesson(*made, np.random.default_rng(0))
    with torch.no_grad():
        lesson.forward([lesson.notes(8, 2, back=0.0) for _ in range(2)])
        asked, attention = lesson.pointing, lesson.pointing.attention[4]
        rows, columns, digit = torch.tensor([0, 1]), torch.tensor([20, 21]), torch.tensor([2, 2])
        ranges = [(token, token) for token in range(21)] + [(3, 5), (0, 20)]
        costs = [
            float(asked.loss(rows, columns, digit, *(torch.tensor([end, end]) for end in ends))) for ends in ranges
        ]
        assert min(costs[:21]) < max(costs[:21]) and costs[21] < min(costs[3:6])
        # All of the past: what is left is that the heads of other digits look at the first token.
        states = asked.hidden[4]
        queries, keys = (
            one(states).unflatten(-1, (6, 48)).transpose(1, 2) for one in (attention.q_proj, attention.k_proj)
        )
        turned = modeling_llama.apply_rotary_pos_emb(queries, keys, *asked.turns)
        later = torch.full((states.shape[1],) * 2, -torch.inf).triu(1)
        seen = torch.softmax(turned[0] @ turned[1].transpose(2, 3) / 48**0.5 + later, dim=-1)
        idle = [seen[row, head, column, 0].log() for row, column in ((0, 20), (1, 21)) for head in (0, 1, 3)]
        first = seen[0, 2, 20, :21].sum().log() + seen[1, 2, 21, :21].sum().log()
        assert costs[22] == pytest.approx(float(-first / 2 - 0.5 * torch.stack(idle).mean()), rel=1e-4)
    assert not any(one._forward_pre_hooks for one in lesson.pointing.attention.values()), "nothing is left behind"


def test_what_is_asked_about_is_to_be_known(made):
    """A probe that is thrown away tells it; what isn't asked about, such as an action, isn't counted."""
    lesson = Lesson(*made, np.random.default_rng(0))
    with torch.no_grad():
        lesson.forward([lesson.notes(8, 2, back=0.0) for _ in range(2)])
        rows, columns = torch.tensor([0, 1]), torch.tensor([20, 21])
        told = lesson.pointing.asked(lesson.pointing.hidden[pointing.KNOWN][rows, columns])
        colours, shapes, _, *digits = told.split([*map(len, pointing.KINDS)], dim=1)
        means = torch.tensor([[1, 2, -100, -100, -100, -100, -100], [3, 0, -100, -100, -100, -100, 7]])
        wanted = functional.cross_entropy(colours, means[:, 0]) + functional.cross_entropy(shapes, means[:, 1])
        wanted = wanted + functional.cross_entropy(digits[3][1:], means[1:, 6])
        assert float(lesson.pointing.unknown(rows, columns, means)) == pytest.approx(float(wanted))
    assert not [name for name in made[0].state_dict() if "asked" in name]


def test_answers_are_counted_whole(made):
    """One wrong token makes an answer wrong."""
    lesson = Lesson(*made, np.random.default_rng(0))
    said = {}

    def forward(samples):
        _, wanted, answers, away = Lesson.forward(lesson, samples)
        said["wanted"], said["answers"] = wanted, answers
        logits = functional.one_hot(wanted, len(made[1].tokenizer)).float()
        logits[said["wrong"], 0] = 2.0
        return logits, wanted, answers, away

    lesson.forward, said["wrong"] = forward, []
    assert lesson.right(lesson.notes, 4, views.PAIRS, 0.0) == 1.0
    assert said["answers"].unique().tolist() == list(range(96)) and len(said["wanted"]) == 4 * 96
    said["wrong"] = [0, 1, 9]
    assert lesson.right(lesson.notes, 4, views.PAIRS, 0.0) == pytest.approx(94 / 96)


def test_the_optimizer_makes_updates_orthogonal():
    torch.manual_seed(0)
    for shape in ((8, 24), (24, 8), (16, 16)):
        values = torch.linalg.svdvals(fitting.orthogonal(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.3, values
    weight = torch.nn.Parameter(torch.randn(6, 6))
    before, optimizer = weight.detach().clone(), fitting.Muon([weight], lr=0.1)
    (weight.square().sum()).backward()
    optimizer.step()
    assert weight.square().sum() < before.square().sum()


def test_products_are_in_bfloat16_and_attention_is_not(made):
    """And all is as before when it is over."""
    model, seen = made[0], {}
    layer = model.model.language_model.layers[0].self_attn
    hooks = [
        layer.q_proj.register_forward_hook(lambda _, __, found: seen.update(product=found.dtype)),
        layer.o_proj.register_forward_pre_hook(lambda _, given: seen.update(attention=given[0].dtype)),
    ]
    for wanted, dtype in ((False, torch.float32), (True, torch.bfloat16), (False, torch.float32)):
        with fitting.in_bfloat16(model, wanted), torch.no_grad():
            model.model.language_model(input_ids=torch.arange(8)[None])
        assert seen == {"product": dtype, "attention": torch.float32}
        assert layer.config._attn_implementation == "sdpa"
    for hook in hooks:
        hook.remove()


def test_speech_leaves_the_words_that_eyes_know(made):
    model, processor = deepcopy(made[0]), made[1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    speech.learn_speech(model, processor, 2, np.random.default_rng(0))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    words = "model.language_model.embed_tokens.weight"
    assert changed == {name for name in before if name.startswith(command.PARTS["speech"])} - {words}
    assert model.get_input_embeddings().weight.requires_grad


def test_words_in_a_list_are_counted_by_kind(made, monkeypatch):
    """A model that says all as it is, but for shapes."""
    model, processor = made
    lesson = Lesson(model, processor, np.random.default_rng(0))
    forward = lesson.forward
    shapes = torch.tensor([lesson.words(shape)[0] for shape in SHAPES])

    def all_but_shapes(samples):
        _, wanted, answers, away = forward(samples)
        said = torch.where(torch.isin(wanted, shapes), 0, wanted)
        return functional.one_hot(said, model.config.text_config.vocab_size).float(), wanted, answers, away

    monkeypatch.setattr(lesson, "forward", all_but_shapes)
    assert lesson.in_words(16) == [1, 0, 1]


def test_every_word_of_the_miniworld_is_one_token(made):
    tokenizer = made[1].tokenizer
    captions = miniworld.picture_captions("red", "circle", "small", "at the top left", "on a brick wall")
    captions += miniworld.event_captions("orange", "moon", "bounces")
    for caption in captions:
        assert len(tokenizer.tokenize(" " + caption.replace(",", ""))) == len(caption.split()), caption
    for word in (*views.WORDS, *" ".join(ACTIONS).split()):
        assert len(tokenizer.tokenize(f" {word}")) == 1, word
    assert len(tokenizer.tokenize(" 12.3")) == 5, "digits stay single"


def test_pictures_are_as_the_processor_gives_them(made):
    processor = made[1]
    album = sight.Album(processor, 14, 0, views.draw_views(np.random.default_rng(0), 6, views.PAIRS))
    given = processor.video_processor([album.pictures.numpy()], do_sample_frames=False, return_tensors="pt")
    assert torch.allclose(album.pixels(torch.arange(6)), given["pixel_values_videos"][0], atol=1e-4)
