"""Architectures made continuous: from logits of options to weights that mix them, and back.

n counts the options of a decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manyshot.cost import CostTable
from manyshot.space import Arch, SearchSpace
from manyshot.train.gumbel import gumbel, straight_through

Estimator: TypeAlias = Literal["softmax", "sigmoid", "gumbel", "hard", "two"]
"""How weights come from logits. `softmax` and `sigmoid` of each alone are as they are; the others
draw with Gumbel noise: `gumbel` a soft sample, `two` the two largest, by their softmax, and `hard`
one, exactly one-hot, with the gradient of the soft sample."""
Logs: TypeAlias = npt.NDArray[np.float64]
"""The logarithms of the weights of a decision's options, (n,)."""
LISTED = 20_000
"""Among so many architectures at most the best is looked up; among more the choice is greedy."""
LEAST = 1e-12
"""What a weight of zero counts as where architectures are ordered."""

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


def likeliest_within(logs: list[Logs], table: CostTable, limit: float) -> Arch:
    """The architecture of the largest weights whose cost is within a limit.

    It has the option of the largest weight of every decision where that is within. Else, where the
    options of weights above zero combine to at most `LISTED` architectures, it is the best of
    these: that of the greatest product of weights within the limit, and among equals the cheapest.
    Among more the choice is greedy, and may miss the best, or even that one is within: decisions
    are changed one by one, each time the one that gives up least logarithm of weight for what it
    saves, and then one by one back for the better, as long as the limit allows.

    Args:
        logs: for every decision the logarithms of its options' weights, (n,).
        table: the costs.
        limit: the highest cost allowed.

    Returns:
        An architecture; it costs more than the limit if none was found within it.
    """
    arch = tuple(int(each.argmax()) for each in logs)
    if table([arch])[0] <= limit:
        return arch
    options = [np.flatnonzero(each > -math.inf) for each in logs]
    if math.prod(map(len, options)) <= LISTED:
        return _best_of_all(options, logs, table, limit)
    return _greedy(arch, logs, table, limit)


def _best_of_all(
    options: list[npt.NDArray[np.intp]], logs: list[Logs], table: CostTable, limit: float
) -> Arch:
    """The best within a limit of all combinations of options, N of them, or else the cheapest."""
    archs_NL = np.stack(np.meshgrid(*options, indexing="ij"), axis=-1).reshape(-1, len(options))
    cost_N = table(archs_NL)
    worth_N = np.sum([each[archs_NL[:, i]] for i, each in enumerate(logs)], axis=0)
    within_N = cost_N <= limit
    order = np.lexsort((cost_N, -worth_N, ~within_N) if within_N.any() else (-worth_N, cost_N))
    return tuple(archs_NL[order[0]].tolist())


def _greedy(arch: Arch, logs: list[Logs], table: CostTable, limit: float) -> Arch:
    """Changes decisions one by one until the limit is met, then back for the better."""
    while table([arch])[0] > limit:
        changed = _cheaper(arch, logs, table)
        if changed is None:
            return arch
        arch = changed
    while True:
        better = [
            (gain, neighbour)
            for gain, neighbour in _neighbours(arch, logs)
            if gain > 0 and table([neighbour])[0] <= limit
        ]
        if not better:
            return arch
        arch = max(better)[1]


def _cheaper(arch: Arch, logs: list[Logs], table: CostTable) -> Arch | None:
    """The change that saves something, at the least price for what it saves."""
    around = [(gain, other) for gain, other in _neighbours(arch, logs) if gain > -math.inf]
    if not around:
        return None
    saved = table([arch])[0] - table([other for _, other in around])
    rates = [
        (-gain / float(s), other) for (gain, other), s in zip(around, saved, strict=True) if s > 0
    ]
    return min(rates)[1] if rates else None


def _neighbours(arch: Arch, logs: list[Logs]) -> list[tuple[float, Arch]]:
    """All that differ in one decision, each with what it gains in the logarithm of its weight."""
    return [
        (float(each[option] - each[arch[i]]), (*arch[:i], option, *arch[i + 1 :]))
        for i, each in enumerate(logs)
        for option in range(len(each))
        if option != arch[i]
    ]
