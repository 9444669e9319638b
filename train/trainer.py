"""TRL's `SFTTrainer` with our batches, losses by task and source, speed, and checkpoints that are whole."""

import json
import math
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from dataset_scripts.items import DataError

from .adapter import PARTS, ends_of
from .mixture import BatchSampler, Mixture
from .sharding import make_ready
from .watching import SOURCE, TASK, HeldOutQuestions, Terminal


SHOWN = 20  # skipped samples on the terminal
SKIPPED = "skipped.jsonl"


class Draws(torch.utils.data.Dataset):
    """Rows of the mixture, which the sampler asks for by epoch and number."""

    def __init__(self, rows: Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: tuple[int, int]) -> dict:
        epoch, row = place
        return {"epoch": epoch, **self.rows[row]}


class SequenceTrainer(SFTTrainer):
    """
    Args:
        mixture: what is trained on; its rows are the trainer's data set.
        rates: learning rates of LoRA and of parts that train, where they are others than `learning_rate`.
        max_loss: mean loss of a batch from which on the run counts as exploded; twice that of guessing if not given.
        held_out: groundings to ask about now and then.
    """

    def __init__(
        self,
        *args,
        mixture: Mixture,
        rates: dict[str, float] | None = None,
        max_loss: float | None = None,
        held_out: HeldOutQuestions | None = None,
        **kwargs,
    ):
        super().__init__(*args, train_dataset=mixture.rows, **kwargs)
        self.rates = rates or {}
        self.max_loss, self.held_out = max_loss or 2 * math.log(self.model.config.text_config.vocab_size), held_out
        if held_out and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            self.held_out = None
            if self.is_world_process_zero():
                print("held_out: not asked about, as a model that is split over processes can't generate alone")
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        self.add_callback(Terminal())
        tasks = sorted({task for samples in mixture.sets for task in samples.records.unique("task")})
        sources = sorted({source for samples in mixture.sets for source in samples.records.unique("source")})
        self.names = [TASK + task for task in tasks] + [SOURCE + source for source in sources]
        self.sampler = BatchSampler(
            mixture.column("group"),
            mixture.column("length"),
            self.args.per_device_train_batch_size,
            self.update_size(self.args),
            self.args.seed,
        )
        self.model.register_forward_hook(self._keep_outputs)
        make_ready(self)
        self._outputs, self._update_ids, self._noted, self._asked, self.skipped = None, [], {}, 0, 0
        self._reset()

    @staticmethod
    def update_size(args: SFTConfig) -> int:
        """Samples of an update, over all processes."""
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        args, workers = self.args, self.args.dataloader_num_workers
        loader = DataLoader(
            Draws(self.train_dataset),
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=_one_thread,
        )
        return self.accelerator.prepare(loader)

    def _run_epoch(self, *args, epoch: int, **kwargs):
        self.sampler.set_epoch(epoch)  # accelerate reaches it only where nothing is skipped
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    def get_batch_samples(self, *args, **kwargs):
        began = time.perf_counter()
        try:
            return super().get_batch_samples(*args, **kwargs)
        except DataError as error:  # a loader's worker puts its traceback before the message
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error
        finally:
            self._waited += time.perf_counter() - began

    # Learning rates

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Each part with a rate of its own becomes groups of its own, with and without weight decay as before."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not new or not self.rates:
            return optimizer
        names = {one: name for name, one in (model or self.model).named_parameters()}
        ends = ends_of(self.accelerator.unwrap_model(self.model).get_base_model())
        pieces = {part: f".{ends.get(part, part)}." for part in self.rates}
        pieces |= {"lora": PARTS["LoRA"], "time_tokens": PARTS["time tokens"]}
        groups = []
        for group in optimizer.param_groups:
            left = group["params"]
            for part, rate in self.rates.items():
                own = [one for one in left if pieces[part] in names[one]]
                left = [one for one in left if pieces[part] not in names[one]]
                groups.append(group | {"params": own, "lr": rate})
            groups.append(group | {"params": left})
        optimizer.param_groups[:] = [group for group in groups if group["params"]]
        return optimizer

    # Losses

    def _keep_outputs(self, module, args, outputs):
        self._outputs = outputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        about = inputs.pop("about")
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs, self._outputs = self._outputs, None
        with torch.no_grad():
            sums = -outputs.log_probs.float().sum(dim=1).cpu()  # zero where there is no label
            counts = outputs.label_mask.sum(dim=1).cpu()
        self._update_ids += [sample["id"] for sample in about["samples"]]
        self._refuse_explosion(float(sums.sum()), int(counts.sum()), about)
        for place, sample in enumerate(about["samples"]):
            for name in (TASK + sample["task"], SOURCE + sample["source"]):
                self._sums[self.names.index(name)] += torch.tensor([float(sums[place]), float(counts[place])])
        self._samples += len(about["samples"])
        self._tokens += int(inputs["attention_mask"].sum())
        self._note_skipped(about["skipped"])
        return loss

    def _refuse_explosion(self, total: float, tokens: int, about: dict):
        mean = total / max(tokens, 1)
        if not math.isfinite(mean) or mean > self.max_loss:
            ids = ", ".join(sample["id"] for sample in about["samples"])
            raise DataError(
                f"step {self.state.global_step + 1}: expected a loss of at most {self.max_loss:.4g}, found {mean:.4g} "
                f"in the batch of {ids}; the last checkpoint is as it was"
            )

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # With float16 an overflow now and then is how the scaler finds its scale.
        if norm is not None and not self.args.fp16 and not math.isfinite(float(norm)):
            raise DataError(
                f"step {self.state.global_step + 1}: expected finite gradients, found a norm of {float(norm)}, in the "
                f"update of {', '.join(self._update_ids)}; the last checkpoint is as it was"
            )
        self._update_ids.clear()
        return norm

    def _note_skipped(self, skipped: list[dict]):
        if not skipped:
            return
        with open(Path(self.args.output_dir) / SKIPPED, "a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(one) + "\n" for one in skipped)
        for one in skipped[: max(SHOWN - self.skipped, 0)]:
            print(f"skipped {one['id']}: {one['why']}", file=sys.stderr)
        self.skipped += len(skipped)

    # What is seen

    def _reset(self):
        self._sums = torch.zeros(len(self.names), 2, dtype=torch.float64)
        self._samples = self._tokens = 0
        self._began, self._waited = time.perf_counter(), 0.0

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, *args, **kwargs):
        step = self.state.global_step
        if self.held_out and step % self.held_out.steps == 0 and self._asked != step:
            self._asked, self.control.should_log, began = step, True, time.perf_counter()
            base = self.accelerator.unwrap_model(model).get_base_model()
            with self.accelerator.autocast():  # what trains is kept in another dtype
                figures, line = self.held_out.ask(base)
            self._noted = figures
            if self.is_world_process_zero():
                print(f"held out: {line}", file=sys.stderr)
            self._began += time.perf_counter() - began  # the model's speed is that of training
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *args, **kwargs)

    def log(self, logs: dict, start_time: float | None = None):
        if "loss" in logs:  # not the summary at the end
            seconds = time.perf_counter() - self._began
            own = [float(self._samples), float(self._tokens), self._waited / seconds, float(self.skipped)]
            shared = torch.cat([self._sums.flatten(), torch.tensor(own, dtype=torch.float64)])
            if self.args.world_size > 1:
                shared = self.accelerator.reduce(shared.to(self.args.device, torch.float32), "sum").cpu()
            *sums, samples, tokens, waited, skipped = shared.tolist()
            for name, total, count in zip(self.names, sums[::2], sums[1::2], strict=True):
                if count:
                    logs[name] = total / count
            logs |= {"samples_per_second": samples / seconds, "tokens_per_second": tokens / seconds}
            logs |= self._noted
            self._noted = {}
            logs |= {"data_wait": waited / self.args.world_size, "skipped": int(skipped)}
            self._reset()
        super().log(logs, start_time)

    # Checkpoints

    def _get_output_dir(self, trial):
        return str(self._writing or super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial):
        """Written beside the others under another name, and renamed when all of it is on the disk."""
        folder, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        self._writing = folder / ".writing"
        try:
            with self._or_nothing(self._writing, folder / name):
                if self.is_world_process_zero():
                    shutil.rmtree(self._writing, ignore_errors=True)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.is_world_process_zero():
                    _on_disk(self._writing / name)
                    shutil.rmtree(folder / name, ignore_errors=True)
                    os.replace(self._writing / name, folder / name)
                    self._writing.rmdir()
        finally:
            self._writing = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            rotate_checkpoints(output_dir=str(folder), save_total_limit=self.args.save_total_limit, use_mtime=False)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        """The finished model, too, is there whole: what makes a folder a model comes last."""
        if output_dir is not None:
            return super().save_model(output_dir, _internal_call)
        folder, new = Path(self.args.output_dir), Path(self.args.output_dir) / ".final"
        if self.is_world_process_zero():
            shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        self.accelerator.wait_for_everyone()
        with self._or_nothing(new, folder / "adapter_model.safetensors"):
            super().save_model(str(new), _internal_call)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                (new / TRAINING_ARGS_NAME).unlink()  # a pickle, with paths of this machine
                _on_disk(new)
        if self.is_world_process_zero():
            for path in sorted(new.iterdir(), key=lambda path: path.suffix == ".json"):
                if path.is_dir():
                    shutil.rmtree(folder / path.name, ignore_errors=True)
                os.replace(path, folder / path.name)
            new.rmdir()

    @contextmanager
    def _or_nothing(self, unfinished: Path, name: Path):
        """A write that fails leaves nothing behind but its reason."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:  # as each writer says that a disk is full
            if self.is_world_process_zero():
                shutil.rmtree(unfinished, ignore_errors=True)
            raise OSError(f"{name}: not written, earlier checkpoints are as they were: {error}") from error

    _writing: Path | None = None

    def create_model_card(self, *args, **kwargs):
        """Not with every checkpoint: the card is written once, of the finished run."""


def _one_thread(worker: int):
    torch.set_num_threads(1)


def _on_disk(folder: Path):
    """Waits until the disk has what was written, so that a name is never there before its content."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
