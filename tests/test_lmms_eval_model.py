"""The adapter for lmms-eval: its own logic without lmms-eval, and, where it is installed, its command and its tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.lmms_eval_model import Seq2TimeForLmmsEval, cut, generation_settings, in_seconds, in_words, video_of
from examples.render_video import render
from modeling_seq2time import Answer, Moment, get_notation
from tests.videos import write_video


FAST = {"num_frames": 8, "search_steps": 32}
GREEDY = {"max_new_tokens": 12, "temperature": 0, "do_sample": False, "until": ["\n\n"]}
CHARADES = "temporal_grounding_charades"


def request(prompt: str, number: int, task: str = CHARADES, settings: dict = GREEDY):
    """What lmms-eval hands to a model, as far as it is looked at."""
    return SimpleNamespace(args=(prompt, settings, lambda document: [document["video"]], number, task, "test"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of different lengths, 4.8 and 8 seconds."""
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_video(folder / f"{count}.mp4", count)) for count in (120, 200)]


@pytest.fixture
def adapter(tiny_folder, videos):
    """`adapter(**model_args)` → the model, with a task of four documents about two videos."""

    def make(notation: str = "rpt", **settings):
        model = Seq2TimeForLmmsEval(
            str(tiny_folder("timechat", time_notation=notation, seed=7)), "cpu", **FAST | settings
        )
        documents = [{"video": videos[number % 2], "caption": f"query {number}."} for number in range(4)]
        model.task_dict = {task: {"test": documents} for task in (CHARADES, "mine", "other", "free")}
        return model

    return make


def count_calls(monkeypatch, owner, name: str) -> list:
    calls, original = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given, **named: calls.append(named) or original(*given, **named))
    return calls


def test_a_moment_in_words():
    assert in_words(Answer([Moment(0.0, 1e-5)])) == "The event happens in 0.000 - 0.000 seconds."
    assert in_words(Answer([Moment(61.5, 3600.1239)])) == "The event happens in 61.500 - 3600.124 seconds."


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("rpt", "It happens in <0><1><0><0> - <0><2><0><0>.", "It happens in 0.500 - 1.000 seconds."),
        ("rpt", "At <5><0><0><0>, then at <5><0><0><0> seconds.", "At 25.000 seconds, then at 25.000 seconds."),
        ("rpt", "<1><0><0><0> and <2><0><0><0> but <1><2> and 7", "5.000 and 10.000 seconds but <1><2> and 7"),
        ("rpt", "the key <\\7> at <1><0><0><0>, <\\8>", "the key <7> at 5.000 seconds, <8>"),
        ("bins", "From <bin_30> to <bin_60>, x", "From 5.000 to 10.000 seconds, x"),
        ("absolute", "<TIME_ZERO>" * 3 + "<TIME_NINE><TIME_DOT><TIME_ONE> seconds", "9.100 seconds"),
        ("absolute", "<TIME_NINE>" * 4 + "<TIME_DOT><TIME_ONE>", "9999.100 seconds"),
        ("text", "12.3 - 14 seconds", "12.3 - 14 seconds"),
        ("percent", "12 people, from 05 to 10", "12 people, from 05 to 10"),
    ],
)
def test_free_answers_in_seconds(name, text, read):
    assert in_seconds(text, get_notation(name), 50.0) == read


def test_an_answer_ends_where_the_task_says():
    assert cut(" a b\n\nc STOP", ["STOP", "\n\n"]) == "a b"
    assert cut("a.b", ".") == "a"
    assert cut("ab ", ["", "x"]) == cut("ab", None) == "ab"


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        (GREEDY | {"top_p": 1.0}, {"max_new_tokens": 12, "do_sample": False}),
        ({"until": [], "num_beams": 2, "top_p": None}, {"max_new_tokens": 512, "num_beams": 2, "do_sample": False}),
        ({"temperature": 0, "do_sample": True}, {"max_new_tokens": 512, "do_sample": False}),
        ({"temperature": 0.7, "do_sample": False}, {"max_new_tokens": 512, "do_sample": False}),
        ({"temperature": 0.7}, {"max_new_tokens": 512, "temperature": 0.7, "do_sample": True}),
        ({"do_sample": True, "top_k": 3, "top_p": None}, {"max_new_tokens": 512, "top_k": 3, "do_sample": True}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_generation_settings(asked, settings):
    assert generation_settings(asked) == settings


def test_settings_without_effect_are_named():
    with pytest.warns(UserWarning, match="without effect on Seq2Time: image_aspect_ratio, seed"):
        assert generation_settings({"image_aspect_ratio": "original", "seed": 1, "do_sample": False})


def test_only_one_video_file_is_taken(videos):
    assert video_of([videos[0]], "x") == video_of((videos[0],), "x") == videos[0]
    assert video_of(["https://example.org/a.mp4"], "x")
    for visuals, found in ((None, "NoneType"), ([], r"\[\]"), ([1, "a"], r"\['int', 'str'\]"), ("ab", "str")):
        with pytest.raises(ValueError, match=f"x, document 3: expected the path of one video, found {found}"):
            video_of(visuals, "x, document 3")
    with pytest.raises(FileNotFoundError, match="x, document 3: there is no video nowhere.mp4"):
        video_of(["nowhere.mp4"], "x, document 3")


def test_grounding_is_a_search_with_the_tasks_prompt(adapter, videos, monkeypatch):
    model = adapter()
    decoded = count_calls(monkeypatch, type(model.model), "get_video_features")
    answers = model.generate_until([request(f"When, {number}?", number) for number in (1, 0, 3, 2)])
    assert len(decoded) == 2, "a video is encoded once"
    for number, answer in zip((1, 0, 3, 2), answers, strict=True):
        (moment,) = model.model.ground(
            model.processor, videos[number % 2], f"When, {number}?", prompt="{query}", search_steps=32,
            video_kwargs={"num_frames": 8},
        )  # fmt: skip
        assert answer == in_words([moment])
    assert len(set(answers)) > 1


def test_the_models_own_question(adapter, videos, monkeypatch):
    model = adapter(own_question=True)
    calls = count_calls(monkeypatch, type(model.model), "ground")
    (answer,) = model.generate_until([request("the task's", 2)])
    assert "{query}" in calls[0]["prompt"] != "{query}"
    own = {"search_steps": 32, "prompt": calls[0]["prompt"], "video_kwargs": {"num_frames": 8}}
    assert answer == in_words(model.model.ground(model.processor, videos[0], "query 2", **own))


def test_own_questions_of_further_tasks(adapter, monkeypatch):
    model = adapter(grounding_tasks="mine:video+other:caption", own_question=True)
    asked = []
    monkeypatch.setattr(model, "_search", lambda _, found: asked.extend(found) or [""] * sum(map(len, found)))
    monkeypatch.setattr(model, "_write", lambda _, found, settings: asked.extend(found) or [""])
    requests = [request("x", 1, "mine"), request("x", 0, "other"), request("x", 2), request("x", 3, "free")]
    model.generate_until(requests)
    assert asked == [[model.task_dict["mine"]["test"][1]["video"]], ["query 0", "query 2"], ["x"]]
    model = adapter(grounding_tasks="mine", own_question=True)
    with pytest.raises(ValueError, match="the field of the query: grounding_tasks=mine:FIELD"):
        model.generate_until([request("x", 1, "mine")])


def test_options_of_the_search(adapter, monkeypatch):
    model = adapter(window=4.0, decoder="pyav")
    calls = count_calls(monkeypatch, type(model.model), "ground")
    assert model.generate_until([request("x", 1)])[0].startswith("The event happens in ")
    assert calls == [
        {"window": 4.0, "search_steps": 32, "prompt": "{query}", "video_kwargs": {"num_frames": 8, "decoder": "pyav"}}
    ]
    model = adapter(num_frames=None, search_steps=None)
    monkeypatch.setattr(model.model, "ground", lambda *given, **named: calls.append(named) or [[[Moment(1.0, 2.0)]]])
    model.generate_until([request("x", 1)])
    assert calls[-1] == {"prompt": "{query}", "video_kwargs": {}}


@pytest.mark.parametrize("batch_size", [1, "3"])
def test_other_tasks_are_answered_freely(adapter, videos, monkeypatch, batch_size):
    model = adapter(batch_size=batch_size)
    decoded = count_calls(monkeypatch, type(model.model), "get_video_features")
    generated = count_calls(monkeypatch, type(model.model), "generate")
    requests = [request(f"{'long ' * number}<video> {number}?", number, "free") for number in range(4)]
    requests[2].args = (*requests[2].args[:1], GREEDY | {"max_new_tokens": 3}, *requests[2].args[2:])
    answers = model.generate_until([*requests, request("When?", 1)])
    assert answers[4].startswith("The event happens in ")
    assert len(decoded) == 2 + 1 + 1, "each video once for each kind of settings"
    assert len(generated) == {1: 4, "3": 2}[batch_size]
    assert [call["max_new_tokens"] for call in generated].count(3) == 1
    for number, answer in enumerate(answers[:4]):
        chat = [
            {"type": "video", "video": videos[number % 2]},
            {"type": "text", "text": f"{'long ' * number} {number}?"},
        ]
        chat[1]["text"] = chat[1]["text"].strip()
        inputs = model.processor.apply_chat_template(
            [{"role": "user", "content": chat}], tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=True, num_frames=8,
        )  # fmt: skip
        metadata = inputs.pop("video_metadata")[0]
        written = model.model.generate(**inputs, do_sample=False, max_new_tokens=3 if number == 2 else 12)
        text = model.processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == cut(in_seconds(text.strip(), model.processor.notation, metadata.length), ["\n\n"])


def test_free_answers_end_where_the_task_says(adapter):
    model = adapter()
    (whole,) = model.generate_until([request("x", 0, "free")])
    (short,) = model.generate_until([request("x", 0, "free", GREEDY | {"until": whole[3]})])
    assert short == whole.partition(whole[3])[0].strip() != whole


def test_grounding_without_constraint_is_free(adapter):
    model = adapter(constrain=False, grounding_tasks="mine")
    answers = model.generate_until([request("When?", 0, task) for task in (CHARADES, "mine", "free")])
    assert len(set(answers)) == 1
    assert not answers[0].startswith("The event happens in ")


def test_every_repeat_has_its_own_answer(adapter):
    sampled = request("x", 0, "free", {"temperature": 5.0, "max_new_tokens": 12})
    answers = adapter().generate_until([sampled] * 4)
    assert len(set(answers)) > 1


def test_what_is_not_supported_is_refused(adapter, tiny_folder):
    model = adapter()
    with pytest.raises(NotImplementedError, match="choose tasks of output_type generate_until"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="one question at a time"):
        model.generate_until_multi_round([])
    for batch_size in ("auto", 0, "1.5"):
        with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1, found '?{batch_size}"):
            adapter(batch_size=batch_size)
    with pytest.raises(TypeError, match="nonsense"):
        adapter(nonsense=1)


def test_weights_and_device(adapter, tiny_folder):
    assert Seq2TimeForLmmsEval(str(tiny_folder("timechat")), "meta").device.type == "meta"
    model = adapter(dtype="bfloat16")
    assert str(model.model.dtype) == "torch.bfloat16"
    assert model.device.type == model.model.device.type == "cpu"
    assert model.generate_until([request("x", 0)])[0].startswith("The event happens in ")


def test_without_lmms_eval_the_command_says_what_is_missing(tmp_path):
    (tmp_path / "lmms_eval.py").write_text("raise ImportError('no such thing')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "evaluation.lmms_eval_model", "--model", "seq2time"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().endswith(
        "error: no such thing. This command needs lmms-eval 0.7.3 or later: pip install 'seq2time[lmms]'"
    )


# With lmms-eval: its command, its evaluator, its tasks' prompts, parsers and scores; only their data is ours.

TASKS = {
    CHARADES: "charades_sta/charades.yaml",
    "timelens_charades": "timelens/timelens_charades.yaml",
    "extremewhenbench": "extremewhenbench/extremewhenbench.yaml",
}
FREE = """\
test_split: test
output_type: generate_until
doc_to_visual: video
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 8}
metric_list: [{metric: exact_match}]
"""


def write_tasks(folder: Path, installed: Path) -> list[Path]:
    """lmms-eval's grounding tasks about two rendered videos, and one of free answers."""
    media = folder / "charades_sta" / "Charades_v1_480"
    paths = [media / "one.mp4", media / "two.mp4"]
    events = [(paths[0], *event) for event in render(paths[0])]
    write_video(paths[1], 200)
    rows = events + [(paths[1], 0.4 * a, 0.4 * b, text.replace("a", "no", 1)) for _, a, b, text in events]
    documents = {
        CHARADES: [{"video": path.name, "caption": text, "timestamp": [a, b]} for path, a, b, text in rows],
        "timelens_charades": [
            {"video_path": str(path), "query": text, "span": f"[[{a}, {b}]]"} for path, a, b, text in rows
        ],
        "extremewhenbench": [
            {"qid": str(number), "video_id": path.stem, "source_corpus": "LVBench", "question": text}
            | {"correct_interval": [a, b], "video_duration_s": 20.0}
            for number, (path, a, b, text) in enumerate(rows)
        ],
        "free": [{"video": str(path), "question": f"Is it {text}?", "answer": "no"} for path, *_, text in rows],
    }
    for task, own in documents.items():
        (folder / f"{task}.json").write_text(json.dumps(own))
        split = "charades" if task == "timelens_charades" else "test"
        data = f"dataset_kwargs: {{data_files: {{{split}: {folder}/{task}.json}}}}"
        rest = f"include: {installed / TASKS[task]}" if task in TASKS else FREE
        (folder / f"{task}.yaml").write_text(f"task: my_{task}\ndataset_path: json\n{data}\n{rest}\n")
    return paths


def run_lmms_eval(launch: list[str], model: Path, folder: Path, output: Path) -> dict[str, list[dict]]:
    """The samples of each task, in order, with `metrics` of all, as lmms-eval writes them."""
    tasks = ["free", *TASKS]
    grounding = "+".join(f"my_{task}" for task in TASKS)
    command = [
        *launch, "-m", "evaluation.lmms_eval_model", "--model", "seq2time", "--batch_size", "2", "--log_samples",
        "--model_args", f"pretrained={model},num_frames=8,search_steps=32,grounding_tasks={grounding}",
        "--tasks", ",".join(f"my_{task}" for task in tasks), "--include_path", folder, "--output_path", output,
    ]  # fmt: skip
    settings = {"HF_HOME": str(folder), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    videos = {"EWB_LVBENCH_PATH": str(folder / "charades_sta" / "Charades_v1_480")}
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings | videos, check=False)
    assert run.returncode == 0, run.stderr
    (results,) = output.rglob("*_results.json")
    found = {"metrics": json.loads(results.read_text())["results"]}
    for task in tasks:
        (file,) = output.rglob(f"*_samples_my_{task}.jsonl")
        found[task] = sorted(map(json.loads, file.read_text().splitlines()), key=lambda one: one["doc_id"])
    return found


@pytest.mark.slow
def test_lmms_eval_runs_its_grounding_tasks(tiny, tiny_folder, tmp_path):
    installed = Path(pytest.importorskip("lmms_eval").__file__).parent / "tasks"
    from lmms_eval.tasks.charades_sta.utils import extract_time, iou  # noqa: PLC0415
    from lmms_eval.tasks.extremewhenbench.utils import _parse_interval  # noqa: PLC0415
    from lmms_eval.tasks.timelens.utils import extract_time as extract_times  # noqa: PLC0415

    parsers = {
        CHARADES: lambda text: extract_time(text)[0],
        "timelens_charades": lambda text: extract_times(text)[0],
        "extremewhenbench": _parse_interval,
    }
    paths = write_tasks(tmp_path, installed)
    model, processor = tiny("timechat", seed=7)  # whose answers depend on the question
    folder = tiny_folder("timechat", seed=7)
    found = run_lmms_eval([sys.executable], folder, tmp_path, tmp_path / "out")
    for task, parse in parsers.items():
        samples, overlaps = found[task], []
        assert len(samples) == 6
        for sample, path in zip(samples, [*[paths[0]] * 3, *[paths[1]] * 3], strict=True):
            prompt, answer = sample["input"], sample["filtered_resps"]
            (moment,) = model.ground(
                processor, str(path), prompt, prompt="{query}", search_steps=32, video_kwargs={"num_frames": 8}
            )
            assert parse(answer) == pytest.approx([moment.start, moment.end], abs=5e-4), "parsed, as it was found"
            truth = json.loads(f"[{sample['target'].strip('[]')}]")
            overlaps.append(iou(truth, [moment.start, moment.end]))
        assert max(overlaps) > 0.3
        metrics = {name.partition(",")[0]: value for name, value in found["metrics"][f"my_{task}"].items()}
        scale, name = (1, "ewb_mIoU") if task == "extremewhenbench" else (100, "charades_sta_mIOU")
        name = "timelens_mIOU" if task == "timelens_charades" else name
        assert metrics[name] == pytest.approx(scale * sum(overlaps) / 6, abs=scale * 1e-3)
    assert metrics["ewb_parse_fail"] == 0
    free = [sample["filtered_resps"] for sample in found["free"]]
    questions = [sample["input"] for sample in found["free"]]
    replies = [
        model.reply(processor, str(path), own, max_new_tokens=8, do_sample=False, video_kwargs={"num_frames": 8})
        for path, own in zip(paths, (questions[:3], questions[3:]), strict=True)
    ]
    assert free == [
        cut(in_seconds(one.text, processor.notation, one.length), ["\n\n"]) for own in replies for one in own
    ]

    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    shared = run_lmms_eval(launch, folder, tmp_path, tmp_path / "shared")
    for task in ("free", *TASKS):
        assert [one["filtered_resps"] for one in shared[task]] == [one["filtered_resps"] for one in found[task]]
