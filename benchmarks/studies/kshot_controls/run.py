"""The controls of a K-shot study, on digits: mean proxy accuracy, and what became of the codes.

    python -m benchmarks.studies.kshot_controls.run [--seeds 3] [--epochs 100]

Every variant trains `recipes/digits.toml`'s supernet with other sharing options from the same
seeds; 64 canonical architectures, the same for all, are scored with each supernet on the validation
images. What is on record is not run again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.studies.kshot_controls.page import ARCHS, write_page
from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.recipe import Recipe
from manyshot.train import Trainer, engine, train

KEPT = kept.of_study(__file__)
K_SHOT = "sharing.name=k_shot"
IN_TURN = "code_every=2, compensate=false"
SGD = f"sharing.options={{optimizer='sgd', {IN_TURN}}}"
FASTER = "train.lr=0.4"
VARIANTS: dict[str, tuple[str, ...]] = {
    "one copy": (),
    "one copy, half of the steps": ("half",),
    "K = 4": (K_SHOT, SGD),
    "K = 4, rate of the weights x 4": (K_SHOT, SGD, FASTER),
    "K = 4, Adam": (K_SHOT, f"sharing.options={{optimizer='adam', lr=0.01, {IN_TURN}}}"),
    "K = 4, Adam, codes start apart": (
        K_SHOT,
        f"sharing.options={{optimizer='adam', lr=0.01, last_std=1.0, {IN_TURN}}}",
    ),
    "K = 4, Adam, codes start apart, rate x 4": (
        K_SHOT,
        f"sharing.options={{optimizer='adam', lr=0.01, last_std=1.0, {IN_TURN}}}",
        FASTER,
    ),
    "K = 4, Adam, joint": (
        K_SHOT,
        "sharing.options={optimizer='adam', lr=0.01, update_mode='joint', compensate=false}",
    ),
    "K = 4, Adam, code per layer": (
        K_SHOT,
        f"sharing.options={{optimizer='adam', lr=0.01, code_scope='layer', {IN_TURN}}}",
    ),
    "K = 4, uniform codes": (K_SHOT, "sharing.options={codes='uniform', compensate=false}"),
    "K = 4, uniform codes, rate x 4": (
        K_SHOT,
        "sharing.options={codes='uniform', compensate=false}",
        FASTER,
    ),
    "K = 4, frozen random codes": (K_SHOT, "sharing.options={codes='random', compensate=false}"),
    "K = 4, frozen random codes, rate x 4": (
        K_SHOT,
        "sharing.options={codes='random', compensate=false}",
        FASTER,
    ),
    "K = 4, one-hot codes": (K_SHOT, "sharing.options={codes='one_hot'}"),
}


def measure(overrides: tuple[str, ...], seed: int, epochs: int) -> dict[str, Any]:
    """Trains one supernet and scores the architectures with it."""
    own = [text for text in overrides if text != "half"]
    epochs = epochs // 2 if "half" in overrides else epochs
    ws = Workspace.build(Recipe.load(None, [f"seed={seed}", f"train.epochs={epochs}", *own]))
    settings = ws.recipe.train
    began = time.process_time()
    train(
        Trainer(
            net=ws.net,
            sampler=ws.sampler(),
            batches=ws.batches(settings),
            settings=settings,
            seed=seed,
            largest=ws.net.space.largest,
            accelerator=engine(ws.device, settings),
        )
    )
    seconds = time.process_time() - began
    rng = np.random.default_rng(0)
    archs = [ws.net.space.sample(rng) for _ in range(ARCHS)]
    calibration, validation = ws.calibration(), ws.fixed("validation", None)
    scores = [
        ms.evaluate.score(ws.net, arch, calibration=calibration, validation=validation)
        for arch in archs
    ]
    return {
        "accuracy": float(np.mean([score.value for score in scores])),
        "loss": float(np.mean([score.loss for score in scores])),
        "cpu_seconds": round(seconds, 1),
        **ws.net.sharing.watch(ws.net),
    }


def main() -> None:
    """Measures what is not on record, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    kept.options(parser, Path("runs") / "kshot_controls")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(options, KEPT)
    for seed in range(options.seeds):
        for variant, overrides in VARIANTS.items():
            key = {"variant": variant, "seed": seed, "epochs": options.epochs}
            done = records.read_lines(path)
            if any(all(row[k] == v for k, v in key.items()) for row in done):
                continue
            record = {**key, **measure(overrides, seed, options.epochs)}
            records.append(path, record)
            print(record, flush=True)
    kept.end(options, KEPT, write_page)


if __name__ == "__main__":
    main()
