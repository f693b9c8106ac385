"""Views of a space: the same decisions and indices, of which only some options are allowed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from test_space_canonical import networks, written_out

from manyshot.space import Commutation, Decision, SearchSpace

QUICK = settings(deadline=None, derandomize=True, max_examples=60)


@st.composite
def views(draw):
    """A network and a view of its space."""
    space, tree, groups = draw(networks())
    allowed = {
        d: draw(st.sets(st.integers(0, len(d.options) - 1), min_size=1))
        for d in space.decisions
        if draw(st.booleans())
    }
    return space, space.restricted(allowed), (tree, groups)


@QUICK
@given(views(), st.integers(0, 2**32))
def test_the_canonical_encoding_of_a_member_is_a_member(drawn, seed: int) -> None:
    """And the same network; a network is a member if, and only if, an encoding of it is allowed."""
    space, view, (tree, groups) = drawn
    rng = np.random.default_rng(seed)
    networks_of = set()
    for arch in view.enumerate():
        canonical = view.canonical(arch)
        assert arch in view and canonical in view and view.check(canonical) == canonical
        assert view.canonical(canonical) == canonical
        assert view.from_text(view.to_text(canonical)) == canonical
        written = written_out(space, tree, groups, arch)
        assert written_out(space, tree, groups, canonical) == written
        assert written_out(space, tree, groups, view.inside(canonical)) == written
        networks_of.add(written_out(space, tree, [], arch))
    for arch in space.enumerate():
        if not view.commutations:
            assert (arch in view) == (written_out(space, tree, [], arch) in networks_of)
    one, other = (view.canonical(view.sample(rng)) for _ in range(2))
    for child in (view.mutate(one, rng, 0.7), view.crossover(one, other, rng)):
        allowed = zip(child, view.allowed, strict=True)
        assert all(option in options for option, options in allowed)


@QUICK
@given(views())
def test_what_is_listed_is_what_is_allowed(drawn) -> None:
    space, view, _ = drawn
    listed = list(view.enumerate())
    assert len(listed) == view.size and set(listed) <= set(space.enumerate())
    assert listed == sorted(itertools.product(*view.allowed))
    assert view.is_view == (view.size < space.size) and view.whole is space is space.whole
    for end, pick in (("smallest", min), ("largest", max)):
        for i, d in enumerate(space.decisions):
            ranks = [space.ranks(d)[o] for o in view.allowed[i]]
            assert space.ranks(d)[getattr(view, end)[i]] == pick(ranks)
    covered = [set(column) for column in zip(*view.cover(np.random.default_rng(0)), strict=True)]
    assert covered == [set(options) for options in view.allowed]
    again = SearchSpace.from_dict(view.to_dict())
    assert (again.allowed, again.to_dict()) == (view.allowed, view.to_dict())


def flat(*counts: int) -> SearchSpace:
    return SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate(counts)])


def test_draws_are_uniform_over_what_is_allowed() -> None:
    space = flat(3, 4)
    view = space.restricted({space.decisions[0]: {0, 2}, space.decisions[1]: [1, 2, 3]})
    drawn = view.draw(np.random.default_rng(0), 6000)
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    assert kinds.tolist() == [list(arch) for arch in view.enumerate()]
    assert chisquare(counts).pvalue > 1e-3


def test_a_whole_space_draws_the_numbers_that_it_always_drew() -> None:
    """Records of before stay what they are."""
    space = flat(3, 4, 1, 5)
    drawn = space.draw(np.random.default_rng(7), 50)
    assert np.array_equal(drawn, np.random.default_rng(7).integers(space.counts, size=(50, 4)))
    rng, numpy_alone = np.random.default_rng(8), np.random.default_rng(8)
    assert space.sample(rng) == tuple(numpy_alone.integers(space.counts))


def test_a_view_of_a_view_only_loses_options() -> None:
    space = flat(3, 4)
    one, other = space.decisions
    view = space.restricted({one: {0, 2}})
    inner = view.restricted({other: {1}})
    assert inner.allowed == ((0, 2), (1,)) and inner.whole is space
    with pytest.raises(ValueError, match=r"d0: option 1 is not among \[0, 2\].*space.whole"):
        view.restricted({one: {1, 2}})
    with pytest.raises(ValueError, match="d0: options .* at least one of 0..2"):
        view.restricted({one: ()})
    with pytest.raises(ValueError, match="not in this space"):
        view.restricted({Decision((0, 1), "other"): {0}})
    with pytest.raises(ValueError, match=r"d0: option 1 \(1\) is not allowed in this view"):
        view.check((1, 0))
    assert (1, 0) not in view and (2, 3) in view and (2, 4) not in view


def test_decisions_commute_while_the_same_options_are_allowed() -> None:
    """Else the representative could be one whose weights are trained no more."""
    ops = tuple(Decision(("identity", "conv"), f"op{i}") for i in range(2))
    space = SearchSpace(ops, commutations=[Commutation(ops, 0)])
    assert space.canonical((0, 1)) == (1, 0)
    view = space.restricted({ops[0]: {0}})
    assert view.canonical((0, 1)) == (0, 1)


def test_a_change_is_to_an_allowed_option():
    whole = SearchSpace([Decision((0, 1, 2, 3), name) for name in "abc"])
    first, second, _ = whole.decisions
    view = whole.restricted({first: (0, 2, 3), second: (1,)})
    rng = np.random.default_rng(0)
    for _ in range(100):
        arch = view.sample(rng)
        changed = view.change(arch, rng)
        view.check(changed)
        assert sum(a != b for a, b in zip(arch, changed, strict=True)) == 1
