import pytest

from modeling_seq2time import get_notation
from modeling_seq2time.moments import (
    Answer,
    Moment,
    failure_rate,
    merge_windows,
    overlap,
    read_grounding,
    read_highlights,
    read_moments,
)


TEXT = get_notation("text")


def spans(answer):
    return [(moment.start, moment.end) for moment in answer]


def test_dense_captions_as_timechat_reads_them():
    answer = read_moments(
        "Here it is: 90.0 - 102.0 seconds, spread margarine on 2 slices.  114 -127.5 seconds, Add it.  5.0 - 1.0 "
        "seconds, reversed times 3.0-4.0, a.",
        TEXT,
        200.0,
    )
    assert spans(answer) == [(90.0, 102.0), (114.0, 127.5), (1.0, 5.0)], "the last piece is too short"
    assert [moment.text for moment in answer] == ["spread margarine on 2 slices.", "Add it.", "reversed times"]
    assert answer[0].position == (0.45, 0.51)
    assert answer[0].score is None
    assert answer.failure is None


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("The given query happens in 24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("It happens in 30.4 - 24.3 seconds, then in 40 - 50 seconds", (24.3, 30.4)),
        ("The start time is 2 seconds, and the end time is 12.5 seconds.", (2.0, 12.5)),
        ("The event starts at 00:00:18 and ends at 00:00:23.", (18.0, 23.0)),
        ("0:10 - 1:20", (10.0, 80.0)),
        ("from 10 to 20.5 seconds", (10.0, 20.5)),
        ("between 12.0 s and 20.0 s", (12.0, 20.0)),
        ("10.0 - 70.0 seconds", (10.0, 70.0)),
    ],
)
def test_grounding_as_timechat_reads_it(text, span):
    (moment,) = answer = read_grounding(text, TEXT, 60.0, query="a door")
    assert (moment.start, moment.end, moment.text) == (*span, "a door")
    assert answer.failure is None


@pytest.mark.parametrize(
    ("name", "text", "positions"),
    [
        ("rpt", "<0><1><0><9> - <0><1><7><6>, a door. <5><0> <5><0><0><0> then <9><0><0><0> - <1><0><0><0>, a cat.", 2),
        (
            "bins",
            "From <bin_3> to <bin_9>, a door\nFrom <bin_9> to <bin_30>, a cat",
            2,
        ),
        ("percent", "From 01 to 10, a door opens. From 11 to 99, 2 cats", 2),
    ],
)
def test_other_notations(name, text, positions):
    answer = read_moments(text, get_notation(name), 100.0)
    assert len(answer) == positions
    assert all(moment.start <= moment.end for moment in answer)
    assert answer[0].text.startswith("a door")
    assert not any("From" in moment.text for moment in answer)


def test_highlights():
    text = "The highlight timestamps are in the 57.0, 58.0 seconds. Their saliency scores are 2.1, 3.0."
    answer = read_highlights(text, TEXT, 100.0, query="a goal")
    assert [(moment.start, moment.end, moment.score) for moment in answer] == [(57.0, 57.0, 2.1), (58.0, 58.0, 3.0)]
    assert read_highlights(text[:-5], TEXT, 100.0).failure == "2 times and 1 saliency scores"


def test_failures_are_counted():
    answers = [read_grounding(text, TEXT, 60.0) for text in ("nothing", "1.0 - 2.0", "I see 3 cats")]
    assert [answer.failure for answer in answers] == ["no start and end", None, "no start and end"]
    assert failure_rate(answers) == pytest.approx(2 / 3)
    assert failure_rate([]) == 0.0
    for name in ("text", "rpt", "bins", "percent"):
        for text in ("I see no event.", ""):
            assert read_moments(text, get_notation(name), 60.0).failure == "no start and end"
    assert read_moments("1.0 - 2.0, a.", TEXT, 60.0).failure == "no times with a text behind them"
    assert Answer([], "the event is absent").failure is None, "an empty answer is no failure"


def test_overlap():
    assert overlap((0, 10), (5, 15)) == pytest.approx(1 / 3)
    assert overlap((0, 1), (2, 3)) == 0
    assert overlap((2, 2), (2, 2)) == 1


def test_windows_are_merged_by_score():
    def moment(start, end, score):
        return Moment(start, end, "", score)

    cut, whole, twin, later = moment(20, 30, 0.2), moment(20, 36, 0.5), moment(20, 35, 0.9), moment(50, 60, 0.3)
    assert merge_windows([[cut], [whole, twin, later]], near=1.0) == [twin, whole, later], "one window's own all stay"
    point, same = moment(10, 10, 2.0), moment(10.5, 10.5, 3.0)
    assert merge_windows([[point], [same]], near=1.0) == [same]
    assert merge_windows([[point], [same]], near=0.1) == [same, point]
    assert merge_windows([[later], [moment(61, 70, 0.1)]], near=1.0) == [later, moment(61, 70, 0.1)]


def test_a_windows_moment_in_the_whole_video():
    moved = Moment.at((0.5, 1.0), 10.0, "x", 0.1).moved(20.0, 40.0)
    assert moved == Moment(25.0, 30.0, "x", 0.1, (0.625, 0.75))


@pytest.mark.parametrize("name", ["text", "rpt", "bins", "percent"])
def test_several_windows_of_one_answer(name):
    notation = get_notation(name)
    one, two, three = (
        [notation.encode(place / 100, 100.0) for place in ends] for ends in ((10, 20), (30, 40), (70, 80))
    )
    joined = notation.separator.join
    told = f"{notation.opening}{joined(one)}, {joined(two)}{notation.unit_words['s']}. A cat {joined(three)}."
    found = read_grounding(told, notation, 100.0, query="a cat")
    assert [(moment.start, moment.end, moment.text) for moment in found] == [(10, 20, "a cat"), (30, 40, "a cat")]
