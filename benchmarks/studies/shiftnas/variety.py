"""How varied the generator of ShiftNAS is without any network, by the paper and by our defaults.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.shiftnas.variety [--steps 1000] [--seed 0]

On `macro`, whose 6,561 encodings are all known, the generator learns from the resource loss alone,
as if the loss of the task said nothing. Printed are, for each of 8 targets: how many of 200 draws
are distinct; the entropy of what they are drawn from, less that of drawing uniformly what costs
within half a step of the target, in nats; and the mean and the largest distance of the likeliest
architectures from their targets, in steps of the grid.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

import manyshot as ms
from manyshot.train import ShiftNASOptions

AS_IN_THE_PAPER: dict[str, Any] = {
    "dead_zone": 0.0,
    "entropy_weight": 0.0,
    "mix_uniform": 0.0,
    "policy_every": 1,
}
OPTIONS: dict[str, dict[str, Any]] = {"paper": AS_IN_THE_PAPER, "default": {}}
MARKS = (0, 0.33, 0.66, 1)
"""Shares of the steps at which it is looked at."""


def learn(options: ShiftNASOptions, steps: int, seed: int) -> None:
    """Lets a generator learn, and prints how varied it is on the way."""
    net = ms.Supernet(ms.zoo.macro())
    table = ms.cost.macs_table(net, (3, 32, 32))
    sampler = ms.train.uniform_cost(net.space, {"macs": table}, options, seed=seed)
    optimizer, learnt = sampler.optimizer(), 0
    marks = {round(share * steps) for share in MARKS}
    for step in range(steps + 1):
        if step in marks:
            say(sampler, step, learnt)
        plan = sampler.plan(np.random.default_rng((seed, step)), step)
        if plan.penalty is not None:
            plan.penalty.backward()
            torch.nn.utils.clip_grad_norm_(sampler.generator.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            learnt += 1
        sampler.probe(np.random.default_rng(0), min(step + 1, steps), steps)
        sampler.feedback(plan, [torch.ones(())])


def say(sampler: ms.train.ShiftNAS, step: int, learnt: int) -> None:
    """Prints where a sampler stands."""
    state = sampler.state_of_the_generator()
    whole = np.array(sampler.members.entropy_nats, dtype=float)
    beside = " ".join(f"{e:+.2f}" for e in np.array(state["entropy_nats"]) - whole)
    errors = np.abs(state["error_grid_steps"])
    print(
        f"  step {step:5d}, {learnt:5d} of the generator: distinct "
        f"{' '.join(map(str, state['distinct']))}; entropy less the sub-space's {beside}; "
        f"missed by {errors.mean():.2f}, at most {errors.max():.2f}",
        flush=True,
    )


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, options in OPTIONS.items():
        print(name)
        learn(ShiftNASOptions(**options), given.steps, given.seed)


if __name__ == "__main__":
    main()
