"""
Files of predictions and references of action segmentation and multiple choice, in the peers' own formats; what is wrong
is named, and dealt with, as in `moment_files`.
"""

from collections.abc import Iterable
from pathlib import Path

from dataset_scripts.fields import Malformed, get, kept, opened, read_json
from dataset_scripts.items import DataError, Problems

from .moment_files import Empty, distinct, some


def segmentation_predictions(path: Path, problems: Problems) -> dict[str, list[str]]:
    """
    JSON, `{"<video>": [label of each frame, …]}`, or a folder with a text file per video: one label a line, or, as
    MS-TCN writes it, a line that begins with `###` and one line with all labels. The video's name is the file's up to
    the first dot. Labels that are numbers are read as text.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        rows = [(file.name, file.name.split(".")[0], _lines(file)) for file in files]
        if not rows:
            raise DataError(f"{path}: expected a text file per video, found an empty folder")
    else:
        rows = [(f"{path.name}: {video}", video, labels) for video, labels in read_json(path, dict).items()]
    return distinct(path, kept(problems, _labels, rows), numbers=False)


def video_names(path: Path) -> set[str]:
    """A name a line, as in MS-TCN's `splits/*.bundle`, up to the first dot."""
    with opened(path) as lines:
        return {line.strip().split(".")[0] for line in lines if line.strip()}


def segmentation_references(path: Path, problems: Problems) -> dict[str, list[str]]:
    """As predictions."""
    return some(path, segmentation_predictions(path, problems), problems)


def choice_predictions(path: Path, problems: Problems) -> dict[str, str | None]:
    """
    TempCompass' `{"<video>": {"<dimension>": [{"question", "answer", "prediction" or "response"}, …]}}`. The id of a
    question is video, dimension and the question itself; `null` is a model's silence.
    """
    rows = list(_questions(path, problems))
    if rows and not any("prediction" in row or "response" in row for *_, row in rows if isinstance(row, dict)):
        raise DataError(f"{path}: expected predictions with a field 'prediction', found only questions: references?")
    return distinct(path, kept(problems, _choice, rows), numbers=False)


def choice_references(path: Path, problems: Problems) -> dict[str, dict]:
    """TempCompass' questions, as in `choice_predictions`; predictions hold the answers, too, and can stand for them."""
    return some(path, distinct(path, kept(problems, _question, _questions(path, problems)), numbers=False), problems)


def _lines(file: Path) -> list[str]:
    with opened(file) as lines:
        found = [line.strip() for line in lines]
    while found and not found[-1]:
        found.pop()
    return " ".join(found[1:]).split() if found and found[0].startswith("###") else found


def _labels(place: str, video: str, labels: list) -> tuple[str, list[str]]:
    if not isinstance(labels, list):
        raise Malformed(f"expected a list of labels, found {labels!r:.60}")
    for frame, label in enumerate(labels):
        if not isinstance(label, (str, int)) or label == "":
            raise Malformed(f"frame {frame}: expected a label, found {label!r:.60}")
    if not labels:
        raise Empty("expected a label per frame, found none")
    return video, [str(label) for label in labels]


def _questions(path: Path, problems: Problems) -> Iterable[tuple[str, str, str, dict]]:
    for video, dimensions in read_json(path, dict).items():
        place = f"{path.name}: {video}"
        for dimension, rows in dimensions.items() if isinstance(dimensions, dict) else [("", None)]:
            if isinstance(rows, list):
                yield from ((f"{place}, {dimension} {at}", video, dimension, row) for at, row in enumerate(rows))
            else:
                problems.add("malformed", place, "expected lists of questions by dimension")


def _choice(place: str, video: str, dimension: str, row: dict) -> tuple[str, str | None]:
    field = "response" if isinstance(row, dict) and "prediction" not in row and "response" in row else "prediction"
    return _question_id(video, dimension, row), get(row, field, (str, type(None)))


def _question(place: str, video: str, dimension: str, row: dict) -> tuple[str, dict]:
    answer = get(row, "answer", str).strip()
    if not answer:
        raise Empty("field 'answer': expected an option, found none")
    return _question_id(video, dimension, row), {"answer": answer, "dimension": dimension, "question": row["question"]}


def _question_id(video: str, dimension: str, row: dict) -> str:
    return f"{video}/{dimension}/{get(row, 'question', str).strip()}"
