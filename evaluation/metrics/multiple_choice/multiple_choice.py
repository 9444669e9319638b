"""`evaluation/multiple_choice.py`, which defines the figures, as a module of the library `evaluate`."""

import os
import sys

import datasets
import evaluate


try:
    from evaluation import multiple_choice
except ImportError:  # `evaluate` runs a copy of this file; the path in its `load` starts at the root of the clone
    sys.path.append(os.getcwd())
    from evaluation import multiple_choice


TEXT = datasets.Value("string")
INPUTS = """
predictions: the answer to each question, None if there is none
references: for each question the right answer, {"answer": "B. …", "dimension": "order"}, no more
protocol: one of those in the description
"""


class MultipleChoice(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": TEXT, "references": {"answer": TEXT, "dimension": TEXT}})
        return evaluate.MetricInfo(
            description=multiple_choice.__doc__, citation="", inputs_description=INPUTS, features=features
        )

    def _enforce_nested_string_type(self, schema, obj):  # of `evaluate`: it checks the first entry, and not for None
        if obj is not None:
            super()._enforce_nested_string_type(schema, obj)

    def _compute(self, predictions, references, protocol=multiple_choice.PROTOCOLS[0]):
        return multiple_choice.score(dict(enumerate(predictions)), dict(enumerate(references)), protocol)
