"""Samplers: what they draw, how often, and what they refuse."""

import collections

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import manyshot as ms
from manyshot.cost import CostTable
from manyshot.train import (
    ConditionalTable,
    Fair,
    Only,
    Plan,
    PlannedPath,
    Sandwich,
    ShiftNAS,
    ShiftNASOptions,
    Stateless,
    Uniform,
    make_sampler,
)
from manyshot.train.samplers.complexity import Grid


@pytest.fixture
def space() -> ms.SearchSpace:
    """Unequal numbers of options: 2, 3 and 5."""
    sizes = {"width": (8, 16), "depth": (1, 2, 3), "kernel": (1, 3, 5, 7, 9)}
    return ms.SearchSpace([ms.choose(values, name) for name, values in sizes.items()])


@pytest.fixture
def equal() -> ms.SearchSpace:
    return ms.SearchSpace([ms.choose((1, 2, 3), f"d{i}") for i in range(4)])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_uniform_draws_every_option_equally_often_and_independently(space):
    sampler, generator = Uniform(space, paths=3), rng()
    archs = [p.arch for step in range(2000) for p in sampler.plan(generator, step).paths]
    for i, count in enumerate(space.counts.tolist()):
        observed = np.bincount([a[i] for a in archs], minlength=count)
        assert chisquare(observed).pvalue > 1e-3
    pairs = collections.Counter(a[1:] for a in archs)
    assert len(pairs) == 15
    assert chisquare(list(pairs.values())).pvalue > 1e-3


def test_uniform_trains_the_mean_of_its_paths(space):
    plan = Uniform(space, paths=4).plan(rng(), 0)
    assert [path.weight for path in plan.paths] == [0.25] * 4
    assert {path.target for path in plan.paths} == {"labels"}


def test_fair_takes_every_option_exactly_once_per_step(equal):
    sampler = Fair(equal)
    for step in range(50):
        archs = np.array([path.arch for path in sampler.plan(rng(step), step).paths])
        assert archs.shape == (3, 4)
        assert (np.sort(archs, axis=0) == np.arange(3)[:, None]).all()


def test_fair_pairs_options_at_random(equal):
    """A bug that used one permutation for all decisions would give (i, i, i, i) only."""
    plans = (Fair(equal).plan(rng(seed), 0) for seed in range(600))
    first = collections.Counter(p.arch[:2] for plan in plans for p in plan.paths)
    assert len(first) == 9
    assert chisquare(list(first.values())).pvalue > 1e-3


def test_fair_repeats_options_where_there_are_fewer(space):
    totals = [np.zeros(n, int) for n in space.counts]
    for step in range(300):
        archs = np.array([path.arch for path in Fair(space).plan(rng(step), step).paths])
        assert len(archs) == 5
        for i, n in enumerate(space.counts.tolist()):
            counts = np.bincount(archs[:, i], minlength=n)
            assert counts.max() - counts.min() <= 1
            totals[i] += counts
    for observed in totals:
        assert chisquare(observed).pvalue > 1e-3  # what the last round leaves out is random


@pytest.mark.parametrize("random", [0, 1, 3])
def test_sandwich_is_largest_smallest_and_random(space, random):
    drawn = []
    for seed in range(100):
        plan = Sandwich(space, random=random).plan(rng(seed), 0)
        assert len(plan.paths) == 2 + random
        assert plan.paths[0] == PlannedPath(space.largest)
        assert plan.paths[1] == PlannedPath(space.smallest, target="largest")
        assert {path.weight for path in plan.paths} == {1.0}
        assert {path.target for path in plan.paths[1:]} == {"largest"}
        drawn += [path.arch for path in plan.paths[2:]]
    assert len(set(drawn)) == (0 if random == 0 else 30)


def test_sandwich_without_distillation_learns_labels(space):
    plan = Sandwich(space, distil=False).plan(rng(), 0)
    assert {path.target for path in plan.paths} == {"labels"}


def test_only_never_changes():
    assert [Only((1, 0)).plan(rng(i), i) for i in range(3)] == [Plan((PlannedPath((1, 0)),))] * 3


@pytest.mark.parametrize("name", ["uniform", "fair", "sandwich"])
def test_a_plan_is_a_function_of_the_generator(space, name):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = make_sampler(name, space, {}), make_sampler(name, space, {})
    two.plan(rng(9), 0)  # no hidden state
    for step in range(5):
        assert one.plan(rng(step), step) == two.plan(rng(step), step)
    assert one.plan(rng(0), 0) != one.plan(rng(1), 0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert one.state_dict() == {}
    one.load_state_dict({})
    with pytest.raises(ValueError, match=r"has no state, got \['theta'\]"):
        one.load_state_dict({"theta": 1})


def my_sampler(space: ms.SearchSpace, paths: int = 2) -> Uniform:
    return Uniform(space, paths=paths)


def test_make_sampler_imports_factories(space):
    made = make_sampler(f"{__name__}:my_sampler", space, {"paths": 5})
    assert isinstance(made, Uniform)
    assert made.paths == 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "unform",
            {},
            "unknown sampler 'unform'; did you mean 'uniform'? have balanced, complement, fair, "
            "greedy, mct, pada, relaxed, sandwich, shiftnas, sparse, table, uniform, "
            "uniform_cost, or give package.module:attribute",
        ),
        ("uniform", {"path": 2}, "no option 'path'; did you mean 'paths'? it has paths"),
        ("fair", {"paths": 2}, "sampler 'fair' has no option 'paths'; it has none"),
        ("shiftnas", {}, "sampler 'shiftnas' needs costs"),
        ("table", {}, "sampler 'table' needs costs"),
    ],
)
def test_make_sampler_says_what_is_wrong(space, name, options, message):
    with pytest.raises(ValueError) as caught:
        make_sampler(name, space, options)
    assert message in str(caught.value)


# -- samplers of costs -------------------------------------------------------------------------


@pytest.fixture
def costs(space) -> dict[str, CostTable]:
    """MACs from 0 to 7: the sum of option indices; twice as many parameters."""
    tables = {(i,): np.arange(n) for i, n in enumerate((2, 3, 5))}
    macs = CostTable("macs", (2, 3, 5), 0, tables)
    return {"macs": macs, "params": CostTable.of("params", (2, 3, 5), [*tables.items()] * 2)}


def test_options_of_shift_are_the_fields_of_its_configuration(space, costs):
    made = make_sampler("shiftnas", space, {"metric": "params", "hidden": 8}, costs=costs, seed=3)
    assert isinstance(made, ShiftNAS)
    assert (made.options, made.metric) == (ShiftNASOptions(metric="params", hidden=8), "params")
    assert made.table is costs["params"]
    twin = ShiftNAS(space, costs, ShiftNASOptions(metric="params", hidden=8), seed=3)
    other = make_sampler("shiftnas", space, {"metric": "params", "hidden": 8}, costs=costs, seed=4)
    cells = [sampler.generator.cell.weight_hh for sampler in (made, twin, other)]
    assert torch.equal(cells[0], cells[1])
    assert not torch.equal(cells[0], cells[2])
    assert make_sampler("shiftnas", space, {}, costs=costs).options == ShiftNASOptions()


def test_uniform_cost_is_shift_that_does_not_learn(space, costs):
    made = make_sampler("uniform_cost", space, {"hidden": 8, "period": 7}, costs=costs)
    assert made.options == ShiftNASOptions(hidden=8, period=7)
    assert not made.probes
    assert made.probe(rng(), 700, 1000) is None


@pytest.mark.parametrize("grid", [[1, 7, 2], [1.0, 7.0, 2.0], (1, 7.0, 2), Grid(1, 7, 2)])
@pytest.mark.parametrize("name", ["shiftnas", "uniform_cost", "table"])
def test_a_grid_may_be_three_numbers(space, costs, name, grid):
    made = make_sampler(name, space, {"grid": grid}, costs=costs)
    assert made.grid == Grid(1.0, 7.0, 2.0)


def test_the_table_gets_costs_a_seed_and_its_own_options(space, costs):
    options = {"metric": "params", "grid": [0, 14, 2], "draws": 50}
    one, same, other = (
        make_sampler("table", space, options, costs=costs, seed=seed) for seed in (1, 1, 2)
    )
    assert isinstance(one, ConditionalTable)
    assert one.cost is costs["params"]
    assert sum(map(len, one.members)) == 50
    assert all(np.array_equal(a, b) for a, b in zip(one.members, same.members, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one.members, other.members, strict=True))


def with_seed(space: ms.SearchSpace, *, seed: int) -> Uniform:
    return Uniform(space, paths=seed)


def test_others_samplers_get_what_they_take(space, costs):
    assert make_sampler(f"{__name__}:with_seed", space, {}, costs=costs, seed=4).paths == 4
    assert make_sampler("uniform", space, {}, costs=costs, seed=4).paths == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "shiftnas",
            {"perod": 3},
            "has no option 'perod'; did you mean 'period'? it has metric, grid",
        ),
        ("shiftnas", {"seed": 3}, "sampler 'shiftnas' has no option 'seed'"),
        ("uniform_cost", {"config": 3}, "sampler 'uniform_cost' has no option 'config'"),
        ("shiftnas", {"metric": "flops"}, "no costs for metric 'flops', have macs, params"),
        ("table", {"metric": "flops"}, "no costs for metric 'flops'; have ['macs', 'params']"),
        ("shiftnas", {"grid": [1, 7]}, "a grid is (lo, hi, step), three numbers, got [1.0, 7.0]"),
        ("table", {"grid": [1, 9, 2]}, "not all within the reachable 0 .. 7"),
    ],
)
def test_make_sampler_says_what_is_wrong_with_costs(space, costs, name, options, message):
    with pytest.raises(ValueError) as caught:
        make_sampler(name, space, options, costs=costs)
    assert message in str(caught.value)


class Plain(Stateless):
    """A type of its space that is not there."""

    def __init__(self, space: "NotImported", config: int = 3) -> None:  # noqa: F821
        self.space, self.config = space, config

    def plan(self, rng, step):
        return Plan((PlannedPath(self.space.smallest),))


class Old:
    def __init__(self, space):
        pass

    plan = feedback = state_dict = load_state_dict = None


def test_samplers_of_users_are_taken_or_refused_with_the_way_out(space):
    assert make_sampler(f"{__name__}:Plain", space, {"config": 5}).config == 5
    with pytest.raises(ValueError, match=r"has no optimizer, probe, report; what it.*plan.Sampler"):
        make_sampler(f"{__name__}:Old", space, {})
    with pytest.raises(ValueError, match="has no option 'costs'"):
        make_sampler("table", space, {"costs": "x"}, costs={})
