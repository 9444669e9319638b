"""`evaluation/highlights.py`, which defines the figures, as a module of the library `evaluate`."""

import os
import sys

import datasets
import evaluate


try:
    from evaluation import highlights
except ImportError:  # `evaluate` runs a copy of this file; the path in its `load` starts at the root of the clone
    sys.path.append(os.getcwd())
    from evaluation import highlights


FEATURES = {
    "predictions": datasets.List(datasets.Value("float64")),
    "references": {
        "duration": datasets.Value("float64"),
        "relevant_clip_ids": datasets.List(datasets.Value("int64")),
        "saliency_scores": datasets.List(datasets.List(datasets.Value("float64"))),
    },
}
INPUTS = """
predictions: for each query a score per clip; None or an empty list if there is no answer
references: for each query an object with QVHighlights' duration, relevant_clip_ids and saliency_scores, no more
protocol: one of those in the description
"""


class Highlights(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=highlights.__doc__,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(FEATURES),
        )

    def _compute(self, predictions, references, protocol=highlights.PROTOCOLS[0]):
        truth = [tuple(one[name] for name in FEATURES["references"]) for one in references]
        return highlights.score(dict(enumerate(predictions)), dict(enumerate(truth)), protocol)
