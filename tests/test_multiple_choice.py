"""TempCompass' rule: which answers name an option, and which is right."""

import pytest

from evaluation.multiple_choice import judge, score


@pytest.mark.parametrize("protocol", ["seq2time", "tempcompass"])
@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("B. dunking a ball", True),
        (" B. dunking a ball </s>", True),
        ("B", True),
        ("B.", True),
        ("B</s>", True),
        ("B. something else", True),
        ("B) dunking a ball", True),
        ("A. dunking a ball", False),
        ("C", False),
        ("D)", False),
        ("dunking a ball", None),
        ("Because of that", None),
        ("**B.**", None),
        ("The answer is B.", None),
        ("E.", None),
        ("", None),
        (None, None),
    ],
)
def test_what_names_an_option(prediction, right, protocol):
    assert judge(prediction, "B. dunking a ball", protocol) is right


@pytest.mark.parametrize(
    ("prediction", "right"),
    [("b", True), ("b. Dunking", True), ("(B) dunking", True), ("(b)", True), ("(A)", False), ("(B", None)],
)
def test_what_names_an_option_only_by_default(prediction, right):
    assert judge(prediction, "B. dunking a ball") is right
    assert judge(prediction, "B. dunking a ball", "tempcompass") is None


def test_the_whole_answer_is_right_whatever_it_is():
    assert judge("Dunking", "dunking") is True
    assert judge("Dunking", "dunking", "tempcompass") is None
    assert judge("dunking", "dunking", "tempcompass") is True


REFERENCES = {
    "v/order/0": {"answer": "A. first", "dimension": "order"},
    "v/order/1": {"answer": "B. last", "dimension": "order"},
    "v/speed/0": {"answer": "C. slow", "dimension": "speed"},
    "w/speed/0": {"answer": "A. fast", "dimension": "speed"},
    "w/speed/1": {"answer": "B. slow", "dimension": "speed"},
}


def test_accuracy_is_over_all_questions_and_over_those_of_a_dimension():
    predictions = {"v/order/0": "A", "v/order/1": "hm", "v/speed/0": None, "w/speed/0": "(a)", "x": "A"}
    result = score(predictions, REFERENCES)
    assert result["accuracy"] == pytest.approx(40)
    assert (result["accuracy_order"], result["accuracy_speed"]) == pytest.approx((50, 100 / 3))
    assert (result["questions"], result["missing"], result["unparsed"]) == (5, 1, 2)
    assert set(result["interval"]) == {"accuracy", "accuracy_order", "accuracy_speed"}
    assert all(low <= result[name] <= high for name, (low, high) in result["interval"].items())
    published = score(predictions, REFERENCES, "tempcompass")
    assert (published["accuracy"], published["unparsed"], published["protocol"]) == (20, 3, "tempcompass")


def test_nothing_to_score_is_0():
    result = score({}, {})
    assert (result["accuracy"], result["questions"], result["missing"], result["unparsed"]) == (0, 0, 0, 0)


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="expected one of seq2time, tempcompass, found 'x'"):
        score({}, {}, "x")
