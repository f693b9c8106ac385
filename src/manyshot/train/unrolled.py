"""The gradient of a held-out loss in weights of options, through one step of the network's weights.

Liu et al. 2019, DARTS (arXiv:1806.09055), equations 6 to 8: for a policy p, weights w, a rate r and
losses L on training and held-out images, at w' = w - r dL_train(w, p)/dw, it is

    dL_held(w', p)/dp - r (dL_train(w+, p)/dp - dL_train(w-, p)/dp) / 2e,

with w+- = w +- e dL_held(w', p)/dw' and e = 0.01 / |dL_held(w', p)/dw'|. The step is one without
momentum and decay, as in the paper; its public code has both. Its loss is that of the step that the
weights took, on the same images, mixed where those were, and on smoothed targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manyshot.recipe import SupernetSettings, TrainingSettings
from manyshot.train.plan import Sampler, Unrolls, unwrapped

REACH = 0.01
"""How far the finite difference goes, in the norm of all weights."""


def unrolled_gradients(
    train: Callable[[], Tensor],
    held_out: Callable[[], Tensor],
    weights: Sequence[Tensor],
    policy: Sequence[Tensor],
    rate: float,
) -> tuple[Tensor, list[Tensor]]:
    """The held-out loss after a step, and its gradient in the policy; the weights stay.

    Args:
        train: the loss on training images, with a graph, at the weights as they are.
        held_out: likewise on held-out images.
        weights: the parameters that a step moves.
        policy: the weights of options.
        rate: of the step.
    """
    before = [weight.data for weight in weights]
    ahead = _gradients(train(), weights)
    try:
        _move(weights, before, ahead, -rate)
        loss = held_out()
        both = _gradients(loss, [*policy, *weights])
        gradients, further = both[: len(policy)], both[len(policy) :]
        norm = torch.stack([each.square().sum() for each in further]).sum().sqrt()
        if not norm:  # nothing that a step moves is used
            return loss.detach(), gradients
        reach = float(REACH / norm)
        ends = []
        for sign in (1.0, -1.0):
            _move(weights, before, further, sign * reach)
            ends.append(_gradients(train(), policy))
    finally:
        for weight, values in zip(weights, before, strict=True):
            weight.data = values
    pairs = zip(gradients, *ends, strict=True)
    return loss.detach(), [g - rate * (up - down) / (2 * reach) for g, up, down in pairs]


def check_unrolled(
    sampler: Sampler, settings: TrainingSettings, processes: int, *, taught: bool = False
) -> None:
    """Refuses unrolled probes where the step that they go through would not be the one taken.

    Args:
        sampler: whose probes may be unrolled.
        settings: of the training.
        processes: how many train together.
        taught: whether paths learn from another network.

    Raises:
        ValueError: with several processes, of which each has a part of the images, or where paths
            learn from another network or from snapshots too.
    """
    inner = unwrapped(sampler)
    if not isinstance(inner, Unrolls) or not inner.unrolls:
        return
    voted = isinstance(settings, SupernetSettings) and settings.snapshots.number > 0
    for is_there, why in (
        (processes > 1, f"is of one process, and {processes} train together: take one"),
        (taught, "is of a step on labels, and paths learn from a teacher: set teacher = 'none'"),
        (voted, "is of a step on labels, and snapshots vote: set snapshots.number = 0"),
    ):
        if is_there:
            raise ValueError(
                f"an unrolled gradient {why}, or take a schedule of first order "
                "(sampler.options.schedule = 'bilevel')"
            )


def _gradients(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a loss, zeros for what it does not use."""
    found = torch.autograd.grad(loss, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


@torch.no_grad()
def _move(
    weights: Sequence[Tensor], before: Sequence[Tensor], along: Sequence[Tensor], by: float
) -> None:
    for weight, values, direction in zip(weights, before, along, strict=True):
        weight.data = values + by * direction
