"""`evaluation/segmentation.py`, which defines the figures, as a module of the library `evaluate`."""

import os
import sys

import datasets
import evaluate


try:
    from evaluation import segmentation
except ImportError:  # `evaluate` runs a copy of this file; the path in its `load` starts at the root of the clone
    sys.path.append(os.getcwd())
    from evaluation import segmentation


LABELS = datasets.List(datasets.Value("string"))
INPUTS = """
predictions: for each video a label per frame, as text; None if there is no prediction
references: the same
protocol: one of those in the description
background: labels that aren't actions
"""


class Segmentation(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": LABELS, "references": LABELS})
        return evaluate.MetricInfo(
            description=segmentation.__doc__, citation="", inputs_description=INPUTS, features=features
        )

    def _compute(self, predictions, references, protocol=segmentation.PROTOCOLS[0], background=("background",)):
        return segmentation.score(dict(enumerate(predictions)), dict(enumerate(references)), protocol, background)
