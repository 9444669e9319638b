import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_seq2time import get_notation
from modeling_seq2time.time_notation import NOTATIONS, escape, mark, marks, parse, render, unescape


TIME = "<TIME_ZERO><TIME_ZERO><TIME_ONE><TIME_TWO><TIME_DOT><TIME_THREE>"


@pytest.mark.parametrize(
    ("name", "position", "length", "text"),
    [
        ("rpt", 0.0, None, "<0><0><0><0>"),
        ("rpt", 7 / 96, None, "<0><7><2><9>"),
        ("rpt", 0.5, None, "<5><0><0><0>"),
        ("rpt", 1 / 800, None, f"<0><0><{str(round(1 / 800, 4))[4]}><{str(round(1 / 800, 4))[5]}>"),
        ("rpt", 1.0, None, "<9><9><9><9>"),
        ("text", 12.34 / 60.5, 60.5, "12.3"),
        ("text", 1.25 / 5, 5.0, str(round(1.25, 1))),
        ("text", 1.0, 60.0, "60.0"),
        ("bins", 12.34 / 60.5, None, "<bin_61>"),
        ("bins", 0.29 * 0.99, None, "<bin_86>"),
        ("bins", 1.0, None, "<bin_300>"),
        ("absolute", 12.34 / 60.5, 60.5, TIME),
        ("percent", 9.4 / 54.2, None, "17"),  # the example of VTimeLLM's documentation
        ("percent", 0.29, None, "29"),
        ("percent", 1.0, None, "99"),
    ],
)
def test_writes_positions(name, position, length, text):
    notation = get_notation(name)
    assert notation.encode(position, length) == text
    assert notation.decode(f"from {text} on", length) == [
        pytest.approx(position, abs=notation.resolution(length or 1.0) + 1e-9)
    ]


def test_bins_round_as_the_paper_or_as_its_code():
    position = 0.299  # of 100 bins
    assert get_notation("bins", num_bins=100).encode(position) == "<bin_30>"
    assert get_notation("bins", num_bins=100, rounding="floor").encode(position) == "<bin_29>"
    assert get_notation("bins", num_bins=100, rounding="floor").encode(0.29) == "<bin_29>", "not 28.999999999999996"
    assert len(get_notation("bins").tokens) == 301
    assert get_notation("bins").decode("<bin_300> <bin_301>") == [1.0], "there is no bin 301"


def test_tokens_of_different_notations_never_collide():
    tokens = [token for name in NOTATIONS for token in get_notation(name).tokens]
    assert len(tokens) == len(set(tokens)) == 10 + 301 + 11


@pytest.mark.parametrize("count", [1, 2, 3, 96, 100, 333, 4999, 5000])
def test_rpt_tells_every_image_apart(count):
    notation = get_notation("rpt")
    for place in range(1, count + 1):
        text = notation.encode(place / count, count)
        assert notation.decode(text, count) == notation.decode(text, count, "image") == [place / count]
        assert round(notation.decode(text)[0] * count) == place


@given(st.data(), st.integers(1, 5000))
def test_any_image_of_any_sequence(data, count):
    place = data.draw(st.integers(1, count))
    for name in ("rpt", "text", "absolute"):
        notation = get_notation(name)
        assert notation.decode(notation.encode(place / count, count, "image"), count, "image") == [place / count]


@pytest.mark.parametrize("name", NOTATIONS)
@given(position=st.floats(0, 1), length=st.floats(0.5, 9_999))
def test_within_the_resolution(name, position, length):
    notation = get_notation(name)
    # 1.0 shares RPT's last digits with the last ten-thousandth
    steps = 1.5 if name == "rpt" and position > 0.9998 else 1.0
    for seconds in (length, float(round(length) or 1)):
        (decoded,) = notation.decode(notation.encode(position, seconds), seconds)
        assert 0 <= decoded <= 1
        assert abs(decoded - position) <= steps * notation.resolution(seconds) + 1e-9


@pytest.mark.parametrize("name", NOTATIONS)
@given(position=st.floats(0, 1), other=st.floats(0, 1), length=st.floats(1, 9_999))
def test_order_is_kept(name, position, other, length):
    notation = get_notation(name)
    first, second = sorted((position, other))
    assert notation.code(first, length) <= notation.code(second, length)


@pytest.mark.parametrize("name", NOTATIONS)
@pytest.mark.parametrize(("length", "unit"), [(12.34, "s"), (96, "image"), (0.04, "s"), (3600.0, "s")])
def test_legal_codes_lie_within_the_sequence(name, length, unit):
    notation = get_notation(name)
    codes = notation.legal_codes(length, unit)
    fractions = [notation.fraction(code, length, unit) for code in codes]
    assert list(codes) == sorted(set(codes))
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    assert fractions[-1] >= 1 - notation.resolution(length, unit) - 1e-9
    assert all("".join(notation.symbols(code, unit)) == notation.write(code, unit) for code in codes[:50])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("The given query happens in 24.3 - 30.4 seconds.", [24.3, 30.4]),
        ("24.3 - 30.4 seconds, crack 2 eggs, wait 2 - 3 minutes. 31 - 40 seconds, add 1.5 cups.", [24.3, 30.4, 31, 40]),
        ("2.7 seconds, crack 2 eggs", [2.7]),
        ("timestamps are in the 57.0, 58.5, and 59.0 seconds.", [57, 58.5, 59]),
        ("24.3 - 30.4, crack 2 eggs", [24.3, 30.4]),
        ("from 24 to 30, crack 2 eggs", [24, 30]),
        ("it starts at 24.3 with 2 eggs", [24.3]),
        ("2 eggs, 12.3 - 20 seconds", [12.3, 20]),
        ("no time at all", []),
    ],
)
def test_numbers_that_are_times(text, seconds):
    assert get_notation("text").decode(text, 60.0) == pytest.approx([second / 60 for second in seconds])


@pytest.mark.parametrize(
    "text",
    ["The index of the image with 2 dogs: image indices 7, 9, and 12.", "Images 7, 9 and 12 show 3 cats.", "7, 9, 12"],
)
def test_numbers_that_are_places(text):
    assert get_notation("text").decode(text, 96, "image") == [7 / 96, 9 / 96, 12 / 96]


def test_pieces_of_times_are_no_times():
    rpt, absolute = get_notation("rpt"), get_notation("absolute")
    assert rpt.decode("<1><2><3>, <1><2><3><4><5>, <1><2><3><4> <5>") == []
    assert rpt.decode("<1> <2> <3> <4>, <\\5><6><7><8>") == [0.1234], "tokenizers may put spaces between tokens"
    assert rpt.decode("<1><2><3><4><5><6><7><8>") == [0.1234, 0.5678]
    assert absolute.decode(TIME[len("<TIME_ZERO>") :], 60.0) == []
    assert absolute.decode(TIME + "<TIME_ONE>", 60.0) == []
    assert get_notation("percent").decode("05 to 12, 2 of 1234 eggs at 12.5 degrees, 33 cups") == [0.05, 0.12]


def test_times_beyond_the_end_are_not_hidden():
    text = get_notation("text")
    assert text.decode("10.0 - 70.0 seconds", 60.0) == pytest.approx([1 / 6, 7 / 6])
    assert text.decode(text.encode(1.0, 60.57), 60.57) == [1.0], "60.6 is only the end rounded up"
    with pytest.raises(ValueError, match=r"0 ≤ numerator ≤ denominator, found 70\.0/60\.0 s"):
        parse("10.0 - 70.0 seconds", text, 60.0)


def test_marks():
    assert mark(12.3, 60.5, "s") == "[[12.3/60.5 s]]"
    assert mark(7, 96, "image") == mark(7.0, 96.0, "image") == "[[7/96 image]]"
    assert mark(1e-7, 60, "s") == "[[0.0000001/60 s]]", "no exponent"
    assert marks(f"x {mark(1 / 3, 60.5, 's')} [[y]] {mark(7, 96, 'image')}") == [(1 / 3, 60.5, "s"), (7, 96, "image")]
    for numbers in (
        (61, 60, "s"),
        (-1, 60, "s"),
        (0, 0, "s"),
        (math.nan, 60, "s"),
        (0, 96, "image"),
        (1.5, 96, "image"),
    ):
        with pytest.raises(ValueError, match="found"):
            mark(*numbers)
    with pytest.raises(ValueError, match="unit must be 's' or 'image', found 'frame'"):
        mark(1, 2, "frame")


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("rpt", "<4><0><0><0> - <5><0><0><0>, press <\\7> and [[ or [[7/96 image]]"),
        ("text", "24.3 - 30.4, press <7> and [[ or [[7/96 image]]"),
        ("bins", "<bin_120> - <bin_150>, press <7> and [[ or [[7/96 image]]"),
        ("percent", "39 - 50, press <7> and [[ or [[7/96 image]]"),
    ],
)
def test_one_stored_text_serves_every_notation(name, rendered):
    caption = escape("press <7> and [[ or [[7/96 image]]")
    assert caption == "press <7> and [[ or [\\[7/96 image]]"
    stored = f"{mark(24.3, 60.8, 's')} - {mark(30.4, 60.8, 's')}, {caption}"
    notation = get_notation(name)
    assert render(stored, notation).replace("<3><9><9><7>", "<4><0><0><0>") == rendered
    again = parse(render(stored, notation), notation, 60.8)
    assert again.endswith(f", {caption}")
    for found, given_ in zip(marks(again), (24.3, 30.4), strict=True):
        assert found[0] == pytest.approx(given_, abs=60.8 * notation.resolution(60.8))


tricky = st.lists(
    st.one_of(
        st.sampled_from(
            ["[[", "]]", "[", "\\", "<", ">", "<7>", "<\\7>", "7/96 image", "[[7/96 image]]", "[\\[1.5/2 s]]", "[[7/96"]
        ),
        st.sampled_from(["<bin_3>", "<\\bin_3>", "<TIME_ONE>", "bin_", "2 eggs", "12.3", " - ", " seconds", " s]]"]),
        st.text(max_size=5),
    ),
    max_size=8,
).map("".join)


@given(tricky)
def test_escapes_are_undone(text):
    assert unescape(escape(text)) == text
    assert marks(escape(text)) == []
    for name in NOTATIONS:
        notation = get_notation(name)
        assert notation.unescape(notation.escape(text)) == text
        assert not notation.tokens or notation.find(notation.escape(text)) == []


@pytest.mark.parametrize("name", ["rpt", "bins", "absolute"])
@given(
    texts=st.lists(tricky, min_size=4, max_size=4),
    places=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    length=st.floats(0.5, 9_999),
)
def test_render_and_parse_are_inverse(name, texts, places, length):
    notation = get_notation(name)
    times = [mark(place * length, length, "s") for place in places]
    pieces = [escape(f"{text} ") for text in texts]
    stored = pieces[0] + "".join(time + piece for time, piece in zip(times, pieces[1:], strict=True))
    again = parse(render(stored, notation), notation, length)
    found = marks(again)
    for time in found:
        again = again.replace(mark(*time), "*", 1)
    if not notation.unit_words["s"]:  # the unit's name right behind a mark isn't written
        pieces[1:] = [re.sub(r"^ seconds?\b", "", piece) for piece in pieces[1:]]
    assert again == "*".join(pieces)
    assert [time[0] for time in found] == pytest.approx(
        [place * length for place in places], abs=1.5 * length * notation.resolution(length) + 2e-6
    )


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("rpt", "<2><0><0><0> - <5><0><0><0>, wait 30 seconds, seconds."),
        ("percent", "20 - 50, wait 30 seconds, seconds."),
        ("text", "12.0 - 30.0 seconds, wait 30 seconds, seconds."),
    ],
)
def test_the_unit_behind_a_mark_is_the_notations_to_write(name, rendered):
    stored = f"{mark(12, 60, 's')} - {mark(30, 60, 's')} seconds, wait 30 seconds, seconds."
    assert render(stored, name) == rendered
    assert render(f"{mark(7, 96, 'image')} seconds", "rpt") == "<0><7><2><9> seconds"


@pytest.mark.parametrize("name", ["text", "percent"])
@given(
    caption=st.sampled_from(["crack 2 eggs", "add 1.5 cups of [[ <7>", "a [[7/96 image]] sign", ""]),
    places=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    length=st.floats(0.5, 9_999),
)
def test_plain_text_inside_the_grammar_of_answers(name, caption, places, length):
    notation = get_notation(name)
    start, end = (mark(place * length, length, "s") for place in sorted(places))
    words = notation.lead, notation.separator, notation.unit_words["s"]
    stored = f"{words[0]}{start}{words[1]}{end}{words[2]}, {escape(caption)}"
    again = parse(render(stored, notation), notation, length)
    assert [time[0] for time in marks(again)] == pytest.approx(
        [place * length for place in sorted(places)], abs=length * notation.resolution(length) + 2e-6
    )
    assert again.endswith(f", {escape(caption)}")


def test_places_keep_their_marks():
    stored = "The image indices are [[7/96 image]], [[96/96 image]]."
    for name in ("rpt", "text", "bins", "absolute"):
        notation = get_notation(name)
        assert parse(render(stored, notation), notation, 96, "image") == stored
        assert parse(render(stored, name), name, 96, "image") == stored


@pytest.mark.parametrize("name", ["bins", "percent", "rpt"])
def test_the_first_image_is_one(name):
    """However many images share its code."""
    notation = get_notation(name)
    text = render("[[1/1000 image]]", notation)
    assert marks(parse(text, notation, 1000, "image"))[0][0] >= 1
    assert all(notation.fraction(code, 1000, "image") >= 1 / 1000 for code in notation.legal_codes(1000, "image"))


@pytest.mark.parametrize("name", ["text", "absolute"])
@pytest.mark.parametrize("length", [739.56, 437.55, 60.0, 12.34, 0.04])
def test_the_end_of_a_video_can_be_said(name, length):
    notation = get_notation(name)
    assert notation.code(1.0, length) == notation.legal_codes(length)[-1]
    assert notation.decode(notation.encode(1.0, length), length)[0] == pytest.approx(1.0, abs=0.05 / length)
    assert notation.decode(notation.encode(1.0, length), length)[0] <= 1.0


@pytest.mark.parametrize("position", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", NOTATIONS)
def test_positions_are_fractions(name, position):
    with pytest.raises(ValueError, match="a position is a fraction between 0 and 1, found"):
        get_notation(name).encode(position, 10.0)


def test_what_is_missing_or_wrong_is_named():
    with pytest.raises(ValueError, match="`length`, the duration or the count, is missing"):
        get_notation("text").encode(0.5)
    with pytest.raises(ValueError, match="'absolute' has four digits before the dot, found 20000"):
        get_notation("absolute").encode(1.0, 20_000.0)
    with pytest.raises(ValueError, match="unknown time notation 'bin', expected one of 'rpt', 'text', 'bins'"):
        get_notation("bin")
    with pytest.raises(ValueError, match=r"'rpt' does not take the options \{'num_bins': 3\}"):
        get_notation("rpt", num_bins=3)
    with pytest.raises(ValueError, match="num_bins must be a whole number of at least 1, found 0"):
        get_notation("bins", num_bins=0)
    with pytest.raises(ValueError, match=r"rounding must be 'nearest' .*found 'up'"):
        get_notation("bins", rounding="up")
