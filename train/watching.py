"""What one sees of a run: a line of figures on the terminal, and groundings that the model was never trained on."""

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import TrainerCallback

from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from evaluation.grounding import score
from modeling_seq2time import Seq2TimeForConditionalGeneration, Seq2TimeProcessor
from modeling_seq2time.native_video import NativeProcessor, NativeVideoModel
from modeling_seq2time.time_notation import marks

from .recipe import HeldOut


FIGURES = ("r1@0.5", "miou")
TASK, SOURCE, HELD = "loss/task/", "loss/source/", "held_out/"  # beginnings of names in the log
SAMPLES = 16  # answers that a moment is chosen by


class HeldOutQuestions:
    """Grounding records whose first question the model is asked while it trains; each process asks its share."""

    def __init__(self, settings: HeldOut, processor: Seq2TimeProcessor):
        video = processor.video_processor
        self.processor, self.steps = processor, settings.steps
        config = "+".join(settings.config or ["video_grounding"])
        if config not in ("video_grounding", "grounding"):
            raise DataError(f"held_out, config: expected video_grounding or grounding, found {config}")
        samples = Samples.load(
            settings.path,
            config,
            settings.split,
            settings.folders,
            num_frames=video.num_frames,
            size=(video.size["height"], video.size["width"]),
        )
        state, numbers = PartialState(), range(min(settings.count, len(samples)))
        # Decoded now, so that a video that can't be read stops the run before it begins.
        self.samples = {number: samples[number] for number in numbers[state.process_index :: state.num_processes]}

    def ask(self, model: Seq2TimeForConditionalGeneration) -> tuple[dict, str]:
        """Figures, and a line about the first question."""
        model.eval()
        if isinstance(self.processor, NativeProcessor):
            model = NativeVideoModel(model)
        asked = []
        for number, sample in self.samples.items():
            question, length = sample["messages"][0]["content"], sample["metadata"]["duration"]
            watched = model.watch(
                self.processor,
                torch.stack([torch.as_tensor(frame) for frame in sample["frames"]]).numpy(),
                video_kwargs={"video_metadata": [sample["metadata"]], "do_sample_frames": False},
            )
            answer = model.ground(self.processor, watched, "", prompt=question, samples=SAMPLES)
            found = [len(marks(message["content"])) for message in sample["messages"][1::2]]
            first = len(sample["targets"]) * found[0] // sum(found)  # targets of the first question, of several
            windows = [(one["start"] * length, one["end"] * length) for one in sample["targets"][:first]]
            asked.append((number, question, [(moment.start, moment.end) for moment in answer], windows))
        asked = sorted(gather_object(asked))
        figures = score({row[0]: row[2] for row in asked}, {row[0]: row[3] for row in asked})
        _, question, found, windows = asked[0]
        said, true = ("; ".join(f"{start:.1f}–{end:.1f} s" for start, end in spans) for spans in (found, windows))
        return {HELD + name: figures[name] for name in FIGURES}, f"{question} → {said or 'nothing'} (is {true})"


class Terminal(TrainerCallback):
    """A bar where a terminal is, and a line of figures at each logging step."""

    def on_train_begin(self, args, state, control, **kwargs):
        hidden = args.disable_tqdm or not state.is_world_process_zero or None  # None: hidden where no terminal is
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=hidden)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        tasks = [f"{name.removeprefix(TASK)} {value:.3f}" for name, value in logs.items() if name.startswith(TASK)]
        sources = [
            f"{name.removeprefix(SOURCE)} {value:.3f}" for name, value in logs.items() if name.startswith(SOURCE)
        ]
        tasks = [*tasks, *sources[len(sources) == 1 :]]  # of one source, it is the loss itself
        line = (
            f"step {state.global_step:>6}  loss {logs['loss']:.4f} ({', '.join(tasks)})  lr {logs['learning_rate']:.1e}"
        )
        line += f"  {logs['samples_per_second']:.1f} samples/s  {logs['tokens_per_second']:.0f} tokens/s"
        line += f"  waits for data {logs['data_wait']:.0%}"
        line += f"  skipped {logs['skipped']}" if logs["skipped"] else ""
        line += "".join(f"  {name} {logs[HELD + name]:.1f}" for name in FIGURES if HELD + name in logs)
        tqdm.write(line)
