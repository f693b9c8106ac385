"""Searchers on published tables, where a score is a look-up: who finds how much in how many.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.searchers.run [--seeds 20] [--arms random ...]

A searcher asks for ten networks at a time and is told their accuracy, up to 400; those that were
made for one at a time ask for one, and slow ones end earlier or search fewer problems (`ARMS`).
What it would return after k is the best told (`manyshot.search.best`). On NAS-Bench-Macro it is
told one of the three runs (seed modulo 3), and the network returned is judged by the mean of the
three. On NAS-Bench-201 there is one run of 12 epochs, which is told and judges; once the validation
accuracy of 12 epochs is told, and the test accuracy judges. Some arms search tables besides that no
default was chosen on (`design.md`). Every search is a record; what is on record is not done again.
The page is `page.md`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pymoo.indicators.hv import Hypervolume

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.searchers.page import write_page
from benchmarks.studies.searchers.problems import (
    ARMS,
    QUERIES,
    Problem,
    few,
    held_out,
    problems,
    space_of,
)
from manyshot import records
from manyshot.search import best, make_searcher, non_dominated
from manyshot.space import Arch

KEPT = kept.of_study(__file__)
CORNER = (0.2, 1.0)
"""What hypervolumes are taken from: an error of 20 %, the multiply-adds of the largest network."""


def returned(told: Mapping[Arch, float], problem: Problem) -> Arch:
    """The network that a search would return."""
    (found,) = best(told, problem.limits[0] if problem.limits else None)
    return found


def search(problem: Problem, arm: str, seed: int) -> dict[str, Any]:
    """The record of one search."""
    settings, options = ARMS[arm], dict(ARMS[arm].options)
    space = space_of(problem.table)
    scores = dict(zip(problem.truth.archs, problem.oracle(seed).tolist(), strict=True))
    if settings.searcher == "nsga2" and not problem.limits:
        options["objective"] = lambda archs: [problem.costs[a] for a in archs]
    began = time.process_time()
    searcher = make_searcher(
        settings.searcher, space, seed=seed, limits=problem.limits, options=options
    )
    told: list[Arch] = []
    while len(told) < settings.most:
        archs = searcher.ask(min(settings.step, settings.most - len(told)))
        if not archs:
            break
        searcher.tell(archs, [scores[arch] for arch in archs])
        told += archs
    seconds = time.process_time() - began
    queries = [k for k in QUERIES if k <= settings.most]
    found = [returned({a: scores[a] for a in told[:k]}, problem) for k in queries]
    best_of_all = max(within(problem), key=scores.__getitem__)
    whole = problem in problems() and not problem.limits
    record = {"front": fronts(problem, told, queries)} if whole else {}
    return {
        **key(problem, arm, seed),
        **record,
        "found": ["".join(map(str, arch)) for arch in found],
        "optimum_after": told.index(best_of_all) + 1 if best_of_all in told else None,
        "told": len(told),
        "cpu_seconds": round(seconds, 4),
    }


@cache
def within(problem: Problem) -> list[Arch]:
    """The networks within the budget."""
    costs = problem.costs
    return [
        arch for arch in problem.truth.archs if not problem.cost or costs[arch] <= problem.limit
    ]


def fronts(problem: Problem, told: Sequence[Arch], queries: Sequence[int]) -> list[float]:
    """The hypervolume of what was told after so many queries, as a share of that of all networks.

    It is of the error by what judges and of multiply-adds, from `CORNER`.
    """
    volume = Hypervolume(ref_point=np.array(CORNER))
    points = dict(zip(problem.truth.archs, points_of(problem), strict=True))
    return [
        round(float(volume.do(np.array([points[a] for a in told[:k]])) / largest_front(problem)), 5)
        for k in queries
    ]


@cache
def largest_front(problem: Problem) -> float:
    """The hypervolume of all networks."""
    points = points_of(problem)
    return float(Hypervolume(ref_point=np.array(CORNER)).do(points[non_dominated(points)]))


@cache
def points_of(problem: Problem) -> np.ndarray:
    """The error of every network, and its multiply-adds as a share of the largest's."""
    macs = problem.truth.costs["macs"]
    return np.column_stack([1 - problem.truth.scores_N, macs / macs.max()])


def key(problem: Problem, arm: str, seed: int) -> dict[str, Any]:
    """What makes two records the same search."""
    return {"table": problem.table, "budget": problem.budget, "searcher": arm, "seed": seed}


def measure(path: Path, arms: Sequence[str], seeds: int) -> None:
    """Searches what is not on record."""
    known = records.read_lines(path)
    done = {
        (row["table"], row["budget"], row["searcher"], row["seed"])
        for row in known
        if "found" in row
    }
    every = (*problems(), *held_out())
    todo = [  # the fast arms on a few problems first, then the slow ones, then all others
        (problem, arm, seed)
        for problem, seed, arm in itertools.product(every, range(seeds), arms)
        if ARMS[arm].runs(problem, seed) and tuple(key(problem, arm, seed).values()) not in done
    ]
    todo.sort(key=lambda each: (each[0] not in few(), -ARMS[each[1]].most, each[2]))
    if todo:
        records.append(path, {"measure": "from here", **provenance()})
    for table in dict.fromkeys(problem.table for problem, _, _ in todo):
        warm(next(problem for problem in every if problem.table == table), arms)
    for problem, arm, seed in todo:
        records.append(path, search(problem, arm, seed))


def warm(problem: Problem, arms: Sequence[str]) -> None:
    """One search of every arm that is not timed: imports, and lists made once per space."""
    for arm in arms:
        if ARMS[arm].runs(problem, 0) and ARMS[arm].on == "all":
            search(problem, arm, 0)


def main(arguments: list[str] | None = None) -> None:
    """Searches, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    kept.options(parser, Path("runs") / "searchers")
    given = parser.parse_args(arguments)
    measure(kept.begin(given, KEPT), given.arms, given.seeds)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
