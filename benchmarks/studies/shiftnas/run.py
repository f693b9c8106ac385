"""ShiftNAS against its baselines at equal image-forwards, over seeds, on real images.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.shiftnas.run [vit cnn] [--seeds 0 1 2]
        [--work DIR]

Every setting is a recipe of ours. `shift`, `uniform_cost` (the same generator, targets stay
uniform) and `uniform` train on the same images; the baselines train longer by as many images as
probes forward. Then, with the supernet's weights and on the test images:

- frozen: architectures drawn once for all methods and seeds, six per target cost;
- final: what the generator gives for every target, one network without a search; for `uniform` the
  best, by validation accuracy, of ten random ones that cost at most the target, and more than the
  one before it;
- for the budgets of the recipe with `shift`: inherited, fine-tuned, trained from new weights.

Nothing is chosen by test accuracy. Each measurement is a record, trained supernets stay in --work,
and what is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.shiftnas.page import write_page
from manyshot import evaluate, records
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.alone import finished
from manyshot.pipeline.stages.generate import probed_images, trained_sampler
from manyshot.pipeline.verbs.run import begin
from manyshot.progress import Bars
from manyshot.recipe import FinishSettings, Recipe
from manyshot.run_folder import RunFolder
from manyshot.space import Arch
from manyshot.train import TrainingSettings
from manyshot.train.samplers.complexity import Grid
from manyshot.train.samplers.shift import Generates

KEPT = kept.of_study(__file__)
METHODS = ("shift", "uniform_cost", "uniform")
PER_TARGET, CANDIDATES = 6, 10
ROUNDS = 100
"""Of 20,000 uniform draws, at most, to find so many near every target."""
SETTINGS: dict[str, tuple[str, ...]] = {
    "vit": (),
    "cnn": (
        "data.train_size=10000",
        "sampler.options={rule = 'paper', grid = [0.25e6, 1.65e6, 0.2e6], jitter = true, "
        "resource_weight = 1.0, period = 40, images = 128, kept = 'weights', dead_zone = 0.0, "
        "entropy_weight = 0.0, mix_uniform = 0.0, policy_share = 1.0, policy_every = 1}",
    ),
}
"""What a setting changes in its recipe: the CNN trains on fewer images, with more updates."""


def recipe_of(setting: str, method: str, seed: int, more: tuple[str, ...] = ()) -> Recipe:
    """The recipe of one training run."""
    own = [*SETTINGS[setting], f"seed={seed}", *more]
    own += [f"sampler.name={method}"] if method != "shift" else []
    own += ["sampler.options={}", "search.name=random"] if method == "uniform" else []
    return Recipe.load(kept.RECIPES / f"shiftnas_{setting}.toml", own)


def trained(setting: str, method: str, seed: int, runs: Path, more: tuple[str, ...]) -> Trained:
    """Trains a supernet, or finds it trained; baselines for as many image-forwards as `shift`."""
    folder = runs / f"{setting}-{method}-{seed}"
    if method != "shift":
        beside = runs / f"{setting}-shift-{seed}"
        base = Recipe.load(beside / "recipe.toml")
        probed = probed_images(beside)
        epochs = base.train.epochs + round(probed / images_per_epoch(base))
        more = (*more, f"train.epochs={epochs}")
    recipe = recipe_of(setting, method, seed, more)
    ws, accelerator = begin(recipe, folder, Bars())
    return Trained(ws, accelerator, folder)


def images_per_epoch(recipe: Recipe) -> int:
    """Training images that an epoch forwards."""
    ws = Workspace.build(recipe)
    return len(ws.batches(recipe.train)) * recipe.train.batch_size


class Trained:
    """A trained supernet, and what is measured of it."""

    def __init__(self, ws: Workspace, accelerator: Accelerator, folder: Path) -> None:
        self.ws, self.accelerator, self.folder = ws, accelerator, folder
        self.calibration, self.test = ws.calibration(), ws.fixed("test", None)
        self.validation = ws.fixed("validation", None)

    def accuracy(self, arch: Arch, *, test: bool = True) -> float:
        """Inherited accuracy of an architecture."""
        images = self.test if test else self.validation
        own = evaluate.score(self.ws.net, arch, calibration=self.calibration, validation=images)
        return own.value

    def sampler(self) -> Generates:
        """The trained sampler, which generates networks."""
        found = trained_sampler(self.ws, self.folder)
        if not isinstance(found, Generates):
            raise TypeError(f"sampler {self.ws.recipe.sampler.name!r} generates no networks")
        return found

    def forwards(self) -> dict[str, Any]:
        """Images forwarded in training and for probes, and the cost of a step's network."""
        recipe, table = self.ws.recipe, self.ws.costs["macs"]
        drawn = np.random.default_rng(0).integers(
            self.ws.net.space.counts, size=(10_000, len(self.ws.net.space))
        )
        sliced = recipe.sampler.name == "uniform"
        largest = float(table([self.ws.net.space.largest])[0])
        return {
            "train": recipe.train.epochs * images_per_epoch(recipe),
            "probe": probed_images(self.folder),
            "macs": float(table(drawn).mean()) if sliced else largest,
        }

    def shift(self) -> Iterator[dict[str, Any]]:
        """Where the distribution ended, and how often it moved."""
        lines = RunFolder(self.folder).targets_lines()
        updates, last = sum(line.update for line in lines), lines[-1]
        for target, share, count, nats in zip(
            last.targets, last.probabilities, last.counts, last.entropy_nats, strict=True
        ):
            drawn = {"probability": share, "count": count, "entropy": nats}
            yield {"target": target, "updates": updates, **drawn}

    def frozen(self, grid: Grid) -> Iterator[dict[str, Any]]:
        """The mean accuracy of the same random architectures at every target."""
        for k, archs in enumerate(near(self.ws, grid, PER_TARGET, seed=0)):
            scores = [self.accuracy(arch) for arch in archs]
            yield {"target": float(grid.centres[k]), "accuracy": float(np.mean(scores))}

    def final(self, grid: Grid) -> Iterator[dict[str, Any]]:
        """One network per target: the generator's, or the best of some random ones."""
        table = self.ws.costs["macs"]
        sampler = None
        if self.ws.recipe.sampler.name != "uniform":
            sampler = self.sampler()
        below = Grid(grid.lo - grid.step / 2, grid.hi - grid.step / 2, grid.step)
        others = near(self.ws, below, CANDIDATES, seed=self.ws.recipe.seed + 1)
        for target, archs in zip(grid.centres.tolist(), others, strict=True):
            found: dict[str, Any] = {"target": target}
            if sampler is None:
                arch = max(archs, key=lambda arch: self.accuracy(arch, test=False))
            else:
                generated = sampler.generate(target)
                arch, found["decodes"] = generated.arch, generated.decodes
                found["within"] = generated.within
            found["cost"] = int(table([arch])[0])
            yield {**found, "accuracy": self.accuracy(arch)}

    def finishes(self, scratch_epochs: int) -> Iterator[dict[str, Any]]:
        """The networks of the recipe's budgets: inherited, fine-tuned, trained from new weights."""
        settings, sampler = self.ws.recipe.train, self.sampler()
        short = max(1, scratch_epochs // 8)
        plans = {
            "inherited": FinishSettings(mode="inherit"),
            "fine-tuned": FinishSettings(
                mode="finetune", training=_longer(settings, short, settings.lr / 10)
            ),
            "retrained": FinishSettings(
                mode="scratch", training=_longer(settings, scratch_epochs, settings.lr)
            ),
        }
        for limit in self.ws.limits():
            generated = sampler.generate(limit.limit)
            for kind, finishing in plans.items():
                with tempfile.TemporaryDirectory() as folder:
                    subnet = finished(
                        self.ws, self.accelerator, Path(folder), generated.arch, finishing, Bars()
                    )
                accuracy = evaluate.score_module(subnet, self.test).value
                cost = {"cost": int(generated.cost), "within": generated.within}
                yield {"budget": limit.name, "kind": kind, "accuracy": accuracy, **cost}


def _longer(settings: TrainingSettings, epochs: int, lr: float) -> TrainingSettings:
    warmup = min(settings.warmup_epochs, epochs / 10)
    return settings.model_copy(update={"epochs": epochs, "lr": lr, "warmup_epochs": warmup})


def near(ws: Workspace, grid: Grid, count: int, seed: int) -> list[list[Arch]]:
    """For every target so many distinct architectures of its sub-space, uniform among them."""
    rng, table = np.random.default_rng(seed), ws.costs["macs"]
    found: list[list[Arch]] = [[] for _ in range(len(grid))]
    for _ in range(ROUNDS):
        drawn = rng.integers(ws.net.space.counts, size=(20_000, len(ws.net.space)))
        for k, arch in zip(grid.bin_of(table(drawn)).tolist(), drawn.tolist(), strict=True):
            if k >= 0 and len(found[k]) < count and tuple(arch) not in found[k]:
                found[k].append(tuple(arch))
        if min(map(len, found)) == count:
            return found
    raise ValueError(f"{ROUNDS} rounds of draws left targets with {list(map(len, found))} networks")


def measure(own: Trained, grid: Grid) -> dict[str, Iterator[dict[str, Any]]]:
    """What is measured of a run, by name."""
    recipe = own.ws.recipe
    measures = {
        "forwards": iter([own.forwards()]),
        "frozen": own.frozen(grid),
        "final": own.final(grid),
    }
    if recipe.sampler.name == "shiftnas":
        measures |= {"shift": own.shift(), "finish": own.finishes(recipe.train.epochs)}
    return measures


def note(log: Path, key: dict[str, Any], runs: Path, more: tuple[str, ...]) -> None:
    """Measures of one run what is not on record."""
    names = ("forwards", "frozen", "final", *(("shift", "finish") * (key["method"] == "shift")))
    rows = [row for row in records.read_lines(log) if key.items() <= row.items()]
    done = {row["of"] for row in rows if row["measure"] == "done"}
    if done >= set(names):
        return
    own = trained(**key, runs=runs, more=more)
    options = recipe_of(key["setting"], "shift", key["seed"]).sampler.options
    grid = Grid(*map(float, options["grid"]))  # type: ignore[arg-type]
    for name, found in measure(own, grid).items():
        if name in done:
            continue
        mine = {**key, "measure": name}
        records.keep_lines(log, lambda row, mine=mine: not mine.items() <= row.items())  # type: ignore[misc]
        for record in found:
            records.append(log, {**mine, **record})
        records.append(log, {**key, "measure": "done", "of": name, **provenance()})


def main() -> None:
    """Measures what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    kept.options(parser, Path("runs") / "shiftnas")
    parser.add_argument("--set", action="append", default=[], help="change the recipes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    for seed in arguments.seeds:
        for setting in arguments.settings:
            for method in METHODS:
                key = {"setting": setting, "method": method, "seed": seed}
                note(path, key, arguments.work, tuple(arguments.set))
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
