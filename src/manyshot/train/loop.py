"""The training loop: one for supernets and for finished subnets."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, is_tensorboard_available
from torch import Tensor, nn

from manyshot.progress import Progress, Silent
from manyshot.recipe import Training
from manyshot.sharing import Phase
from manyshot.train.plan import Plan
from manyshot.train.probing import answer
from manyshot.train.step import accumulate, backward_into
from manyshot.train.trainer import Trainer, held_by


def engine(device: torch.device, settings: Training, folder: Path | None = None) -> Accelerator:
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
            trained = _gradients(run, net, phase, images, labels)
            if settings.clip_norm is not None:
                accelerator.clip_grad_norm_(run.net.parameters(), settings.clip_norm)
            for optimizer in run.moving(phase):
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("scale", 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if phase != "code":
                _teach(run, trained)
            run.step += 1
            run.note()
            if run.due(settings.log_steps):
                show(run.step, run.record(rate))
            if run.due(settings.checkpoint_steps):
                run.save()


def _gradients(
    run: Trainer, net: nn.Module, phase: Phase, images: Tensor, labels: Tensor
) -> list[tuple[Plan, list[Tensor]]]:
    """Adds up the gradients of the current step; returns its plans with their losses.

    In a code step they are those of the codes alone, past the wrapper `net` that exchanges those of
    weights: it would wait for all the others.
    """
    accelerator, settings = run.accelerator, run.settings
    codes, trained = held_by(run.code_optimizer), []
    samplers = held_by(run.sampler_optimizer)
    only_codes = phase == "code"
    for turn in run.turns(phase, images, labels):
        with _autocast(accelerator.device, settings):
            losses = accumulate(
                functools.partial(run.net if only_codes else net, phase=phase),
                turn.plan,
                turn.images,
                turn.labels,
                largest=run.largest,
                smoothing=settings.label_smoothing,
                share=turn.share,
                backward=backward_into(codes) if only_codes else accelerator.backward,
                no_sync=contextlib.nullcontext if only_codes else lambda: accelerator.no_sync(net),
            )
        run.watch(turn.plan, losses, phase)
        trained.append((turn.plan, losses))
    if accelerator.num_processes > 1:  # which have the same paths, so also the same gradients
        for parameter in (*(codes if only_codes else ()), *samplers):
            if parameter.grad is not None:
                summed = parameter.grad.to(accelerator.device)
                parameter.grad = accelerator.reduce(summed, "mean").to(parameter.device)
    if phase in ("code", "joint"):
        archs = [path.arch for plan, _ in trained for path in plan.paths]
        penalty = run.net.sharing.penalty(archs)
        if penalty is not None:  # the same in all processes
            backward_into(codes)(penalty)
    return trained


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


def _autocast(device: torch.device, settings: Training) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
