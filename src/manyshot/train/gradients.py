"""From a plan and its images to gradients: the losses of paths, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.evaluate.score import NEVER, check_classes
from manyshot.nn.inputs import Inputs, device_of
from manyshot.nn.modes import evaluating
from manyshot.space import Arch
from manyshot.train.plan import Plan, Target


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with label smoothing: the target is (1 - s) one-hot + s / classes.

    Args:
        logits: (B, classes).
        labels: (B,).
        smoothing: the share s of the target that all classes get alike.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if logits are not (B, classes) or labels not class indices (B,).
    """
    check_classes(logits, labels)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing, ignore_index=NEVER)


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean cross-entropy to the teacher's (detached) predicted probabilities.

    This is the in-place distillation of Yu & Huang 2019, arXiv:1903.05134, at temperature one.
    """
    return F.cross_entropy(logits, teacher.detach().softmax(1))


class Forward(Protocol):
    """Runs a path: `net(images, arch)`, with a policy and masks where the path has them."""

    def __call__(self, images: Inputs, arch: Arch, **policy: Any) -> Tensor:
        """Gives logits (B, classes)."""
        ...


def accumulate(
    forward: Forward,
    plan: Plan,
    images: Inputs,
    labels: Tensor,
    *,
    largest: Arch,
    smoothing: float = 0.0,
    share: float = 1.0,
    original: nn.Module | None = None,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> list[Tensor]:
    """Adds the gradient of the plan's weighted losses to what holds gradients already.

    Every path runs forward and backward on its own, so that memory is one path's. Policies enter as
    new leaves. Their gradients and that of the penalty go on together to whatever made them, once,
    at the end.

    Args:
        forward: (images, arch) to logits; `policy` and `masks` besides, if the path has a policy.
        plan: the paths.
        images: (B, C, H, W), or other inputs.
        labels: (B,).
        largest: the architecture that teaches in in-place distillation.
        smoothing: the smoothing of the labels.
        share: factor of all losses: the images' share of the step's.
        original: the network that paths with this target learn from, in eval mode.
        backward: what runs in place of `Tensor.backward` for losses of paths.

    Returns:
        The detached loss of each path, before its weight and `share`.

    Raises:
        ValueError: if a path learns from the largest architecture and that did not come before,
            from an original that is not given, or for outputs or labels that are none of
            classification.
    """
    teachers: dict[Target, Tensor] = {}
    if original is not None and any(path.target == "original" for path in plan.paths):
        with evaluating(original):
            teachers["original"] = original(images)
    losses = []
    learnt: list[tuple[Tensor, Tensor]] = []  # what made a policy, and the leaf in its place
    device = device_of(images)
    for path in plan.paths:
        weight = share * path.weight
        masked: dict[str, Any] = {}
        if path.policy is not None:
            leaves = {d: as_leaf(policy, device) for d, policy in path.policy.items()}
            learnt += zip(path.policy.values(), leaves.values(), strict=True)
            masked = {"policy": leaves, "masks": path.masks}
        logits = forward(images, path.arch, **masked)
        if path.target == "labels":
            loss = label_loss(logits, labels, smoothing)
        elif path.target in teachers:
            loss = distillation_loss(logits, teachers[path.target])
        elif path.target == "original":
            raise ValueError(
                f"path {path.arch} learns from the original, and there is none: give "
                "fit(..., teacher=...), or in a recipe a network that is converted"
            )
        else:
            raise ValueError(
                f"path {path.arch} learns from the largest architecture {largest}, which must "
                "come before it in the plan, learning from labels"
            )
        backward(loss if weight == 1 else weight * loss)
        if path.arch == largest and path.target == "labels":
            teachers["largest"] = logits.detach()
        losses.append(loss.detach())
    _pass_on(learnt, plan.penalty, share)
    return losses


def as_leaf(policy: Tensor, device: torch.device) -> Tensor:
    """A copy of a policy, on the network's device, that gathers the gradient itself."""
    return policy.detach().to(device, copy=True).requires_grad_()


def _pass_on(learnt: Sequence[tuple[Tensor, Tensor]], penalty: Tensor | None, share: float) -> None:
    """Adds the gradients of policies and penalty to those of the parameters behind them.

    Args:
        learnt: what made each policy, and the leaf in its place.
        penalty: a further loss, if there is one.
        share: the factor of the penalty.
    """
    reached = [(policy, leaf.grad) for policy, leaf in learnt if leaf.grad is not None]
    outputs = [(policy, grad.to(policy)) for policy, grad in reached if policy.requires_grad]
    if penalty is not None and penalty.requires_grad:
        outputs.append((penalty, torch.full_like(penalty, share)))
    if outputs:
        tensors, grads = zip(*outputs, strict=True)
        with torch.autocast(tensors[0].device.type, enabled=False):
            torch.autograd.backward(tensors, grads)


def backward_into(tensors: Sequence[Tensor]) -> Callable[[Tensor], None]:
    """A `backward` that adds to the gradients of `tensors` alone, those that the loss has."""

    def backward(loss: Tensor) -> None:
        grads = torch.autograd.grad(loss, tensors, allow_unused=True)
        for tensor, grad in zip(tensors, grads, strict=True):
            if grad is not None:
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad

    return backward
