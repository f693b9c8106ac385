"""The training loop: one for supernets and for finished subnets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, is_tensorboard_available
from torch import Tensor

from manyshot.progress import Progress, Silent
from manyshot.recipe import TrainingSettings
from manyshot.train.plan import Plan
from manyshot.train.probing import answer
from manyshot.train.trainer import Trainer
from manyshot.train.update import gradients, held_by, move


def engine(
    device: torch.device, settings: TrainingSettings, folder: Path | None = None
) -> Accelerator:
    """The accelerator: one process, or as many as torchrun or `accelerate launch` started.

    Raises:
        ImportError: if the settings' tracker is not installed.
    """
    if settings.tracker is not None and not is_tensorboard_available():
        raise ImportError(
            "train.tracker = 'tensorboard' needs: pip install 'manyshot[tensorboard]'"
        )
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # `train.precision` says, whatever `accelerate launch` was told
        kwargs_handlers=[ddp],
        log_with=settings.tracker,
        project_dir=None if folder is None else str(folder),
    )
    if settings.tracker is not None:
        accelerator.init_trackers("manyshot")
    return accelerator


def train(run: Trainer, progress: Progress | None = None, stage: str = "train") -> None:
    """Trains `run.net` to the end of its settings, from where its checkpoint left off.

    Same seed, same weights; a run killed at any moment and started again ends with the same
    weights as one never killed.

    Raises:
        NonFiniteLoss: if training diverges; the last good checkpoint is kept.
        CheckpointError: if a checkpoint is damaged or of another run.
    """
    accelerator, settings, bars = run.accelerator, run.settings, progress or Silent()
    run.restore()
    run.net.train()
    run.voice()
    net = accelerator.prepare_model(run.net)
    with torch.random.fork_rng(), bars.stage(stage, run.steps, run.step) as show:
        for images, labels in run.remaining():
            phase, rate = run.phase(), run.rate()
            torch.manual_seed(run.torch_seed())
            trained = gradients(run, net, phase, run.turns(phase, images, labels))
            move(run, phase, rate)
            if phase != "code":
                _teach(run, trained)
            run.step += 1
            run.note()
            if run.due(settings.log_steps):
                show(run.step, run.record(rate))
            if run.due(settings.checkpoint_steps):
                run.save()


def _teach(run: Trainer, trained: Sequence[tuple[Plan, list[Tensor]]]) -> None:
    """Moves what the sampler's optimiser holds, answers its probe, tells it the losses."""
    sampler, optimizer = run.sampler, run.sampler_optimizer
    if optimizer is not None:
        if sampler.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(held_by(optimizer), sampler.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    run.weight_step += 1
    probe = run.probe()
    probed = None if probe is None else answer(run, probe)
    for plan, losses in trained:
        sampler.feedback(plan, losses, probed)
