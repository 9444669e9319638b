"""
python -m dataset_scripts.textual_temporal --source llava_recap=DIR --num-instances 66000 --output DIR

Builds T3's questions about time in text alone: captions of single pictures, line by line, stand for the moments of a
video. Four families: `text_order` asks in which order things are seen, `text_attribute` how something changes,
`text_referring` what is seen at the beginning, in the middle or at the end, `text_grounding` when something is seen.
Answers are a letter and its text; each letter is right equally often. Captions of any source will do, without media.
`--instructions FILE` adds general dialogues, two for each question, as `text_instruction`.
The same seed gives the same bytes whatever --num-proc; an interrupted build goes on where it stopped.
"""

import hashlib
import json
import re
import sys
import tomllib
from functools import lru_cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa

from modeling_seq2time.time_notation import escape

from .building import Shard, build, expect_positive, ingredients, parse_mix, parser, shares
from .command import run
from .files import atomic_writer
from .image_sequences import draw
from .instructions import read_instructions
from .items import DataError, Problems
from .pools import Pool, build_pool, open_pool
from .record import CHOICE_TASKS, check, text_features
from .wording import fill, pick


TEMPLATES_FILE = Path(__file__).with_name("textual_templates.toml")
TEMPLATES = tomllib.loads(TEMPLATES_FILE.read_text(encoding="utf-8"))
PLACES, VALUES = TEMPLATES["places"], TEMPLATES["attribute"]["values"]
DISTRACTORS = (1, 2, 4, 8)  # of text_attribute: lines for each of the two that count
PREFIX = 4  # words
TRIES, ORDERS = 200, 30
INSTRUCTIONS = "instructions.jsonl"  # beside the pool while a set is built
_PLAIN = frozenset(TEMPLATES["plain"])


def first_sentence(caption: str) -> str:
    """Of a caption, without its mark."""
    text = " ".join(caption.split())
    for end in re.finditer(r"[.!?][\"'”]?\s+(?=[\"'“A-Z0-9])", text):
        if text[: end.start()].rpartition(" ")[2].lower() not in TEMPLATES["abbreviations"]:
            return text[: end.start()].rstrip(" .!?")
    return text.rstrip(" .!?")


def words_of(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def says(sentence: str) -> bool:
    """Whether it is enough for a line."""
    return len(words_of(sentence)) >= 3


def key_phrase(sentence: str, others: list[str]) -> str:
    """The first words, three at most, that say something and stand in no other sentence; empty if there are none."""
    run, known = [], " ".join(" ".join(words_of(other)) for other in others)
    for word in [*words_of(sentence), ""]:
        if word and word not in _PLAIN and len(run) < 3:
            run.append(word)
        elif run and not re.search(rf"\b{re.escape(' '.join(run))}\b", known):
            return " ".join(run)
        else:
            run = [word] if word and word not in _PLAIN else []
    return ""


def prefix(sentence: str) -> str:
    return " ".join(sentence.split()[:PREFIX]).rstrip(" ,;:")


def attribute_of(sentence: str) -> tuple[str, str, str] | None:
    """Kind, value and noun of the first attribute that a sentence names; nothing where a word of it stands twice."""
    words = words_of(sentence)

    def once(word: str) -> bool:
        return len(re.findall(rf"\b{word}\b", sentence, re.IGNORECASE)) == 1

    for place, word in enumerate(words[:-1]):
        kind = next((kind for kind, values in VALUES.items() if word in values), None)
        noun = words[place + 1]
        told = noun.isalpha() and noun not in _PLAIN and not any(noun in values for values in VALUES.values())
        if kind and told and once(word) and once(noun):
            return kind, word, noun
    return None


def order(rng: np.random.Generator, number: int, sentences: list[str]) -> tuple[list[str], str, list[str]]:
    """
    Lines, a question, and options with the right one first; of three lines all orders are there, of four as many as
    there are lines.
    """
    phrases = [key_phrase(one, [other for other in sentences if other is not one]) for one in sentences]
    prefixes, count = [prefix(one) for one in sentences], len(sentences)
    ways = {"sentence": (sentences, ". "), "arrange": ([f"({place})" for place in range(1, count + 1)], "")}
    ways |= {"phrase": (phrases, ", ")} if all(phrases) and len(set(phrases)) == count else {}
    ways |= {"prefix": ([f"{one} …" for one in prefixes], "; ")} if len(set(prefixes)) == count else {}
    way = pick(rng, sorted(ways))
    things, joint = ways[way]
    question = pick(rng, TEMPLATES["order"]["arrange" if way == "arrange" else "questions"])
    right = tuple(range(count))
    if way == "arrange":
        mixed = rng.permutation(count).tolist()
        question += "".join(f"\n({place}) {sentences[one]}" for place, one in enumerate(mixed, 1))
        things = [f"({mixed.index(one) + 1})" for one in range(count)]
    wrong = [one for one in permutations(right) if one != right]
    wrong = [wrong[one] for one in rng.permutation(len(wrong))[: 5 if count == 3 else 3]]
    return sentences, question, [joint.join(things[one] for one in way) for way in (right, *wrong)]


def attribute(rng: np.random.Generator, sentence: str, others: list[str]):
    """A caption, behind it the same with another value of an attribute, among others that don't tell of its noun."""
    kind, value, noun = attribute_of(sentence)
    values = [one for one in VALUES[kind] if one != value]
    new, third = (values[one] for one in rng.permutation(len(values))[:2]) if len(values) > 1 else (values[0], "")

    def exchanged(found: re.Match) -> str:
        article, known = found.groups()
        if article:
            article = article[0] + "n" * (new[0] in "aeiou") + " "
        return (article or "") + (new.capitalize() if known[0].isupper() else new)

    changed = re.sub(rf"\b(?:(an?) )?({value})\b", exchanged, sentence, flags=re.IGNORECASE)
    ends, told = sorted(rng.choice(len(others) + 2, 2, replace=False).tolist()), [sentence, changed]
    if rng.random() < 0.5:  # or what is likelier would come first
        told, value, new = told[::-1], new, value
    lines = list(others)
    for place, line in zip(ends, told, strict=True):
        lines.insert(place, line)
    forward, unchanged = TEMPLATES["attribute"]["forward"], TEMPLATES["attribute"]["unchanged"]
    options = [fill(forward, value, new), fill(forward, new, value), fill(unchanged, value)]
    options.append(fill(forward, value, third) if third else fill(unchanged, new))
    return lines, fill(pick(rng, TEMPLATES["attribute"]["questions"]), kind, noun), options


def referring(rng: np.random.Generator, number: int, sentences: list[str]):
    """What is seen at one of three places: one of the three lines that are there, or a fourth that isn't."""
    place = number % 3
    question = fill(pick(rng, TEMPLATES["referring"]["questions"]), [*PLACES.values()][place])
    others = [sentences[one] for one in rng.permutation(4).tolist() if one != place]
    return sentences[:3], question, [sentences[place], *others]


def grounding(rng: np.random.Generator, number: int, sentences: list[str]):
    """At which of three places a line is."""
    place, places = number % 3, [*PLACES.values()]
    question = fill(pick(rng, TEMPLATES["grounding"]["questions"]), sentences[place])
    return sentences[:3], question, [places[place], *(places[one] for one in rng.permutation(3) if one != place)]


def converse(turn: int, asked: tuple[list[str], str, list[str]]) -> tuple[int, list[dict]]:
    """Which option is right, and the turns. Letters take turns."""
    lines, question, options = asked
    right, wrong = turn % len(options), iter(options[1:])
    told = [options[0] if place == right else next(wrong) for place in range(len(options))]
    ended = [text if text.endswith("…") else f"{text}." for text in told]
    lettered = [f"({letter}) {text}" for letter, text in zip("ABCDEF", ended, strict=False)]
    parts = [TEMPLATES["context"], "\n".join(f"{line}." for line in lines), question, "\n".join(lettered)]
    messages = [{"role": "user", "content": escape("\n\n".join([*parts, TEMPLATES["closing"]]))}]
    return right + 1, [*messages, {"role": "assistant", "content": escape(lettered[right])}]


def make_shard(work: Path, shard: Shard, options: dict) -> pa.Table:
    """The records of one shard."""
    pool, records = open_pool(work), []
    for place, number in enumerate(shard.numbers.tolist(), shard.first):
        record = {"id": f"{shard.task}-{number:07d}", "source": options["sources"], "group": "all", "task": shard.task}
        if shard.task == "text_instruction":
            record |= {"source": options["instructions"], "sequence": [], "targets": []}
            records.append(record | {"messages": _instructions(work)[place]})
            check(records[-1], len(pool))
            continue
        rng = np.random.default_rng([options["seed"], 4, number])
        sequence, asked = _ask(shard.task, rng, place, pool, work)
        # Each letter for each place that is asked for; in 30 orders 18 of three lines, with six options, 12 of four.
        turn = {"text_order": place % ORDERS // 3, "text_attribute": place // len(DISTRACTORS)}.get(
            shard.task, place // 3
        )
        target, messages = converse(turn, asked)
        record |= {"sequence": sequence, "targets": [target], "messages": messages}
        check(record, len(pool))
        records.append(record)
    return pa.Table.from_pylist(records, schema=text_features().arrow_schema)


def _ask(task: str, rng: np.random.Generator, number: int, pool: Pool, work: Path):
    if task == "text_attribute":
        main = int(pick(rng, _with_attributes(work, pool.facts["hash"])))
        sentence, count = first_sentence(pool.caption(main)), 2 * DISTRACTORS[number % len(DISTRACTORS)]
        noun, found = attribute_of(sentence)[2], {}
        for _ in range(TRIES):
            for one in draw(rng, len(pool), pool.caption_keys, min(2 * count, len(pool))).tolist():
                other = first_sentence(pool.caption(one))
                if len(found) < count and noun not in words_of(other) and says(other) and other not in found.values():
                    found[one] = other
            if len(found) == count:
                return [main, *found], attribute(rng, sentence, list(found.values()))
        raise DataError(
            f"text_attribute: {count} captions without the word {noun!r} are needed, {len(found)} were found"
        )
    count = 3 if task == "text_order" and number % ORDERS < 18 else 4
    for _ in range(TRIES):
        sequence = draw(rng, len(pool), pool.caption_keys, count).tolist()
        sentences = [first_sentence(pool.caption(one)) for one in sequence]
        if len(set(sentences)) == count and all(map(says, sentences)):
            return sequence, {"text_order": order, "text_referring": referring}.get(task, grounding)(
                rng, number, sentences
            )
    raise DataError(
        f"{task}: {count} captions are needed that begin with different sentences, each of three words at least; "
        f"{TRIES} draws from the pool of {len(pool)} had none"
    )


@lru_cache(maxsize=1)
def _instructions(work: Path) -> list[list[dict]]:
    with (work / INSTRUCTIONS).open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def keep_instructions(path: Path, work: Path, count: int, seed: int, on_problem: str) -> str:
    """So many dialogues of a file, drawn at random, where the processes that write find them; and their digest."""
    problems = Problems()
    found = list(read_instructions(path, problems))
    if problems.found and on_problem == "stop":
        kind, place, detail, _ = problems.found[0]
        raise DataError(f"{kind}: {place}: {detail} (and {len(problems.found) - 1} more). --on-problem skip goes on.")
    if problems.found:
        print("skipped " + ", ".join(f"{number:,} {name}" for name, number in problems.counts.items()), file=sys.stderr)
    if len(found) < count:
        raise DataError(f"{path}: expected {count:,} dialogues (--instruction-ratio), found {len(found):,}")
    picks = np.random.default_rng([seed, 5]).choice(len(found), count, replace=False)
    with atomic_writer(work / INSTRUCTIONS) as lines:
        lines.writelines(json.dumps(found[pick], ensure_ascii=False) + "\n" for pick in picks)
    _instructions.cache_clear()
    return hashlib.sha256((work / INSTRUCTIONS).read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _with_attributes(work: Path, digest: str) -> np.ndarray:
    """Ids of a pool's captions that name an attribute."""
    pool = open_pool(work)
    sentences = (first_sentence(pool.caption(one)) for one in range(len(pool)))
    found = [one for one, sentence in enumerate(sentences) if says(sentence) and attribute_of(sentence)]
    if not found:
        raise DataError(f"text_attribute: expected captions that name one of {', '.join(VALUES)}, found none")
    return np.array(found)


def main(arguments: list[str] | None = None):
    options = parser(__doc__)
    options.add_argument("--num-instances", type=int, default=66_000)
    options.add_argument("--tasks", default=",".join(CHOICE_TASKS), help="equal parts, or weights: text_order:2,…")
    options.add_argument("--instructions", type=Path, metavar="FILE", help="general dialogues to mix in")
    options.add_argument("--instruction-ratio", type=float, default=2.0, help="dialogues for each question")
    options.set_defaults(unchecked=True)
    args = options.parse_args(arguments)
    mix = parse_mix(args.tasks, CHOICE_TASKS)
    expect_positive(args, "num_instances", "shard_size")
    sources = ingredients(args)
    pool = build_pool(
        sources, "captions", args.split, args.output / ".work" / f"captions.{args.split}", args.on_problem
    )
    captions, needed = len(np.unique(pool.caption_keys)), 1 + 2 * max(DISTRACTORS) if "text_attribute" in mix else 4
    if captions < needed:
        raise DataError(f"{needed} different captions are needed, the pool has {captions}")
    chosen = {"seed": args.seed, "sources": "+".join(pool.facts["counts"])}
    chosen["wording"] = hashlib.sha256(TEMPLATES_FILE.read_bytes()).hexdigest()[:16]
    counts = shares(mix, args.num_instances)
    if args.instructions:
        counts["text_instruction"] = round(args.instruction_ratio * args.num_instances)
        chosen["instructions"] = args.instructions.name
        asked = (counts["text_instruction"], args.seed, args.on_problem)
        chosen["dialogues"] = keep_instructions(args.instructions, pool.work, *asked)
    build("textual_temporal", args, pool, counts, chosen, make_shard)


if __name__ == "__main__":
    run(main)
