"""The metrics as modules of the library `evaluate`: loaded offline from the clone, by a script that lies elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import dense_captioning, grounding, highlights, multiple_choice, segmentation


ROOT = Path(__file__).parent.parent
CALLS = {
    "grounding": {
        "predictions": [None, [[0, 10, 0.2], [5, 20, 0.1]], [], [[8, 3, 0.5]]],
        "references": [[[1, 2]], [[0, 10]], [], [[3, 4], [8, 9]]],
        "protocol": "qvhighlights",
    },
    "dense_captioning": {
        "predictions": [None, [{"timestamp": [0, 9], "caption": "cut bread"}], []],
        "references": [[{"timestamp": [0, 10], "caption": "cut the bread"}, {"timestamp": [10, 20], "caption": "eat"}]]
        * 3,
        "protocol": "vtimellm",
    },
    "highlights": {
        "predictions": [None, [0.0, 1.0, 0.0, 0.5], []],
        "references": [{"duration": 8, "relevant_clip_ids": [1, 3], "saliency_scores": [[4, 3, 2], [0, 4, 1]]}] * 3,
        "protocol": "seq2time",
    },
    "segmentation": {
        "predictions": [None, ["a", "a", "b"], []],
        "references": [["a"], ["a", "b", "b"], ["é"]],
        "protocol": "ms_tcn",
        "background": ["b"],
    },
    "multiple_choice": {
        "predictions": [None, "B", "(a) x"],
        "references": [{"answer": answer, "dimension": "order"} for answer in ("B. x", "B. x", "A. x")],
        "protocol": "tempcompass",
    },
}
SCRIPT = """
import json, sys
import evaluate
calls = json.load(open(sys.argv[1]))
for name, inputs in calls.items():
    metric = evaluate.load(f"evaluation/metrics/{name}")
    inputs = [inputs, {key: inputs[key] for key in ("predictions", "references")}]
    print(json.dumps([metric.compute(**one) for one in inputs]))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[dict]]:
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "script.py").write_text(SCRIPT)
    (path / "calls.json").write_text(json.dumps(CALLS))
    environment = os.environ | {"HF_HOME": str(path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, str(path / "script.py"), str(path / "calls.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(CALLS, map(json.loads, done.stdout.splitlines()[-len(CALLS) :]), strict=True))


def by_number(values: list) -> dict:
    return dict(enumerate(values))


@pytest.mark.parametrize("name", CALLS)
def test_a_module_gives_what_the_function_gives(results, name):
    modules = (dense_captioning, grounding, highlights, multiple_choice, segmentation)
    score = {module.__name__.split(".")[-1]: module for module in modules}
    inputs = CALLS[name]
    predictions, references = by_number(inputs["predictions"]), by_number(inputs["references"])
    if name == "dense_captioning":
        predictions, references = (
            {
                str(key): [(one["timestamp"], one["caption"]) for one in own]
                for key, own in side.items()
                if own is not None
            }
            for side in (predictions, references)
        )
    if name == "highlights":
        references = {number: tuple(one.values()) for number, one in references.items()}
    options = {key: inputs[key] for key in inputs if key not in ("predictions", "references")}
    chosen, default = results[name]
    assert chosen == score[name].score(predictions, references, **options)
    assert default == score[name].score(predictions, references)
    assert (chosen["protocol"], default["protocol"]) == (inputs["protocol"], score[name].PROTOCOLS[0])
