"""The gradient of one plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from manyshot.space import Arch
from manyshot.train.losses import distillation_loss, label_loss
from manyshot.train.plan import Plan

Forward = Callable[[Tensor, Arch], Tensor]


def accumulate(
    forward: Forward,
    plan: Plan,
    images: Tensor,
    labels: Tensor,
    *,
    largest: Arch,
    smoothing: float = 0.0,
    share: float = 1.0,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> list[Tensor]:
    """Adds the gradient of the plan's weighted losses; returns the detached loss of each path.

    Every path runs forward and backward on its own, so that memory is one path's, and processes
    exchange gradients (leave `no_sync`) only in the last.

    Args:
        forward: (images, arch) to logits.
        plan: the paths.
        images: (B, C, H, W).
        labels: (B,).
        largest: the architecture that teaches in in-place distillation.
        smoothing: of the labels.
        share: factor of all losses: the images' share of the step's.
        backward: in place of `Tensor.backward`.
        no_sync: a context in which processes do not exchange gradients.

    Raises:
        ValueError: if a path learns from the largest architecture and that did not come before.
        NotImplementedError: for a plan with a policy or a penalty, which learnt samplers will have.
    """
    if plan.penalty is not None or any(path.policy is not None for path in plan.paths):
        raise NotImplementedError(
            "this version trains option indices: a plan with one-hot policies or a penalty needs "
            "a sampler with parameters, which the loop does not optimise yet"
        )
    teacher: Tensor | None = None
    losses = []
    for i, path in enumerate(plan.paths):
        weight = share * path.weight
        last = i == len(plan.paths) - 1
        with contextlib.nullcontext() if last else no_sync():
            logits = forward(images, path.arch)
            if path.target == "labels":
                loss = label_loss(logits, labels, smoothing)
            elif teacher is None:
                raise ValueError(
                    f"path {path.arch} learns from the largest architecture {largest}, which must "
                    "come before it in the plan, learning from labels"
                )
            else:
                loss = distillation_loss(logits, teacher)
            backward(loss if weight == 1 else weight * loss)
        if path.arch == largest and path.target == "labels":
            teacher = logits.detach()
        losses.append(loss.detach())
    return losses
