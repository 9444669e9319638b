"""
Multiple choice, as in TempCompass, without a judge: the answer's letter decides.

A prediction is right if it is the answer, or begins with its letter: the letter alone, or followed by `.` or `)`, or in
brackets. One that begins with another letter is wrong; one in which no letter is found is `unparsed` and wrong, too.
TempCompass' own script asks a language model about those, unless it is given `--disable_llm`. `accuracy` is over all
questions, `accuracy_<dimension>` over those of an aspect: action, direction, speed, order, attribute_change. A question
without prediction (`missing`) is wrong; so is a prediction None, which counts as unparsed.

Protocols, which differ in what has a letter:
- `seq2time`: letters A to D, case doesn't matter, and `A`, `A.`, `A)`, `(A)` are letters.
- `tempcompass`: as the script: upper case only, and `(A)` isn't one.

The script sees only the questions in the prediction file; here missing ones count.
"""

import re

import numpy as np

from .intervals import ratio, summarise


PROTOCOLS = ("seq2time", "tempcompass")

_LETTER = {
    "seq2time": re.compile(r"\(([a-d])\)|([a-d])(?:[.)]|$)", re.IGNORECASE),
    "tempcompass": re.compile(r"([A-D])(?:[.)]|$)"),
}


def score(predictions: dict[str, str | None], references: dict[str, dict], protocol: str = PROTOCOLS[0]) -> dict:
    """`references` are objects with an `answer`, "B. …", and a `dimension`."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {protocol!r}")
    right = [judge(predictions.get(name), one["answer"], protocol) for name, one in references.items()]
    dimensions = list(dict.fromkeys(one["dimension"] for one in references.values()))
    of = np.array([[one["dimension"] == name for name in dimensions] for one in references.values()], dtype=float)
    of = np.column_stack([np.ones(len(right)), of.reshape(len(right), len(dimensions))])
    columns = np.column_stack([of, of * np.array([bool(one) for one in right]).reshape(-1, 1)])
    names = ["accuracy", *(f"accuracy_{name}" for name in dimensions)]

    def figures(sums: np.ndarray) -> dict[str, np.ndarray]:
        asked, correct = sums[..., : len(names)], sums[..., len(names) :]
        return dict(zip(names, np.moveaxis(ratio(100 * correct, asked), -1, 0), strict=True))

    found, interval = summarise(columns, figures)
    missing = sum(name not in predictions for name in references)
    counts = {"questions": len(right), "missing": missing, "unparsed": right.count(None) - missing}
    return {**found, **counts, "protocol": protocol, "interval": interval}


def judge(prediction: str | None, answer: str, protocol: str = PROTOCOLS[0]) -> bool | None:
    """Whether a prediction is right; None if it names no option."""
    if prediction is None:
        return None
    prediction, answer = prediction.replace("</s>", "").strip(), answer.strip()
    if protocol == "seq2time":
        prediction, answer = prediction.casefold(), answer.casefold()
    if prediction == answer:
        return True
    found = _LETTER[protocol].match(prediction)
    return found[found.lastindex] == answer[0] if found else None
