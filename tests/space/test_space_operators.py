"""Drawing, listing and varying architectures."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from manyshot.space import Arch, Decision, SearchSpace

QUICK = settings(deadline=None, derandomize=True, max_examples=60)
COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def flat(counts) -> SearchSpace:
    return SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate(counts)])


@QUICK
@given(COUNTS)
def test_enumerate_gives_every_encoding_once_in_order(counts: list[int]) -> None:
    space = flat(counts)
    encodings = list(space.enumerate())
    assert encodings == sorted(set(encodings))
    assert len(encodings) == space.size == np.prod(counts)
    assert all(space.check(arch) == arch for arch in encodings)


@QUICK
@given(COUNTS, st.integers(0, 2**32), st.floats(0, 1))
def test_children_stay_in_the_space_and_genes_come_from_a_parent(
    counts: list[int], seed: int, probability: float
) -> None:
    space, rng = flat(counts), np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    assert all(c in (x, y) for c, x, y in zip(child, a, b, strict=True))
    for arch in (child, space.mutate(a, rng, probability)):
        assert space.check(arch) == arch and all(type(option) is int for option in arch)
    assert space.mutate(a, rng, 0.0) == a


def test_crossover_takes_each_gene_from_either_with_one_half() -> None:
    space, rng, n = flat([2] * 8), np.random.default_rng(0), 4000
    ones = np.sum([space.crossover((0,) * 8, (1,) * 8, rng) for _ in range(n)], axis=0)
    assert chisquare(np.concatenate([ones, n - ones])).pvalue > 1e-3


@pytest.mark.parametrize("draw", ["sample", "mutate"])
def test_uniform_draws(draw: str) -> None:
    """`sample`, and `mutate` with probability one: every combination is equally likely."""
    space, rng = flat([2, 3, 4]), np.random.default_rng(1)
    draws: dict[str, Arch] = {}
    one = space.sample if draw == "sample" else lambda r: space.mutate((1, 2, 3), r, 1.0)
    draws = Counter(one(rng) for _ in range(12_000))
    assert len(draws) == 24
    assert chisquare(list(draws.values())).pvalue > 1e-3


def test_probability_that_a_mutant_is_a_copy() -> None:
    space, rng, n = flat([4] * 20), np.random.default_rng(2), 10_000
    parent = space.sample(rng)
    copies = sum(space.mutate(parent, rng, 0.1) == parent for _ in range(n))
    expected = (1 - 0.1 * (1 - 1 / 4)) ** 20
    assert expected == pytest.approx(0.210, abs=5e-4)
    assert abs(copies / n - expected) < 3 * np.sqrt(expected * (1 - expected) / n)


def test_bad_probability_and_bad_architectures() -> None:
    space, rng = flat([2, 3]), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        space.mutate((0, 0), rng, 1.5)
    for bad in ((0, 3), (0, -1)):
        with pytest.raises(ValueError, match=rf"d1: option {bad[1]} is not in 0..2 \(0, 1, 2\)"):
            space.check(bad)
        for use in (space.canonical, space.to_text, space.one_hot, space.choices):
            with pytest.raises(ValueError, match="d1: option"):
                use(bad)
    with pytest.raises(ValueError, match="has 3 entries; this space has 2 decisions"):
        space.crossover((0, 0), (0, 0, 0), rng)


def test_smallest_and_largest_rank_sizes_by_value_and_names_by_record() -> None:
    width, ratio = Decision((24, 16, 32), "width"), Decision((6, 3), "ratio")
    op, tied = Decision(("big", "none", "mid"), "op"), Decision(("a", "b"), "tied")
    ranks = {op: (900, 0, 80), tied: (5, 5)}
    space = SearchSpace([width, ratio, op, tied], ranks=ranks)
    assert space.smallest == (1, 1, 1, 0)
    assert space.largest == (2, 0, 0, 0)


def test_one_hot_is_the_concatenation() -> None:
    vector = flat([2, 3, 1]).one_hot((1, 0, 0))
    assert vector.tolist() == [0, 1, 1, 0, 0, 1] and vector.dtype == np.float32


def test_no_global_random_state_is_touched() -> None:
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    space, rng = flat([3, 3]), np.random.default_rng(0)
    space.crossover(space.sample(rng), space.mutate((0, 0), rng), rng)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 9))
def test_a_cover_contains_every_option(counts, least, seed):
    space = SearchSpace([Decision(range(n), f"d{i}") for i, n in enumerate(counts)])
    archs = space.cover(np.random.default_rng(seed), least)
    assert len(archs) == max(least, *counts)
    for position, count in enumerate(counts):
        assert {space.check(arch)[position] for arch in archs} == set(range(count))
