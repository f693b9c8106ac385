"""The controls of a K-shot study, on digits: mean proxy accuracy, and what became of the codes.

    python benchmarks/kshot_controls.py [--seeds 3] [--epochs 100]

Every variant trains `recipes/digits.toml`'s supernet with other sharing options from the same
seeds; 64 canonical architectures, the same for all, are scored with each supernet on the validation
images. Records go to kshot_controls.jsonl (a variant on record is not run again), the table to
kshot_controls.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manyshot as ms
from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.recipe import Recipe
from manyshot.train import Trainer, engine, train

HERE = Path(__file__).parent
ARCHS = 64
K_SHOT = "sharing.name=k_shot"
FASTER = "train.lr=0.4"
VARIANTS: dict[str, tuple[str, ...]] = {
    "one copy": (),
    "one copy, half of the steps": ("half",),
    "K = 4": (K_SHOT,),
    "K = 4, rate of the weights x 4": (K_SHOT, FASTER),
    "K = 4, Adam": (K_SHOT, "sharing.options={optimizer='adam', lr=0.01}"),
    "K = 4, Adam, codes start apart": (
        K_SHOT,
        "sharing.options={optimizer='adam', lr=0.01, last_std=1.0}",
    ),
    "K = 4, Adam, codes start apart, rate x 4": (
        K_SHOT,
        "sharing.options={optimizer='adam', lr=0.01, last_std=1.0}",
        FASTER,
    ),
    "K = 4, Adam, joint": (
        K_SHOT,
        "sharing.options={optimizer='adam', lr=0.01, update_mode='joint'}",
    ),
    "K = 4, Adam, code per layer": (
        K_SHOT,
        "sharing.options={optimizer='adam', lr=0.01, code_scope='layer'}",
    ),
    "K = 4, uniform codes": (K_SHOT, "sharing.options={codes='uniform'}"),
    "K = 4, uniform codes, rate x 4": (K_SHOT, "sharing.options={codes='uniform'}", FASTER),
    "K = 4, frozen random codes": (K_SHOT, "sharing.options={codes='random'}"),
    "K = 4, frozen random codes, rate x 4": (K_SHOT, "sharing.options={codes='random'}", FASTER),
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
        "accuracy": float(np.mean([score.accuracy for score in scores])),
        "loss": float(np.mean([score.loss for score in scores])),
        "cpu_seconds": round(seconds, 1),
        **ws.net.sharing.watch(ws.net),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "# Controls of K-shot NAS on digits",
        "",
        f"`python benchmarks/kshot_controls.py`: `tiny`, {rows[0]['epochs']} epochs (one copy with "
        f"half of them where said), {len({row['seed'] for row in rows})} seeds of everything; mean "
        f"proxy accuracy of the same {ARCHS} random architectures, mean ± standard deviation over "
        "seeds. Proxy accuracy says how well the supernet serves its paths, not how well it ranks "
        "them. Half of the steps after the warm-up train codes where codes are learnt in turn.",
        "",
        "| variant | accuracy, % | loss | code entropy | code spread | slice distance | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        accuracy = 100 * np.array([row["accuracy"] for row in own])
        cells = [f"{accuracy.mean():.1f} ± {accuracy.std(ddof=len(own) > 1):.1f}"]
        cells.append(f"{np.mean([row['loss'] for row in own]):.3f}")
        for key, digits in (("code_entropy", 3), ("code_spread", 4), ("slice_distance", 2)):
            known = [row[key] for row in own if key in row]
            cells.append(f"{np.mean(known):.{digits}f}" if known else "")
        cells.append(f"{np.mean([row['cpu_seconds'] for row in own]):.0f}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures what is not on record, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=HERE / "kshot_controls.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    records.keep_lines(options.out, lambda record: True)
    for seed in range(options.seeds):
        for variant, overrides in VARIANTS.items():
            key = {"variant": variant, "seed": seed, "epochs": options.epochs}
            done = records.read_lines(options.out)
            if any(all(row[k] == v for k, v in key.items()) for row in done):
                continue
            record = {**key, **measure(overrides, seed, options.epochs)}
            records.append(options.out, record)
            print(record, flush=True)
    rows = [r for r in records.read_lines(options.out) if r["epochs"] == options.epochs]
    records.write_text(options.out.with_suffix(".md"), page(rows))


if __name__ == "__main__":
    main()
