import math

import pytest

from evaluation.cider import scores


def test_by_hand():
    """
    Two pairs; log 2 is the weight of all n-grams that one of the two references has. In the first, of "a b" and "a c"
    the word "a" is shared: cosine 1/2 of words, 0 of pairs of words; mean over four lengths, times 10.
    """
    assert scores([("a b", "a c"), ("x", "y")]) == pytest.approx([10 * (1 / 2) / 4, 0])


def test_a_word_that_all_references_have_is_worth_nothing():
    assert scores([("a b", "a c"), ("a x", "a y")]) == [0, 0]


def test_equal_captions_of_four_words_have_10():
    assert scores([("a b c d", "a b c d"), ("x", "y")])[0] == pytest.approx(10)


def test_a_repeated_word_counts_as_often_as_the_reference_has_it():
    words = 1 / math.sqrt(3 * 3 + 0)  # "a a a" against "a": min(3, 1) · 1 / (3 · 1)
    penalty = math.exp(-(2**2) / (2 * 6**2))  # two pairs of words against none
    assert scores([("a a a", "a"), ("x", "y")])[0] == pytest.approx(10 * words / 4 * penalty)


def test_how_rare_a_word_is_counts_references_not_words():
    """ "a" is in one reference of three, twice; "b" in two of them."""
    a, b = math.log(3), math.log(3 / 2)
    expected = (a * a * 2 + b * b) / math.sqrt((a * a + b * b) * (4 * a * a + b * b))
    penalty = math.exp(-(1**2) / (2 * 6**2))
    pairs = math.log(3) ** 2 / math.sqrt(math.log(3) ** 2 * 2 * math.log(3) ** 2)
    found = scores([("a b", "a a b"), ("x", "b"), ("y", "z")])[0]
    assert found == pytest.approx(10 * (expected + pairs) / 4 * penalty)


def test_alone_a_pair_has_nothing():
    assert scores([("a b c d", "a b c d")]) == [0]
    assert scores([]) == []
