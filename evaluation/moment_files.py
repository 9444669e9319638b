"""
Files of predictions and references of moments and highlights, in the peers' own formats, as what the metrics take.

A reader gives a dict by id and adds to `problems` what is wrong. A file that can't be used as a whole is a `DataError`:
no or half a JSON file, JSON lines of which one is broken, an id that stands twice, a file of another kind, references
without a usable entry. Ids that are whole numbers are one id however they are written: "7", "07" and 7.

Kinds of problems, each of which concerns one entry, and what becomes of it:
- malformed: a field is missing or wrong (a time that is no number, say). Of predictions, a grounding answer
  counts as unparsed, another one as missing; of references, the entry is left out.
- inverted: a moment ends before it starts; it is kept, and the protocol says what it means.
- negative: a moment starts before its video; it is kept as it is.
- out of range: a reference scores clips that the video doesn't have, or has an impossible duration; it is left out.
- empty: a prediction without scores or frames, which counts as missing; a reference without frames is left out.
- unknown id: a prediction without reference; it is left out. `evaluation.score` names these.
- length: a prediction has more or fewer clips or frames than its reference; the metrics say what that means.
  `evaluation.score` names these, too.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from dataset_scripts.fields import (
    Malformed,
    get,
    identifier,
    kept,
    number,
    opened,
    read_json,
    read_jsonl,
    same_length,
    seconds,
)
from dataset_scripts.items import DataError, Problems

from .highlights import ANNOTATORS, CLIP, clips


LONGEST = 86_400  # seconds of a video: beyond it a duration is a mistake


class OutOfRange(Malformed):
    kind = "out of range"


class Empty(Malformed):
    kind = "empty"


def grounding_predictions(path: Path, problems: Problems) -> dict[str, list[tuple] | None]:
    """
    TimeChat's `{"<id>": {"timestamp": [[start, end], …], "query", "vid"}}`, best moment first, also with `[start, end]`
    alone, a score as third number, or the list without the object around it; or QVHighlights' rows with `qid` and
    `pred_relevant_windows`. `null` is an answer that couldn't be parsed; an empty list is one too if the query has a
    window, and if it has none, the right answer: files don't tell these apart.
    """
    content = _content(path)
    _refuse(path, content, "predictions", ("annotations", "relevant_windows", "timestamps"))
    if isinstance(content, dict):
        rows, field = ((f"{path.name}: id {name!r}", name, row) for name, row in content.items()), "timestamp"
    else:
        rows, field = _by_qid(content, problems), "pred_relevant_windows"
    return distinct(path, ((name, _answer(place, row, field, problems)) for place, name, row in rows))


def grounding_references(path: Path, problems: Problems) -> dict[str, list[tuple]]:
    """
    TimeChat's `{"annotations": [{"id", "timestamp": [start, end] or [[start, end], …]}]}`, or with `segments`; rows of
    QVHighlights with `qid` and `relevant_windows`; or ActivityNet Captions, `{"v_<id>": {"timestamps": [[start, end],
    …]}}`, whose queries have the ids `v_<id>/0`, `v_<id>/1` and so on. An event without windows is absent.
    """
    content = _content(path)
    _refuse(path, content, "references", ("timestamp", "pred_relevant_windows", "pred_saliency_scores"))
    if isinstance(content, list):
        found = _windows(_by_qid(content, problems), "relevant_windows", problems)
    elif "annotations" in content:
        rows = enumerate(_list(path, content["annotations"]))
        rows = ((f"{path.name}: annotation {number}", row) for number, row in rows)
        named = kept(problems, lambda place, row: (place, identifier(row, "id"), row), rows)
        found = _windows(named, "timestamp", problems)
    else:
        found = _windows(_events(path, content, problems), "timestamp", problems)
    return some(path, distinct(path, found), problems)


def highlight_predictions(path: Path, problems: Problems) -> dict[str, list[float]]:
    """A JSON list, or lines, of `{"qid", "query", "vid", "pred_saliency_scores"}`: a score per clip."""
    content = _content(path)
    _refuse(path, content, "predictions", ("saliency_scores", "relevant_clip_ids"))
    return distinct(path, kept(problems, _clip_scores, _by_qid(_list(path, content), problems)))


def highlight_references(path: Path, problems: Problems) -> dict[str, tuple[float, list[int], list[list[float]]]]:
    """Lines, or a JSON list, of QVHighlights: `qid`, `duration`, `relevant_clip_ids`, `saliency_scores`."""
    content = _content(path)
    _refuse(path, content, "references", ("pred_saliency_scores", "pred_relevant_windows"))
    found = kept(problems, _saliency, _by_qid(_list(path, content), problems))
    return some(path, distinct(path, found), problems)


def _content(path: Path) -> dict | list[tuple[str, dict]]:
    """A JSON object, or (place, row) of a JSON list or of lines. QVHighlights' lines also come as `.json`."""
    with opened(path) as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        row = json.loads(first)
    except ValueError:
        row = None
    if isinstance(row, dict) and "qid" in row:
        broken = Problems()
        rows = list(read_jsonl(path, broken))
        for _, place, detail, _ in broken.found:
            raise DataError(f"{path.parent / place}: {detail}")
        return rows
    content = read_json(path, (dict, list))
    return content if isinstance(content, dict) else [(f"{path.name}: row {at}", row) for at, row in enumerate(content)]


def _list(path: Path, content) -> list:
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list, or lines, of objects with an id, found {content!r:.60}")
    return content


def _refuse(path: Path, content: dict | list, expected: str, fields: tuple[str, ...]):
    """An error if the file, or its first entry, has one of the fields that only files of another kind have."""
    first = next(iter(content.values()), None) if isinstance(content, dict) else content[0][1] if content else None
    for field in fields:
        if (isinstance(content, dict) and field in content) or (isinstance(first, dict) and field in first):
            other = {"predictions": "references", "references": "predictions"}[expected]
            raise DataError(f"{path}: expected {expected}, found a field {field!r}: are these the {other}?")


def _by_qid(content: list[tuple[str, dict]], problems: Problems) -> Iterable[tuple[str, str, dict]]:
    return kept(problems, lambda place, row: (place, identifier(row, "qid"), row), content)


def _events(path: Path, content: dict, problems: Problems) -> Iterable[tuple[str, str, dict]]:
    """The events of ActivityNet Captions, each of which is a query."""
    rows = ((f"{path.name}: {video}", video, row) for video, row in content.items())
    videos = kept(problems, lambda place, video, row: (place, video, get(row, "timestamps", list)), rows)
    for place, video, windows in videos:
        for at, window in enumerate(windows):
            yield f"{place}, event {at}", f"{video}/{at}", {"timestamp": window}


def _answer(place: str, row: dict | list, field: str, problems: Problems) -> list[tuple] | None:
    try:
        return _moments(place, row, field, problems)
    except Malformed as error:
        problems.add(error.kind, place, str(error))
        return None


def _windows(rows: Iterable[tuple], field: str, problems: Problems) -> Iterable[tuple[str, list[tuple]]]:
    def named(place: str, name: str, row: dict) -> tuple[str, list[tuple]]:
        one = "segments" if field == "timestamp" and "segments" in row and field not in row else field
        moments = _moments(place, row, one, problems)
        if moments is None:
            raise Malformed(f"field {one!r}: expected a list, found null")
        return name, moments

    return kept(problems, named, rows)


def _moments(place: str, row: dict | list, field: str, problems: Problems) -> list[tuple] | None:
    value = row if isinstance(row, list) else get(row, field, (list, type(None)))
    if value is None:
        return None
    moments = [_moment(one, field) for one in (value if not value or isinstance(value[0], list) else [value])]
    for start, end, *_ in moments:
        if end < start:
            problems.add("inverted", place, f"the moment [{start}, {end}] ends before it starts")
        if start < 0:
            problems.add("negative", place, f"the moment [{start}, {end}] starts before the video")
    return moments


def _moment(value, field: str) -> tuple:
    if not isinstance(value, list) or len(value) not in (2, 3):
        raise Malformed(f"field {field!r}: expected [start, end] or [start, end, score], found {value!r:.60}")
    return (number(value[0], field), number(value[1], field), *(number(one, field) for one in value[2:]))


def _clip_scores(place: str, name: str, row: dict) -> tuple[str, list[float]]:
    scores = [number(one, "pred_saliency_scores") for one in get(row, "pred_saliency_scores", list)]
    if not scores:
        raise Empty("field 'pred_saliency_scores': expected a score per clip, found none")
    return name, scores


def _saliency(place: str, name: str, row: dict) -> tuple[str, tuple]:
    duration = seconds(get(row, "duration", (int, float)), "duration")
    if not CLIP <= duration <= LONGEST:
        raise OutOfRange(f"field 'duration': expected {CLIP} to {LONGEST} seconds, found {duration:g}")
    ids, scores = get(row, "relevant_clip_ids", list), get(row, "saliency_scores", list)
    same_length(relevant_clip_ids=ids, saliency_scores=scores)
    for clip, three in zip(ids, scores, strict=True):
        if not isinstance(clip, int) or not 0 <= clip < clips(duration):
            raise OutOfRange(f"field 'relevant_clip_ids': expected 0 to {clips(duration) - 1}, found {clip!r:.60}")
        if not isinstance(three, list) or len(three) != ANNOTATORS:
            raise Malformed(f"field 'saliency_scores': expected {ANNOTATORS} scores for a clip, found {three!r:.60}")
    return name, (duration, ids, [[number(one, "saliency_scores") for one in three] for three in scores])


def distinct(path: Path, pairs: Iterable[tuple], numbers: bool = True) -> dict:
    """A dict of (id, entry), if all ids are different; as whole numbers, where ids are `numbers`."""
    found, spelled = {}, {}
    for written, entry in pairs:
        name = written.lstrip("0") or "0" if numbers and written.isdigit() else written
        if name in found:
            also = f" (also as {spelled[name]!r})" if spelled[name] != written else ""
            raise DataError(f"{path}: expected every id once, found {written!r} twice{also}")
        found[name], spelled[name] = entry, written
    return found


def some(path: Path, found: dict, problems: Problems) -> dict:
    if not found:
        first = "; ".join(f"{place}: {detail}" for _, place, detail, _ in problems.found[:1])
        raise DataError(f"{path}: expected references, found none that can be used{first and f': {first}'}")
    return found
