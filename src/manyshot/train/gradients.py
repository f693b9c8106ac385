"""From a plan and its images to gradients: the losses of paths, forward and backward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from manyshot.nn.inputs import Inputs, batch_of, device_of, in_parts, together
from manyshot.nn.modes import evaluating
from manyshot.nn.placement import Placement
from manyshot.nn.policy import OneHots
from manyshot.space import Arch, Decision
from manyshot.tasks import DEFAULT, Task
from manyshot.tasks.task import detached, learnt, loss_function
from manyshot.train.distilling import Distiller, MeanOfTeachers, answers
from manyshot.train.plan import Plan, PlannedPath, Target

MEAN = MeanOfTeachers()
LEAST_ROWS = 16
"""A policy that learns from a share of the batch has no fewer samples than this, where there are as
many: batch norm normalises them by themselves."""


Placing: TypeAlias = Callable[[Arch, Callable[[Placement], Tensor]], Sequence[Placement]]
"""`PlacesChannels.trained` of a step: the placements whose mean loss is trained."""


class Forward(Protocol):
    """Runs a path: `net(images, arch)`, with policy and masks, or placement, where it has them."""

    def __call__(self, images: Inputs, arch: Arch, **more: Any) -> Any:
        """Gives what the task takes as outputs."""
        ...


class Beside(Protocol):
    """A further loss of every path, such as `manyshot.train.snapshots.Snapshots`."""

    def targets(self, images: Inputs, arch: Arch, **masked: Any) -> Any:
        """What a path's outputs are compared with, without gradients; None adds nothing.

        It is asked before the path runs, and changes no weight, buffer, mode or random stream.

        Args:
            images: what the path takes.
            arch: its architecture.
            **masked: `policy` and `masks`, if it runs by these.
        """
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """What is added to the path's loss."""
        ...


def accumulate(
    forward: Forward,
    plan: Plan,
    images: Inputs,
    targets: Any,
    *,
    task: Task = DEFAULT,
    largest: Arch,
    smoothing: float = 0.0,
    share: float = 1.0,
    original: nn.Module | None = None,
    distiller: Distiller = MEAN,
    beside: Beside | None = None,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    placing: Placing | None = None,
) -> list[Tensor]:
    """Adds the gradient of the plan's weighted losses to what holds gradients already.

    Every path runs forward and backward on its own, so that memory is one path's. Policies enter as
    new leaves. Their gradients and that of the penalty go on together to whatever made them, once,
    at the end.

    A path whose policy learns from a share of the batch (`PlannedPath.policy_share`) runs twice:
    first by its option indices on all samples, which gives the weights the gradient that a plan
    without policies would; then, after all paths, by its masks on the first samples, which gives
    the policy alone the gradient of its mean loss there. That mean estimates the one over the
    batch, so nothing is scaled. The second pass normalises by its own samples, and what it draws
    (for dropout) comes after all that the weights learn from.

    Where the sharing scheme places channels, a path runs forward and backward with each of the
    placements that it trains, and its loss is the mean of theirs.

    Args:
        forward: (images, arch) to outputs; `policy` and `masks` besides, if the path has a policy,
            or a `placement`.
        plan: the paths.
        images: (B, C, H, W), or other inputs.
        targets: what the outputs should be.
        task: says how far they are off.
        largest: the architecture that teaches in in-place distillation.
        smoothing: the share of a target that all classes get alike, in tasks of classes.
        share: factor of all losses: the images' share of the step's.
        original: the network that paths with this target learn from, in eval mode, or `Several`.
        distiller: says how they do.
        beside: adds to the losses of paths; a policy that learns from a share of the batch does
            without.
        backward: what runs in place of `Tensor.backward` for losses of paths.
        placing: says with which placements of its channels a path trains; by default with what the
            network has.

    Returns:
        The detached loss of each path, before its weight and `share`.

    Raises:
        ValueError: if a path learns from the largest architecture and that did not come before,
            from an original that is not given, has a policy where channels are placed, or for
            outputs or targets that are none of the task.
    """
    teachers: dict[Target, Any] = {}
    if original is not None and any(path.target == "original" for path in plan.paths):
        with evaluating(original):
            teachers["original"] = answers(original, images)
    loss_of, losses = loss_function(task, smoothing), []
    loss_of_path = functools.partial(
        _loss, task=task, loss_of=loss_of, largest=largest, distiller=distiller
    )
    leaves: Mapping[Decision, Tensor]
    learnt: list[tuple[Tensor, Tensor]] = []  # what made a policy, and the leaf in its place
    apart: list[tuple[PlannedPath, Mapping[Decision, Tensor]]] = []
    device = device_of(images)
    for path in plan.paths:
        masked: dict[str, Any] = {}
        if path.policy is not None:
            leaves = as_leaves(path.policy, device)
            learnt += zip(path.policy.values(), leaves.values(), strict=True)
            if path.policy_share < 1:
                apart.append((path, leaves))
            else:
                masked = {"policy": leaves, **path.masking}
        compared = None if beside is None else beside.targets(images, path.arch, **masked)

        def taken(outputs: Any, path: PlannedPath = path, compared: Any = compared) -> Tensor:
            loss = loss_of_path(path, outputs, targets, teachers)
            if beside is not None and compared is not None:
                loss = loss + beside.loss(outputs, compared)
            return loss

        each: list[Tensor] = []
        run_path = functools.partial(forward, images, path.arch, **masked)
        forwards = _forwards(run_path, path, placing, taken)
        for run in forwards:
            outputs = run()
            loss = taken(outputs)
            backward(_weighed(loss, share * path.weight / len(forwards)))
            each.append(loss.detach())
        if path.arch == largest and path.target == "labels":
            teachers["largest"] = detached(outputs)
        losses.append(each[0] if len(each) == 1 else torch.stack(each).mean())
    for path, leaves in apart:
        rows = policy_rows(batch_of(images), path.policy_share)
        some, few = in_parts(images, rows)[0], in_parts(targets, rows)[0]
        taught = {who: in_parts(known, rows)[0] for who, known in teachers.items()}
        outputs = forward(some, path.arch, policy=leaves, **path.masking)
        loss = loss_of_path(path, outputs, few, taught)
        backward_into(list(leaves.values()))(_weighed(loss, share * path.weight))
    _pass_on(learnt, plan.penalty, share)
    return losses


def _forwards(
    run: Callable[..., Any],
    path: PlannedPath,
    placing: Placing | None,
    taken: Callable[[Any], Tensor],
) -> list[Callable[[], Any]]:
    """The forwards of a path: one for each placement of its channels that trains.

    Args:
        run: runs the path, with a `placement` if it is to have another than the network's.
        path: what it is.
        placing: says with which placements; None if channels are not placed.
        taken: the loss of outputs.

    Raises:
        ValueError: if channels are placed and the path has a policy.
    """
    if placing is None:
        return [run]
    if path.policy is not None:
        raise ValueError(
            f"path {path.arch} has a policy, whose masks are of the first channels of every width, "
            "and the sharing scheme places channels elsewhere: take a sampler that trains by "
            "option indices (uniform, sandwich, table), or sharing.name = 'one_shot'"
        )

    def loss_of(placement: Placement) -> Tensor:
        with torch.no_grad():
            return taken(run(placement=placement))

    return [functools.partial(run, placement=p) for p in placing(path.arch, loss_of)]


def policy_rows(batch: int, share: float) -> int:
    """How many samples of a batch a policy learns from: at least 16, or all that there are."""
    return min(batch, max(LEAST_ROWS, math.ceil(share * batch)))


def _weighed(loss: Tensor, weight: float) -> Tensor:
    return loss if weight == 1 else weight * loss


def _loss(
    path: PlannedPath,
    outputs: Any,
    targets: Any,
    teachers: Mapping[Target, Any],
    *,
    task: Task,
    loss_of: Callable[[Any, Any], Tensor],
    largest: Arch,
    distiller: Distiller,
) -> Tensor:
    """The loss of a path's outputs against what it learns from.

    Args:
        path: what it is.
        outputs: what it gave.
        targets: what the outputs should be, by the labels.
        teachers: the outputs of those that teach, by who they are.
        task: says how outputs are distilled.
        loss_of: of outputs and targets.
        largest: the architecture that teaches in in-place distillation, for messages.
        distiller: says how outputs are distilled to those of an original.

    Raises:
        ValueError: if who it learns from is not among the teachers, or for outputs or targets that
            are none of the task.
    """
    if path.target == "labels":
        return loss_of(outputs, learnt(task, outputs, targets))
    if path.target == "original" and path.target in teachers:
        return distiller.loss(
            task,
            outputs,
            teachers[path.target],
            lambda: loss_of(outputs, learnt(task, outputs, targets)),
        )
    if path.target in teachers:
        return task.distillation(outputs, teachers[path.target])
    if path.target == "original":
        raise ValueError(
            f"path {path.arch} learns from the original, and there is none: give "
            "fit(..., teacher=...), or in a recipe a network that is converted"
        )
    raise ValueError(
        f"path {path.arch} learns from the largest architecture {largest}, which must "
        "come before it in the plan, learning from labels"
    )


def as_leaves(policies: Mapping[Decision, Tensor], device: torch.device) -> dict[Decision, Tensor]:
    """Copies of policies, on the network's device, that gather their gradients themselves.

    What is on the host is looked at there, and goes to another device in one transfer.
    """
    values = [policy.detach() for policy in policies.values()]
    moved = zip(policies, values, together(values, device), strict=True)
    leaves = {d: (old.clone() if new is old else new).requires_grad_() for d, old, new in moved}
    if any(value.device.type != "cpu" for value in values):
        return leaves
    return OneHots(leaves, dict(zip(policies, values, strict=True)))


def _pass_on(learnt: Sequence[tuple[Tensor, Tensor]], penalty: Tensor | None, share: float) -> None:
    """Adds the gradients of policies and penalty to those of the parameters behind them.

    Args:
        learnt: what made each policy, and the leaf in its place.
        penalty: a further loss, if there is one.
        share: the factor of the penalty.
    """
    reached = [
        (policy, leaf.grad)
        for policy, leaf in learnt
        if leaf.grad is not None and policy.requires_grad
    ]
    outputs = []
    if reached:
        policies, own = zip(*reached, strict=True)
        home = together(own, policies[0].device)  # of one network, in one place
        outputs = [(policy, grad.to(policy)) for policy, grad in zip(policies, home, strict=True)]
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
