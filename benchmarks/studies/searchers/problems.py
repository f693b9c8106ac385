"""What is searched, by what, in how many queries: published tables, limits on their costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
from torch import nn

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.studies.methods.network import network
from manyshot.rank.published import SPACES, nas_bench_201, nas_bench_macro
from manyshot.rank.truth import TruthTable, of_records
from manyshot.search import Limit
from manyshot.space import Arch, SearchSpace

QUERIES = (10, 20, 50, 100, 200, 400)
DEVICES = ("eyeriss", "titan_rtx_1", "pixel3", "raspi4")
TRAINED: dict[str, Callable[[], nn.Module]] = {"tiny": ms.zoo.tiny, "methods": network}
"""What `benchmarks/truths` has trainings alone of: all of `tiny`, some of `methods`."""


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
        size = f"{self.limit / 1e6:.4g}M" if self.cost.endswith("macs") else f"{self.limit:.4g}"
        limit = f"{self.cost}<={size}" if self.cost else "none"
        return f"{limit}, told {self.told}" if self.told else limit

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
        """None, or one; a network that is not in the table is over it."""
        if not self.cost:
            return []
        costs = self.costs
        over = 2 * self.limit
        return [
            Limit(self.budget, lambda archs: [costs.get(arch, over) for arch in archs], self.limit)
        ]

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
        held_out: whether it searches the problems of `held_out` too.
    """

    searcher: str
    options: Mapping[str, Any] = field(default_factory=dict)
    step: int = 10
    most: int = QUERIES[-1]
    on: Literal["all", "few", "few cells"] = "all"
    seeds: int = 20
    held_out: bool = False

    def runs(self, problem: Problem, seed: int) -> bool:
        """Whether the study has this search."""
        which = {
            "all": True,
            "few": problem in few(),
            "few cells": problem in few() and problem.table == "nas_bench_201",
        }
        searched = self.held_out if problem in held_out() else which[self.on]
        return seed < self.seeds and searched


SMALLER = {"population": 20, "parents": 5, "mutants": 10, "crossovers": 10}
ARMS: dict[str, Arm] = {
    "random": Arm("random", held_out=True),
    "evolution": Arm("evolution"),
    "evolution, population 20": Arm("evolution", SMALLER, held_out=True),
    "regularised_evolution": Arm("regularised_evolution"),
    "regularised_evolution, one at a time": Arm("regularised_evolution", step=1),
    "nsga2": Arm("nsga2"),
    "predictor": Arm("predictor", {"members": 0, "top": 100}, held_out=True),
    "predictor, top 10": Arm("predictor", {"members": 0, "top": 10}, held_out=True),
    "predictor, 5 members": Arm("predictor", {"members": 5}, held_out=True),
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
Between the three of `predictor` decided a rule that was written before, in `design.md`.

`perturbation` is none of them, since it removes options from a supernet that runs; `mct` has no
tree of a sampler to go on from.
"""


@cache
def truth_of(table: str) -> TruthTable:
    """A table with all of its networks: of a published one those that give nothing too."""
    if table in TRAINED:
        return of_records(kept.TRUTHS / f"{table}_truth.jsonl", table)
    if table == "nas_bench_macro":
        return nas_bench_macro()
    accuracy = table.removeprefix("nas_bench_201").removeprefix("_")
    return nas_bench_201(accuracy or "cifar10_test", connected=False)


@cache
def space_of(table: str) -> SearchSpace:
    """One object for all searches, so that what is known of a space is known once."""
    return ms.Supernet(TRAINED[table]()).space if table in TRAINED else SPACES[table]()


@cache
def problems() -> tuple[Problem, ...]:
    """Budgets: MACs, and on NAS-Bench-201 the latencies that a quarter of the networks meet."""
    macro, cells = "nas_bench_macro", "nas_bench_201"
    found = [Problem(macro), *(Problem(macro, "macs", m * 1e6) for m in (30, 40, 50, 60, 80))]
    named = [("live_macs", 0.25), ("live_macs", 0.5)]
    named += [(f"latency_ms/{device}", 0.25) for device in DEVICES]
    found += [Problem(cells), Problem(cells, told="cifar10_validation")]
    return (*found, *(met_by(share, cells, cost) for cost, share in named))


def met_by(share: float, table: str, cost: str, told: str = "") -> Problem:
    """With the limit that so many networks of a table meet."""
    costs = truth_of(table).costs[cost]
    return Problem(table, cost, float(np.quantile(costs, share, method="higher")), told)


@cache
def held_out() -> tuple[Problem, ...]:
    """Problems that no default was chosen on; see `design.md`."""
    found = []
    for images, device in (("cifar100", "fpga"), ("imagenet16", "pixel2")):
        cells, told = f"nas_bench_201_{images}_test", f"{images}_validation"
        named = [("live_macs", 0.25), ("live_macs", 0.5), (f"latency_ms/{device}", 0.25)]
        found.append(Problem(cells, told=told))
        found += [met_by(share, cells, cost, told) for cost, share in named]
    found += [Problem("tiny"), met_by(0.25, "tiny", "macs"), met_by(0.5, "tiny", "macs")]
    return (*found, met_by(1, "methods", "macs"), met_by(0.5, "methods", "macs"))


@cache
def few() -> tuple[Problem, ...]:
    """Of each table the whole, and one budget on multiply-adds; and validation that is told.

    They are for searchers that are slow, and are searched first.
    """
    macro = [p for p in problems() if p.table == "nas_bench_macro"]
    cells = [p for p in problems() if p.table != "nas_bench_macro"]
    return macro[0], next(p for p in macro if p.limit == 60e6), *cells[:3]
