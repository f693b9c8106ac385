"""Samplers and shrinkers beside uniform paths, at equal compute, on a truth of all networks.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.family.run [--seeds 0 1 2] [--arms ...]

On `tiny` and digits, of whose 256 networks `benchmarks/truths/tiny_truth.jsonl` has five trainings
each, every arm trains one supernet, from scratch, for about 15e9 multiply-adds of paths and probes,
and evolution searches it within four budgets, in the last view where the space shrank. The primary
metric, named before any run, is Kendall's tau between the proxy scores of all 256 networks and the
truth; besides, the regret of what is selected. Options are those of the recipes in
`recipes/methods`; none was tuned on the truth. A shrinker drops networks that it no longer trains,
so that its regret says more than its tau.

Every run is a record; what is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.differentiable.page import BUDGETS
from benchmarks.studies.differentiable.run import SHARED, order_of
from benchmarks.studies.family.page import write_page
from manyshot import records
from manyshot.pipeline import run
from manyshot.pipeline.verbs.compare_spent import spent_by
from manyshot.progress import Bars
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder

KEPT = kept.of_study(__file__)
BASE = (
    *SHARED,
    f"search.budgets={list(BUDGETS)}",
    "finish.mode=inherit",
    "evaluate.fitness=metric",
    "evaluate.calibration_images=256",
    "search.candidates=60",
    "search.generation=20",
    "search.options={population=20, parents=6, mutants=10, crossovers=10}",
)
ARMS: dict[str, tuple[str, ...]] = {
    "uniform": ("train.epochs=60",),
    "fair": ("sampler.name=fair", "train.lr=0.05", "train.epochs=16"),
    "greedy": (
        "sampler.name=greedy",
        "sampler.held_out=0.1",
        "sampler.options={proposed=6, trained=3, images=64, size=20, stop=0.0}",
        "train.epochs=13",
    ),
    "mct": ("sampler.name=mct", "train.epochs=56"),
    "attentive": (
        "sampler.name=table",
        "sampler.held_out=0.1",
        "sampler.options={choose='best', of=3, images=64}",
        "train.epochs=35",
    ),
    "table": ("sampler.name=table", "train.epochs=60"),
    "balanced": (
        "sampler.name=balanced",
        "shrink.name=balanced",
        "shrink.options={drop=2, samples=40}",
        "shrink.at=[0.5, 0.65, 0.8]",
        "train.epochs=55",
    ),
    "angle": (
        "shrink.name=angle",
        "shrink.options={drop=2, samples=100}",
        "shrink.at=[0.5, 0.65, 0.8]",
        "train.epochs=49",
    ),
    "elite": (
        "shrink.name=elite",
        "shrink.options={keep=[3, 2], population=12, patience=3}",
        "shrink.at=[0.6, 0.8]",
        "train.epochs=51",
    ),
    "sandwich": ("sampler.name=sandwich", "train.epochs=12"),
    "slimming": (
        "sampler.name=sandwich",
        "shrink.name=slimming",
        "shrink.at=[1.0]",
        "shrink.budgets=['macs<=70%']",
        "train.epochs=12",
    ),
    "progressive": (
        "shrink.name=progressive",
        "shrink.options={opens=['layer3', 'layer2', 'layer[01]:2', 'layer[01]']}",
        "shrink.at=[0.2, 0.35, 0.5, 0.65]",
        "train.epochs=36",
    ),
}
"""What an arm changes in the recipe of digits; epochs are such that all train for about as much."""


def recipe_of(arm: str, seed: int) -> Recipe:
    """The recipe of one run."""
    return Recipe.load(
        kept.RECIPES / "digits.toml", (*BASE, *ARMS[arm], f"name={arm}", f"seed={seed}")
    )


def measured(arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """A run, as far as it is not done, and what it selected."""
    recipe = recipe_of(arm, seed)
    if not RunFolder(folder).result_file.exists():
        run(recipe, folder, Bars())
    result = RunFolder(folder).result()
    assert result is not None
    views = RunFolder(folder).shrink_lines()
    return {
        "arm": arm,
        "seed": seed,
        "selected": {winner.budget: winner.arch for winner in result.winners},
        "order": order_of(recipe, folder),
        "left": views[-1].size if views else None,
        "images": result.images_forwarded,
        "spent": spent_by(folder, result).plain(),
        **provenance(),
    }


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    kept.options(parser, Path("runs") / "family")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    known = {(row["arm"], row["seed"]) for row in records.read_lines(path)}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            if (arm, seed) not in known:
                records.append(path, measured(arm, seed, arguments.work / f"{arm}-{seed}"))
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
