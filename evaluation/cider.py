"""
CIDEr (Vedantam et al., 2015), the variant CIDEr-D that the field calculates: n-grams of 1 to 4 words, clipped, with a
Gaussian penalty on the difference of lengths (σ 6), times 10. One reference for each caption.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache


LONGEST, SIGMA = 4, 6.0


def scores(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """
    Of each tokenized (caption, reference) of a corpus. How rare an n-gram is, the references of this corpus say: a pair
    scores differently in other company, and alone 0.
    """
    frequency = Counter()
    for _, reference in pairs:
        frequency.update(_grams(reference).keys())
    largest = math.log(max(len(pairs), 1))
    rarity = {gram: largest - math.log(count) for gram, count in frequency.items()}
    return [_score(_grams(caption), _grams(reference), rarity, largest) for caption, reference in pairs]


def _score(caption: dict, reference: dict, rarity: dict, largest: float) -> float:
    shared = caption.keys() & reference.keys()
    if not shared:
        return 0.0
    products = [0.0] * LONGEST
    for gram in shared:
        weight = rarity[gram]
        products[len(gram) - 1] += min(caption[gram], reference[gram]) * reference[gram] * weight * weight
    cosines = 0.0
    for product, one, other in zip(
        products, _squares(caption, rarity, largest), _squares(reference, rarity, largest), strict=True
    ):
        if one and other:
            cosines += product / (math.sqrt(one) * math.sqrt(other))
    difference = _pairs_of_words(caption) - _pairs_of_words(reference)
    return 10 * cosines / LONGEST * math.exp(-(difference**2) / (2 * SIGMA**2))


def _squares(grams: dict, rarity: dict, largest: float) -> list[float]:
    sums = [0.0] * LONGEST
    for gram, count in grams.items():
        sums[len(gram) - 1] += (count * rarity.get(gram, largest)) ** 2
    return sums


def _pairs_of_words(grams: dict) -> int:
    """The published length of a caption counts its pairs of neighbours, not its words."""
    return sum(count for gram, count in grams.items() if len(gram) == 2)


@lru_cache(maxsize=1 << 16)
def _grams(text: str) -> dict[tuple[str, ...], int]:
    words = text.split()
    spans = ((at, at + size) for size in range(1, LONGEST + 1) for at in range(len(words) - size + 1))
    return Counter(tuple(words[start:end]) for start, end in spans)
