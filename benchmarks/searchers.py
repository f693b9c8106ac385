"""Searchers on published tables, where a score is a look-up: who finds how much in how many.

    OMP_NUM_THREADS=1 python benchmarks/searchers.py [--seeds 20] [--arms random ...] [--page-only]

A searcher asks for ten networks at a time and is told their accuracy, up to 400; what it would
return after k is the best told (`manyshot.search.best`). On NAS-Bench-Macro it is told one of the
three runs (seed modulo 3), and the network returned is judged by the mean of the three. On
NAS-Bench-201 there is one run of 12 epochs, which is told and judges. Every search is a line of
`searchers.jsonl`; what is on record is not done again. The page is `searchers.md`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from measuring import HERE, provenance

from manyshot import records
from manyshot.rank.published import SPACES, nas_bench_201, nas_bench_macro
from manyshot.rank.truth import TruthTable
from manyshot.search import Limit, best, make_searcher
from manyshot.space import Arch

QUERIES = (10, 20, 50, 100, 200, 400)
STEP = 10
"""Networks per proposal."""
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
        return self.truth.accuracy_NR[:, seed % len(self.truth.runs)]


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


def returned(told: Mapping[Arch, float], problem: Problem) -> Arch:
    """The network that a search would return."""
    (found,) = best(told, problem.limits[0] if problem.limits else None)
    return found


def search(problem: Problem, arm: str, seed: int) -> dict[str, Any]:
    """The record of one search."""
    name, options = ARMS[arm]
    space = space_of(problem.table)
    scores = dict(zip(problem.truth.archs, problem.oracle(seed).tolist(), strict=True))
    if name == "nsga2" and not problem.limits:
        options = {**options, "objective": lambda archs: [problem.costs[a] for a in archs]}
    began = time.process_time()
    searcher = make_searcher(name, space, seed=seed, limits=problem.limits, options=options)
    told: list[Arch] = []
    while len(told) < max(QUERIES):
        archs = searcher.ask(STEP)
        if not archs:
            break
        searcher.tell(archs, [scores[arch] for arch in archs])
        told += archs
    seconds = time.process_time() - began
    found = [returned({a: scores[a] for a in told[:k]}, problem) for k in QUERIES]
    return {
        **key(problem, arm, seed),
        "found": ["".join(map(str, arch)) for arch in found],
        "told": len(told),
        "cpu_seconds": round(seconds, 4),
    }


@cache
def space_of(table: str) -> Any:
    """One object for all searches, so that what is known of a space is found once."""
    return SPACES[table]()


def key(problem: Problem, arm: str, seed: int) -> dict[str, Any]:
    """What makes two records the same search."""
    return {"table": problem.table, "budget": problem.budget, "searcher": arm, "seed": seed}


def measure(path: Path, arms: Sequence[str], seeds: int) -> None:
    """Searches what is not on record."""
    known = records.keep_lines(path, lambda row: True)
    done = {
        (row["table"], row["budget"], row["searcher"], row["seed"])
        for row in known
        if "found" in row
    }
    todo = [
        (problem, arm, seed)
        for problem, seed, arm in itertools.product(problems(), range(seeds), arms)
        if tuple(key(problem, arm, seed).values()) not in done
    ]
    if todo:
        records.append(path, {"measure": "from here", **provenance()})
    for table in dict.fromkeys(problem.table for problem, _, _ in todo):
        warm(next(problem for problem in problems() if problem.table == table), arms)
    for problem, arm, seed in todo:
        records.append(path, search(problem, arm, seed))


def warm(problem: Problem, arms: Sequence[str]) -> None:
    """One search of every arm that is not timed: imports, and lists made once per space."""
    for arm in arms:
        search(problem, arm, 0)


def main(arguments: list[str] | None = None) -> None:
    """Searches, then writes the page."""
    from searchers_page import write_page

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--records", type=Path, default=HERE / "searchers.jsonl")
    parser.add_argument("--page-only", action="store_true", help="write the page from the records")
    given = parser.parse_args(arguments)
    if not given.page_only:
        measure(given.records, given.arms, given.seeds)
    print(write_page(given.records))


if __name__ == "__main__":
    main()
