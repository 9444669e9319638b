"""
python -m examples.quickstart --base examples/seq2time-mini-base --output quickstart

All of Seq2Time in ten minutes on two cores, without a download: renders a small world, makes image and clip sequences
of it, trains both phases from a small base, and asks before and after about videos of things that it was never shown.
What came of it stands in report.html. Stopped, the same command goes on where it was.
"""

import argparse
import hashlib
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from dataset_scripts.command import run
from dataset_scripts.files import atomic_writer
from dataset_scripts.items import DataError
from dataset_scripts.parallel import each
from dataset_scripts.sources import miniworld


# All that is trained on is of the first seed. The others make videos of the test split, whose pairs of colour and shape
# the training split never shows.
WORLD_SEED, TEST_SEED, FILM_SEED = SEEDS = 0, 1, 2
SIZE = 112  # pixels on each side
QUERIES, RANKED = 3, 40  # about the film, and moments of each
HOME = "quickstart/"  # where the recipes' paths lie
PROMPTS = Path(__file__).with_name("mini_prompts.toml")
# All that accelerate would otherwise warn of.
LAUNCH = ["--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--quiet"]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="examples/seq2time-mini-base", help="model to start from (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("quickstart"), help="folder of everything (%(default)s)")
    world = "pictures=800&clips=160&videos=30"
    parser.add_argument("--world", default=world, help="what is rendered to train on (%(default)s)")
    parser.add_argument("--instances", type=int, default=800, help="image sequences; clip sequences are half as many")
    parser.add_argument("--test-videos", type=int, default=12, help="that are asked about (%(default)s)")
    parser.add_argument("--phase1-steps", type=int, help="updates; the recipe's number if not given")
    parser.add_argument("--phase2-steps", type=int)
    parser.add_argument("--num-proc", type=int, default=os.cpu_count(), help="that render and build (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    claim(args)
    out, stages = args.output, Stages(args.output / "seconds.json")
    data, test, film, model = (out / name for name in ("data", "test-videos", "film", "model"))
    answers, report = out / "answers.json", out / "report.html"

    world = ["--source", f"miniworld?{args.world}&seed={WORLD_SEED}", "--output", data, "--num-proc", args.num_proc]
    images = ["--num-instances", args.instances, "--sequence-length", 32, "--shared-pool", 40]
    images += ["--questions", 8, "--max-targets", 1]
    clips = ["--num-instances", args.instances // 2, "--questions", 4]
    for kind, options in (("image sequences", images), ("clip sequences", clips), ("annotated videos", [])):
        name = kind.replace(" ", "_")
        stages.module(f"build {kind}", data / f"{name}.train.json", f"dataset_scripts.{name}", *world, *options)
    show_record(data)

    films = partial(render_videos, num_proc=args.num_proc)
    made = partial(films, test, TEST_SEED, args.test_videos)
    stages.do("render test videos", test / "captions.jsonl", f"# {args.test_videos} of seed {TEST_SEED}", made)
    evaluate(stages, "before", args.base, test, out)
    compared = [out / "before", "--output", out / "baselines.json"]
    stages.module("baselines", out / "baselines.json", "evaluation.baselines", *compared)

    for number, steps in enumerate((args.phase1_steps, args.phase2_steps), 1):
        recipe = f"train/recipes/quickstart_phase{number}.yaml"
        card = out / f"phase{number}" / "README.md"  # what a run writes last
        stages.launch(f"train phase {number}", card, "train.sft", recipe, *overrides(recipe, args, steps))
    stages.module("merge", model, "train.adapter", "merge", out / "phase2", "--output", model)
    evaluate(stages, "after", model, test, out)

    made = partial(films, film, FILM_SEED, 1, least=QUERIES)
    stages.do("render a film", film / "captions.jsonl", f"# 1 of seed {FILM_SEED}, {QUERIES} events or more", made)
    asked = f"# model.ground(processor, video, queries, top_k={RANKED}, prompt=…)"
    stages.do("ask when it happens", answers, asked, lambda: ground(model, film, answers))
    stages.module("report", report, "examples.report", out)
    print(f"\n{report.resolve()}")


def evaluate(stages: "Stages", title: str, model: str | Path, test: Path, out: Path):
    """Held to the form of an answer; and once more free to write, to count the answers that can't be read."""
    common = ["--model", model, "--benchmark", "miniworld", "--data", test, "--num-frames", 32]
    common += ["--dtype", "float32", "--device", "cpu", "--prompts", PROMPTS]
    held, free = ["--max-new-tokens", 256], ["--task", "tvg", "--free", "--max-new-tokens", 48]
    for name, options in ((title, held), (f"{title}-free", free)):
        words = [*common, *options, "--output", out / name]
        stages.module(f"evaluate {name}", out / name / "results.json", "evaluation.run", *words)


class Stages:
    """Each is done once: what it makes says that it was. `notes` has the seconds of each."""

    def __init__(self, notes: Path):
        self.notes = notes

    def do(self, title: str, made: Path, command: str, action: Callable[[], None]):
        print(f"\n━━ {title}\n   {command}", flush=True)
        if made.exists():
            print(f"   done before: {made}", flush=True)
            return
        began = time.perf_counter()
        try:
            action()
        except (DataError, OSError) as error:
            raise DataError(f"{title}: {error}") from error
        if not made.exists():
            raise DataError(f"{title}: expected {made} in the end, found none")
        known = json.loads(self.notes.read_text(encoding="utf-8")) if self.notes.exists() else {}
        with atomic_writer(self.notes) as lines:
            json.dump(known | {title: round(time.perf_counter() - began, 1)}, lines, indent=1)

    def module(self, title: str, made: Path, name: str, *arguments):
        """A command of this repository, in this process, so that libraries are imported once."""
        words = [str(one) for one in arguments]
        # Imported only now, as each process of a builder imports this file.
        action = lambda: importlib.import_module(name).main(words)  # noqa: E731
        self.do(title, made, f"python -m {shlex.join([name, *words])}", action)

    def launch(self, title: str, made: Path, *arguments: str):
        words = ["launch", *LAUNCH, "-m", *arguments]
        self.do(title, made, f"accelerate {shlex.join(words)}", partial(accelerate, words))


def accelerate(words: list[str]):
    """Its processes are a group of their own, so that none of them outlives an interruption."""
    environment = {"OMP_NUM_THREADS": str(os.cpu_count())} | os.environ
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if code:
        raise DataError(f"expected accelerate to end with 0, found {code}; the reason stands above")


def claim(args):
    """Notes in the folder what is made there, or refuses one where something else was."""
    weights = Path(args.base, "model.safetensors")
    if not weights.is_file():
        raise DataError(f"--base {args.base}: expected a model's folder, found no {weights.name} in it")
    with weights.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "num_proc")}
    settings |= {"weights": digest, "seeds": list(SEEDS)}
    path = args.output / "quickstart.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    if changed := [name for name in settings if known.get(name) != settings[name]]:
        listed = "; ".join(f"{name} {known.get(name)!r}, not {settings[name]!r}" for name in changed)
        raise DataError(f"{args.output} holds a quickstart with {listed}. Choose another --output, or remove it")
    if not path.exists():
        with atomic_writer(path) as lines:
            json.dump(settings, lines, indent=1)


def overrides(recipe: str, args, steps: int | None) -> list[str]:
    """What differs from the recipe, where this isn't the default quickstart."""
    values = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    paths = {name: value for name, value in values.items() if str(value).startswith(HOME)}
    paths |= {f"data.{place}.path": one["path"] for place, one in enumerate(values["data"])}
    found = {name: path.replace(HOME, f"{args.output.as_posix()}/", 1) for name, path in paths.items()}
    found |= {} if "model" in found else {"model": args.base}
    found |= {} if steps is None else {"max_steps": steps}
    return [f"{name}={value}" for name, value in found.items() if value != (paths | values).get(name)]


def render_videos(folder: Path, seed: int, number: int, num_proc: int, least: int = 1):
    """So many videos of the test split with at least so many events, and their captions.jsonl."""
    plans = (miniworld.plan_video(np.random.default_rng([seed, index]), index, "test") for index in count())
    planned = list(islice((plan for plan in plans if len(plan[1]["events"]) >= least), number))
    missing = [(scene, folder) for scene, _ in planned if not (folder / scene.file).exists()]
    work = each(partial(miniworld.render, size=SIZE), missing, num_proc, in_order=False)
    for _ in tqdm(work, desc="rendering", total=len(missing), unit="video", disable=None):
        pass
    with atomic_writer(folder / "captions.jsonl") as lines:
        lines.writelines(json.dumps(row) + "\n" for _, row in planned)


def show_record(folder: Path):
    """A record, as anyone gets it who knows nothing of this repository."""
    from datasets import load_dataset  # noqa: PLC0415 (see `Stages.module`)

    print(f'\n━━ a record\n   load_dataset("{folder}", "iig", split="train")[0]')
    record = load_dataset(str(folder), "iig", split="train")[0]
    for name, value in (record | {"messages": record["messages"][:2]}).items():
        print(f"   {name}: {value}")
    print(f"   … and {len(record['messages']) - 2} more messages", flush=True)


def ground(folder: Path, film: Path, output: Path):
    """Queries about the film: the true times beside the moments that the model finds."""
    from evaluation.run_settings import read_prompts  # noqa: PLC0415
    from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeProcessor  # noqa: PLC0415

    (row,) = map(json.loads, (film / "captions.jsonl").read_text(encoding="utf-8").splitlines())
    events, video = row["events"][:QUERIES], str(film / row["file"])
    model = Seq2TimeForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
    processor = Seq2TimeProcessor.from_pretrained(folder)
    prompt, queries = read_prompts(PROMPTS)["tvg"], [event["caption"] for event in events]
    answers = model.ground(processor, video, queries, top_k=RANKED, prompt=prompt)
    found = []
    for event, answer in zip(events, answers, strict=True):
        moments = [{"start": one.start, "end": one.end, "score": one.score} for one in answer]
        found.append({"event": event, "moments": moments})
        true, said = (f"{one['start']:.1f} – {one['end']:.1f} s" for one in (event, moments[0]))
        print(f"   {event['caption']}: {said} (is {true})")
    with atomic_writer(output) as lines:
        json.dump({"video": video, "duration": answers[0].length, "queries": found}, lines, indent=1)


if __name__ == "__main__":
    run(main)
