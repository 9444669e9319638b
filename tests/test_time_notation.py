import pytest

from modeling_seq2time import get_notation


@pytest.mark.parametrize(
    ("position", "text"),
    [(0.0, "<0><0><0><0>"), (7 / 96, "<0><7><2><9>"), (0.5, "<5><0><0><0>"), (1.0, "<9><9><9><9>")],
)
def test_rpt_writes_four_digits(position, text):
    notation = get_notation("rpt")
    assert notation.encode(position) == text
    assert notation.decode(f"from {text} on") == [pytest.approx(position, abs=1e-4)]


def test_rpt_tells_every_image_apart():
    notation = get_notation("rpt")
    for count in (1, 2, 96, 333, 5000):
        places = [notation.decode(notation.encode(i / count))[0] * count for i in range(1, count + 1)]
        assert [round(place) for place in places] == list(range(1, count + 1))


def test_text_writes_seconds_or_indices():
    notation = get_notation("text")
    assert notation.tokens == ()
    assert notation.encode(12.34 / 60.5, 60.5) == "12.3"
    assert notation.encode(1.25 / 5.0, 5.0) == str(round(1.25, 1))
    assert notation.encode(7 / 96, 96, unit="image") == "7"
    assert notation.decode("24.3 - 30.4 seconds", 60.8) == pytest.approx([24.3 / 60.8, 0.5])
    with pytest.raises(ValueError, match="`length`, the duration or the count, is missing"):
        notation.encode(0.5)


@pytest.mark.parametrize("position", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["rpt", "text"])
def test_positions_are_fractions(name, position):
    with pytest.raises(ValueError, match="a position is a fraction between 0 and 1, found"):
        get_notation(name).encode(position, 10.0)


def test_unknown_notation():
    with pytest.raises(ValueError, match="unknown time notation 'bin', expected one of 'rpt', 'text'"):
        get_notation("bin")
