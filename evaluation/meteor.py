"""
METEOR 1.5, from the program of its authors: it counts what matches (its statistics), the score is computed here.

One process answers for all pairs. It would spend most of its time on reading 5 million paraphrases; it gets those whose
words are all in the captions, no other can match.
"""

import gzip
import re
import tempfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from dataset_scripts.files import replacing

from .java import cache_folder, data_file, run


# Statistics of a pair, in the program's order, hypothesis before reference: lengths, numbers of function words, what
# matches in each of four stages, chunks, words that match.
STAGES = slice(4, 20)  # content words of hypothesis and reference, function words of hypothesis and reference
CHUNKS, HYPOTHESIS_MATCHES, REFERENCE_MATCHES = 20, 21, 22
WIDTH = 23

STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
NO_WORD = "zqxjkvzqxjkv"  # that no caption holds


def statistics(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
    """What matches in each pair of tokenized (hypothesis, reference)."""
    distinct = list(dict.fromkeys(pairs))
    if not distinct:
        return {}
    texts = [tuple(text.replace("|||", "") for text in pair) for pair in distinct]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "paraphrases.gz")
        table.write_bytes(gzip.compress(_paraphrases({text for pair in texts for text in pair}), compresslevel=1))
        jar = str(data_file("meteor/meteor-1.5.jar"))
        lines = run(
            ["-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm", "-a", str(table)],
            [f"SCORE ||| {reference} ||| {hypothesis}" for hypothesis, reference in texts],
        )
    return {pair: np.array(line.split(), dtype=float) for pair, line in zip(distinct, lines, strict=True)}


def total(statistics: np.ndarray) -> np.ndarray:
    """(pairs, 23) → (23,), as METEOR adds: pairs that match whole add no chunk."""
    lengths, stages = statistics[:, :2], statistics[:, STAGES].reshape(-1, 4, 2, 2).sum(axis=(1, 2))
    whole = (stages == lengths).all(axis=1) & (statistics[:, CHUNKS] == 1)
    added = statistics.sum(axis=0)
    added[CHUNKS] -= whole.sum()
    return added


def score(statistics: np.ndarray) -> np.ndarray:
    """METEOR in [0, 1] of statistics (…, 23)."""
    functions = statistics[..., 2:4]
    lengths = DELTA * (statistics[..., :2] - functions) + (1 - DELTA) * functions
    stages = statistics[..., STAGES].reshape(*statistics.shape[:-1], 4, 2, 2)  # stage, kind of word, side
    weights = STAGE_WEIGHTS[:, None] * np.array([DELTA, 1 - DELTA])
    matched = (stages * weights[..., None]).sum(axis=(-3, -2))
    whole = (stages.sum(axis=(-3, -2)) == statistics[..., :2]).all(axis=-1) & (statistics[..., CHUNKS] == 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matched / lengths, -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragments = statistics[..., CHUNKS] / (statistics[..., HYPOTHESIS_MATCHES : REFERENCE_MATCHES + 1].sum(-1) / 2)
        value = mean * (1 - GAMMA * np.where(whole, 0, fragments) ** BETA)
    return np.maximum(np.nan_to_num(value, nan=0.0), 0.0)


def _paraphrases(texts: set[str]) -> bytes:
    """The part of METEOR's table that can match in these texts, in the table's order and form."""
    known = _words(texts).issuperset
    found = []
    for line in _table().split(b"\n"):
        phrase, _, others = line.partition(b"\t")
        if known(phrase.split()):
            found += (b"0\n%s\n%s\n" % (phrase, other) for other in others.split(b"\t") if known(other.split()))
    return b"".join(found)


def _table() -> bytes:
    """
    METEOR's table with a line for each phrase, `phrase<tab>paraphrase<tab>paraphrase…`, without the probabilities,
    which METEOR doesn't read. It is kept among the caches of the user: it takes a sixth of the original's time.
    """
    original = data_file("meteor/data/paraphrase-en.gz")
    kept = cache_folder() / f"paraphrases-{original.stat().st_size}.gz"
    with suppress(OSError, EOFError, zlib.error):  # not there, out of reach, or damaged: gzip has a checksum
        if table := gzip.decompress(kept.read_bytes()):
            return table
    with gzip.open(original) as lines:
        groups = groupby(zip(lines, lines, lines, strict=True), key=itemgetter(1))
        table = b"\n".join(b"\t".join([phrase[:-1], *(one[2][:-1] for one in group)]) for phrase, group in groups)
    with suppress(OSError), replacing(kept) as part:  # a machine where nothing can be written reads the original again
        part.write_bytes(gzip.compress(table, compresslevel=1))
    return table


def _words(texts: set[str]) -> set[bytes]:
    """
    Every word that METEOR's own normalization may make of the texts: it cuts at marks and dashes, splits `don't` into
    `don 't` and drops the dots of `u.s.`. Words too many do no harm.
    """
    found = set()
    for token in {token for text in texts for token in text.lower().split()}:
        runs = re.findall(r"[^\W_]+", token)
        found.update(runs, re.findall(r"\W|_", token), (f"'{run}" for run in runs))
        for part in (token, *re.split(r"[^\w.,]|_", token)):
            found.update((part, part.rstrip("."), part.replace(".", "")))
    return {word.encode() for word in found}
