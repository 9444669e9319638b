"""
python -m dataset_scripts.image_sequences --source llava_recap=DIR --num-instances 300000 --output DIR

Builds the image sequences of Seq2Time: questions about one or several of 96 random pictures. Three tasks: `iig` says
where the picture of a caption is, `iic` describes the picture at a place, `alr` finds and describes the one before or
after. The same seed gives the same bytes whatever --num-proc; an interrupted build goes on where it stopped.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from modeling_seq2time.time_notation import escape, mark

from .building import Shard, build, expect_positive, ingredients, parse_mix, parser, shares
from .command import run
from .items import DataError
from .pools import Pool, build_pool, open_pool
from .record import IMAGE_TASKS, check, image_features
from .wording import TEMPLATES, closed, fill, listed, ordinal, pick


def draw(rng: np.random.Generator, candidates: np.ndarray | int, caption_keys: np.ndarray, count: int) -> np.ndarray:
    """`count` of the candidates in random order, no two of the same caption."""
    ids = np.arange(candidates) if isinstance(candidates, int) and candidates <= 4 * count else candidates
    size = ids if isinstance(ids, int) else len(ids)
    for tries in (2 * count, size):  # mostly far more than are needed, else all
        places = rng.choice(size, min(tries, size), replace=False)
        drawn = places if isinstance(ids, int) else ids[places]
        _, first = np.unique(caption_keys[drawn], return_index=True)
        if len(first) >= count:
            return drawn[np.sort(first)[:count]]
    raise DataError(f"a sequence needs {count} pictures of different captions, the pool has {len(first)}")


def ask(task: str, rng: np.random.Generator, length: int, max_targets: int, left: list[int], caption):
    """
    Targets, places that are spoken of, question and answer about a sequence. It speaks of places that are `left`, has
    at most so many targets, and `caption(place)` is the caption of the picture there.
    """
    if task == "alr":
        side = ("before", "after")[rng.integers(2)]
        step = -1 if side == "before" else 1
        # The first picture has none before it, the last none after.
        neighbours = set(left)
        askable = [place for place in left if place + step in neighbours]
        asked = askable[rng.integers(len(askable))]
        target = asked + step
        question = fill(pick(rng, TEMPLATES["alr"][side]["questions"]), caption(asked))
        answer = fill(pick(rng, TEMPLATES["alr"]["answers"]), mark(target, length, "image"), caption(target))
        return [target], {asked, target}, question, answer

    count = int(rng.integers(1, max_targets + 1))
    targets = [int(place) for place in rng.choice(left, count, replace=False)]
    places = [mark(target, length, "image") for target in targets]
    words = TEMPLATES[task]["single" if count == 1 else "multi"]
    question, answer = pick(rng, words["questions"]), pick(rng, words["answers"])
    if task == "iig":
        if count == 1:
            return targets, {*targets}, fill(question, caption(targets[0])), fill(answer, places[0])
        question += words["first"].replace("{ordinal}", ordinal(1))
        question += "".join(words["next"].replace("{ordinal}", ordinal(number)) for number in range(2, count + 1))
        question = fill(question + words["after"], *map(caption, targets))
        return targets, {*targets}, question, fill(answer, listed(places))
    if count == 1:
        return targets, {*targets}, fill(question, places[0]), fill(answer, places[0], caption(targets[0]))
    told = [fill(answer, place, caption(target)) for place, target in zip(places, targets, strict=True)]
    return targets, {*targets}, closed(question + listed(places)), " ".join(told)


def converse(task: str, rng: np.random.Generator, length: int, questions: int, max_targets: int, caption):
    """Targets and messages of so many questions. None speaks of a place that an earlier one gave away."""
    left, found, messages = list(range(1, length + 1)), [], []
    for _ in range(questions):
        targets, spoken_of, question, answer = ask(task, rng, length, max_targets, left, caption)
        left = [place for place in left if place not in spoken_of]
        found += targets
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return found, messages


def make_shard(work: Path, shard: Shard, options: dict) -> pa.Table:
    """The records of one shard."""
    pool, length, records = open_pool(work), options["sequence_length"], []
    for number in shard.numbers.tolist():
        rng = np.random.default_rng([options["seed"], 1, number])
        group, candidates = "all", len(pool)
        if options["shared_pool"]:
            group_number = number // options["shared_sequences"]
            group = f"shared-{group_number:07d}"
            candidates = _shared_pool(pool, group_number, options["seed"], options["shared_pool"])
        sequence = draw(rng, candidates, pool.caption_keys, length)

        def caption(place: int, sequence=sequence) -> str:
            return escape(pool.caption(int(sequence[place - 1])))

        asked = (options["questions"], options["max_targets"])
        targets, messages = converse(shard.task, rng, length, *asked, caption)
        record = {"id": f"{shard.task}-{number:07d}", "source": options["sources"], "group": group, "task": shard.task}
        record |= {"sequence": sequence.tolist(), "targets": targets, "messages": messages}
        check(record, len(pool))
        records.append(record)
    return pa.Table.from_pylist(records, schema=image_features(length).arrow_schema)


@lru_cache(maxsize=4)
def _shared_pool(pool: Pool, number: int, seed: int, size: int) -> np.ndarray:
    return draw(np.random.default_rng([seed, 2, number]), len(pool), pool.caption_keys, size)


def main(arguments: list[str] | None = None):
    options = parser(__doc__)
    options.add_argument("--num-instances", type=int, default=300_000)
    options.add_argument("--sequence-length", type=int, default=96)
    options.add_argument("--tasks", default=",".join(IMAGE_TASKS), help="equal parts, or weights: iig:2,iic:1")
    options.add_argument("--max-targets", type=int, default=5, help="of iig and iic; their number is uniform from 1")
    options.add_argument("--questions", type=int, default=1, metavar="N", help="about each sequence, in one dialogue")
    options.add_argument(
        "--shared-pool", type=int, default=0, metavar="PICTURES", help="draw groups of sequences from small pools"
    )
    options.add_argument("--shared-sequences", type=int, default=8, metavar="N", help="sequences of a group")
    options.add_argument(
        "--unchecked",
        action="store_true",
        help="take every picture that the annotations name, without the doctor's lock file",
    )
    args = options.parse_args(arguments)

    length, most, questions = args.sequence_length, args.max_targets, args.questions
    mix = parse_mix(args.tasks, IMAGE_TASKS)
    expect_positive(args, "num_instances", "shard_size", "max_targets", "questions", "shared_sequences")
    if not most <= length or length < 2:
        raise DataError(f"expected --max-targets ≤ --sequence-length ≥ 2, found {most} and {length}")
    # A question of alr may leave a place alone that no other can use; so n of them need 3 n places at most.
    needed = max(3 if "alr" in mix else 1, most if set(mix) - {"alr"} else 1)
    if questions > 1 and questions * needed > length:
        why = "3 of each for alr" if needed == 3 != most else f"--max-targets {most} of each"
        expected = f"--sequence-length of at least {questions * needed}, {why}"
        raise DataError(f"--questions {questions}: expected {expected}, found {length}")
    if 0 != args.shared_pool < length:
        raise DataError(f"--shared-pool {args.shared_pool}: expected at least --sequence-length {length} pictures")
    sources = ingredients(args)
    pool = build_pool(sources, "pictures", args.split, args.output / ".work" / f"images.{args.split}", args.on_problem)
    needed = max(length, args.shared_pool)
    captions = len(np.unique(pool.caption_keys))
    if captions < needed:
        raise DataError(
            f"{needed} pictures of different captions are needed, the pool has {captions} ({len(pool)} pictures)"
        )
    chosen = {
        "sequence_length": length,
        "max_targets": most,
        "questions": questions,
        "seed": args.seed,
        "sources": "+".join(pool.facts["counts"]),
    }
    chosen |= {"shared_pool": args.shared_pool, "shared_sequences": args.shared_sequences if args.shared_pool else 0}
    build("image_sequences", args, pool, shares(mix, args.num_instances), chosen, make_shard)


if __name__ == "__main__":
    run(main)
