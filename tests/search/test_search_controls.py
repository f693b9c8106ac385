"""Networks within a budget, against all architectures of small spaces."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyshot.search import Limit
from manyshot.search.controls import largest_within, random_within, scaled_within
from manyshot.space import Decision, SearchSpace

NAMES = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.integers(1, 50), min_size=n, max_size=n, unique=True)
)


def space_of(options):
    return SearchSpace([Decision(tuple(sorted(o)), f"d{i}") for i, o in enumerate(options)])


def total(space):
    """The sum of all options, and what it is by hand."""
    values = [decision.values for decision in space.decisions]

    def cost(archs):
        return [sum(v[o] for v, o in zip(values, arch, strict=True)) for arch in archs]

    return cost


def everything(space):
    return list(itertools.product(*(range(int(n)) for n in space.counts)))


@settings(max_examples=40, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 99))
def test_the_largest_is_within_and_no_single_change_makes_it_larger(options, share, seed):
    space = space_of(options)
    cost = total(space)
    archs = everything(space)
    low, high = min(cost(archs)), max(cost(archs))
    limit = Limit("cost", cost, low + share * (high - low))
    start = random_within(space, limit, np.random.default_rng(seed))
    arch = largest_within(space, limit, [start])
    [reached] = cost([arch])
    assert cost([start])[0] <= reached <= limit.limit
    for other in archs:
        if sum(a != b for a, b in zip(arch, other, strict=True)) == 1:
            assert not reached < cost([other])[0] <= limit.limit


def test_more_starts_find_a_larger_one_where_a_climb_ends_early():
    space = SearchSpace([Decision((0, 10), "a"), Decision((0, 6), "b"), Decision((0, 6), "c")])
    limit = Limit("cost<=12", total(space), 12)
    assert largest_within(space, limit, []) == (1, 0, 0)  # nothing fits beside ten
    assert largest_within(space, limit, [(0, 1, 0)]) == (0, 1, 1)


def test_none_is_within_a_limit_below_all():
    space = space_of([[3, 5], [2, 4]])
    limit = Limit("cost<=1", total(space), 1)
    assert largest_within(space, limit, [space.largest]) is None
    assert scaled_within(space, limit, {"d0", "d1"}) is None
    assert random_within(space, limit, np.random.default_rng(0)) is None


def test_random_ones_are_uniform_over_all_within():
    space = space_of([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    limit = Limit("cost<=5", total(space), 5)
    legal = [arch for arch in everything(space) if total(space)([arch])[0] <= 5]
    draws = [random_within(space, limit, np.random.default_rng(seed)) for seed in range(2000)]
    counts = np.array([draws.count(arch) for arch in legal])
    assert counts.sum() == 2000
    chi2 = ((counts - 2000 / len(legal)) ** 2 / (2000 / len(legal))).sum()
    assert chi2 < 27.9  # the 99.9th percentile at 9 degrees of freedom
    assert len(legal) == 10


def test_the_scaled_one_is_the_largest_share_of_all_widths_that_fits():
    widths = [Decision((16, 32, 48, 64), "a"), Decision((8, 16, 24, 32), "b")]
    space = SearchSpace([*widths, Decision((1, 2), "depth")])
    limit = Limit("cost<=75", total(space), 75)
    assert scaled_within(space, limit, {"a", "b"}) == (2, 2, 1)  # 48 + 24 + 2
    assert scaled_within(space, Limit("c<=73", total(space), 73), {"a", "b"}) == (1, 1, 1)
    assert scaled_within(space, Limit("c<=99", total(space), 99), {"a", "b"}) == space.largest
    assert scaled_within(space, Limit("c<=75", total(space), 75), {"a"}) == (1, 3, 1)  # 32 + 32 + 2


@pytest.mark.parametrize("find", [random_within, largest_within])
def test_they_are_canonical(find):
    import manyshot as ms

    net = ms.Supernet(ms.zoo.tiny(width=3), input_shape=(1, 8, 8))
    macs = ms.cost.macs_table(net)
    limit = Limit("macs", macs, 0.5 * macs([net.space.largest])[0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        arch = find(net.space, limit, rng if find is random_within else [net.space.sample(rng)])
        assert arch == net.space.canonical(arch) and macs([arch])[0] <= limit.limit
