"""Statistics on draws of architectures and of runs of the truth, against scipy and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from manyshot.rank import resampling
from manyshot.rank.crossed import interval_of_resampled
from manyshot.rank.like_cost import LikePairs
from manyshot.rank.resampling import JudgedSet, Turn, mean_over_turns, resample
from manyshot.seeding import numpy_rng


@pytest.mark.parametrize("whole", [False, True])
def test_taus_on_draws_are_scipys(whole):
    rng = np.random.default_rng(0)
    scores = {name: np.round(rng.random(25), 1) for name in "ab"}  # with ties
    judged = JudgedSet(np.round(rng.random((25, 3)), 1), scores, whole)
    found = resample(judged, "tau", ["a", "b"], seed=3, draws=40)
    assert (found.architectures, found.runs) == (None if whole else 25, 3)
    redrawn = np.random.default_rng(1)  # the distinct truths that two of three runs can make
    tenths_NR = np.round(10 * judged.truth_NR)  # whole numbers, of which equal sums are ties
    truths = [tenths_NR[:, list(two)].sum(axis=1)
              for two in itertools.combinations_with_replacement(range(3), 2)]  # fmt: skip
    for name in "ab":
        wanted = {round(stats.kendalltau(scores[name], t).statistic, 9) for t in truths}
        assert set(np.round(found.by_runs[name], 9)) == wanted
        if whole:
            np.testing.assert_array_equal(found.drawn[name], found.by_runs[name])
            continue
        brute = []
        for _ in range(1200):
            rows, truth_N = redrawn.integers(25, size=25), truths[0] * 0
            for run in redrawn.integers(3, size=2):
                truth_N = truth_N + tenths_NR[:, run]
            brute.append(stats.kendalltau(scores[name][rows], truth_N[rows]).statistic)
        many = resample(judged, "tau", ["a", "b"], seed=3, draws=4000).drawn[name]
        assert many.mean() == pytest.approx(np.mean(brute), abs=5 * stats.sem(brute))
        assert many.std() == pytest.approx(np.std(brute), rel=0.09)


def test_one_draw_is_scipys_tau_of_the_repeated_rows():
    rng = np.random.default_rng(5)
    judged = JudgedSet(np.round(rng.random((12, 1)), 1), {"a": np.round(rng.random(12), 1)})
    found = resample(judged, "tau", ["a"], seed=7, draws=30)
    counts_DN = numpy_rng(7, "resamples", 1).multinomial(12, np.full(12, 1 / 12), size=30)
    for tau, counts_N in zip(found.drawn["a"], counts_DN, strict=True):
        rows = np.repeat(np.arange(12), counts_N)
        wanted = stats.kendalltau(judged.scores["a"][rows], judged.truth_NR[rows, 0]).statistic
        assert tau == pytest.approx(wanted)


def test_a_variance_of_runs_is_that_of_their_mean():
    """Two runs: of a mean it is a quarter of their squared difference, which regret is here."""
    truth_NR = np.array([[1.0, 1.0], [0.4, 0.8]])  # the pick is the second: regret .6 and .2
    judged = JudgedSet(truth_NR, {"a": np.array([0.0, 1.0]), "b": np.array([1.0, 0.0])})
    found = resample(judged, "regret", ["a", "b"], draws=4000)
    assert set(np.round(found.by_runs["a"], 9)) == {0.6, 0.2} and set(found.drawn["b"]) == {0.0}
    assert found.architectures is None and found.runs == 2
    assert found.drawn["a"].var() == pytest.approx((0.6 - 0.2) ** 2 / 4, rel=0.01)


def turns_by_truth(truth_NR, count):
    """The best by each run in turn, judged by the others."""
    runs = np.arange(truth_NR.shape[1])
    return tuple(Turn(np.argsort(-truth_NR[:, r])[:count], runs != r, r) for r in runs)


def in_turn(truth_NR, column_N, count, runs):
    """The mean of scipy's tau over choosers, of some runs."""
    taus = []
    for run in runs:
        best = np.argsort(-truth_NR[:, run])[:count]
        judge_N = truth_NR[:, [other for other in runs if other != run]].mean(axis=1)
        taus.append(stats.kendalltau(column_N[best], judge_N[best]).statistic)
    return float(np.mean(taus))


def test_runs_that_choose_in_turn_are_left_out_one_at_a_time():
    rng = np.random.default_rng(8)
    truth_NR, column_N = rng.random((30, 4)), rng.random(30)
    turns = turns_by_truth(truth_NR, 12)
    judged = JudgedSet(truth_NR, {"a": column_N}, True, turns=turns)
    every = in_turn(truth_NR, column_N, 12, range(4))
    assert mean_over_turns(judged, "tau", "a") == pytest.approx(every)
    found = resample(judged, "tau", ["a"], draws=4000)
    assert found.runs == 4 and found.architectures is None
    left = []
    for run in range(4):  # the sets stay as they were chosen
        rest = [other for other in range(4) if other != run]
        left.append(in_turn(truth_NR, column_N, 12, rest))
    wanted = {round(every + math.sqrt(3) * (one - every), 9) for one in left}
    assert set(np.round(found.by_runs["a"], 9)) == wanted
    jackknife = 3 / 4 * sum((one - np.mean(left)) ** 2 for one in left)
    assert found.by_runs["a"].var() == pytest.approx(jackknife, rel=0.1)
    two = JudgedSet(
        truth_NR[:, :2], {"a": column_N}, True, turns=turns_by_truth(truth_NR[:, :2], 9)
    )
    assert resample(two, "tau", ["a"], draws=5).runs is None


def test_the_interval_of_a_set_chosen_in_turn_has_the_size_of_its_chance():
    """The same architectures, new runs of the truth every time."""
    rng, values, errors = np.random.default_rng(11), [], []
    worth_N, off_N = rng.standard_normal(40), 0.7 * rng.standard_normal(40)
    for _ in range(80):
        truth_NR = worth_N[:, None] + 0.5 * rng.standard_normal((40, 5))
        judged = JudgedSet(
            truth_NR, {"a": worth_N + off_N}, True, turns=turns_by_truth(truth_NR, 20)
        )
        value = mean_over_turns(judged, "tau", "a")
        found = resample(judged, "tau", ["a"], draws=60)
        low, high = interval_of_resampled(value, found, lambda by: by["a"])
        values.append(value)
        errors.append((high - low) / 2 / stats.t.ppf(0.975, 4))
    size = math.sqrt(np.mean(np.square(errors)))
    assert size == pytest.approx(np.std(values, ddof=1), rel=0.35)  # chance moves it by 8 %


def test_tau_at_like_cost_is_counted_by_hand():
    rng = np.random.default_rng(12)
    x_N, y_N = np.round(rng.random(15), 1), np.round(rng.random(15), 1)
    cost_N = rng.uniform(1, 2, 15)
    agree = of_x = of_y = 0
    for i, j in itertools.combinations(range(15), 2):
        if max(cost_N[i], cost_N[j]) <= 1.1 * min(cost_N[i], cost_N[j]):
            one, two = np.sign(x_N[i] - x_N[j]), np.sign(y_N[i] - y_N[j])
            agree, of_x, of_y = agree + one * two, of_x + abs(one), of_y + abs(two)
    assert LikePairs(cost_N).tau(x_N, y_N) == pytest.approx(agree / math.sqrt(of_x * of_y))
    wanted = stats.kendalltau(x_N, y_N).statistic
    assert LikePairs(np.ones(15)).tau(x_N, y_N) == pytest.approx(wanted)
    assert LikePairs(2.0 ** np.arange(15)).tau(x_N, y_N) is None
    assert LikePairs(np.ones(15)).tau(np.ones(15), y_N) is None


@pytest.mark.parametrize("most", [0, 400], ids=["by scipy", "by signs"])
def test_tau_at_like_cost_of_turns_is_counted_by_hand(most, monkeypatch):
    """Two turns of different rows, of which those of even and of odd number cost alike."""
    monkeypatch.setattr(resampling, "_PAIRED", most)
    rng = np.random.default_rng(3)
    truth_NR, x_N = rng.random((9, 3)), rng.random(9)
    costs_N = np.where(np.arange(9) % 2 == 1, 1.0, 1.2)
    rows = ([0, 1, 3, 4, 6], [8, 2, 5, 7])
    judges = ([True, True, False], [False, True, True])
    turns = tuple(Turn(np.array(r), np.array(j)) for r, j in zip(rows, judges, strict=True))
    taus = []
    for own, by in zip(rows, judges, strict=True):
        mean = {i: np.mean([truth_NR[i, r] for r in range(3) if by[r]]) for i in own}
        pairs = [(i, j) for i, j in itertools.combinations(own, 2) if (i + j) % 2 == 0]
        signs = [np.sign((x_N[i] - x_N[j]) * (mean[i] - mean[j])) for i, j in pairs]
        taus.append(np.mean(signs))
    judged = JudgedSet(truth_NR, {"a": x_N}, turns=turns, costs_N=costs_N)
    assert mean_over_turns(judged, "tau", "a") == pytest.approx(np.mean(taus))
    found = resample(judged, "tau", ["a"], draws=5)
    assert all(np.isfinite(found.by_runs["a"]))
