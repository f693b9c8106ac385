"""The training loop: one for supernets and for finished subnets."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from manyshot import records
from manyshot.data import Batches
from manyshot.progress import Progress, Silent
from manyshot.recipe import Training
from manyshot.space import Arch
from manyshot.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from manyshot.train.optim import learning_rate, make_optimizer
from manyshot.train.plan import Sampler
from manyshot.train.step import accumulate

_PLANS, _TORCH = 1, 2
"""Named random streams of a run's seed."""


class NonFiniteLoss(RuntimeError):
    """The loss or a weight stopped being a number; the last good checkpoint is kept."""


def engine(device: torch.device, settings: Training, folder: Path | None = None) -> Accelerator:
    """The accelerator: one process, or as many as torchrun or `accelerate launch` started."""
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        kwargs_handlers=[ddp],
        log_with=settings.tracker,
        project_dir=None if folder is None else str(folder),
    )
    if settings.tracker is not None:
        accelerator.init_trackers("manyshot")
    return accelerator


@dataclass
class Trainer:
    """Everything that moves while `train` runs, saved and restored as one file.

    Attributes:
        net: takes (images, arch); `Standalone` makes one of a plain module.
        sampler: says which paths train.
        batches: this process's share of the images.
        settings: optimiser, schedule, length.
        seed: of the run.
        largest: the architecture that teaches in in-place distillation.
        accelerator: see `engine`.
        folder: where `checkpoint` and `log` go; nothing is written without it.
        checkpoint: name of the checkpoint file.
        log: name of the records file.
        fingerprint: of everything the run depends on; a checkpoint of another one is refused.
        step: optimiser steps done.
    """

    net: nn.Module
    sampler: Sampler
    batches: Batches
    settings: Training
    seed: int
    largest: Arch
    accelerator: Accelerator
    folder: Path | None = None
    checkpoint: str = "trainer.pt"
    log: str = "train.jsonl"
    fingerprint: str = ""
    step: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.net, self.settings)
        if len(self.batches) < 1:
            raise ValueError(
                f"a batch of {self.batches.batch_size} is more than the "
                f"{len(self.batches.dataset)} training images: lower train.batch_size"
            )

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.settings.epochs * len(self.batches)

    def save(self) -> None:
        """Writes the checkpoint, unless a weight is not finite.

        Raises:
            NonFiniteLoss: then; the previous checkpoint stays.
        """
        weights = self.net.state_dict()
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise NonFiniteLoss(self._diverged(f"weight {name!r} is not finite"))
        if self.folder is None or not self.accelerator.is_main_process:
            return
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state_dict(),
        }
        save_checkpoint(self.folder / self.checkpoint, state)

    def restore(self) -> bool:
        """Goes on from the checkpoint, if there is one, and says whether.

        Records of steps after it are dropped: they will be made again, the same.

        Raises:
            CheckpointError: if it is damaged, or of another run.
        """
        if self.folder is None or not (self.folder / self.checkpoint).exists():
            if self.folder is not None and self.accelerator.is_main_process:
                records.keep_lines(self.folder / self.log, lambda record: False)
            return False
        path = self.folder / self.checkpoint
        state = load_checkpoint(path)
        if state["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"checkpoint {path} belongs to other settings ({state['fingerprint']}, now "
                f"{self.fingerprint}): use its own recipe, or another --out folder"
            )
        self.net.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.load_state_dict(state["sampler"])
        self.step = state["step"]
        if self.accelerator.is_main_process:
            records.keep_lines(self.folder / self.log, lambda r: bool(r["step"] <= self.step))
        return True

    def _diverged(self, what: str) -> str:
        kept = (
            f"the checkpoint {self.folder / self.checkpoint} from before is kept"
            if self.folder is not None
            else "nothing was saved"
        )
        return (
            f"step {self.step}: {what} (learning rate {self.rate():.3g}); {kept}. Lower train.lr, "
            "set train.clip_norm, or add train.warmup_epochs"
        )

    def rate(self) -> float:
        """The learning rate of the current step."""
        return learning_rate(self.settings, self.step, self.steps, len(self.batches))

    def check(self, losses: list[Tensor], archs: list[Arch]) -> float:
        """The mean of losses as a number.

        Raises:
            NonFiniteLoss: if one is not finite.
        """
        values = torch.stack(losses).tolist()
        for value, arch in zip(values, archs, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLoss(self._diverged(f"the loss of architecture {arch} is {value}"))
        return float(np.mean(values))


class Standalone(nn.Module):
    """A plain module as a network that takes, and ignores, an architecture."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor, arch: Arch) -> Any:
        """The module's output."""
        return self.module(images)


def train(run: Trainer, progress: Progress | None = None) -> None:
    """Trains `run.net` to the end of its settings, from where its checkpoint left off.

    Same seed, same weights; a run killed at any moment and started again ends with the same
    weights as one never killed.

    Raises:
        NonFiniteLoss: if training diverges; the last good checkpoint is kept.
        CheckpointError: if a checkpoint is damaged or of another run.
    """
    accelerator, settings = run.accelerator, run.settings
    run.restore()
    run.net.train()
    net = accelerator.prepare_model(run.net)
    often = 1 if accelerator.device.type == "cpu" else settings.log_steps
    pending: list[Tensor] = []
    archs: list[Arch] = []
    with _own_random_stream(), (progress or Silent()).stage("train", run.steps, run.step) as show:
        began, first = time.monotonic(), run.step
        for images, labels in _remaining(run):
            plan = run.sampler.plan(np.random.default_rng((run.seed, _PLANS, run.step)), run.step)
            torch.manual_seed(_stream(run.seed, run.step, accelerator.process_index))
            for group in run.optimizer.param_groups:
                group["lr"] = run.rate()
            with _autocast(accelerator.device, settings):
                losses = accumulate(
                    net,
                    plan,
                    images,
                    labels,
                    largest=run.largest,
                    smoothing=settings.label_smoothing,
                    backward=accelerator.backward,
                    no_sync=lambda: accelerator.no_sync(net),
                )
            pending += losses
            archs += [path.arch for path in plan.paths]
            if (run.step + 1) % often == 0 or run.step + 1 == run.steps:
                loss, pending, archs = run.check(pending, archs), [], []
            if settings.clip_norm is not None:
                accelerator.clip_grad_norm_(run.net.parameters(), settings.clip_norm)
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            run.sampler.feedback(plan, losses)
            rate, run.step = run.rate(), run.step + 1
            if run.step % settings.log_steps == 0 or run.step == run.steps:
                speed = (run.step - first) * run.batches.batch_size / (time.monotonic() - began)
                _log(run, loss, rate, speed)
                show(run.step, f"loss {loss:.3f}, {speed:,.0f} images/s")
            if run.step % settings.checkpoint_steps == 0 or run.step == run.steps:
                run.save()
    if settings.tracker is not None:
        accelerator.end_training()


def _remaining(run: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
    per_epoch = len(run.batches)
    first, start = divmod(run.step, per_epoch)
    for epoch in range(first, run.settings.epochs):
        yield from run.batches.epoch(epoch, start if epoch == first else 0)


def _stream(*parts: int) -> int:
    return int(np.random.SeedSequence((_TORCH, *parts)).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def _own_random_stream() -> Iterator[None]:
    """Dropout and the like draw from streams of the run; the caller's are as before afterwards."""
    with torch.random.fork_rng():
        yield


def _autocast(device: torch.device, settings: Training) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")


def _log(run: Trainer, loss: float, rate: float, speed: float) -> None:
    record = {
        "step": run.step,
        "epoch": run.step / len(run.batches),
        "images": run.step * run.batches.batch_size,
        "loss": loss,
        "lr": rate,
    }
    if run.folder is not None and run.accelerator.is_main_process:
        records.append(run.folder / run.log, {**record, "images_per_second": round(speed, 1)})
    if run.settings.tracker is not None:
        run.accelerator.log({"loss": loss, "lr": rate}, step=run.step)
