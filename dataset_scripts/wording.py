"""Questions and answers from `templates.toml`, so that their grammar holds whatever a caption ends with."""

import re
import tomllib
from pathlib import Path

import numpy as np


TEMPLATES_FILE = Path(__file__).with_name("templates.toml")
TEMPLATES = tomllib.loads(TEMPLATES_FILE.read_text(encoding="utf-8"))

_ENDS_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*$")


def fill(template: str, *values: str) -> str:
    """
    The template with its `{}` filled. A caption's own full stop gives way to the template's sentence mark; a caption
    that ends with another one (`!`, `…`, `."`) keeps it, and the template's full stop gives way.
    """
    first, *rest = template.split("{}")
    text = first
    for value, following in zip(values, rest, strict=True):
        inserted, ends = value.strip(), ""
        if following[:1] in (".", "?", ";", ":"):
            if inserted.endswith(".") and not inserted.endswith(".."):
                inserted = inserted[:-1].rstrip()
            elif _ENDS_SENTENCE.search(inserted):
                ends = "."
        text += inserted + following.removeprefix(ends)
    return text


def pick(rng: np.random.Generator, templates: list[str]) -> str:
    return templates[rng.integers(len(templates))]


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, … 11th."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def listed(places: list[str]) -> str:
    return ", ".join(places)


def closed(text: str) -> str:
    """With the sentence mark that its first word asks for."""
    return text + ("?" if re.match(r"(What|Which|Can|Could|Where|When) ", text) else ".")
