"""Our own samplers pass the suite we ship, and a broken one does not."""

from collections.abc import Sequence

import numpy as np
import pytest
from torch import Tensor

from manyshot.space import SearchSpace
from manyshot.testing.samplers import SamplerSuite
from manyshot.train import Fair, Only, Path, Plan, Sandwich, Stateless, Uniform


class TestUniform(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Uniform:
        return Uniform(space, paths=2)


class TestFair(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Fair:
        return Fair(space)


class TestSandwich(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sandwich:
        return Sandwich(space)


class TestOnly(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Only:
        return Only(space.smallest)


class Hidden(Stateless):
    """Keeps what it drew outside its state."""

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.seen = space, 0

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        archs = list(self.space.enumerate())
        return Plan((Path(archs[self.seen % len(archs)]),))

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed=None) -> None:
        self.seen += 1


def test_hidden_state_is_found() -> None:
    class Suite(SamplerSuite):
        def make_sampler(self, space: SearchSpace) -> Hidden:
            return Hidden(space)

    with pytest.raises(AssertionError):
        Suite().test_state_restores()
