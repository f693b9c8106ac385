"""Limits on the cost of an architecture, and picking the best architectures within one.

N counts architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from manyshot.space import Arch, Budget

Cost: TypeAlias = Callable[[Sequence[Arch]], npt.ArrayLike]
"""The cost of each of N architectures, as N finite numbers, in one call."""


class Infeasible(ValueError):
    """No architecture within a limit was found in the attempts allowed."""


def costs_of(cost: Cost, archs: Sequence[Arch], name: str) -> npt.NDArray[np.float64]:
    """The costs of architectures, (N,); an empty list is not passed on to `cost`.

    Args:
        cost: gives the cost of each of N architectures.
        archs: N architectures.
        name: what the cost is called in messages.

    Raises:
        ValueError: if `cost` did not return one finite number per architecture.
    """
    if not archs:
        return np.zeros(0)
    costs_N = np.asarray(cost(archs), dtype=np.float64)
    if costs_N.shape != (len(archs),) or not np.isfinite(costs_N).all():
        raise ValueError(
            f"the cost of {name} must be one finite number for each of {len(archs)} "
            f"architectures; got shape {costs_N.shape} with "
            f"{np.count_nonzero(~np.isfinite(costs_N))} not finite"
        )
    return costs_N


@dataclass(frozen=True, slots=True)
class Limit:
    """An upper limit on a cost.

    Attributes:
        name: how people write it, such as `"macs<=30M"`; error messages use it.
        cost: a function that gives the cost of each of N architectures.
        limit: the largest cost allowed, in the unit of `cost`.
    """

    name: str
    cost: Cost
    limit: float

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("limit has an empty name; write for example 'macs<=30M'")
        if not math.isfinite(self.limit):
            raise ValueError(f"limit {self.name!r} must be a finite number, got {self.limit}")

    def costs(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        """The costs of `archs`, (N,)."""
        return costs_of(self.cost, archs, self.name)

    def satisfied(self, archs: Sequence[Arch]) -> npt.NDArray[np.bool_]:
        """Which of `archs` cost no more than the limit, (N,)."""
        return np.asarray(self.costs(archs) <= self.limit)


def within(archs: Sequence[Arch], limits: Iterable[Limit]) -> npt.NDArray[np.bool_]:
    """Which of `archs` satisfy every one of `limits`, (N,)."""
    satisfied_N = np.ones(len(archs), dtype=np.bool_)
    for limit in limits:
        satisfied_N &= limit.satisfied(archs)
    return satisfied_N


def any_of(limits: Sequence[Limit]) -> Limit:
    """The limit that holds where at least one of `limits` does; all must be above zero.

    Raises:
        ValueError: if one is not above zero.
    """
    return _joined(limits, " or ", np.min)


def all_of(limits: Sequence[Limit]) -> Limit:
    """The limit that holds where all of `limits` do; its cost is the greatest share of one.

    Raises:
        ValueError: if one is not above zero.
    """
    return _joined(limits, " and ", np.max)


def _joined(limits: Sequence[Limit], word: str, pick: Callable[..., Any]) -> Limit:
    for limit in limits:
        if limit.limit <= 0:
            raise ValueError(f"limit {limit.name!r} must be above zero, got {limit.limit}")

    def share(archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        return np.asarray(pick([limit.costs(archs) / limit.limit for limit in limits], axis=0))

    return Limit(word.join(limit.name for limit in limits), share, 1.0)


@runtime_checkable
class CostRange(Protocol):
    """A cost that knows its range over the space, such as `manyshot.cost.CostTable`."""

    def __call__(self, archs: Sequence[Arch], /) -> npt.NDArray[Any]:
        """The costs of N architectures, shape (N,)."""
        ...

    def range(self) -> tuple[float, float]:
        """The least and the greatest cost of any architecture."""
        ...


def limits_of(budgets: Iterable[str], costs: Mapping[str, Cost], largest: Arch) -> list[Limit]:
    """Budgets such as `"macs<=60%"` as limits.

    Args:
        budgets: the texts (see `manyshot.space.Budget`).
        costs: by metric.
        largest: the architecture whose costs are 100 %.

    Raises:
        ValueError: for a text that is not understood, a metric without costs, or a budget that no
            architecture meets, with the reachable range, where the cost knows it.
    """
    limits = []
    for text in budgets:
        parts = [_limit_of(part, costs, largest) for part in Budget.parse_all(text)]
        limits.append(parts[0] if len(parts) == 1 else all_of(parts))
    return limits


def _limit_of(budget: Budget, costs: Mapping[str, Cost], largest: Arch) -> Limit:
    if budget.metric not in costs:
        raise ValueError(
            f"budget {budget.text!r}: there are no costs for {budget.metric}, have "
            f"{', '.join(sorted(costs))}; latencies are measured by "
            "ms.cost.latency_table(net, input_shape), and of others ms.find takes functions "
            "(costs=), a recipe their names ([costs])"
        )
    cost = costs[budget.metric]
    limit = budget.limit
    if budget.relative:
        limit = budget.absolute(float(costs_of(cost, [largest], budget.text)[0]))
    least, greatest = cost.range() if isinstance(cost, CostRange) else (-math.inf, math.inf)
    if limit < least:
        raise ValueError(
            f"budget {budget.text!r} ({_number(limit)}) is impossible: {budget.metric} of this "
            f"space reach from {_number(least)} to {_number(greatest)}"
        )
    return Limit(budget.text, cost, limit)


def _number(cost: float) -> str:
    """A cost as messages write it: never with an exponent where it is large."""
    return f"{cost:,.0f}" if abs(cost) >= 1e6 else f"{cost:,.6g}"


def best(scores: Mapping[Arch, float], limit: Limit | None = None, k: int = 1) -> list[Arch]:
    """The `k` best-scored architectures within `limit`, best first; fewer if there are fewer.

    Equal scores are ordered by lower cost (if there is a limit), then by the tuples themselves.

    Args:
        scores: the score of every architecture told, such as `searcher.history.scores`; higher is
            better. Scores taken at different supernet weights compare badly: re-score first.
        limit: what the chosen architectures must satisfy.
        k: how many are wanted, at least one.

    Raises:
        ValueError: if `k` is below one.
    """
    if k < 1:
        raise ValueError(f"best needs k >= 1, got {k}")
    archs = list(scores)
    if limit is None:
        return sorted(archs, key=lambda arch: (-scores[arch], arch))[:k]
    cost = dict(zip(archs, limit.costs(archs).tolist(), strict=True))
    legal = [arch for arch in archs if cost[arch] <= limit.limit]
    return sorted(legal, key=lambda arch: (-scores[arch], cost[arch], arch))[:k]
