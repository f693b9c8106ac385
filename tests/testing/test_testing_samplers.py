"""Our own samplers pass the suite we ship, and broken ones do not."""

import numpy as np
import pytest
import torch

from manyshot.cost import CostTable
from manyshot.space import SearchSpace
from manyshot.testing.samplers import STEPS, Rehearsal, SamplerSuite
from manyshot.train import (
    ConditionalTable,
    Fair,
    Only,
    Plan,
    PlannedPath,
    Probe,
    Sampler,
    Sandwich,
    ShiftNAS,
    ShiftNASOptions,
    Stateless,
    Uniform,
    uniform_cost,
)
from manyshot.train.gumbel import gumbel, straight_through


def costs_of(space: SearchSpace) -> dict[str, CostTable]:
    """Each decision costs its option's index squared; the first two also cost their product."""
    counts = space.counts.tolist()
    tables = {(i,): np.arange(n) ** 2 for i, n in enumerate(counts)}
    if len(counts) > 1:
        tables[0, 1] = np.outer(np.arange(counts[0]), np.arange(counts[1]))
    return {"macs": CostTable("macs", tuple(counts), 1, tables)}


def eager(**options) -> ShiftNASOptions:
    """Of 26 steps five are warm-up; every fourth after that is an update."""
    if options.get("estimator") == "pathwise":
        options = {"draws": 3, **options}
    return ShiftNASOptions(**{"warmup": 0.2, "period": 4, "bins": 4, "hidden": 4, **options})


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


class TestConditionalTable(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> ConditionalTable:
        return ConditionalTable(space, costs_of(space), draws=200)


class TestShift(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> ShiftNAS:
        return ShiftNAS(space, costs_of(space), eager())


class TestShiftByDraws(SamplerSuite):
    def spaces(self) -> list[SearchSpace]:
        """The uneven one, as what spaces do to it is seen in `TestShift`."""
        return super().spaces()[1:2]

    def make_sampler(self, space: SearchSpace) -> ShiftNAS:
        options = {
            "rule": "paper",
            "estimator": "pathwise",
            "jitter": True,
            "tau": 0.5,
            "masks": "active",
        }
        return ShiftNAS(space, costs_of(space), eager(**options))


class TestUniformCost(SamplerSuite):
    def spaces(self) -> list[SearchSpace]:
        """As above."""
        return super().spaces()[1:2]

    def make_sampler(self, space: SearchSpace) -> ShiftNAS:
        return uniform_cost(space, costs_of(space), eager())


@pytest.mark.parametrize(
    ("estimator", "kept"),
    [("enumerated", "weights"), ("enumerated", "answers"), ("pathwise", "weights")],
)
def test_the_distribution_learns_in_a_rehearsal(estimator, kept):
    """So that what is checked above is at work."""
    [space, *_] = TestShift().spaces()
    run = Rehearsal(
        ShiftNAS(
            space,
            costs_of(space),
            eager(
                rule="paper",
                estimator=estimator,
                kept=kept,
                lr=0.05,
                resource_weight=5.0,
                hidden=16,
            ),
        )
    )
    run.go(steps=2 * STEPS)
    if kept == "weights":
        assert [probe.since for probe in run.probes] == [False] + [True] * 5
    else:
        assert [probe.turn for probe in run.probes] == [1, 2, 3, 4] * 6
    assert sum(report.get("update", False) for report in run.reports) == 5
    assert (run.sampler.distribution.logits != 0).any()
    assert run.sampler.counts.sum() == 2 * STEPS


# -- broken ones -------------------------------------------------------------------------------


class Learnt(Stateless):
    """Logits of all decisions, from which options are drawn; sound as it is.

    Attributes:
        logits: one vector for all decisions, of which each takes the first entries.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.logits = space, torch.zeros(5, requires_grad=True)
        self.seen = 0

    def policies(self, rng):
        noise = gumbel((len(self.space), 5), torch.Generator().manual_seed(int(rng.integers(99))))
        return {
            d: straight_through(self.logits[: len(d.options)], own[: len(d.options)])
            for d, own in zip(self.space.decisions, noise, strict=True)
        }

    def arch(self, policies):
        return tuple(int(policy.argmax()) for policy in policies.values())

    def penalty(self):
        return self.logits.square().sum()

    def plan(self, rng, step):
        policies = self.policies(rng)
        return Plan((PlannedPath(self.arch(policies), policies),), self.penalty())

    def optimizer(self):
        return torch.optim.SGD([self.logits], 0.1)

    def state_dict(self):
        return {"logits": self.logits.detach().clone()}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.logits.copy_(state["logits"])


class TestLearnt(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Learnt:
        return Learnt(space)


class Soft(Learnt):
    def policies(self, rng):
        return {d: policy.softmax(0) for d, policy in super().policies(rng).items()}


class OfAnother(Learnt):
    def arch(self, policies):
        return (0,) * len(policies)


class Vector(Learnt):
    def penalty(self):
        return self.logits.square()


class Infinite(Learnt):
    def penalty(self):
        return self.logits.sum() / 0


class Foreign(Learnt):
    def penalty(self):
        return (self.logits * torch.ones(5, requires_grad=True)).sum()


class Unmoved(Learnt):
    def optimizer(self):
        return None


class Shuffled(Learnt):
    """Its second optimiser holds other tensors."""

    def optimizer(self):
        self.logits = self.logits.detach().clone().requires_grad_()
        return super().optimizer()


class Forgetful(Learnt):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Hidden(Learnt):
    """Keeps what it drew outside its state."""

    def arch(self, policies):
        return (self.seen % 3,) + (0,) * (len(self.space) - 1)

    def policies(self, rng):
        return {}

    def feedback(self, plan, losses, probed=None):
        self.seen += 1


class Counting(Hidden):
    """Planning is an event."""

    def plan(self, rng, step):
        self.seen += 1
        return super().plan(rng, step)

    def feedback(self, plan, losses, probed=None):
        pass


class GlobalStream(Learnt):
    def policies(self, rng):
        torch.rand(1)
        return super().policies(rng)


class Curious(Learnt):
    """Does not say that it probes."""

    def probe(self, rng, step, steps):
        return Probe((PlannedPath(self.space.smallest),))


class Greedy(Curious):
    probes = True

    def probe(self, rng, step, steps):
        return Probe((PlannedPath(self.space.smallest),), images=0)


class OutOfSpace(Curious):
    probes = True

    def probe(self, rng, step, steps):
        return Probe((PlannedPath((9,) * len(self.space)),))


class NotANumber(Learnt):
    def report(self):
        return {"loss": float("nan")}


class Dated(Learnt):
    def report(self):
        return {"step": 3}


ONE_HOTS = "test_policies_are_the_one_hots_of_their_architectures"
ALONE = "test_policies_and_penalties_depend_on_its_parameters_alone"


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Soft, ONE_HOTS),
        (OfAnother, ONE_HOTS),
        (OutOfSpace, ONE_HOTS),
        (Vector, ALONE),
        (Infinite, ALONE),
        (Foreign, ALONE),
        (Unmoved, ALONE),
        (Shuffled, "test_optimisers_are_new_and_of_the_same_parameters"),
        (Forgetful, "test_state_restores"),
        (Hidden, "test_state_restores"),
        (Counting, "test_a_plan_is_a_function_of_state_generator_and_step"),
        (GlobalStream, "test_global_random_streams_are_untouched"),
        (Curious, "test_only_who_says_so_probes"),
        (Greedy, "test_only_who_says_so_probes"),
        (NotANumber, "test_reports_are_records"),
        (Dated, "test_reports_are_records"),
    ],
)
def test_what_is_broken_is_found(broken: type[Sampler], check: str) -> None:
    class Suite(SamplerSuite):
        def make_sampler(self, space: SearchSpace) -> Sampler:
            return broken(space)

    with pytest.raises((AssertionError, ValueError)):
        getattr(Suite(), check)()
