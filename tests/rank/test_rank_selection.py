"""Frozen sets: which architectures they hold, and which weights they may judge."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyshot.rank import FrozenSet
from manyshot.search import best

ARCHS = list(itertools.product(range(3), repeat=2))


@given(st.permutations(ARCHS), st.lists(st.integers(0, 2), min_size=9, max_size=9), st.data())
def test_top_orders_as_search_does(archs, scores, data) -> None:
    k = data.draw(st.integers(1, 9))
    chosen = FrozenSet.top("top", archs, scores, k)
    assert list(chosen.archs) == best(dict(zip(archs, scores, strict=True)), k=k)


def test_top_by_hand() -> None:
    chosen = FrozenSet.top("L-pred(3)", [(2,), (1,), (0,), (3,)], [0.5, 0.5, 0.1, 0.9], 3, 7)
    assert chosen == FrozenSet("L-pred(3)", ((3,), (1,), (2,)), 7)
    assert FrozenSet.top("one", [(0,)], [0.1], 1).weights_version == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.name = "other"


def test_top_takes_what_reading_a_file_gives() -> None:
    """Lists for tuples, an array of scores: the set is of tuples all the same."""
    chosen = FrozenSet.top("top", [[0, 1], [1, 0]], np.array([0.1, 0.2]), 2)
    assert chosen == FrozenSet("top", ((1, 0), (0, 1)))


def test_top_checks_what_it_gets() -> None:
    archs = [(0,), (1,), (2,)]
    with pytest.raises(ValueError, match="'top' got 3 architectures, 2 scores"):
        FrozenSet.top("top", archs, [1.0, 2.0], 1)
    with pytest.raises(ValueError, match=r"'top'.*score of \(1,\) is nan"):
        FrozenSet.top("top", archs, [1.0, float("nan"), 2.0], 1)
    with pytest.raises(ValueError, match=r"'top' has 1 architectures more than once.*\(0,\)"):
        FrozenSet.top("top", [(0,), (1,), (0,)], [1.0, 3.0, 2.0], 1)  # though not chosen
    for k in (0, -1, 4):
        with pytest.raises(ValueError, match=rf"'top' needs k in 1\.\.3, got {k}"):
            FrozenSet.top("top", archs, [1.0, 2.0, 3.0], k)
    with pytest.raises(ValueError, match=r"k in 1\.\.0"):
        FrozenSet.top("top", [], [], 1)


def test_a_set_has_a_name_distinct_architectures_and_a_version() -> None:
    with pytest.raises(ValueError, match="empty name"):
        FrozenSet("", ((0,),))
    with pytest.raises(ValueError, match="'global' has no architecture"):
        FrozenSet("global", ())
    with pytest.raises(ValueError, match=r"'global' has 2 .*more than once, such as \(1,\)"):
        FrozenSet("global", ((0,), (1,), (1,), (2,), (2,)))
    with pytest.raises(ValueError, match="'global' needs weights_version >= 0, got -1"):
        FrozenSet("global", ((0,),), -1)


@pytest.mark.parametrize(
    ("chosen_by", "version", "allowed"),
    [
        (0, 0, True),  # before any shifting there is nothing to favour
        (0, 1, True),
        (0, 9, True),
        (1, 2, True),
        (1, 1, False),  # by the weights under test
        (3, 1, False),  # by later ones
        (3, 3, False),
        (3, 4, True),
    ],
)
def test_weights_do_not_judge_what_they_chose(chosen_by, version, allowed) -> None:
    chosen = FrozenSet("L-pred(1)", ((0,),), chosen_by)
    if allowed:
        chosen.check_before(version)
        return
    pattern = rf"'L-pred\(1\)'.*version {chosen_by} .*version {version}: .*before shifting.*another"
    with pytest.raises(ValueError, match=pattern):
        chosen.check_before(version)


def test_versions_start_at_zero() -> None:
    with pytest.raises(ValueError, match="start at 0, got -1"):
        FrozenSet("global", ((0,),)).check_before(-1)
