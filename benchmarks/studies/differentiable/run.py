"""What differentiable search selects, beside one-shot search at equal compute, on complete truth.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.differentiable.run [--seeds 0 1 2 3 4]
        [--arms ...]

On `tiny` and digits, of whose 256 networks `benchmarks/truths/tiny_truth.jsonl` has five trainings
each, every arm trains one supernet, from scratch, and selects one network within each of four
budgets. All arms spend about as many multiply-adds: of paths forward and backward, all options of
what is mixed, probes, and scores of candidates; of `gdas`, `gdas_others` and `gold_nas` that
depends on what they draw and leave out, so that it is so in the mean over seeds. The primary
metric, named before any run, is the regret: by how much the truth of what is selected lies below
the best within the budget, in points, in the mean over budgets. Reported besides are the order of
all networks by the weights of options, or by proxy scores, against the truth, and the
discretisation gap.

In `cell`, the cells of NAS-Bench-201 on digits, for which there is no truth, it is counted how many
edges each arm gives to operations without weights, and the selected network is trained anew.

Every run is a record; what is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.differentiable.page import BUDGETS, write_page
from manyshot import evaluate, records
from manyshot.nn.modes import evaluating
from manyshot.pipeline import Workspace, run
from manyshot.pipeline.identity import load_final_weights
from manyshot.pipeline.stages.generate import trained_sampler
from manyshot.pipeline.verbs.compare_spent import spent_by
from manyshot.progress import Bars
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder
from manyshot.train import Relaxed

KEPT = kept.of_study(__file__)
SHARED = (
    "export.formats=[]",
    "controls.largest=false",
    "controls.random=0",
    "train.log_steps=50",
)
TINY = (*SHARED, f"search.budgets={list(BUDGETS)}", "finish.mode=inherit")
ONE_SHOT = ("evaluate.fitness=metric", "search.candidates=60", "search.generation=20")
RELAXED = (
    "sampler.name=relaxed",
    "search.name=generator",
    "search.options={}",
    "sampler.held_out=0.3",
)
ARMS: dict[str, tuple[str, ...]] = {
    "evolution": (
        *ONE_SHOT,
        "search.options={population=20, parents=6, mutants=10, crossovers=10}",
        "train.epochs=136",
    ),
    "random": (*ONE_SHOT, "search.name=random", "search.options={}", "train.epochs=135"),
    "darts": (*RELAXED, "sampler.options={lr=0.02}", "train.epochs=30"),
    "darts_second_order": (
        *RELAXED,
        "sampler.options={lr=0.02, schedule='unrolled'}",
        "train.epochs=12",
    ),
    "gdas": (
        *RELAXED,
        "sampler.options={estimator='hard', lr=0.02, tau=10.0, tau_end=0.1}",
        "train.epochs=105",
    ),
    "gdas_others": (
        *RELAXED,
        "sampler.options={estimator='hard', others=true, lr=0.02, tau=10.0, tau_end=0.1}",
        "train.epochs=57",
    ),
    "gold_nas": (
        *RELAXED[:3],
        "sampler.options={estimator='sigmoid', schedule='one_level', lr=0.02, cost_weight=0.02, "
        "prune=0.05, prune_every=30}",
        "train.epochs=135",
    ),
}
"""What an arm changes in the recipe of digits; epochs are such that all spend as much.

Those of `gdas_others` are from what five runs of 76 epochs spent, before anything else of them was
looked at: 49.1e9 multiply-adds, 0.65e9 an epoch. (76 were from ten epochs on seed 100, in which
options are drawn alike, 0.48e9 an epoch; later costly ones are drawn more often.)"""
CELL = (
    *SHARED,
    "network.name=cell",
    "network.options={width=4, cells=1, channels=1}",
    "search.budgets=['macs<=100%']",
    "finish.mode=scratch",
    "finish.training.epochs=40",
    "finish.training.lr=0.1",
)
CELLS: dict[str, tuple[str, ...]] = {
    "darts": (*RELAXED, "sampler.options={lr=0.02, exclude=['none']}", "train.epochs=15"),
    "darts_minus": (
        *RELAXED,
        "sampler.options={lr=0.02, exclude=['none'], skip='skip_connect'}",
        "train.epochs=15",
    ),
    "gdas": (
        *RELAXED,
        "sampler.options={estimator='hard', lr=0.02, tau=10.0, tau_end=0.1, exclude=['none']}",
        "train.epochs=54",
    ),
    "evolution": (
        *ONE_SHOT,
        "search.options={population=20, parents=6, mutants=10, crossovers=10}",
        "train.epochs=51",
    ),
    "random network": (
        *ONE_SHOT,
        "search.name=random",
        "search.options={}",
        "search.candidates=1",
        "train.epochs=1",
    ),
}
"""Likewise in the cells; the last one selects by nothing."""


def recipe_of(space: str, arm: str, seed: int) -> Recipe:
    """The recipe of one run."""
    base, arms = (TINY, ARMS) if space == "tiny" else (CELL, CELLS)
    more = (*base, *arms[arm], f"name={arm.replace(' ', '_')}", f"seed={seed}")
    return Recipe.load(kept.RECIPES / "digits.toml", more)


def measured(space: str, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """A run, as far as it is not done, and what it selected."""
    recipe = recipe_of(space, arm, seed)
    if not RunFolder(folder).result_file.exists():
        run(recipe, folder, Bars())
    result = RunFolder(folder).result()
    assert result is not None
    mixed = RunFolder(folder).mixed()
    row: dict[str, Any] = {
        "space": space,
        "arm": arm,
        "seed": seed,
        "selected": {winner.budget: winner.arch for winner in result.winners},
        "proxy": {winner.budget: winner.proxy_score for winner in result.winners},
        "test": {winner.budget: winner.test_score for winner in result.winners},
        "mixed": None if mixed is None else mixed.proxy_score,
        "spent": spent_by(folder, result).plain(),
    }
    if space == "tiny":
        row["order"] = order_of(recipe, folder)
    return {**row, **provenance()}


def order_of(recipe: Recipe, folder: Path) -> list[float]:
    """By what all networks are ordered: the logarithm of their weights, or their proxy scores."""
    ws = Workspace.build(recipe, folder)
    archs = list(ws.net.space.enumerate())
    sampler = ws.sampler()
    if isinstance(sampler, Relaxed):
        trained = trained_sampler(ws, folder)
        assert isinstance(trained, Relaxed)
        logs = [np.log(each.double().numpy() + 1e-12) for each in trained.probabilities()]
        return [round(float(sum(log[o] for log, o in zip(logs, a, strict=True))), 5) for a in archs]
    load_final_weights(ws, RunFolder(folder))
    images, validation = ws.calibration(), list(ws.fixed("validation", None))
    with evaluating(ws.net):
        scores = (
            evaluate.score(ws.net, arch, calibration=images, validation=validation)
            for arch in archs
        )
        return [round(score.value, 5) for score in scores]


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", help="by default all")
    kept.options(parser, Path("runs") / "differentiable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    known = {(row["space"], row["arm"], row["seed"]) for row in records.read_lines(path)}
    tasks = [("tiny", arm) for arm in ARMS] + [("cell", arm) for arm in CELLS]
    for seed in arguments.seeds:
        for space, arm in tasks:
            if (space, arm, seed) in known or arm not in (arguments.arms or {*ARMS, *CELLS}):
                continue
            folder = arguments.work / f"{space}-{arm.replace(' ', '_')}-{seed}"
            records.append(path, measured(space, arm, seed, folder))
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
