"""A sampler whose paths all learn from one target, whatever its plans say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from manyshot.train.plan import Plan, Probe, Probed, Sampler, Target


@final
class Taught:
    """Another sampler's paths, all of which learn from one target.

    Attributes:
        sampler: the other sampler; it learns as by itself.
        target: what its paths learn from.
    """

    def __init__(self, sampler: Sampler, target: Target) -> None:
        """Wraps a sampler."""
        self.sampler, self.target = sampler, target
        self.probes, self.clip_norm = sampler.probes, sampler.clip_norm

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The other's plan, with other targets."""
        plan = self.sampler.plan(rng, step)
        return replace(plan, paths=tuple(replace(path, target=self.target) for path in plan.paths))

    def optimizer(self) -> torch.optim.Optimizer | None:
        """The other's."""
        return self.sampler.optimizer()

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """The other's."""
        return self.sampler.probe(rng, step, steps)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Tells the other."""
        self.sampler.feedback(plan, losses, probed)

    def report(self) -> dict[str, Any] | None:
        """The other's."""
        return self.sampler.report()

    def state_dict(self) -> dict[str, Any]:
        """The other's."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the other's."""
        self.sampler.load_state_dict(state)
