"""The contract of a sampler as tests: subclass, give one method, inherit the checks."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, final, get_args

import numpy as np
import torch
from torch import Tensor

from manyshot.nn.policy import MIXING, MaskMode
from manyshot.search import Pools
from manyshot.space import Arch, SearchSpace, choose
from manyshot.train.optimisation import held_by
from manyshot.train.plan import (
    Plan,
    PlannedPath,
    Probe,
    Probed,
    Sampler,
    ending_early,
    learning_from_norms,
    narrowing,
)

STEPS = 13
"""How many steps a run has: a prime, which few cycles fit into. Some checks do as many more."""


@final
class Rehearsal:
    """The training loop around a sampler, without a network: losses and gradients are made up.

    Losses fall with the steps, the faster the larger the option indices are; gradients of policies
    favour first options.

    Attributes:
        sampler: what is rehearsed.
        optimizer: its optimiser.
        step: how many steps were done.
        saved: how many, when weights were saved last.
        probes: what it asked.
        reports: what it said.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.optimizer = sampler, sampler.optimizer()
        self.step = 0
        self.probes: list[Probe] = []
        self.reports: list[dict[str, Any]] = []
        self.saved: int | None = None

    def go(self, seed: int = 0, steps: int = STEPS) -> list[Plan]:
        """The plans of the next steps, all of which are learnt from."""
        return [self._step(seed) for _ in range(steps)]

    def plan(self, seed: int) -> Plan:
        """The plan of the present step."""
        return self.sampler.plan(np.random.default_rng((seed, self.step)), self.step)

    def _step(self, seed: int) -> Plan:
        plan = self.plan(seed)
        losses = [torch.tensor(_loss(path.arch, self.step)) for path in plan.paths]
        self._learn(plan)
        self.step += 1
        if (learner := learning_from_norms(self.sampler)) is not None:
            learner.measured(plan, torch.tensor(_norm(plan)))
        rng = np.random.default_rng((seed, self.step, 1))
        probe = self.sampler.probe(rng, self.step, 2 * STEPS)
        self.sampler.feedback(plan, losses, None if probe is None else self._answer(probe))
        report = self.sampler.report()
        self.reports += [] if report is None else [report]
        return plan

    def _learn(self, plan: Plan) -> None:
        policies = [p for path in plan.paths for p in (path.policy or {}).values()]
        outputs = [(p, _slope(p)) for p in policies if p.requires_grad]
        if plan.penalty is not None and plan.penalty.requires_grad:
            outputs.append((plan.penalty, torch.ones_like(plan.penalty)))
        if outputs:
            tensors, grads = zip(*outputs, strict=True)
            torch.autograd.backward(tensors, grads)
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def _answer(self, probe: Probe) -> Probed:
        self.probes.append(probe)
        now, then = (
            torch.tensor([_loss(path.arch, step) for path in probe.paths], dtype=torch.float64)
            for step in (self.step, self.saved or 0)
        )
        before = then if probe.since and self.saved is not None else None
        grads = ({d: _slope(p) for d, p in (path.policy or {}).items()} for path in probe.paths)
        if probe.save:
            self.saved = self.step
        images = probe.images * probe.turn // probe.turns
        images -= probe.images * (probe.turn - 1) // probe.turns
        gradients = tuple(grads) if probe.gradients else ()
        return Probed(now, before, gradients, float(images))


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

    def rehearsals(self) -> Iterator[tuple[SearchSpace, Rehearsal]]:
        """A new sampler of each space, before its first step."""
        for space in self.spaces():
            yield space, Rehearsal(self.make_sampler(space))

    def test_plans_hold_architectures_of_the_space(self) -> None:
        """A plan has at least one path; each is in the space and has a finite weight above zero."""
        for space, run in self.rehearsals():
            for plan in run.go():
                assert plan.paths
                for path in plan.paths:
                    space.check(path.arch)
                    assert np.isfinite(path.weight) and path.weight > 0

    def test_a_teacher_comes_first(self) -> None:
        """Paths that learn from the largest architecture follow it."""
        for space, run in self.rehearsals():
            for plan in run.go():
                taught = [i for i, p in enumerate(plan.paths) if p.target == "largest"]
                teachers = [
                    i
                    for i, p in enumerate(plan.paths)
                    if p.arch == space.largest and p.target == "labels"
                ]
                assert not taught or min(teachers) < min(taught)

    def test_policies_are_the_one_hots_of_their_architectures(self) -> None:
        """Policies in plans and probes are exactly one-hot, and of decisions of the space."""
        for space, run in self.rehearsals():
            paths = [path for plan in run.go() for path in plan.paths]
            paths += [path for probe in run.probes for path in probe.paths]
            for path in paths:
                space.check(path.arch)
                _check_policy(space, path)

    def test_policies_and_penalties_depend_on_its_parameters_alone(self) -> None:
        """What the loop's gradients reach is what its optimiser moves; penalties are numbers."""
        for _, run in self.rehearsals():
            run.go()
            held = {id(p) for p in held_by(run.optimizer)}
            plan = run.plan(1)
            policies = [p for path in plan.paths for p in (path.policy or {}).values()]
            for tensor in policies if plan.penalty is None else [*policies, plan.penalty]:
                assert all(id(leaf) in held for leaf in _leaves(tensor))
            if plan.penalty is not None:
                assert plan.penalty.shape == ()
                assert plan.penalty.isfinite()

    def test_optimisers_are_new_and_of_the_same_parameters(self) -> None:
        """A checkpoint restores one by the order of its parameters."""
        for _, run in self.rehearsals():
            other = run.sampler.optimizer()
            assert (other is None) == (run.optimizer is None)
            if other is not None:
                assert other is not run.optimizer
                again = held_by(other)
                assert [id(p) for p in again] == [id(p) for p in held_by(run.optimizer)]
                assert all(p.is_leaf and p.requires_grad for p in again)

    def test_same_seed_same_plans(self) -> None:
        """Plans, probes and reports are functions of the seed, the step and what was fed back."""
        for space in self.spaces():
            first, second = (Rehearsal(self.make_sampler(space)) for _ in range(2))
            assert _plain(first.go()) == _plain(second.go())
            assert _plain(first.probes) == _plain(second.probes)
            assert first.reports == second.reports

    def test_a_plan_is_a_function_of_state_generator_and_step(self) -> None:
        """Planning changes nothing: in some steps of a run no feedback follows."""
        for _, run in self.rehearsals():
            run.go()
            state = _plain(run.sampler.state_dict())
            first = _plain(run.plan(1))
            run.plan(2)
            assert _plain(run.plan(1)) == first
            assert _plain(run.sampler.state_dict()) == state

    def test_only_who_says_so_probes(self) -> None:
        """A sampler without `probes` asks nothing; one that probes asks for at least one image."""
        for _, run in self.rehearsals():
            run.go(steps=2 * STEPS)
            assert run.sampler.probes or not run.probes
            assert all(probe.images >= 1 for probe in run.probes)

    def test_reports_are_records(self) -> None:
        """A report is JSON without infinities, and leaves `step` and `schema` to the loop."""
        for _, run in self.rehearsals():
            run.go(steps=2 * STEPS)
            for report in run.reports:
                json.dumps(report, allow_nan=False)
                assert not {"step", "schema"} & set(report)

    def test_state_restores(self) -> None:
        """A sampler with the state of another, and its optimiser, goes on as that one would."""
        for space in self.spaces():
            run, copy = (Rehearsal(self.make_sampler(space)) for _ in range(2))
            run.go()
            copy.sampler.load_state_dict(_saved(run.sampler.state_dict()))
            copy.step, copy.saved = run.step, run.saved
            if run.optimizer is not None and copy.optimizer is not None:
                copy.optimizer.load_state_dict(_saved(run.optimizer.state_dict()))
            assert _plain(run.go(1)) == _plain(copy.go(1))
            assert _plain(run.sampler.state_dict()) == _plain(copy.sampler.state_dict())

    def test_what_it_knows_beyond_the_contract_is_part_of_its_state(self) -> None:
        """A pool holds encodings of the space; it and the end of training are restored."""
        for space in self.spaces():
            run, copy = (Rehearsal(self.make_sampler(space)) for _ in range(2))
            run.go(steps=2 * STEPS)
            copy.sampler.load_state_dict(_saved(run.sampler.state_dict()))
            if isinstance(run.sampler, Pools) and isinstance(copy.sampler, Pools):
                assert run.sampler.pool() == copy.sampler.pool()
                for arch in run.sampler.pool():
                    space.check(arch)
            ends, again = ending_early(run.sampler), ending_early(copy.sampler)
            if ends is not None and again is not None:
                assert ends.ended == again.ended

    def test_one_that_narrows_draws_from_the_view(self) -> None:
        """In a view only what it allows is planned, taught by its largest, also when restored."""
        for space in self.spaces():
            run, copy = (Rehearsal(self.make_sampler(space)) for _ in range(2))
            narrows, again = narrowing(run.sampler), narrowing(copy.sampler)
            if narrows is None or again is None:
                continue
            run.go()
            view = space.restricted(
                {d: range(1, len(d.options)) for d in space.decisions if len(d.options) > 1}
            )
            for each, since in ((narrows, run.step), (again, run.step)):
                each.narrow(view, since)
            copy.sampler.load_state_dict(_saved(run.sampler.state_dict()))
            copy.step, copy.saved = run.step, run.saved
            plans = run.go()
            assert _plain(plans) == _plain(copy.go())
            for plan in plans:
                archs = [path.arch for path in plan.paths]
                assert all(arch in view for arch in archs)
                taught = [i for i, path in enumerate(plan.paths) if path.target == "largest"]
                assert not taught or view.largest in archs[: min(taught)]

    def test_global_random_streams_are_untouched(self) -> None:
        """It draws from the generators it is given."""
        before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        for _, run in self.rehearsals():
            run.go()
        assert torch.equal(before[0], torch.get_rng_state())
        assert str(before[1]) == str(np.random.get_state())  # noqa: NPY002


def _loss(arch: Arch, step: int) -> float:
    return math.exp(-(1 + sum(arch)) * step / (4 * STEPS))


def _norm(plan: Plan) -> float:
    return sum(path.weight * (1 + sum(path.arch)) for path in plan.paths)


def _slope(policy: Tensor) -> Tensor:
    return torch.linspace(-1, 1, len(policy), dtype=policy.dtype)


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    """What a backward pass from a tensor reaches."""
    if tensor.is_leaf and tensor.requires_grad:
        yield tensor
    seen: set[Any] = set()
    nodes: list[Any] = [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [following for following, _ in node.next_functions]


def _check_policy(space: SearchSpace, path: PlannedPath) -> None:
    chosen = dict(zip(space.decisions, path.arch, strict=True))
    for decision, policy in (path.policy or {}).items():
        one_hot = [float(i == chosen[decision]) for i in range(len(decision.options))]
        assert policy.is_floating_point()
        if path.masks in MIXING:
            assert policy.shape == (len(one_hot),)
            assert all(map(math.isfinite, policy.tolist()))
            assert policy.any()
        else:
            assert policy.tolist() == one_hot
    assert path.masks in get_args(MaskMode)


def _plain(value: Any) -> Any:
    """Nested values with tensors as bytes, to be compared; nan equals nan."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes()
    if isinstance(value, Plan | PlannedPath | Probe):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return repr(value)


def _saved(state: dict[str, Any]) -> Any:
    """A state as a checkpoint gives it back: no pickled code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
