"""What is searched, by what, in how many queries: published tables, limits on their costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np

from manyshot.rank.published import nas_bench_201, nas_bench_macro
from manyshot.rank.truth import TruthTable
from manyshot.search import Limit
from manyshot.space import Arch

QUERIES = (10, 20, 50, 100, 200, 400)
DEVICES = ("eyeriss", "titan_rtx_1", "pixel3", "raspi4")


@dataclass(frozen=True)
class Problem:
    """A table, and a limit on one of its costs.

    Attributes:
        table: its name.
        cost: the name of a cost, or "" for no limit.
        limit: the largest cost allowed.
        told: of which table the accuracies are that a search is told; by default of the same.
    """

    table: str
    cost: str = ""
    limit: float = np.inf
    told: str = ""

    @property
    def budget(self) -> str:
        """For people and records."""
        if not self.cost:
            return f"none, told {self.told}" if self.told else "none"
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
        if self.told:
            return nas_bench_201(self.told, connected=False).scores_N
        return self.truth.scores_NR[:, seed % len(self.truth.runs)]


@dataclass(frozen=True)
class Arm:
    """A searcher with options, and how it is asked.

    Attributes:
        searcher: its name.
        options: of the searcher; what is not named has its default.
        step: networks per proposal.
        most: queries in all.
        on: the problems it searches: those of `few` alone if it is slow.
        seeds: how many seeds it is for at most.
    """

    searcher: str
    options: Mapping[str, Any] = field(default_factory=dict)
    step: int = 10
    most: int = QUERIES[-1]
    on: Literal["all", "few", "few cells"] = "all"
    seeds: int = 20

    def runs(self, problem: Problem, seed: int) -> bool:
        """Whether the study has this search."""
        which = {
            "all": True,
            "few": problem in few(),
            "few cells": problem in few() and problem.table == "nas_bench_201",
        }
        return seed < self.seeds and which[self.on]


SMALLER = {"population": 20, "parents": 5, "mutants": 10, "crossovers": 10}
ARMS: dict[str, Arm] = {
    "random": Arm("random"),
    "evolution": Arm("evolution"),
    "evolution, population 20": Arm("evolution", SMALLER),
    "regularised_evolution": Arm("regularised_evolution"),
    "regularised_evolution, one at a time": Arm("regularised_evolution", step=1),
    "nsga2": Arm("nsga2"),
    "predictor": Arm("predictor"),
    "predictor, top 10": Arm("predictor", {"top": 10}),
    "predictor, 5 members": Arm("predictor", {"members": 5}, most=100),
    "local": Arm("local", step=1),
    "local, first better": Arm("local", {"improvement": "first"}, step=1),
    "cma_es": Arm("optuna", {"sampler": "cma_es"}),
    "mct": Arm("mct"),
    "nevonas": Arm("nevonas"),
    "dc_nas": Arm("dc_nas"),
    "reinforce": Arm("reinforce"),
    "reinforce, rate 0.1": Arm("reinforce", {"lr": 0.1}),
    "tpe": Arm("optuna", {"sampler": "tpe"}, most=100),
    "bananas": Arm("bananas", most=100, seeds=10),
    "bananas, one_hot": Arm("bananas", {"encoding": "one_hot"}, most=100, on="few cells", seeds=10),
    "gp": Arm("optuna", {"sampler": "gp"}, most=50, on="few", seeds=5),
}
"""The searchers: the defaults, and what the defaults may be compared with. A new one is a line.

`perturbation` is none of them, since it removes options from a supernet that runs; `mct` has no
tree of a sampler to go on from.
"""


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
    found += [Problem(cells), Problem(cells, told="cifar10_validation")]
    for cost, share in named:
        limit = float(np.quantile(costs[cost], share, method="higher"))
        found.append(Problem(cells, cost, limit))
    return tuple(found)


@cache
def few() -> tuple[Problem, ...]:
    """Of each table the whole, and one budget on multiply-adds; and validation that is told.

    They are for searchers that are slow, and are searched first.
    """
    macro = [p for p in problems() if p.table == "nas_bench_macro"]
    cells = [p for p in problems() if p.table != "nas_bench_macro"]
    return macro[0], next(p for p in macro if p.limit == 60e6), *cells[:3]
