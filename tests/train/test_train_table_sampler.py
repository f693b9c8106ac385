"""The grid of costs; the conditional table: its bins, frequencies, and what it does in a miss."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2_contingency, chisquare

import manyshot as ms
from manyshot.cost import CostTable
from manyshot.testing.samplers import SamplerSuite
from manyshot.train import Probed, Sampler
from manyshot.train.samplers.complexity import Grid
from manyshot.train.samplers.table import ConditionalTable


def costs_of(space: ms.SearchSpace) -> dict[str, CostTable]:
    """Each decision costs its option's index; the first two also cost their product."""
    counts = space.counts.tolist()
    tables = {(i,): np.arange(n) for i, n in enumerate(counts)}
    if len(counts) > 1:
        tables[0, 1] = np.outer(np.arange(counts[0]), np.arange(counts[1]))
    return {"macs": CostTable("macs", tuple(counts), 1, tables)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def additive(metric: str, *costs: list[float]) -> tuple[CostTable, ms.SearchSpace]:
    """A table that adds up one cost per decision, and its space."""
    space = ms.SearchSpace([ms.choose(range(len(c)), f"d{i}") for i, c in enumerate(costs)])
    tables = {(i,): np.array(c) for i, c in enumerate(costs)}
    return CostTable(metric, tuple(map(len, costs)), 0, tables), space


def drawn(sampler: ConditionalTable, steps: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = rng(seed)
    return [sampler.plan(generator, step).paths[0].arch for step in range(steps)]


# -- grid ----------------------------------------------------------------------------------


def test_grid_of_the_paper():
    """ViT-T: 1.3 G, 1.4 G, ..., 2.0 G."""
    grid = Grid(1_300_000_000, 2_000_000_000, 100_000_000)
    assert len(grid) == 8
    assert grid.centres.tolist() == [1.3e9, 1.4e9, 1.5e9, 1.6e9, 1.7e9, 1.8e9, 1.9e9, 2.0e9]
    costs = [1_249_999_999, 1_250_000_000, 1_349_999_999, 1_350_000_000, 2_049_999_999, 2.05e9]
    assert grid.bin_of(costs).tolist() == [-1, 0, 0, 1, 7, -1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(-50, 50), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_bins_are_half_open_around_their_centres(lo, step, bins, seed):
    grid = Grid(lo, lo + (bins - 1) * step, step)
    costs = rng(seed).integers(lo - 2 * step, grid.hi + 2 * step, 20)
    half = Fraction(step, 2)
    by_hand = [
        next((k for k in range(bins) if -half <= int(c) - (lo + k * step) < half), -1)
        for c in costs
    ]
    assert grid.bin_of(costs).tolist() == by_hand
    assert grid.bin_of(costs.reshape(4, 5)).tolist() == np.reshape(by_hand, (4, 5)).tolist()


def test_steps_may_be_no_exact_floats():
    """(3.5 - 0.7) / 0.4 is 6.999999999999999."""
    grid = Grid(0.7, 3.5, 0.4)
    assert len(grid) == 8
    assert grid.bin_of(grid.centres).tolist() == list(range(8))
    assert grid.bin_of(math.nan) == -1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2, 0), "all must be finite, and step above zero"),
        ((1, math.inf, 1), "all must be finite"),
        ((2, 1, 0.5), r"Grid\(lo=2, hi=1, step=0.5\): hi must be at least lo"),
        (
            (1, 2, 0.3),
            "hi is 3.33333 steps above lo.* hi = 1.9 or 2.2 would fit, or step = 0.33333",
        ),
    ],
)
def test_grid_says_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        Grid(*values)


def test_check_knows_the_exact_range():
    table, _ = additive("macs", [10, 20], [0, 3000])
    Grid(10, 3020, 301).check(table)
    for lo, hi in ((9, 3020), (10, 3021)):
        grid = Grid(lo, hi, hi - lo)
        with pytest.raises(ValueError, match=r"macs: .* reachable 10 .. 3,020; choose lo and hi"):
            grid.check(table)


def test_grids_as_options_state_them():
    table, space = additive("macs", [10, 20], [0, 30])
    grid = Grid(15, 45, 10)
    assert Grid.given(grid, table, space) == Grid.given([15, 45, 10], table, space) == grid
    assert Grid.given(None, table, space, bins=3, seed=2) == Grid.of(table, space, 3, 2)
    for wrong in (Grid(15, 55, 10), (15, 55, 10)):
        with pytest.raises(ValueError, match="not all within"):
            Grid.given(wrong, table, space)
    with pytest.raises(
        ValueError, match=r"a grid is \(lo, hi, step\), three numbers, got \[15, 45\]"
    ):
        Grid.given((15, 45), table, space)


def test_automatic_grid_of_a_binomial():
    """40 decisions of 0 or 1,000: the cost is 1,000 times Binomial(40, 1/2)."""
    low, high = 1000 * binom.ppf([0.025, 0.975], 40, 0.5)
    assert (low, high) == (14000, 26000)
    table, space = additive("macs", *[[0, 1000]] * 40)
    # 12,000 / 7 = 1714 -> 1700; (40,000 - 7 * 1700) / 2 = 14,050 -> 14,000 (half to even)
    assert Grid.of(table, space) == Grid(14000, 25900, 1700)
    assert Grid.of(table, space, bins=1) == Grid(20000, 20000, 12000)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=4), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_automatic_grids_are_reachable_and_have_readable_steps(costs, bins):
    table, space = additive("latency_ms", *costs)
    try:
        grid = Grid.of(table, space, bins)
    except ValueError as error:
        assert "uniform draws cost" in str(error)
        return
    grid.check(table)
    assert len(grid) == bins
    assert grid.step == float(f"{grid.step:.1e}")
    assert Grid.of(table, space, bins) == grid


def test_no_automatic_grid_of_a_constant():
    table, space = additive("macs", [7000, 7000])
    with pytest.raises(ValueError, match=r"macs: 95% of uniform draws cost 7,000.* give a grid"):
        Grid.of(table, space)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        Grid.of(table, space, bins=0)


# -- table ------------------------------------------------------------------------------


class TestConditionalTable(SamplerSuite):
    def make_sampler(self, space: ms.SearchSpace) -> Sampler:
        return ConditionalTable(space, costs_of(space), draws=500)


class TestBestOfSeveral(SamplerSuite):
    def make_sampler(self, space: ms.SearchSpace) -> Sampler:
        return ConditionalTable(space, costs_of(space), draws=500, choose="best")


@pytest.fixture
def space() -> ms.SearchSpace:
    """24 architectures, of cost 1 to 13."""
    return ms.SearchSpace([ms.choose(range(n), f"d{i}") for i, n in enumerate((3, 4, 2))])


def test_the_table_holds_uniform_draws_by_bin(space):
    table = costs_of(space)["macs"]
    grid = Grid(3, 9, 3)
    sampler = ConditionalTable(space, {"macs": table}, grid=grid, draws=12_000)
    every = Counter(map(tuple, np.concatenate(sampler.members).tolist()))
    inside = [a for a in space.enumerate() if 1.5 <= table([a])[0] < 10.5]
    assert sorted(every) == inside
    # each of the 24 is drawn 500 times on average
    observed = [every[a] for a in inside] + [12_000 - every.total()]
    expected = [500] * len(inside) + [500 * (24 - len(inside))]
    assert chisquare(observed, expected).pvalue > 1e-3
    for k, members in enumerate(sampler.members):
        assert (np.abs(table(members) - grid.centres[k]) <= 1.5).all()


@pytest.mark.parametrize("prior", ["frequency", "uniform"])
def test_plans_hit_their_bins_by_the_prior(space, prior):
    """With 100 attempts a miss has next to no chance, so that bins occur as the prior says."""
    costs, grid = costs_of(space), Grid(2, 12, 2)
    sampler = ConditionalTable(space, costs, grid=grid, draws=3000, prior=prior)
    sizes = np.array([len(members) for members in sampler.members])
    assert sizes.max() > 3 * sizes.min() > 0
    bins = grid.bin_of(costs["macs"](drawn(sampler, 3000)))
    weights = sizes if prior == "frequency" else np.ones(len(sizes))
    counts = np.bincount(bins, minlength=len(sizes))
    assert chisquare(counts, 3000 * weights / weights.sum()).pvalue > 1e-3


def test_empty_bins_are_never_targets():
    """Costs 1 and 11 only: between them nothing can be drawn."""
    space = ms.SearchSpace([ms.choose(range(2), "d")])
    costs = {"macs": CostTable("macs", (2,), 1, {(0,): np.array([0, 10])})}
    sampler = ConditionalTable(space, costs, grid=Grid(1, 11, 5), prior="uniform", attempts=1)
    assert [len(members) > 0 for members in sampler.members] == [True, False, True]
    counts = Counter(drawn(sampler, 1000))
    assert chisquare([counts[0,], counts[1,]]).pvalue > 1e-3


@pytest.mark.parametrize("attempts", [1, 100])
def test_decisions_are_drawn_alone_by_their_frequency_in_the_bin(space, attempts):
    """A product of the frequencies, counted by hand; what is outside is rejected, or nothing is."""
    costs, grid = costs_of(space), Grid(6, 6, 4)
    sampler = ConditionalTable(space, costs, grid=grid, draws=2000, attempts=attempts, seed=3)
    (members,) = sampler.members
    frequency = [Counter(column) for column in members.T.tolist()]
    share = {
        arch: np.prod([f[o] / len(members) for f, o in zip(frequency, arch, strict=True)])
        for arch in space.enumerate()
    }
    outside = [arch for arch in share if grid.bin_of(costs["macs"]([arch])) < 0]
    assert sum(share[arch] for arch in outside) > 0.2
    possible = [a for a in share if share[a] and (attempts == 1 or a not in outside)]
    counts, expected = Counter(drawn(sampler, 4000)), np.array([share[a] for a in possible])
    assert set(counts) <= set(possible)
    observed = [counts[a] for a in possible]
    assert chisquare(observed, 4000 * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_after_the_last_attempt_the_nearest_is_taken(attempts):
    """The cost is Binomial(20, p), p the frequency in the bin at 10: 1/2, up to the table's noise.

    Of so many draws the nearest to 10 is at a distance of d or more with P(one is)^attempts.
    """
    space = ms.SearchSpace([ms.choose(range(2), f"d{i}") for i in range(20)])
    tables = {(i,): np.array([0, 1]) for i in range(20)}
    costs = {"macs": CostTable("macs", (2,) * 20, 0, tables)}
    sampler = ConditionalTable(space, costs, grid=Grid(10, 10, 1), attempts=attempts)
    far = np.abs(costs["macs"](drawn(sampler, 3000)) - 10)
    at_least = [1.0, *(2 * binom.cdf(10 - d, 20, 0.5) for d in (1, 2, 3)), 0.0]
    expected = -np.diff(np.array(at_least) ** attempts)
    observed = np.bincount(np.minimum(far, 3), minlength=4)
    assert chisquare(observed, 3000 * expected).pvalue > 1e-3


def test_plans_are_a_function_of_the_generator_and_the_table_of_its_seed(space):
    costs = costs_of(space)
    one, two, other = (ConditionalTable(space, costs, draws=300, seed=s) for s in (0, 0, 1))
    for first, second in zip(one.members, two.members, strict=True):
        assert (first == second).all()
    assert [len(m) for m in one.members] != [len(m) for m in other.members]
    drawn(two, 3, seed=9)  # no hidden state
    assert drawn(one, 20) == drawn(two, 20) != drawn(one, 20, seed=1)
    assert one.plan(rng(), 5) == one.plan(rng(), 6)
    assert other.grid == Grid.of(costs["macs"], space, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "params"}, r"no costs for metric 'params'; have \['macs'\]"),
        (
            {"grid": Grid(0, 12, 4)},
            "macs: the grid's centres 0 .. 12 are not all within .* 1 .. 13",
        ),
        ({"grid": Grid(2.5, 2.5, 0.5)}, "none of 20,000 uniform draws falls in Grid"),
    ],
)
def test_it_says_what_is_wrong(space, options, message):
    with pytest.raises(ValueError, match=message):
        ConditionalTable(space, costs_of(space), **options)


def test_every_option_is_used(space):
    """Each changes what is drawn."""
    costs = costs_of(space)
    costs["params"] = CostTable(
        "params", (3, 4, 2), 1, {(2,): np.array([0, 5]), (0,): np.arange(3)}
    )
    changes = (
        {},
        {"metric": "params"},
        {"grid": Grid(3, 9, 3)},
        {"draws": 100},
        {"seed": 1},
        {"prior": "uniform"},
        {"attempts": 1},
    )
    runs = [drawn(ConditionalTable(space, costs, **{"draws": 400, **c}), 100) for c in changes]
    assert all(a != b for a, b in itertools.combinations(runs, 2))


# -- the best or worst of several ----------------------------------------------------------


def chosen(sampler, steps, loss):
    """What was compared after each step, and what the next one trains."""
    rows = []
    for step in range(1, steps + 1):
        probe = sampler.probe(rng((step, 0)), step, steps)
        archs = [path.arch for path in probe.paths]
        losses = torch.tensor([loss(arch) for arch in archs], dtype=torch.float64)
        sampler.feedback(sampler.plan(rng(), step), [], Probed(losses))
        rows.append((archs, sampler.plan(rng((step, 1)), step).paths[0].arch))
    return rows


@pytest.mark.parametrize(("choose", "pick"), [("best", min), ("worst", max)])
def test_the_best_or_worst_of_one_bin_is_trained_next(space, choose, pick):
    costs, grid = costs_of(space), Grid(2, 12, 2)
    sampler = ConditionalTable(space, costs, grid=grid, draws=3000, choose=choose, of=4, images=7)

    def loss(arch):
        return float(7 * arch[2] + 3 * arch[1] - arch[0])

    for archs, trained in chosen(sampler, 50, loss):
        assert len(archs) == 4 and len(set(grid.bin_of(costs["macs"](archs)).tolist())) == 1
        assert trained in archs and loss(trained) == pick(map(loss, archs))
    assert sampler.probes and sampler.probe(rng(), 1, 2).images == 7


def test_of_one_there_is_no_choice(space):
    """What is trained is distributed as without one."""
    costs = costs_of(space)
    table = {"draws": 2000, "grid": Grid(2, 12, 2)}
    one = [
        arch
        for _, arch in chosen(
            ConditionalTable(space, costs, choose="best", of=1, **table), 2000, lambda arch: 0.0
        )
    ]
    counts, without = Counter(one), Counter(drawn(ConditionalTable(space, costs, **table), 2000))
    archs = sorted({*counts, *without})
    pair = [[c[a] for a in archs] for c in (counts, without)]
    assert chi2_contingency(pair).pvalue > 1e-3


def test_the_first_step_has_no_choice_and_a_state_goes_on(space):
    costs = costs_of(space)
    sampler = ConditionalTable(space, costs, draws=500, choose="worst")
    plain = ConditionalTable(space, costs, draws=500)
    assert sampler.plan(rng(3), 0) == plain.plan(rng(3), 0)
    assert not plain.probes and plain.state_dict() == {}
    chosen(sampler, 3, sum)
    other = ConditionalTable(space, costs, draws=500, choose="worst")
    other.load_state_dict(sampler.state_dict())
    assert other.plan(rng(), 4) == sampler.plan(rng(9), 4)
    with pytest.raises(ValueError, match="has no state, got"):
        plain.load_state_dict(sampler.state_dict())


@pytest.mark.parametrize("options", [{"of": 2}, {"images": 64}])
def test_options_of_a_choice_need_one(space, options):
    with pytest.raises(ValueError, match="set choose = 'best' or 'worst', or leave them out"):
        ConditionalTable(space, costs_of(space), **options)
