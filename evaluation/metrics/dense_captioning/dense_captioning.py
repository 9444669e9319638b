"""`evaluation/dense_captioning.py`, which defines the figures, as a module of the library `evaluate`."""

import os
import sys

import datasets
import evaluate


try:
    from evaluation import dense_captioning
except ImportError:  # `evaluate` runs a copy of this file; the path in its `load` starts at the root of the clone
    sys.path.append(os.getcwd())
    from evaluation import dense_captioning


EVENTS = datasets.List(
    {"timestamp": datasets.List(datasets.Value("float64"), length=2), "caption": datasets.Value("string")}
)
INPUTS = """
predictions: for each video its events, {"timestamp": [start, end], "caption": "…"}; None if there is no prediction
references: the same, at least one event for each video
protocol, soda: those in the description
"""


class DenseCaptioning(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": EVENTS, "references": EVENTS})
        return evaluate.MetricInfo(
            description=dense_captioning.__doc__, citation="", inputs_description=INPUTS, features=features
        )

    def _enforce_nested_string_type(self, schema, obj):  # of `evaluate`: it checks the first entry, and not for None
        if obj is not None:
            super()._enforce_nested_string_type(schema, obj)

    def _compute(self, predictions, references, protocol=dense_captioning.PROTOCOLS[0], soda=None):
        return dense_captioning.score(events(predictions), events(references), protocol, soda)


def events(videos):
    return {
        str(number): [(tuple(event["timestamp"]), event["caption"]) for event in video]
        for number, video in enumerate(videos)
        if video is not None
    }
