"""A sampler whose paths all learn from one target, whatever its plans say."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np

from manyshot.train.plan import Forwarding, Plan, Sampler, Target


@final
class Taught(Forwarding):
    """Another sampler's paths, all of which learn from one target.

    Attributes:
        sampler: the other sampler; it learns as by itself.
        target: what its paths learn from.
    """

    def __init__(self, sampler: Sampler, target: Target) -> None:
        """Wraps a sampler."""
        super().__init__(sampler)
        self.target = target

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The other's plan, with other targets."""
        plan = self.sampler.plan(rng, step)
        return replace(plan, paths=tuple(replace(path, target=self.target) for path in plan.paths))
