"""What is searched, by what, in how many queries: published tables, limits on their costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from manyshot.rank.published import nas_bench_201, nas_bench_macro
from manyshot.rank.truth import TruthTable
from manyshot.search import Limit
from manyshot.space import Arch

QUERIES = (10, 20, 50, 100, 200, 400)
ARMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "random": ("random", {}),
    "evolution": ("evolution", {}),
    "evolution, population 20": (
        "evolution",
        {"population": 20, "parents": 5, "mutants": 10, "crossovers": 10},
    ),
    "regularised_evolution": ("regularised_evolution", {}),
    "nsga2": ("nsga2", {}),
    "predictor": ("predictor", {}),
    "predictor, top 10": ("predictor", {"top": 10}),
}
"""Searchers by name with options; the defaults, and what the defaults may be compared with."""
DEVICES = ("eyeriss", "titan_rtx_1", "pixel3", "raspi4")


@dataclass(frozen=True)
class Problem:
    """A table, and a limit on one of its costs.

    Attributes:
        table: its name.
        cost: the name of a cost, or "" for no limit.
        limit: the largest cost allowed.
    """

    table: str
    cost: str = ""
    limit: float = np.inf

    @property
    def budget(self) -> str:
        """For people and records."""
        if not self.cost:
            return "none"
        size = f"{self.limit / 1e6:.4g}M" if self.cost.endswith("macs") else f"{self.limit:.4g}"
        return f"{self.cost}<={size}"

    @cached_property
    def truth(self) -> TruthTable:
        """With every network of the space, the one that gives nothing included."""
        return truth_of(self.table)

    @cached_property
    def costs(self) -> dict[Arch, float]:
        """What is limited; MACs if nothing is."""
        column = self.truth.costs[self.cost or "macs"]
        return dict(zip(self.truth.archs, column.tolist(), strict=True))

    @cached_property
    def limits(self) -> list[Limit]:
        """None, or one."""
        if not self.cost:
            return []
        costs = self.costs
        return [Limit(self.budget, lambda archs: [costs[arch] for arch in archs], self.limit)]

    def oracle(self, seed: int) -> np.ndarray:
        """What searches of a seed are told of each network, as a share."""
        return self.truth.scores_NR[:, seed % len(self.truth.runs)]


@cache
def truth_of(table: str) -> TruthTable:
    """A published table, of all networks."""
    if table == "nas_bench_macro":
        return nas_bench_macro()
    return nas_bench_201("cifar10_test", connected=False)


@cache
def problems() -> tuple[Problem, ...]:
    """Budgets: MACs, and on NAS-Bench-201 the latencies that a quarter of the networks meet."""
    macro, cells = "nas_bench_macro", "nas_bench_201"
    found = [Problem(macro), *(Problem(macro, "macs", m * 1e6) for m in (30, 40, 50, 60, 80))]
    costs = truth_of(cells).costs
    named = [("live_macs", 0.25), ("live_macs", 0.5)]
    named += [(f"latency_ms/{device}", 0.25) for device in DEVICES]
    found += [Problem(cells)]
    for cost, share in named:
        limit = float(np.quantile(costs[cost], share, method="higher"))
        found.append(Problem(cells, cost, limit))
    return tuple(found)
