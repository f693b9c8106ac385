"""Architectures made continuous: from logits of options to weights that mix them, and back.

n counts the options of a decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from manyshot.cost import CostTable
from manyshot.space import Arch, SearchSpace
from manyshot.train.gumbel import gumbel, straight_through

Estimator: TypeAlias = Literal["softmax", "sigmoid", "gumbel", "hard", "two"]
"""How weights come from logits. `softmax` and `sigmoid` of each alone are as they are; the others
draw with Gumbel noise: `gumbel` a soft sample, `two` the two largest, by their softmax, and `hard`
one, exactly one-hot, with the gradient of the soft sample."""
Weights: TypeAlias = Callable[[Tensor, float, torch.Generator], Tensor]


def _two(logits: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    drawn = (logits.detach() + gumbel(logits.shape, generator)).topk(min(2, len(logits))).indices
    weights: Tensor = torch.zeros_like(logits)
    return weights.scatter(0, drawn, (logits[drawn] / tau).softmax(0))


ESTIMATORS: dict[Estimator, Weights] = {
    "softmax": lambda logits, tau, _: (logits / tau).softmax(0),
    "sigmoid": lambda logits, tau, _: (logits / tau).sigmoid(),
    "gumbel": lambda logits, tau, rng: ((logits + gumbel(logits.shape, rng)) / tau).softmax(0),
    "hard": lambda logits, tau, rng: straight_through(logits, gumbel(logits.shape, rng), tau=tau),
    "two": _two,
}
"""From logits (n,), a temperature, and where noise comes from, to weights (n,)."""


LEAST = 1e-12
"""What a weight of zero counts as where logarithms are compared."""


def log_weights(
    space: SearchSpace, weights: Sequence[Tensor], archs: Sequence[Arch]
) -> list[float]:
    """The sum of the logarithms of the options' weights of each architecture.

    Decisions that do not matter in an architecture are left out, as all of their options make the
    same network.

    Args:
        space: has the architectures.
        weights: for every decision those of its options, (n,).
        archs: the architectures.
    """
    logs = [each.double().clamp(min=LEAST).log().tolist() for each in weights]
    return [
        sum(
            log[option]
            for log, option, matters in zip(logs, arch, space.active(arch), strict=True)
            if matters
        )
        for arch in archs
    ]


def likeliest_within(
    log_weights: list[np.ndarray[tuple[int], np.dtype[np.float64]]], table: CostTable, limit: float
) -> Arch:
    """An architecture of large weights whose cost is within a limit, if that is met.

    It is the option of the largest weight of every decision where that is within. Else decisions
    are changed one by one, each time the one that gives up least logarithm of weight for what it
    saves, and then one by one back for the better, as long as the limit allows. That finds no more
    than a good one; it is exact where costs are a sum in which one decision has to change.

    Args:
        log_weights: for every decision the logarithms of its options' weights, (n,).
        table: the costs.
        limit: the highest cost allowed.

    Returns:
        An architecture, which costs more than the limit if no change saves anything any more.
    """
    arch = tuple(int(each.argmax()) for each in log_weights)
    while table([arch])[0] > limit:
        changed = _cheaper(arch, log_weights, table)
        if changed is None:
            return arch
        arch = changed
    while True:
        better = [
            (gain, neighbour)
            for gain, neighbour in _neighbours(arch, log_weights)
            if gain > 0 and table([neighbour])[0] <= limit
        ]
        if not better:
            return arch
        arch = max(better)[1]


def _cheaper(arch: Arch, log_weights: list[np.ndarray], table: CostTable) -> Arch | None:
    """The change that saves something, at the least price for what it saves."""
    around = [(gain, other) for gain, other in _neighbours(arch, log_weights) if gain > -math.inf]
    if not around:
        return None
    saved = table([arch])[0] - table([other for _, other in around])
    rates = [
        (-gain / float(s), other) for (gain, other), s in zip(around, saved, strict=True) if s > 0
    ]
    return min(rates)[1] if rates else None


def _neighbours(arch: Arch, log_weights: list[np.ndarray]) -> list[tuple[float, Arch]]:
    """All that differ in one decision, each with what it gains in the logarithm of its weight."""
    return [
        (float(each[option] - each[arch[i]]), (*arch[:i], option, *arch[i + 1 :]))
        for i, each in enumerate(log_weights)
        for option in range(len(each))
        if option != arch[i]
    ]
