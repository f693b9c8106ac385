"""The contract of a sampler as tests: subclass, give one method, inherit the checks."""

from __future__ import annotations

import numpy as np
import torch

from manyshot.space import SearchSpace, choose
from manyshot.train.plan import Plan, Sampler

STEPS = 20


class SamplerSuite:
    """Checks that every sampler must pass; use it with pytest.

    Subclass it (`class TestMine(SamplerSuite)`) and define `make_sampler(space)`.
    """

    def make_sampler(self, space: SearchSpace) -> Sampler:
        """A new sampler of `space`."""
        raise NotImplementedError

    def spaces(self) -> list[SearchSpace]:
        """Spaces to try: even, uneven, with one option."""
        return [
            SearchSpace([choose(range(n), f"d{i}") for i, n in enumerate(counts)])
            for counts in ((3, 3, 3), (2, 4, 1), (5,))
        ]

    def plans(self, sampler: Sampler, seed: int = 0) -> list[Plan]:
        """The first plans of a run with `seed`, fed back with falling losses."""
        plans = []
        for step in range(STEPS):
            plan = sampler.plan(np.random.default_rng((seed, step)), step)
            losses = [torch.tensor(1 / (1 + step)) for _ in plan.paths]
            sampler.feedback(plan, losses)
            plans.append(plan)
        return plans

    def test_plans_hold_architectures_of_the_space(self) -> None:
        """At least one path, each in the space, with a finite weight above zero."""
        for space in self.spaces():
            for plan in self.plans(self.make_sampler(space)):
                assert plan.paths
                for path in plan.paths:
                    space.check(path.arch)
                    assert np.isfinite(path.weight) and path.weight > 0

    def test_a_teacher_comes_first(self) -> None:
        """Paths that learn from the largest architecture follow it."""
        for space in self.spaces():
            for plan in self.plans(self.make_sampler(space)):
                taught = [i for i, p in enumerate(plan.paths) if p.target == "largest"]
                teachers = [
                    i
                    for i, p in enumerate(plan.paths)
                    if p.arch == space.largest and p.target == "labels"
                ]
                assert not taught or min(teachers) < min(taught)

    def test_same_seed_same_plans(self) -> None:
        """A function of the seed, the step and what was fed back."""
        for space in self.spaces():
            first, second = (self.plans(self.make_sampler(space)) for _ in range(2))
            assert _archs(first) == _archs(second)

    def test_state_restores(self) -> None:
        """A sampler with the state of another goes on as that one would."""
        for space in self.spaces():
            sampler, copy = self.make_sampler(space), self.make_sampler(space)
            self.plans(sampler)
            copy.load_state_dict(sampler.state_dict())
            assert _archs(self.plans(sampler, seed=1)) == _archs(self.plans(copy, seed=1))

    def test_global_random_streams_are_untouched(self) -> None:
        """It draws from the generator it is given."""
        before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        for space in self.spaces():
            self.plans(self.make_sampler(space))
        assert torch.equal(before[0], torch.get_rng_state())
        assert str(before[1]) == str(np.random.get_state())  # noqa: NPY002


def _archs(plans: list[Plan]) -> list[list[tuple[int, ...]]]:
    return [[path.arch for path in plan.paths] for plan in plans]
