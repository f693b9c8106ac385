"""Searchers on published tables, where a score is a look-up: who finds how much in how many.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.searchers.run [--seeds 20] [--arms random ...]

A searcher asks for ten networks at a time and is told their accuracy, up to 400; what it would
return after k is the best told (`manyshot.search.best`). On NAS-Bench-Macro it is told one of the
three runs (seed modulo 3), and the network returned is judged by the mean of the three. On
NAS-Bench-201 there is one run of 12 epochs, which is told and judges. Every search is a record;
what is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.searchers.page import write_page
from benchmarks.studies.searchers.problems import ARMS, QUERIES, Problem, problems
from manyshot import records
from manyshot.rank.published import SPACES
from manyshot.search import best, make_searcher
from manyshot.space import Arch

KEPT = kept.of_study(__file__)
STEP = 10
"""Networks per proposal."""


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
    known = records.read_lines(path)
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    kept.options(parser, Path("runs") / "searchers")
    given = parser.parse_args(arguments)
    measure(kept.begin(given, KEPT), given.arms, given.seeds)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
