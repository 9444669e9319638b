"""`evaluation/grounding.py`, which defines the figures, as a module of the library `evaluate`."""

import os
import sys

import datasets
import evaluate


try:
    from evaluation import grounding
except ImportError:  # `evaluate` runs a copy of this file; the path in its `load` starts at the root of the clone
    sys.path.append(os.getcwd())
    from evaluation import grounding


MOMENTS = datasets.List(datasets.List(datasets.Value("float64")))
INPUTS = """
predictions: for each query its moments, [start, end] or [start, end, score], best first; an empty list if the answer is
    that the event is absent, None if it couldn't be read
references: for each query its windows, [start, end]; an empty list if the event is absent
protocol: one of those in the description
"""


class Grounding(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": MOMENTS, "references": MOMENTS})
        return evaluate.MetricInfo(
            description=grounding.__doc__, citation="", inputs_description=INPUTS, features=features
        )

    def _compute(self, predictions, references, protocol=grounding.PROTOCOLS[0]):
        return grounding.score(dict(enumerate(predictions)), dict(enumerate(references)), protocol)
