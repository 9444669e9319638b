"""
CPU of scoring highlights, relative to the published way in the same run; and seconds of scoring grounding.

    python -m benchmarks.moment_metrics [--queries 1550] [--repeats 5]

The published way is a precision-recall curve for each query, annotator and level of relevance, in a pool of processes.
Its curve is scikit-learn's, which isn't needed here otherwise: this one computes the same in plain numpy, without
scikit-learn's checks of its input, so it is a baseline that is faster than the real one. Answers are made up as models
give them: most clips 0, some in steps of a tenth. CPU counts the processes of the pool, too.
"""

import argparse
import multiprocessing
import os
import statistics
import time

import numpy as np

from evaluation import grounding, highlights


WORKERS, CHUNK = 8, 50


def highlight_data(queries: int) -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    predictions, references = {}, {}
    for query in range(queries):
        scores = rng.integers(1, 40, 75) / 10 * (rng.random(75) < 0.2)
        start, length = rng.integers(0, 60), rng.integers(1, 15)
        predictions[str(query)] = scores.tolist()
        references[str(query)] = (150, [*range(start, start + length)], rng.integers(0, 5, (length, 3)).tolist())
    return predictions, references


def grounding_data(queries: int) -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    spans = np.sort(rng.uniform(0, 60, (2, queries, 1, 2)), axis=-1).round(1).tolist()
    return ({str(query): one for query, one in enumerate(part)} for part in spans)


def precision_of_one(task: tuple[int, np.ndarray, np.ndarray]) -> tuple[int, float]:
    """A query, an annotator, a level: the curve, point by point."""
    place, truth, scores = task
    if len(set(truth)) == 1:
        return place, truth[0]
    order = np.argsort(scores, kind="stable")[::-1]
    ends = np.append(np.nonzero(np.diff(scores[order]))[0], len(scores) - 1)
    hits = np.cumsum(truth[order])[ends]
    precision = np.append((hits / (ends + 1))[::-1], 1)
    recall = np.append((hits / hits[-1])[::-1], 0).astype(np.float32)
    for at in range(1, len(precision)):
        precision[at] = max(precision[at - 1], precision[at])
    return place, np.mean(precision[np.where(np.diff(recall))])


def published_way(predictions: dict, references: dict) -> dict[str, float]:
    truths = {}
    for name, (duration, clips, scores) in references.items():
        truths[name] = np.zeros((int(duration / 2), 3))
        truths[name][clips] = scores
    found = {}
    for level, least in highlights.LEVELS.items():
        binary = {name: (truth >= least).astype(float) for name, truth in truths.items()}
        tasks = [
            (3 * number + annotator, binary[name][:, annotator], np.array(scores))
            for number, (name, scores) in enumerate(predictions.items())
            for annotator in range(3)
        ]
        precision = np.zeros(len(tasks))
        with multiprocessing.Pool(WORKERS) as pool:
            for place, value in pool.imap_unordered(precision_of_one, tasks, chunksize=CHUNK):
                precision[place] = value
            pool.close()
            pool.join()
        found[f"map_{level}"] = 100 * precision.mean()
        hits = [binary[name][np.argmax(scores)].max() for name, scores in predictions.items()]
        found[f"hit1_{level}"] = 100 * np.mean(hits)
    return found


def cpu_seconds(score, *data) -> tuple[float, dict]:
    start = sum(os.times()[:4])  # of this process and of the children that have ended
    found = score(*data)
    return sum(os.times()[:4]) - start, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1550, help="of highlights; QVHighlights' validation has 1550")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    data = highlight_data(args.queries)
    ways = {"published way": published_way, "ours, with intervals": highlights.score}
    times = {name: [] for name in ways}
    for _ in range(args.repeats):  # interleaved, so that a busy machine touches all alike
        figures = []
        for name, way in ways.items():
            spent, found = cpu_seconds(way, *data)
            times[name].append(spent)
            figures.append(found)
    published, ours = figures
    difference = max(abs(ours[name] - value) for name, value in published.items())
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"| highlights, {args.queries} queries | CPU s | relative |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / medians['published way']:.3f} |")
    print(f"\nlargest difference of a figure: {difference:.1e}")

    predictions, references = grounding_data(3720)
    print("\n| grounding, 3720 queries, with intervals | seconds |\n|---|---|")
    for protocol in ("seq2time", "qvhighlights"):
        walls = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            grounding.score(predictions, references, protocol)
            walls.append(time.perf_counter() - start)
        print(f"| {protocol} | {statistics.median(walls):.3f} |")


if __name__ == "__main__":
    main()
