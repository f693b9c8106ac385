"""Limits, picking the best, and what is remembered."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyshot.search import History, Limit, RandomSearch, best, limits_of
from manyshot.space import Commutation, Decision, SearchSpace

SPACE = SearchSpace([Decision((0, 1, 2), f"d{i}") for i in range(3)])
ARCHS = st.tuples(*[st.integers(0, 2)] * 3)


def total(archs) -> np.ndarray:
    assert archs, "a cost function is never called with nothing"
    return np.array([sum(arch) for arch in archs])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.dictionaries(ARCHS, st.sampled_from([0.1, 0.2, 0.3])), st.integers(-1, 7), st.integers(1, 9)
)
def test_best_equals_repeated_scans_for_the_maximum(scores, limit: int, k: int) -> None:
    left, expected = {a: s for a, s in scores.items() if sum(a) <= limit}, []
    while left and len(expected) < k:
        expected.append(min(left, key=lambda a: (-left[a], sum(a), a)))
        del left[expected[-1]]
    assert best(scores, Limit("total", total, limit), k) == expected


def test_best_without_a_limit_and_bad_k() -> None:
    assert best({(0, 1, 0): 0.5, (0, 0, 1): 0.5, (2, 2, 2): 0.4}, k=2) == [(0, 0, 1), (0, 1, 0)]
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        best({}, k=0)


def test_satisfied_includes_the_limit_itself() -> None:
    limit = Limit("total<=2", total, 2)
    assert limit.satisfied([(1, 1, 0), (1, 1, 1), (0, 0, 0)]).tolist() == [True, False, True]
    assert limit.satisfied([]).tolist() == []


class Ranged:
    def __call__(self, archs):
        return np.full(len(archs), 5e7)

    def range(self):
        return 2268074.4, 56505900.0


def test_an_impossible_budget_names_the_reach_without_exponents() -> None:
    words = r"'macs<=1M' \(1,000,000\) is impossible: .* reach from 2,268,074 to 56,505,900$"
    with pytest.raises(ValueError, match=words):
        limits_of(["macs<=1M"], {"macs": Ranged()}, (2, 2, 2))


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_limits_are_finite_and_named(limit: float) -> None:
    with pytest.raises(ValueError, match="'macs<=x' must be a finite number"):
        Limit("macs<=x", total, limit)
    with pytest.raises(ValueError, match="empty name"):
        Limit("", total, 1)


@pytest.mark.parametrize("cost", [lambda a: [1.0], lambda a: [[1.0, 2.0]], lambda a: [1, math.nan]])
def test_wrong_costs_are_an_error_that_names_the_limit(cost) -> None:
    with pytest.raises(
        ValueError, match=r"cost of macs<=1 must be one finite number for each of 2"
    ):
        Limit("macs<=1", cost, 1).satisfied([(0, 0, 0), (1, 1, 1)])


def test_two_limits_of_one_name() -> None:
    with pytest.raises(ValueError, match="distinct names"):
        RandomSearch(SPACE, seed=0, limits=[Limit("a", total, 1), Limit("a", total, 2)])


def test_a_bad_tell_records_nothing() -> None:
    layers = SPACE.decisions
    space = SearchSpace(layers, commutations=[Commutation(layers, 0)])
    history = History(space, {"total": total})
    history.tell([(1, 0, 0)], [0.5])
    for archs, scores, message in [
        ([(1, 2, 0), (2, 0, 0)], [0.1], "2 architectures and 1 scores"),
        ([(1, 2, 0), (0, 2, 0)], [0.1, 0.2], "0-2-0 is an alias of 2-0-0; .*canonical"),
        ([(1, 2, 0), (2, 0, 0)], [0.1, math.nan], "score nan of architecture 2-0-0"),
        ([(1, 2, 0), (2, 0, 3)], [0.1, 0.2], "d2: option 3 is not in 0..2"),
    ]:
        with pytest.raises(ValueError, match=message):
            history.tell(archs, scores)
        assert history.scores == {(1, 0, 0): 0.5} and history.told == 1


def test_history_records_order_scores_versions_and_costs() -> None:
    history = History(SPACE, {"total": total, "first": lambda archs: [a[0] for a in archs]})
    assert history.costs_NL.shape == (0, 2) and history.scores == {}
    history.tell([(1, 0, 0), (0, 2, 0)], [0.5, 0.6])
    history.tell([(2, 2, 2), (1, 0, 0)], [0.7, 0.4], weights_version=3)
    assert list(history.scores.items()) == [((1, 0, 0), 0.4), ((0, 2, 0), 0.6), ((2, 2, 2), 0.7)]
    assert history.fresh_N.tolist() == [True, False, True]
    assert history.costs_NL.tolist() == [[1, 1], [2, 0], [6, 2]]
    assert (len(history), history.told) == (3, 4)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.tuples(ARCHS, st.floats(0, 1)), max_size=9)))
)
def test_history_equals_dictionaries(tells) -> None:
    history, scores, versions, latest = History(SPACE, {"total": total}), {}, {}, 0
    for version, pairs in tells:
        history.tell([arch for arch, _ in pairs], [score for _, score in pairs], version)
        for arch, score in pairs:
            scores[arch], versions[arch], latest = score, version, version
        assert history.archs == list(scores) and history.scores == scores
        assert history.scores_N.tolist() == list(scores.values())
        assert history.fresh_N.tolist() == [each == latest for each in versions.values()]
        assert history.costs_NL.tolist() == [[sum(arch)] for arch in scores]


def test_what_a_history_gives_does_not_change_with_it() -> None:
    history = History(SPACE, {"total": total})
    history.tell([(1, 0, 0)], [0.5])
    scores_N, costs_NL = history.scores_N, history.costs_NL
    history.tell([(1, 0, 0), (2, 0, 0)], [0.7, 0.8])
    assert scores_N.tolist() == [0.5] and costs_NL.tolist() == [[1]]
    with pytest.raises(ValueError, match="read-only"):
        costs_NL[0, 0] = 5


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.dictionaries(ARCHS, st.sampled_from([0.1, 0.2, 0.3]), min_size=1),
    st.integers(1, 9),
    st.booleans(),
    st.data(),
)
def test_ranked_equals_sorting_everything(scores, most: int, costly: bool, data) -> None:
    history = History(SPACE, {"total": total})
    history.tell(list(scores), list(scores.values()))
    rows = sorted(data.draw(st.sets(st.integers(0, len(scores) - 1))))
    chosen = [history.archs[i] for i in rows]
    expected = sorted(chosen, key=lambda a: (-scores[a], costly * sum(a), a))[:most]
    costs_N = history.costs_NL[:, 0] if costly else None
    assert history.ranked(np.array(rows, dtype=np.intp), most, costs_N) == expected


def test_streams_differ_by_seed_by_what_was_told_and_by_asks() -> None:
    history, drawn = History(SPACE), []
    for _ in range(3):
        drawn += [history.generator(seed).random() for seed in (0, 1)]
        history.propose([(0, 0, 0)])
    history.tell([(0, 0, 0)], [1.0])
    drawn += [history.generator(seed).random() for seed in (0, 1)]
    history.tell([(0, 0, 0)], [1.0])
    drawn.append(history.generator(0).random())
    drawn.append(np.random.default_rng((0, 2, 0)).random())  # another part's stream, same numbers
    assert len(set(drawn)) == len(drawn)


def test_telling_nothing_changes_nothing() -> None:
    one, two = RandomSearch(SPACE, seed=0), RandomSearch(SPACE, seed=0)
    assert one.ask(3) == two.ask(3)
    one.tell([], [])
    assert one.ask(3) == two.ask(3)
