"""Costs of policies: exact on one-hots, expected on probabilities, with the gradient of a swap."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import manyshot as ms
from manyshot.cost import CostTable, PolicyCost
from manyshot.space import Arch, Decision

COUNTS = (2, 3, 1, 4)
SPACE = ms.SearchSpace([ms.choose(range(n), f"d{i}") for i, n in enumerate(COUNTS)])
ARCHS = list(SPACE.enumerate())


def drawn(metric: str, rng: np.random.Generator, scopes: list[tuple[int, ...]]) -> CostTable:
    """Integers up to GMACs, or milliseconds."""
    shapes = {scope: [COUNTS[p] for p in scope] for scope in scopes}
    if metric == "latency_ms":
        tables = {scope: rng.random(shape) for scope, shape in shapes.items()}
        return CostTable(metric, COUNTS, 0.25, tables)
    tables = {scope: rng.integers(0, 10**10, shape) for scope, shape in shapes.items()}
    return CostTable(metric, COUNTS, 7, tables)


def one_hots(archs: list[Arch], space: ms.SearchSpace = SPACE) -> dict[Decision, Tensor]:
    """(N, options) in float32, as a generator gives them."""
    return {
        d: torch.eye(len(d.options))[[arch[i] for arch in archs]].requires_grad_()
        for i, d in enumerate(space.decisions)
    }


@st.composite
def tables(draw: st.DrawFn, metric: str = "macs") -> CostTable:
    scopes = st.sets(st.integers(0, 3), min_size=1, max_size=4).map(lambda s: tuple(sorted(s)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return drawn(metric, rng, sorted(draw(st.sets(scopes, min_size=1, max_size=6))))


def test_a_cost_that_no_decision_changes():
    assert PolicyCost(CostTable("macs", COUNTS, 7, {}), SPACE)(one_hots(ARCHS)).tolist() == [7] * 24


@given(tables())
def test_one_hots_cost_exactly_what_their_architectures_do(table):
    cost = PolicyCost(table, SPACE)
    costs = cost(one_hots(ARCHS))
    assert costs.dtype == torch.float64
    assert costs.tolist() == table(ARCHS).tolist()


@given(tables("latency_ms"))
def test_latency(table):
    """Sums of up to 7 numbers below 1 in another order: rounding is below 1e-14."""
    costs = PolicyCost(table, SPACE)(one_hots(ARCHS))
    np.testing.assert_allclose(costs.detach(), table(ARCHS), rtol=0, atol=1e-14)


@given(tables(), st.sampled_from(ARCHS))
def test_gradients_are_the_changes_of_cost_when_one_decision_moves(table, arch):
    policies = {d: p.detach().double().requires_grad_() for d, p in one_hots([arch]).items()}
    PolicyCost(table, SPACE)(policies).sum().backward()
    for position, decision in enumerate(SPACE.decisions):
        moved = [(*arch[:position], i, *arch[position + 1 :]) for i in range(COUNTS[position])]
        changes = table(moved) - table([arch])
        gradient = policies[decision].grad
        assert (gradient[0] - gradient[0, arch[position]]).tolist() == changes.tolist()


@given(tables(), st.integers(0, 100))
def test_probabilities_cost_their_expectation(table, seed):
    rng = np.random.default_rng(seed)
    chances = [rng.dirichlet(np.ones(n), size=2) for n in COUNTS]
    cost = PolicyCost(table, SPACE)
    got = cost({d: torch.from_numpy(p) for d, p in zip(SPACE.decisions, chances, strict=True)})
    for row in range(2):
        weight = [np.prod([p[row, o] for p, o in zip(chances, a, strict=True)]) for a in ARCHS]
        # 24 terms in float64, the same sum in another order
        np.testing.assert_allclose(got[row], np.dot(weight, table(ARCHS)), rtol=1e-13)


def test_quadratic_costs_have_the_gradient_of_a_swap_which_a_squared_mean_has_not():
    width, ratio = ms.choose((2, 3, 5), "width"), ms.choose((1, 4), "ratio")
    space = ms.SearchSpace([width, ratio])
    w, r = np.array(width.values), np.array(ratio.values)
    cost = PolicyCost(CostTable.of("macs", (3, 2), [((0, 1), w[:, None] ** 2 * r)]), space)
    policies = one_hots([(1, 1)], space)
    cost(policies).sum().backward()
    gradient = policies[width].grad[0]
    assert (gradient - gradient[1]).tolist() == [4 * (4 - 9), 0, 4 * (25 - 9)]
    policies = one_hots([(1, 1)], space)
    mean = (policies[width] @ torch.tensor([2.0, 3, 5])).square() * 4
    mean.sum().backward()
    gradient = policies[width].grad[0]
    assert (gradient - gradient[1]).tolist() == [2 * 3 * 4 * (2 - 3), 0, 2 * 3 * 4 * (5 - 3)]


def test_one_policy_each_gives_a_scalar():
    table = drawn("macs", np.random.default_rng(0), [(0, 1), (3,)])
    single = {d: p[5] for d, p in one_hots(ARCHS).items()}
    cost = PolicyCost(table, SPACE)(single)
    assert cost.shape == ()
    assert cost.item() == table([ARCHS[5]])[0]


def test_tables_of_one_shape_over_other_decisions():
    """They are stacked; decisions of equal counts would hide a permuted axis."""
    decisions = [ms.choose(range(n), f"d{i}") for i, n in enumerate((3, 2, 3, 2, 4))]
    space = ms.SearchSpace(decisions)
    rng = np.random.default_rng(0)
    scopes = [(0, 1), (1, 2), (2, 3), (0, 3), (0, 1, 4), (1, 2, 4), (0, 1, 2, 3, 4)]
    counts = tuple(space.counts.tolist())
    parts = [(s, rng.integers(0, 10**9, [counts[p] for p in s])) for s in scopes]
    table = CostTable.of("macs", counts, parts)
    archs = list(space.enumerate())
    assert PolicyCost(table, space)(one_hots(archs, space)).tolist() == table(archs).tolist()


SINGLE = [(0,), (1,), (2,), (3,)]


def test_additive_is_exact_where_costs_are_additive():
    table = drawn("macs", np.random.default_rng(0), SINGLE)
    cost = PolicyCost(table, SPACE, form="additive")
    assert cost(one_hots(ARCHS)).tolist() == table(ARCHS).tolist()


def test_additive_sums_the_changes_of_single_decisions():
    table = drawn("macs", np.random.default_rng(0), [(0, 1), (1, 3), (0,)])
    cost = PolicyCost(table, SPACE, form="additive")
    base = SPACE.largest
    by_hand = []
    for arch in ARCHS:
        single = [(*base[:i], o, *base[i + 1 :]) for i, o in enumerate(arch)]
        by_hand.append(table([base])[0] + (table(single) - table([base])).sum())
    assert cost(one_hots(ARCHS)).tolist() == by_hand
    assert by_hand != table(ARCHS).tolist()
    around = [a for a in ARCHS if sum(x != y for x, y in zip(a, base, strict=True)) <= 1]
    assert cost(one_hots(around)).tolist() == table(around).tolist()


def test_increments_on_cumulative_masks_are_full_costs_on_one_hots():
    """Eq. 10 multiplies masks, p' = M p, which include the smaller options."""
    table = drawn("macs", np.random.default_rng(0), SINGLE)
    policies = {d: p.detach().double() for d, p in one_hots(ARCHS).items()}
    total = torch.full((len(ARCHS),), table.constant, dtype=torch.float64)
    twice = total.clone()
    for position, decision in enumerate(SPACE.decisions):
        full = torch.from_numpy(table.tables[position,]).double()
        mask = policies[decision] @ torch.ones(len(full), len(full)).tril().double()
        increments = full.diff(prepend=torch.zeros(1))
        total += mask @ increments
        twice += mask @ full
    assert total.tolist() == PolicyCost(table, SPACE, form="additive")(policies).tolist()
    largest = [arch == SPACE.largest for arch in ARCHS]
    counted = sum(int(table.tables[position,].sum()) for (position,) in SINGLE)
    assert twice[largest].item() == table.constant + counted > total[largest].item()


def test_policies_must_agree_with_the_space():
    table = drawn("macs", np.random.default_rng(0), [(0, 1)])
    cost, good = PolicyCost(table, SPACE), one_hots(ARCHS[:3])
    first, second, *others = SPACE.decisions
    with pytest.raises(ValueError, match="macs: no policy for d0, d1; give one for every"):
        cost({d: good[d] for d in others})
    foreign = ms.choose((1, 2), "other")
    with pytest.raises(
        ValueError, match=r"for Decision\(other: 1, 2\), which is not in this network"
    ):
        cost({**good, foreign: torch.eye(2)})
    shapes = {"(3, 4)": torch.ones(3, 4), "(2, 3)": torch.ones(2, 3), "(3,)": torch.ones(3)}
    for shape, wrong in shapes.items():
        with pytest.raises(ValueError) as raised:
            cost({**good, second: wrong})
        assert f"the policy of d1 has shape {shape}; it must be (N, 3)" in str(raised.value)
    with pytest.raises(ValueError, match=r"the policy of d0 has shape \(1, 3, 2\)"):
        cost({d: p[None] for d, p in good.items()})


def test_what_cannot_be_made():
    table = drawn("macs", np.random.default_rng(0), [(0, 1)])
    other = ms.SearchSpace([ms.choose((1, 2), "d0")])
    with pytest.raises(ValueError, match=r"decisions with \(2, 3, 1, 4\) options, the space has"):
        PolicyCost(table, other)
    with pytest.raises(ValueError, match=r"of at least one decision"):
        PolicyCost(CostTable("macs", (), 3, {}), ms.SearchSpace([]))
    with pytest.raises(ValueError, match="form must be one of .*got 'linear'"):
        PolicyCost(table, SPACE, form="linear")
