"""Captions as words: tokenized as in the Penn Treebank, in lower case, without punctuation."""

import re
from collections.abc import Iterable
from itertools import islice

from .java import data_file, run


# What the field takes away behind the tokenizer. In lower case `-lrb-` and its like pass, and have always passed.
PUNCTUATION = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}


def tokenize(captions: Iterable[str]) -> dict[str, str]:
    """
    The words of each caption, with one space between them. Whatever breaks a line counts as a space.

    The tokenizer looks ahead into the next line: before a number the dot of a last "no." stays, else it goes. Each
    caption is therefore followed by a word in lower case, as it most often is in the published scripts, and has the
    same words in whatever company.
    """
    distinct = list(dict.fromkeys(captions))
    lines = _tokenized([line for caption in distinct for line in (caption, "a")])
    return dict(zip(distinct, lines[::2], strict=True))


def tokenize_in_order(lists: list[list[str]]) -> list[list[str]]:
    """The words of each caption as a published script gets them, which hands the tokenizer one list after the other."""
    words = iter(_tokenized([line for one in lists for line in (*one, "", "a")]))  # nothing follows the last of a list
    made = []
    for one in lists:
        made.append(list(islice(words, len(one))))
        next(words), next(words)
    return made


def _tokenized(lines: list[str]) -> list[str]:
    jar = data_file("tokenizer/stanford-corenlp-3.4.1.jar")
    program = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    answers = run(program, [" ".join(line.splitlines()) for line in lines]) if lines else []
    return [" ".join(word for word in answer.strip().split(" ") if word not in PUNCTUATION) for answer in answers]


def letters_only(paragraph: str) -> str:
    """As TimeChat prepares paragraphs: words of the letters a to z, in lower case."""
    return " ".join(re.findall("[a-z]+", paragraph.lower()))
