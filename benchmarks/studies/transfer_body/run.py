"""Does a supernet that was moved order networks, and how much training of its body that takes.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.transfer_body.run FASHION_FOLDER
        [--seeds 0 1 2 3 4]

One supernet of `tiny` moves from Fashion-MNIST at 8x8 pixels (3 epochs of 50,000 images) to
scikit-learn's digits by `recipes/transfer.toml`, with 0 or more `transfer.body_epochs`, then
shifts. All 256 networks are scored before and after shifting, and compared with the truth of
`benchmarks/truths`. Every arm is a record; what is on record is not done again. The page is
`page.md`. FASHION_FOLDER holds the four IDX files.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.shifting.page import Truth, taus
from benchmarks.studies.transfer_body.page import write_page
from manyshot import evaluate, records
from manyshot.pipeline import transfer_recipe
from manyshot.pipeline.stages.search import search
from manyshot.pipeline.verbs.run import begin
from manyshot.progress import Silent
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder
from manyshot.search import best

KEPT = kept.of_study(__file__)
SOURCE = (
    "name=source",
    "data.name=fashion_mnist",
    "data.image_size=8",
    "data.validation=10000",
    "train.epochs=3",
    "export.formats=[]",
)
COMMON = (
    "search.budgets=['macs<=100%']",
    "export.formats=[]",
    "evaluate.fitness=metric",
    "shifting.watched=256",
    "shifting.watched_best=26",
)
ARMS: dict[str, tuple[str, ...]] = {
    "classifier alone": ("transfer.body_epochs=0",),
    "body 5 epochs": ("transfer.body_epochs=5",),
    "body 20 epochs": ("transfer.body_epochs=20",),
    "scratch, 25 epochs": ("train.epochs=25", "shifting.head_lr=0.1"),
}
"""What an arm changes in the recipe."""


def measured(arm: str, seed: int, source: Path, folder: Path) -> dict[str, Any]:
    """Moves, or trains, a supernet and shifts it; returns how far its orders are true."""
    path, more = kept.RECIPES / "transfer.toml", [*COMMON, *ARMS[arm], f"seed={seed}"]
    began = time.perf_counter()
    if arm.startswith("scratch"):
        ws, accelerator = begin(Recipe.load(path, more), folder, Silent())
    else:
        recipe = transfer_recipe(source, path, None, more)
        ws, accelerator = begin(recipe, folder, Silent(), source=source)
    found = search(ws, accelerator, folder, Silent())
    seconds = time.perf_counter() - began
    truth = Truth()
    row: dict[str, Any] = {}
    lines = RunFolder(folder).order_lines()
    before = {line.arch: line.proxy_score for line in lines if line.role == "before"}
    scores = {"before": before}
    scores["after"] = {line.arch: line.proxy_score for line in lines if line.role == "after"}
    for moment, by in scores.items():
        now, then = ([of[text] for text in truth.archs] for of in (by, before))
        row[f"tau_{moment}"] = taus(truth, np.array(now), np.array(then))
        row[f"mean_{moment}"] = sum(by.values()) / len(by)
    [winner] = best(found.scores, ws.limits()[0])
    stats = evaluate.calibrate(ws.net, winner, ws.calibration())
    subnet = ws.net.extract(winner, stats=stats).eval()
    order = found.order["global"]
    return {
        **row,
        "halves_before": order.halves_tau_before,
        "halves_after": order.halves_tau_after,
        "inherited": evaluate.score_module(subnet, ws.fixed("test", None)).value,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder of Fashion-MNIST's four IDX files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    kept.options(parser, Path("runs") / "transfer_body")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(given, KEPT)
    done = {(row["seed"], row["arm"]) for row in records.read_lines(path)}
    source = given.work / "source"
    if not RunFolder(source).weights.exists():
        sets = [*SOURCE, f"data.root={str(given.root)!r}"]
        begin(Recipe.load(kept.RECIPES / "digits.toml", sets), source, Silent())
    for seed in given.seeds:
        for arm in ARMS:
            if (seed, arm) not in done:
                folder = given.work / f"{seed}-{arm}"
                shutil.rmtree(folder, ignore_errors=True)
                row = {"arm": arm, "seed": seed, **measured(arm, seed, source, folder)}
                records.append(path, {**row, **provenance()})
                print(arm, seed, row, flush=True)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
