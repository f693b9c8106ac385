"""A moving distribution over costs where the best one is known: ShiftNAS, and what it must beat.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.planted_sampling.run [--seeds 5] [--arms ...]

Eight linear regressions of different costs learn at rates that are planted (see `problem.py`). An
arm draws one of them in each step, by the library's `ms.fit` and a sampler of the library; one arm
draws options by the best fixed shares, which the planted rates give, without a generator. In two
further kinds of problem nothing is to be gained: rates are equal, or held-out labels are mostly
noise. Every result is a record, and what is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.planted_sampling.page import write_page
from benchmarks.studies.planted_sampling.problem import (
    BATCH,
    INPUTS,
    KINDS,
    OPTIONS,
    RATE,
    STEPS,
    Floats,
    Network,
    Problem,
    weights_of,
)
from manyshot import records
from manyshot.cost import macs_table
from manyshot.train import (
    Forwarding,
    Plan,
    PlannedPath,
    Probed,
    Sampler,
    ShiftNAS,
    ShiftNASOptions,
    Stateless,
    TrainingSettings,
    uniform_cost,
)
from manyshot.train.generator import resource_loss

KEPT = kept.of_study(__file__)
PROBES: dict[str, Any] = {"period": 10, "images": 512}
"""Of all arms with a generator: 54 updates in all."""
EXACT: dict[str, Any] = {
    "mix_uniform": 0.9,
    "lr": 1e-6,
    "entropy_weight": 0.0,
    "dead_zone": 0.0,
}
"""So that what trains is what the distribution draws: nine steps of ten train the option of the
drawn cost, and the generator, which hits all costs before training begins, stays as it is."""
SHIFTS: dict[str, dict[str, Any]] = {
    "uniform_cost": {},
    "bounded": {},
    "bounded, fresh images": {"kept": "weights"},
    "paper": {"rule": "paper"},
}
"""Options of the arms with a generator, beside grid, `PROBES` and `EXACT`."""
ARMS = (*SHIFTS, "best fixed shares")
RUN: dict[str, tuple[str, ...]] = {
    "rates differ": ("uniform_cost", "bounded", "paper", "best fixed shares"),
    "equal rates": ("uniform_cost", "bounded", "paper"),
    "rates differ, held-out noise": ("bounded", "bounded, fresh images"),
}
"""The arms of each kind. What looks at no held-out sample is in the last kind as in the first."""
ALONE = 1000
"""Steps in which the generator must learn to hit all costs."""
BEGUN = 100
"""Seed of the generator, the same for all problems, whose costs are the same; not all seeds end
on all eight costs at a constant rate."""


class Shares(Stateless):
    """Draws an option by fixed shares."""

    def __init__(self, shares: Floats) -> None:
        self.shares = shares

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The path of one option."""
        return Plan((PlannedPath((int(rng.choice(len(self.shares), p=self.shares)),)),))


class Counted(Forwarding):
    """Another sampler, and how often each option was trained, in a run without stops."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(sampler)
        self.trained = np.zeros(OPTIONS, dtype=np.int64)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Counts the option, and tells the sampler."""
        for path in plan.paths:
            self.trained[path.arch[0]] += 1
        super().feedback(plan, losses, probed)


def sampler_of(arm: str, problem: Problem, net: ms.Supernet) -> Sampler:
    """The sampler of an arm; targets of a generator are the costs of the options."""
    if arm == "best fixed shares":
        return Shares(problem.best_shares())
    table = macs_table(net, example_inputs=torch.zeros(1, INPUTS))
    costs = table([(option,) for option in range(OPTIONS)])
    grid = (float(costs[0]), float(costs[-1]), float(costs[1] - costs[0]))
    options = ShiftNASOptions(grid=grid, **PROBES, **EXACT, **SHIFTS[arm])
    make = uniform_cost if arm == "uniform_cost" else ShiftNAS
    sampler = make(net.space, {"macs": table}, options, seed=BEGUN)
    teach(sampler)
    return sampler


def teach(sampler: ShiftNAS) -> None:
    """Trains the generator alone, by the resource loss, until its likeliest options hit all costs.

    Raises:
        RuntimeError: if it does not within `ALONE` steps.
    """
    generator, centres = sampler.generator, torch.from_numpy(sampler.grid.centres)
    adam = torch.optim.Adam(generator.parameters(), 0.01)
    rng = torch.Generator().manual_seed(BEGUN)
    for step in range(ALONE):
        if step % 25 == 0 and not any(sampler.state_of_the_generator()["error_grid_steps"]):
            return
        decoded = generator(generator.encode(centres), generator=rng)
        costs = sampler.cost(decoded.policies)
        adam.zero_grad()
        resource_loss(costs, centres, sampler.grid.step).mean().backward()
        adam.step()
    raise RuntimeError(f"the generator misses costs after {ALONE} steps: give it more, by ALONE")


def measured(kind: str, arm: str, seed: int) -> dict[str, Any]:
    """The record of an arm on the problem of a kind and a seed."""
    problem = Problem(KINDS[kind], seed)
    inputs, labels = problem.held_out().tensors

    def held_out(images: int, draw: int) -> Iterable[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(draw))
        rows = order[:images]
        return [(inputs[rows], labels[rows])]

    net = ms.Supernet(Network(problem), input_shape=(INPUTS,))
    sampler = Counted(sampler_of(arm, problem, net))
    settings = TrainingSettings(
        epochs=1,
        batch_size=BATCH,
        lr=RATE,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
    )
    began = time.perf_counter()
    trainer = ms.fit(
        net,
        problem.train(),
        task="regression",
        sampler=sampler,
        settings=settings,
        seed=seed,
        held_out=held_out,
    )
    seconds = time.perf_counter() - began
    assert trainer.weight_step == sampler.trained.sum() == STEPS
    shares = {"best": problem.best_shares(), "equal": np.full(OPTIONS, 1 / OPTIONS)}
    row: dict[str, Any] = {
        "kind": kind,
        "arm": arm,
        "seed": seed,
        "excess": problem.excess(weights_of(net)).tolist(),
        "trained": sampler.trained.tolist(),
        "gains": problem.gains.tolist(),
        "expected": {name: float(problem.expected(s).mean()) for name, s in shares.items()},
        "best_shares": shares["best"].tolist(),
        "seconds": round(seconds, 2),
    }
    inner = sampler.sampler
    if isinstance(inner, ShiftNAS):
        row["error_grid_steps"] = inner.state_of_the_generator()["error_grid_steps"]
    if isinstance(inner, ShiftNAS) and inner.probes:
        row["probabilities"] = inner.distribution.sampling_probabilities().tolist()
        row |= {"evidence": inner.distribution.evidence().plain()}
    return row


def main(arguments: list[str] | None = None) -> None:
    """Runs what is not on record, and writes the page anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    kept.options(parser, Path("runs") / "planted_sampling")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = kept.begin(given, KEPT)
    done = {(row["kind"], row["seed"], row["arm"]) for row in records.read_lines(path)}
    for seed in range(given.first, given.first + given.seeds):
        for kind, arms in RUN.items():
            for arm in arms:
                if arm in given.arms and (kind, seed, arm) not in done:
                    row = measured(kind, arm, seed)
                    records.append(path, {**row, **provenance()})
                    mean = np.mean(row["excess"])
                    print(kind, arm, seed, f"{mean:.5f}", row["seconds"], file=sys.stderr)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
