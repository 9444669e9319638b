"""
The record: questions and answers about one sequence, one as a rule, the same for images, clips and videos.

| column | type | meaning |
|---|---|---|
| `id` | string | unique in its set: task and number |
| `source` | string | where the captions come from |
| `group` | string | the shared pool that the sequence was drawn from; sequences of a group share pictures |
| `task` | string | `iig`, `iic`, `alr`; `dense_captioning`, `grounding`, `highlights`, … |
| `sequence` | images, text: list of int32; clips: list of {clip: int32, rate: float64} | what is watched: pool ids |
| `targets` | images, text: list of int32; clips: list of {start, end}: float64 | places from 1; fractions of all |
| `messages` | list of {role, content} | turns with time marks `[[7/96 image]]`, `[[12.3/60.5 s]]` |

Targets are those of all answers, in order. A video is a sequence of one clip at rate 1. A clip's `rate` stretches its
share of the timeline: a clip of d seconds takes d × rate. Of text nothing is watched: its `sequence` says which
captions the question quotes, its target which option is right; both are empty of instructions. `check` holds a record
to this, and its marks to its targets; every builder calls it before it writes, and `Samples` and `publish` when they
read.
"""

from itertools import pairwise

from datasets import Features, List, Value

from modeling_seq2time.time_notation import marks

from .items import DataError


IMAGE_TASKS = ("iig", "iic", "alr")
CLIP_TASKS = ("dense_captioning", "grounding")
CHOICE_TASKS = ("text_order", "text_attribute", "text_referring", "text_grounding")
TEXT_TASKS = (*CHOICE_TASKS, "text_instruction")
VIDEO_TASKS = (*CLIP_TASKS, "highlights", "step_localization", "summarization", "speech", "captioning", "conversation")

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_NAMES = {name: Value("string") for name in ("id", "source", "group", "task")}


def is_video(record: dict) -> bool:
    """Whether a record's sequence is one clip at its own pace."""
    sequence = record["sequence"]
    return record["task"] not in IMAGE_TASKS and len(sequence) == 1 and sequence[0]["rate"] == 1


def image_features(length: int) -> Features:
    """Of image sequences of this length."""
    return Features(
        _NAMES
        | {"sequence": List(Value("int32"), length=length), "targets": List(Value("int32")), "messages": _MESSAGES}
    )


def text_features() -> Features:
    """Of questions about texts."""
    return Features(_NAMES | {"sequence": List(Value("int32")), "targets": List(Value("int32")), "messages": _MESSAGES})


def clip_features() -> Features:
    """Of clip sequences and of videos."""
    return Features(
        _NAMES
        | {
            "sequence": List({"clip": Value("int32"), "rate": Value("float64")}),
            "targets": List({"start": Value("float64"), "end": Value("float64")}),
            "messages": _MESSAGES,
        }
    )


def image_pool_features() -> Features:
    """`media` is a path below the source's folder, or `shard.parquet#column#row`."""
    return Features({"id": Value("int32")} | {name: Value("string") for name in ("source", "key", "media", "caption")})


def clip_pool_features() -> Features:
    """A clip or video is the part of its file from `start` to `end`; `duration` is what its times are measured by."""
    return Features(
        {"id": Value("int32")}
        | {name: Value("string") for name in ("source", "key", "media", "label", "caption")}
        | {name: Value("float64") for name in ("start", "end", "duration")}
    )


def check(record: dict, pool_size: int | None = None):
    """`DataError` that names the record and the field, unless the record is what this module's docstring says."""
    is_image, is_text = record["task"] in IMAGE_TASKS, record["task"] in TEXT_TASKS

    def demand(holds, field: str, expected: str, found):
        if not holds:
            raise DataError(f"record {record['id']!r}, {field}: expected {expected}, found {found!r:.200}")

    for field in ("id", "source", "group", "task"):
        demand(isinstance(record[field], str) and record[field], field, "a name", record[field])
    known = IMAGE_TASKS + VIDEO_TASKS + TEXT_TASKS
    demand(record["task"] in known, "task", f"one of {known}", record["task"])

    sequence, targets = record["sequence"], record["targets"]
    ids = list(sequence) if is_image or is_text else [clip["clip"] for clip in sequence]
    end = float("inf") if pool_size is None else pool_size
    choice, instruction = record["task"] in CHOICE_TASKS, record["task"] == "text_instruction"
    demand(
        (ids or instruction) and all(0 <= one < end for one in ids), "sequence", f"ids of the pool, 0 to {end - 1}", ids
    )
    demand(len(set(ids)) == len(ids), "sequence", "each id once", ids)
    if is_image:
        places = f"distinct places from 1 to {len(ids)}"
        demand(targets and all(1 <= place <= len(ids) for place in targets), "targets", places, targets)
        demand(len(set(targets)) == len(targets), "targets", places, targets)
    elif instruction:
        demand(not targets, "targets", "none", targets)
    elif choice:
        demand(len(targets) == 1 and targets[0] >= 1, "targets", "the number of the right option", targets)
    else:
        rates = [clip["rate"] for clip in sequence]
        demand(all(0 < rate < float("inf") for rate in rates), "sequence", "rates above 0", rates)
        inside = all(0 <= target["start"] <= target["end"] <= 1 for target in targets)
        demand(inside, "targets", "0 ≤ start ≤ end ≤ 1", targets)

    messages = record["messages"]
    roles = [message["role"] for message in messages]
    alternating = roles[:1] == ["user"] and roles[-1:] == ["assistant"] and all(a != b for a, b in pairwise(roles))
    demand(alternating and set(roles) == {"user", "assistant"}, "messages", "user and assistant in turns", roles)
    for message in messages:
        demand(message["content"].strip(), "messages", "text in every turn", message)

    found = [marks(message["content"]) for message in messages]
    every = [one for turn in found for one in turn]
    if is_text:
        demand(not every, "messages", "no marks of times", every)
    if choice:
        right = f"({chr(ord('A') + targets[0] - 1)})"
        answer = messages[-1]["content"]
        demand(answer.startswith(right), "messages", f"the answer of target {targets[0]}, {right}", answer)
        demand(f"\n{answer}" in messages[0]["content"], "messages", "the answer among the options", answer)
    if is_image:
        right = all((length, unit) == (len(ids), "image") for _, length, unit in every)
        demand(right, "messages", f"marks out of {len(ids)} images", every)
        asked, answered = ([[place for place, _, _ in turn] for turn in found[first::2]] for first in (0, 1))
        told = [place for turn in answered for place in turn]
        demand(all(answered) and told == list(targets), "messages", f"marks of targets {targets} in answers", answered)
        if record["task"] == "iic":
            demand(asked == answered, "messages", f"marks in each question as in its answer, {answered}", asked)
    elif not is_text:
        lengths = {(length, unit) for _, length, unit in every}
        demand(
            len(lengths) <= 1 and all(unit == "s" for _, unit in lengths), "messages", "marks of one duration", every
        )
        if record["task"] in CLIP_TASKS:
            answers = [one for turn, role in zip(found, roles, strict=True) if role == "assistant" for one in turn]
            written = [place / length for place, length, _ in answers]
            edges = [edge for target in targets for edge in (target["start"], target["end"])]
            # TimeIT's ViTT says when an event starts and no more: its targets end where they start.
            fits = written == edges or written == edges[::2] == edges[1::2]
            demand(targets and fits, "messages", f"marks of targets {targets}", answers)
