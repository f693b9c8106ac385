"""Supernet Shifting where every order is known: 1,024 networks that share linear weights.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.planted_shifting.run [--problems 8] [--arms ...]

Each problem (see `problem.py`) begins at the weights that are the best for uniform paths. An arm
trains them further: what a search proposes, or a control of it, by the library's search loop,
searcher and `Shifter`; two arms train a fixed set in place of what is proposed, chosen by the
weights before or at random. Truth and scores of all 1,024 networks are exact. The problem is built
for the method: it says whether the mechanism works, nothing of real networks. Every result is a
record, and what is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.planted_shifting.page import write_page
from benchmarks.studies.planted_shifting.problem import ARCHS, Floats, Problem, weights_of
from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.pipeline.devices import start_engine
from manyshot.pipeline.stages.search import search
from manyshot.pipeline.stages.shift import ShiftingStage
from manyshot.progress import Silent
from manyshot.rank import FrozenSet
from manyshot.recipe import Recipe
from manyshot.space import Arch

KEPT = kept.of_study(__file__)
HERE = "benchmarks.studies.planted_shifting.problem"
TOP = 50
"""Networks of a local set, and of a fixed set that trains."""
BASE = (
    "name=planted",
    "task=regression",
    "evaluate.fitness=loss",
    f"network.name='{HERE}:network'",
    f"data.name='{HERE}:data'",
    "search.name=evolution",
    "search.budgets=['macs<=100%']",
    "search.candidates=300",
    "search.generation=30",
    "search.options={population=30, parents=10, mutants=15, crossovers=15}",
    "shifting.name=population",
    "shifting.weight_decay=0.0",
    "shifting.batch_size=32",
    "shifting.rescored=10",
)
_CONSTANT = "shifting.schedule=constant"
ARMS: dict[str, tuple[str, ...]] = {
    "top 50, always the same": ("shifting.name=topk_finetune",),
    "population": (),
    "population, 0.001": ("shifting.lr=0.001",),
    "population, constant": (_CONSTANT,),
    "population, nothing twice": ("shifting.elites=score", "search.options.dedupe=global"),
    "population, 0.02": ("shifting.lr=0.02",),
    "population, 0.02 constant": ("shifting.lr=0.02", _CONSTANT),
    "population, 0.02 constant, averaged": (
        "shifting.lr=0.02",
        _CONSTANT,
        "shifting.average=0.99",
    ),
    "random 50, always the same": ("shifting.name=topk_finetune",),
    "random_population": ("shifting.name=random_population",),
    "uniform_finetune": ("shifting.name=uniform_finetune",),
    "uniform_finetune, 0.02 constant": (
        "shifting.name=uniform_finetune",
        "shifting.lr=0.02",
        _CONSTANT,
    ),
}
"""What an arm changes."""
_OF_FIXED = ("shifting.watched=50", "shifting.watched_best=50")
"""What the recipe of a fixed set must say; the set is chosen here."""


def recipe_of(arm: str, seed: int) -> Recipe:
    """The recipe of an arm on the problem of a seed."""
    seeds = (f"network.options={{seed={seed}}}", f"data.options={{seed={seed}}}", f"seed={seed}")
    fixed = _OF_FIXED if arm.endswith("always the same") else ()
    return Recipe.load(None, [*BASE, *fixed, *ARMS[arm], *seeds])


def fixed_set(arm: str, before: Floats, seed: int) -> list[Arch] | None:
    """The set that an arm trains in place of what is proposed; None if it has none."""
    if not arm.endswith("always the same"):
        return None
    if arm.startswith("top"):
        return list(FrozenSet.top("trained", ARCHS, (-before).tolist(), TOP).archs)
    rng = np.random.default_rng((seed, 1))
    return [ARCHS[i] for i in rng.choice(len(ARCHS), TOP, replace=False)]


def shifted(recipe: Recipe, chosen: list[Arch] | None) -> tuple[Workspace, dict[str, float]]:
    """Shifts the supernet of a recipe; returns it, and what it took."""
    ws = Workspace.build(recipe)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        accelerator = start_engine(ws.recipe, ws.device, folder)
        if chosen is None:
            found = search(ws, accelerator, folder, Silent())
            assert found.dose is not None
            return ws, {"rates": found.dose.shifting, "images": found.images["shifting"]}
        stage = ShiftingStage(ws, accelerator, folder)
        size, count = recipe.search.generation, recipe.search.candidates
        for generation in range(count // size):
            _, visits = stage.visits(generation, ARCHS[:size], chosen)
            stage.train(visits, (generation * size / count, (generation + 1) * size / count))
        return ws, {"rates": stage.shifter.rates, "images": stage.images}


def measured(arm: str, seed: int) -> dict[str, Any]:
    """The record of an arm on a problem: tau with the truth in each set, before and after."""
    problem = Problem(seed)
    before = problem.errors(problem.uniform())
    began = time.perf_counter()
    ws, took = shifted(recipe_of(arm, seed), fixed_set(arm, before, seed))
    seconds = time.perf_counter() - began
    after = problem.errors(weights_of(ws.net))
    row_of = {arch: i for i, arch in enumerate(ARCHS)}
    sets = (
        FrozenSet("global", tuple(ARCHS)),
        FrozenSet.top("local by truth", ARCHS, (-problem.truth).tolist(), TOP),
        FrozenSet.top("local by prediction", ARCHS, (-before).tolist(), TOP),
    )
    taus: dict[str, list[float | None]] = {}
    errors: dict[str, list[float]] = {}
    for chosen in sets:
        chosen.check_before(ws.recipe.search.candidates)
        rows = [row_of[arch] for arch in chosen.archs]
        truth = -problem.truth[rows]
        taus[chosen.name] = [ms.rank.kendall(-both[rows], truth) for both in (before, after)]
        errors[chosen.name] = [float(both[rows].mean()) for both in (before, after)]
    return {
        "arm": arm,
        "seed": seed,
        "tau": taus,
        "error": errors,
        **took,
        "seconds": round(seconds, 2),
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs what is not on record, and writes the page anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    kept.options(parser, Path("runs") / "planted_shifting")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = kept.begin(given, KEPT)
    done = {(row["seed"], row["arm"]) for row in records.read_lines(path)}
    for seed in range(given.problems):
        for arm in given.arms:
            if (seed, arm) not in done:
                row = measured(arm, seed)
                records.append(path, {**row, **provenance()})
                print(arm, seed, row["tau"], row["seconds"], file=sys.stderr)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
