"""Which rate and length fit the study's one-shot supernet, by validation loss and not by order.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.methods.rate --work DIR [--lr 0.02 0.05 ...]
        [--epochs 40 80 160]

Seed 100, which the study does not use. Of every pair it prints the mean loss, on the validation
images that search scores on, of 64 uniformly drawn networks with recalibrated batch norms. The
truth is not read. What came of it is at the end of `design.md`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.studies.methods.run import RECIPE
from manyshot import evaluate
from manyshot.pipeline import Workspace, train_only
from manyshot.pipeline.identity import load_final_weights
from manyshot.progress import Bars
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder
from manyshot.seeding import numpy_rng

SEED = 100
NETWORKS = 64


def mean_loss(lr: float, epochs: int, work: Path) -> float:
    """The mean validation loss of networks drawn uniformly, after training at a rate."""
    changes = (f"train.lr={lr}", f"train.epochs={epochs}", f"seed={SEED}")
    recipe = Recipe.load(RECIPE, changes)
    folder = work / f"rate-{lr}-{epochs}"
    train_only(recipe, folder, Bars())
    ws = Workspace.build(recipe, folder)
    load_final_weights(ws, RunFolder(folder))
    rng = numpy_rng(SEED, "controls", 0)
    archs = [ws.net.space.sample(rng) for _ in range(NETWORKS)]
    calibration = ws.calibration()
    validation = ws.fixed("validation", recipe.evaluate.images)
    losses = [
        evaluate.score(ws.net, arch, calibration=calibration, validation=validation).loss
        for arch in archs
    ]
    return statistics.fmean(losses)


def main() -> None:
    """Prints a line per pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the supernets go")
    parser.add_argument("--lr", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--epochs", type=int, nargs="+", default=[40, 80, 160])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for epochs in arguments.epochs:
        for lr in arguments.lr:
            begin = time.perf_counter()
            loss = mean_loss(lr, epochs, arguments.work)
            seconds = time.perf_counter() - begin
            print(f"lr {lr:g}, {epochs} epochs: {loss:.3f} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
