"""Supernet Shifting against its controls: the order of all 256 networks of `tiny`, on digits.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.shifting.run [--seeds 0 1 2 3 4 5]
        [--arms none ...] [--cost]

Every seed trains one supernet (`recipes/supernet_shifting.toml`, uniform paths) and searches it
once per arm. All 256 networks are scored before and after, on the same images and calibration
batches, and compared with the truth of `benchmarks/truths/tiny_truth.jsonl`. Every search
is a record, with all scores; what is on record is not done again. `--cost` measures what a
shifting search takes beside a frozen one, in turns. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.shifting.page import write_page
from manyshot import records
from manyshot.pipeline.stages.search import search
from manyshot.pipeline.verbs.run import begin
from manyshot.progress import Bars, Silent
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder

KEPT = kept.of_study(__file__)
RECIPE = kept.RECIPES / "supernet_shifting.toml"
AS_MEASURED = ("evaluate.fitness=metric", "shifting.schedule=constant", "shifting.elites=score")
"""What was the default when the records were made."""
BASE = (
    *AS_MEASURED,
    "search.budgets=['macs<=100%']",
    "shifting.watched=256",
    "shifting.watched_best=26",
    "export.formats=[]",
)
_CODE = (
    "shifting.timing=after_candidate",
    "shifting.statistics=running",
    "shifting.elites=keep",
    "search.options.stale_scores=true",
)
ARMS: dict[str, tuple[str, ...]] = {
    "none": ("shifting.name=none",),
    "per_step": (),
    "per_candidate": ("shifting.update=per_candidate",),
    "per_generation": ("shifting.update=per_generation",),
    "per_generation, K = 1": ("shifting.update=per_generation", "shifting.steps=1"),
    "uniform_finetune": ("shifting.name=uniform_finetune",),
    "random_population": ("shifting.name=random_population",),
    "topk_finetune": ("shifting.name=topk_finetune",),
    "as the public code": _CODE,
    "per_step, lr 0.02": ("shifting.lr=0.02",),
    "uniform_finetune, lr 0.02": ("shifting.name=uniform_finetune", "shifting.lr=0.02"),
}
"""What an arm changes in the recipe."""
COSTS: dict[str, tuple[str, ...]] = {
    "frozen, nothing proposed twice": ("search.options.dedupe=global",),
    "frozen": (),
    "shifting": ("shifting.name=population",),
}
"""Searches of as many candidates whose cost is compared."""


def recipe_of(arm: str, seed: int, more: tuple[str, ...] = ()) -> Recipe:
    """The recipe of one search."""
    return Recipe.load(RECIPE, [*BASE, *ARMS[arm], f"seed={seed}", *more])


def searched(arm: str, seed: int, supernet: Path, folder: Path) -> dict[str, Any]:
    """Searches a trained supernet; returns what it found, and all scores before and after."""
    recipe = recipe_of(arm, seed)
    ws, accelerator = begin(recipe, folder, Bars(), trained=supernet)
    began = time.perf_counter()
    found = search(ws, accelerator, folder, Silent())
    seconds = time.perf_counter() - began
    scores: dict[str, dict[str, dict[str, float]]] = {"before": {}, "after": {}}
    for line in RunFolder(folder).order_lines():
        own = {"accuracy": line.proxy_score, "loss": line.proxy_loss}
        scores[line.role][line.arch] = own
    best = max(found.scores, key=lambda arch: found.scores[arch])
    archs = sorted(scores["before"])
    generations = RunFolder(folder).shifting_lines()
    return {
        "winner": ws.net.space.to_text(best),
        "images": found.images,
        "seconds": round(seconds, 2),
        "entropy": [sum(g.proposed.entropy_nats) for g in generations],
        **{
            f"{kind}_{when}": [round(scores[when][a][kind], 5) for a in archs]
            for when in scores
            for kind in ("accuracy", "loss")
        },
    }


def trained(seed: int, runs: Path) -> Path:
    """The folder of the supernet of a seed, trained if it is not."""
    folder = runs / f"supernet-{seed}"
    if not RunFolder(folder).weights.exists():
        begin(recipe_of("none", seed), folder, Bars())
    return folder


def cost(seed: int, supernet: Path, rounds: int) -> list[dict[str, Any]]:
    """Images and seconds of searches without watched networks, frozen and shifting in turns."""
    rows = []
    for turn in range(rounds):
        for arm, changes in COSTS.items():
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "run"
                recipe = recipe_of(
                    "none", seed, ("shifting.watched=0", "shifting.watched_best=0", *changes)
                )
                ws, accelerator = begin(recipe, folder, Silent(), trained=supernet)
                began = time.perf_counter()
                found = search(ws, accelerator, folder, Silent())
                seconds = time.perf_counter() - began
            about = {"measure": "cost", "arm": arm, "seed": seed, "turn": turn}
            rows.append({**about, "images": found.images, "seconds": seconds})
    return rows


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    kept.options(parser, Path("runs") / "shifting")
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    done = {(r["seed"], r["arm"]) for r in records.read_lines(path) if "winner" in r}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            if (seed, arm) in done:
                continue
            supernet = trained(seed, arguments.work)
            folder = arguments.work / f"{seed}-{arm}"
            shutil.rmtree(folder, ignore_errors=True)
            row = {"measure": "order", "seed": seed, "arm": arm}
            row |= searched(arm, seed, supernet, folder)
            records.append(path, {**row, **provenance()})
    if arguments.cost:
        for row in cost(0, trained(0, arguments.work), rounds=5):
            records.append(path, {**row, **provenance()})
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
