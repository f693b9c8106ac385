"""One optimiser step: the gradients of its plans, and the move. For training and for shifting."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manyshot.nn.pointwise import training_format
from manyshot.recipe import OptimiserSettings
from manyshot.sharing import Phase
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.train.plan import Plan
from manyshot.train.standalone import Standalone
from manyshot.train.step import accumulate, backward_into


@dataclass(frozen=True)
class Turn:
    """A plan and the images it is trained on.

    Attributes:
        plan: the paths.
        images: (B, C, H, W).
        labels: (B,).
        share: of the step's images.
    """

    plan: Plan
    images: Tensor
    labels: Tensor
    share: float


class Moving(Protocol):
    """What holds a network and its optimisers: a `Trainer`, or a `Shifter`."""

    @property
    def net(self) -> Supernet | Standalone:
        """The network, past any wrapper."""
        ...

    @property
    def settings(self) -> OptimiserSettings:
        """Label smoothing, largest norm, precision."""
        ...

    largest: Arch
    accelerator: Accelerator
    code_optimizer: torch.optim.Optimizer | None
    sampler_optimizer: torch.optim.Optimizer | None
    contiguous: bool

    def moving(self, phase: Phase) -> list[torch.optim.Optimizer]:
        """The optimisers that a step uses."""
        ...

    def watch(self, plan: Plan, losses: list[Tensor], phase: Phase) -> None:
        """Takes the losses of a plan."""
        ...


def make_safe(net: nn.Module, device: torch.device) -> bool:
    """Makes `net` contiguous, in place, if it may not train in channels last; returns whether."""
    contiguous = not training_format(net, device).is_channels_last
    if contiguous:
        net.to(memory_format=torch.contiguous_format)
    return contiguous


def as_trained(images: Tensor, contiguous: bool) -> Tensor:
    """The images, in the one format that a network which must be contiguous may see."""
    return images.to(memory_format=torch.contiguous_format) if contiguous else images


def held_by(optimizer: torch.optim.Optimizer | None) -> list[nn.Parameter]:
    """The parameters that an optimiser moves."""
    groups = [] if optimizer is None else optimizer.param_groups
    return [parameter for group in groups for parameter in group["params"]]


def gradients(
    run: Moving, net: nn.Module, phase: Phase, turns: Iterable[Turn]
) -> list[tuple[Plan, list[Tensor]]]:
    """Adds up the gradients of a step's turns; returns their plans with their losses.

    In a code step they are those of the codes alone, past the wrapper `net` that exchanges those of
    weights: it would wait for all the others.
    """
    accelerator, settings, left = run.accelerator, run.settings, iter(turns)
    codes, trained = held_by(run.code_optimizer), []
    samplers = held_by(run.sampler_optimizer)
    only_codes = phase == "code"
    alone = contextlib.nullcontext if only_codes else lambda: accelerator.no_sync(net)
    turn, following = next(left, None), next(left, None)
    while turn is not None:  # no more than two turns' images are held at once
        with (
            contextlib.nullcontext() if following is None else alone(),
            _autocast(accelerator.device, settings),
        ):
            losses = accumulate(
                functools.partial(run.net if only_codes else net, phase=phase),
                turn.plan,
                as_trained(turn.images, run.contiguous),
                turn.labels,
                largest=run.largest,
                smoothing=settings.label_smoothing,
                share=turn.share,
                backward=backward_into(codes) if only_codes else accelerator.backward,
                no_sync=alone,
            )
        run.watch(turn.plan, losses, phase)
        trained.append((turn.plan, losses))
        turn, following = following, next(left, None)
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


def move(run: Moving, phase: Phase, rate: float) -> None:
    """Moves what a step of `phase` moves, at a learning rate, and drops the gradients."""
    if run.settings.clip_norm is not None:
        run.accelerator.clip_grad_norm_(run.net.parameters(), run.settings.clip_norm)
    for optimizer in run.moving(phase):
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _autocast(
    device: torch.device, settings: OptimiserSettings
) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
