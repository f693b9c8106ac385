"""Candidates per second against workers, and searches of a million candidates.

    python -m benchmarks.scale [workers simulated searchers] [--candidates 100000]

- `workers`: populations scored by this process and by two others, which each hold the supernet, in
  turns. The first turn, in which they begin, is left out.
- `simulated`: 8 to 64 workers that wait in place of scoring, each in a thread of this process with
  tasks and answers pickled: what the driver adds, and what is lost to generations that are waited
  for, without what a network between machines takes.
- `searchers`: searches without any scoring; seconds are CPU time of proposing and telling. More
  candidates are stopped after so many minutes, and the page says how far they came.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.lib.pages import markdown, with_reading
from manyshot import records
from manyshot.crews import Crew, LocalCrew, Versions, Work
from manyshot.evaluate import Population, Spread
from manyshot.evaluate.spread import PORTIONS
from manyshot.search import Limit, generations, make_searcher
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.train.checkpoint import digest

KEPT = kept.BENCHMARKS / "scale.jsonl.gz"
DECISIONS, OPTIONS = 20, 5
SECONDS = 0.1
"""Of a candidate that a simulated worker waits for."""
SIZES = (50, 500)
"""Candidates per generation, simulated."""
MARKS = ("10000", "100000")
"""So many candidates of a search have their seconds on record."""


# -- workers ---------------------------------------------------------------------------------------


def workers(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Populations by one process and by two workers, in turns."""
    torch.manual_seed(0)
    net, rng = ms.Supernet(ms.zoo.tiny_cnn()), np.random.default_rng(0)
    images = torch.rand(256, 3, 32, 32)
    batches = [(images, torch.randint(10, (256,)))]
    weights, taken = digest(net.state_dict()), dict[str, list[float]]()
    with LocalCrew(2) as crew:
        spread = Spread(crew)
        for turn in range(given.turns + 1):
            archs = [net.space.sample(rng) for _ in range(24)]
            for name in ("this process", "two workers"):
                population = Population(net, archs, calibration=batches, validation=batches)
                began = time.perf_counter()
                if name == "this process":
                    scores = dict(population)
                else:
                    scored = spread.scores(population, weights)
                    assert {arch: score for arch, score, _ in scored} == scores
                if turn:
                    rate = len(scores) / (time.perf_counter() - began)
                    taken.setdefault(name, []).append(rate)
    load = os.getloadavg()[1]
    for name, rates in taken.items():
        rate = statistics.median(rates)
        yield {"what": f"real, {name}", "rate": rate, "rates": rates, "load": load}


# -- simulated -------------------------------------------------------------------------------------


class Waiting(Crew):
    """Workers in threads of this process, which get everything pickled."""

    lost = ()

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._threads = ThreadPoolExecutor(count)

    def _pack(self, packed: bytes) -> bytes:
        return packed

    def _begin(self, worker: int) -> Future[Any]:
        return self._threads.submit(int)

    def _submit(
        self, worker: int, work: Work[Any, Any], needed: Versions, task: Any
    ) -> Future[Any]:
        sent = pickle.dumps(task)
        return self._threads.submit(
            lambda: pickle.loads(pickle.dumps(work({}, pickle.loads(sent))))
        )

    def _end(self, worker: int) -> None:
        """A thread of the pool is nobody's."""

    def _forget(self, worker: int) -> None:
        """Nothing is kept."""


def waited(kept: Mapping[str, Any], archs: list[Arch]) -> list[tuple[Arch, float]]:
    """Waits as long as architectures take: one three times as long as another."""
    rng = np.random.default_rng(archs[0])
    time.sleep(float((rng.uniform(0.5, 1.5, len(archs)) * SECONDS).sum()))
    return [(arch, 0.5) for arch in archs]


def simulated(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Generations by more and more workers that wait."""
    net, rng = ms.Supernet(ms.zoo.tiny_cnn()), np.random.default_rng(0)
    images = torch.rand(2, 3, 32, 32)
    batches = [(images, torch.randint(10, (2,)))]
    survey = None
    for size in SIZES:
        distinct: dict[Arch, None] = {}
        while len(distinct) < size:
            distinct[net.space.sample(rng)] = None
        archs = list(distinct)
        looks: dict[str, Any] = {"calibration": batches, "validation": batches}
        survey = Population(net, archs, **looks, survey=survey).survey  # once per network
        for count in (1, 8, 16, 32, 64):
            if count == 1 and size > min(SIZES):
                continue  # a minute of waiting would show what one worker is known to do
            began, parted = time.perf_counter(), time.process_time()
            population = Population(net, archs, **looks, survey=survey)
            portions = population.portions(PORTIONS * count)
            with Waiting(count) as crew:
                scored = [one for _, part in crew.run(waited, portions) for one in part]
            seconds = time.perf_counter() - began
            assert len(scored) == size
            yield {
                "what": f"simulated, generations of {size}, {count} workers",
                "rate": size / seconds,
                "ideal": count / SECONDS,
                "driver": (time.process_time() - parted) / size,
            }


# -- searchers -------------------------------------------------------------------------------------


def searchers(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Whole searches by each searcher, of scores that are the sum of a table."""
    for name in ("random", "evolution", "regularised_evolution", "nsga2", "predictor"):
        space = SearchSpace([Decision(range(OPTIONS), f"d{i}") for i in range(DECISIONS)])
        limits = [Limit("sum<=45", _sums, 45.0)]
        worth = np.random.default_rng(0).normal(size=(DECISIONS, OPTIONS))
        searcher = make_searcher(name, space, seed=0, limits=limits)
        told, began, at = 0, time.process_time(), dict[str, float]()
        for archs in generations(searcher, given.candidates, given.generation, space):
            scores = worth[np.arange(DECISIONS), np.array(archs)].sum(axis=1).tolist()
            searcher.tell(archs, scores)
            before, told = told, told + len(archs)
            for mark in MARKS:
                if before < int(mark) <= told:
                    at[mark] = time.process_time() - began
            if time.process_time() - began > 60 * given.minutes:
                break
        yield {
            "what": f"{name}, generations of {given.generation}",
            "told": told,
            "asked": given.candidates,
            "seconds": time.process_time() - began,
            "at": at,
        }


def _sums(archs: Any) -> np.ndarray:
    return np.asarray(archs, float).sum(axis=1)


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "workers": workers,
    "simulated": simulated,
    "searchers": searchers,
}


def main() -> None:
    """Measures, records, and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", help=f"of {tuple(SECTIONS)}; by default all")
    parser.add_argument("--turns", type=int, default=5, help="of real workers")
    parser.add_argument("--candidates", type=int, default=1_000_000, help="of a search")
    parser.add_argument("--generation", type=int, default=500, help="candidates at once")
    parser.add_argument("--minutes", type=float, default=2.0, help="of CPU time for a searcher")
    kept.options(parser, Path("runs") / "scale_of_workers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(given, KEPT)
    for section in given.sections or SECTIONS:
        for row in SECTIONS[section](given):
            records.append(path, {**row, **provenance()})
            print(row, flush=True)
    kept.end(given, KEPT, write_page)


def write_page(path: Path) -> Path:
    """The page of the newest record of each kind, beside them."""
    rows = {row["what"]: row for row in kept.rows(path)}
    measured = [
        [what, f"{row['rate']:.3g}", ", ".join(f"{rate:.3g}" for rate in row["rates"])]
        for what, row in rows.items()
        if "rates" in row
    ]
    loads = sorted({row["load"] for row in rows.values() if "load" in row})
    waiting = [
        [
            what.removeprefix("simulated, "),
            f"{row['rate']:.3g}",
            f"{100 * row['rate'] / row['ideal']:.0f} %",
            f"{1000 * row['driver']:.2g} ms",
        ]
        for what, row in rows.items()
        if "ideal" in row
    ]
    told = [
        [
            what,
            f"{row['told']:,}" + f" of {row['asked']:,}" * (row["told"] < row["asked"]),
            f"{row['seconds']:.0f} s",
            f"{1e6 * row['seconds'] / row['told']:.0f} µs",
            *(f"{row['at'][mark]:.1f} s" if mark in row["at"] else "" for mark in MARKS),
        ]
        for what, row in rows.items()
        if "told" in row
    ]
    parts = [
        "# Many workers, many candidates\n",
        "```\npython -m benchmarks.scale\n```\n",
        "## Workers that hold a supernet\n",
        "Populations of 24 architectures of `tiny_cnn` on 256 images of 32 pixels, candidates a "
        "second: medians of turns, and each turn. Scores are asserted to be equal. "
        + "".join(f"The mean load of the machine was {load:.0f}.\n" for load in loads),
        markdown(("by", "candidates a second", "turns"), measured),
        "## Workers that wait\n",
        f"A candidate takes {1000 * SECONDS:.0f} ms of waiting on average, between half and one "
        "and a half of that. The share is of what so many workers would do if none ever waited for "
        "the end of a generation; the driver's CPU time is per candidate, with the plan of the "
        "tree, without the first look at the stages of the network.\n",
        markdown(("", "candidates a second", "share", "driver"), waiting),
        "## Searches without scoring\n",
        f"Spaces of {DECISIONS} decisions of {OPTIONS} options with a budget; CPU time of all "
        "proposals and of telling their scores.\n",
        markdown(
            ("searcher", "candidates", "CPU time", "each", "first 10,000", "first 100,000"), told
        ),
    ]
    return with_reading(path, parts, list(rows.values()))


if __name__ == "__main__":
    main()
