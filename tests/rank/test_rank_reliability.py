"""Reliability of a truth: published numbers, planted variances, closed forms, coverage."""

import importlib
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from manyshot.rank import TruthTable, judges, rank_set, rank_sets, reliability
from manyshot.rank.reliability import reliability_at_like_cost, words
from manyshot.rank.sentences import verdict

SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]
"""Shrout & Fleiss 1979, table 2: six targets by four judges."""


def planted(rng, n, runs, one, missing=0.0):
    """Scores whose variance is 1, of which `one` is between architectures; runs have shifts."""
    worth_N = math.sqrt(one) * rng.standard_normal(n)
    noise_NR = math.sqrt(1 - one) * rng.standard_normal((n, runs))
    scores_NR = worth_N[:, None] + 3 * rng.standard_normal(runs) + noise_NR
    scores_NR[:, 1:][rng.random((n, runs - 1)) < missing] = math.nan
    return worth_N, scores_NR


def test_the_published_example():
    """ICC(3,1) and ICC(3,4) are printed as .71 and .91, intervals of the latter by R's psych."""
    found = reliability(SHROUT_FLEISS)
    assert found.one_run == pytest.approx(0.71, abs=0.005)
    assert found.mean.value == pytest.approx(0.91, abs=0.005)
    assert (found.mean.low, found.mean.high) == pytest.approx((0.68, 0.99), abs=0.005)
    assert found.runs == 4 and found.mean.interval == "F"
    assert found.needed == 2  # Spearman and Brown: .714 of one is .833 of two


def test_planted_variances_are_found_where_runs_are_missing():
    rng = np.random.default_rng(0)
    found = [reliability(planted(rng, 40, 4, 0.3, missing=0.5)[1]) for _ in range(150)]
    for name, expected in (("between", 0.3), ("within", 0.7)):
        values = [getattr(one, name) for one in found]
        assert np.mean(values) == pytest.approx(expected, abs=4 * stats.sem(values))
    assert 1 < np.mean([one.runs for one in found]) < 2.5


def test_the_interval_covers_what_was_planted():
    rng = np.random.default_rng(1)
    true = 3 * 0.5 / (1 + 2 * 0.5)
    draws, covered = 600, 0
    for _ in range(draws):
        found = reliability(planted(rng, 25, 3, 0.5)[1]).mean
        covered += found.low <= true <= found.high
    assert abs(covered / draws - 0.95) < 3 * math.sqrt(0.95 * 0.05 / draws)


@pytest.mark.parametrize(("one", "needed"), [(0.8, 1), (0.5, 4), (0.25, 12), (1 / 41, 160)])
def test_runs_that_would_be_enough(one, needed):
    """Variances are exact here: scores are orthogonal by construction."""
    n, runs = 64, 4
    q_NK = np.linalg.qr(np.c_[np.ones(n), np.random.default_rng(0).standard_normal((n, runs))])[0]
    noise_NR = q_NK[:, 2:] @ np.linalg.qr(np.ones((runs, 1)), mode="complete")[0][:, 1:].T
    noise_NR *= math.sqrt((n - 1) * (runs - 1) * (1 - one) / (runs - 1))
    worth_N = q_NK[:, 1] * math.sqrt((n - 1) * (one + (1 - one) / runs))
    found = reliability(worth_N[:, None] + noise_NR)
    assert found.one_run == pytest.approx(one) and found.needed == needed
    assert found.within == pytest.approx(1 - one)


@pytest.mark.parametrize("one", [0.2, 0.5, 0.9])
def test_the_ceiling_is_that_of_normal_scores(one):
    """The tau of two normal columns of correlation r is 2 / pi arcsin r; here r^2 is known."""
    scores_NR = planted(np.random.default_rng(2), 4000, 3, one)[1]
    found = reliability(scores_NR)
    assert found.one_run == pytest.approx(one, abs=0.03)
    expected = 2 / math.pi * math.asin(math.sqrt(found.mean.value))
    assert found.ceiling == pytest.approx(expected, abs=0.01)


def test_the_ceiling_is_the_tau_of_who_knows_the_worth():
    rng = np.random.default_rng(3)
    found, taus = [], []
    for _ in range(60):
        worth_N, scores_NR = planted(rng, 60, 2, 0.6)
        found.append(reliability(scores_NR).ceiling)
        taus.append(stats.kendalltau(worth_N, scores_NR.mean(axis=1)).statistic)
    assert np.mean(found) == pytest.approx(np.mean(taus), abs=4 * stats.sem(taus))


def test_no_difference_is_reliability_0_and_its_variance_keeps_its_sign():
    rng = np.random.default_rng(4)
    found = [reliability(planted(rng, 20, 3, 0.0)[1]) for _ in range(200)]
    values = [one.between for one in found]
    assert min(values) < 0 < max(values)
    assert np.mean(values) == pytest.approx(0, abs=4 * stats.sem(values))
    worst = min(found, key=lambda one: one.between)
    assert worst.mean.value == worst.ceiling == 0 and worst.needed is None
    assert judges(worst) is False and "no number of runs" in words(worst)


def test_what_one_run_cannot_say():
    for runs_NR in (np.arange(5.0)[:, None], [[1.0, 2.0]], [[1.0, math.nan], [2.0, math.nan]]):
        found = reliability(runs_NR)
        assert found.mean.value is None and found.needed is None and found.ceiling is None
        assert judges(found) is None
    assert "unknown, as one run judges it" in words(reliability(np.arange(5.0)[:, None]))
    constant = reliability(np.ones((5, 3)))
    assert judges(constant) is None and "undefined" in words(constant)


def test_equal_runs_are_reliable():
    found = reliability(np.repeat(np.arange(5.0)[:, None] / 7, 3, axis=1))
    assert found.mean.value == found.ceiling == 1 and found.mean.low is None
    assert found.needed == 1 and judges(found) is True


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match=r"shape \(N, R\)"):
        reliability([1.0, 2.0])
    with pytest.raises(ValueError, match="1 infinite"):
        reliability([[1.0, math.inf]])
    with pytest.raises(ValueError, match="row 1 of runs"):
        reliability([[1.0, 2.0], [math.nan, math.nan]])


@pytest.mark.parametrize(
    ("noise", "runs", "said", "better"),
    [
        (0.01, 3, "this set can judge: 3 runs each", True),
        (0.3, 2, "this set cannot judge: 2 runs each do not tell", False),
        (0.01, 1, "whether this set can judge is unknown", False),
    ],
)
def test_a_set_that_cannot_judge_says_of_no_order_that_it_is_better(
    noise, runs, said, better, monkeypatch
):
    monkeypatch.setattr(importlib.import_module("manyshot.rank.statistics"), "DRAWS", 50)
    rng = np.random.default_rng(5)
    worth_N = rng.uniform(0.3, 0.7, 100)
    scores_NR = np.clip(worth_N[:, None] + noise * rng.standard_normal((100, runs)), 0, 1)
    archs = tuple((i,) for i in range(100))
    truth = TruthTable("made", archs, tuple(f"seed {i}" for i in range(runs)), scores_NR)
    predictors = {
        "proxy": dict(zip(archs, truth.scores_N.tolist(), strict=True)),
        "macs": dict(zip(archs, rng.random(100).tolist(), strict=True)),
    }
    record = rank_set(next(iter(rank_sets(truth))), predictors)
    assert record.predictors["proxy"].beats.low > 0  # whatever the gate says
    words_of_it = verdict(record)
    assert said in words_of_it and ("better than counting MACs" in words_of_it) == better
    assert words_of_it.startswith(said) != better


class TestBoundsOfTheCeiling:
    def made(self, n, runs, noise, seed=0):
        rng = np.random.default_rng(seed)
        return rng.standard_normal((n, 1)) + noise * rng.standard_normal((n, runs))

    def test_they_hold_what_normal_truths_reach(self):
        """Of normal worths and noise the ceiling is 2 / pi arcsin of the root of reliability."""
        true = 2 / math.pi * math.asin(math.sqrt(1 / (1 + 0.5**2 / 3)))
        held = []
        for seed in range(40):
            found = reliability(self.made(60, 3, 0.5, seed), draws=60)
            low, high = found.ceiling_bounds
            assert low < found.ceiling < high
            held.append(low <= true <= high)
        assert np.mean(held) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 40)

    def test_of_a_whole_space_they_are_those_of_the_reliability(self):
        runs_NR = self.made(200, 3, 0.5)
        found = reliability(runs_NR, whole=True)
        wanted = [
            2 / math.pi * math.asin(math.sqrt(end)) for end in (found.mean.low, found.mean.high)
        ]
        assert found.ceiling_bounds == pytest.approx(wanted, abs=0.02)  # of 200 normal worths
        assert found.ceiling_bounds[0] < found.ceiling < found.ceiling_bounds[1]

    def test_without_draws_there_are_none(self):
        assert reliability(self.made(20, 3, 0.5)).ceiling_bounds is None
        assert reliability(self.made(20, 1, 0.5), draws=20).ceiling_bounds is None


def costs_of(n, reach):
    """Costs by which so many neighbours on either side are of like cost."""
    return 1.1 ** (np.arange(n) / (reach + 0.5))


@pytest.mark.parametrize(("trend", "missing"), [(0.0, False), (1.0, False), (1.0, True)])
def test_the_reliability_of_pairs_is_the_planted_one(trend, missing):
    """Worth goes with cost and only neighbours count; the mean over 200 tables of noise."""
    rng = np.random.default_rng(5)
    n, runs, sd = 40, 4, 0.7
    worth_N = trend * np.arange(n) + 0.5 * rng.normal(size=n)
    costs_N = costs_of(n, 2)
    has_NR = np.ones((n, runs), dtype=bool)
    if missing:
        has_NR[::2, 3] = has_NR[1::3, 0] = False
    true, noise = [], []
    for i, j in itertools.combinations(range(n), 2):
        if j - i <= 2:
            true.append((worth_N[i] - worth_N[j]) ** 2)
            noise.append(sd**2 / has_NR[i].sum() + sd**2 / has_NR[j].sum())
    of_runs_R = np.array([3.0, -1.0, 0.5, 2.0])
    found = []
    for _ in range(200):
        table_NR = worth_N[:, None] + of_runs_R + sd * rng.normal(size=(n, runs))
        found.append(reliability_at_like_cost(np.where(has_NR, table_NR, np.nan), costs_N))
    between = np.mean([each.between for each in found])
    assert 2 * between == pytest.approx(np.mean(true), rel=0.05)
    expected = np.mean(true) / (np.mean(true) + np.mean(noise))
    assert np.mean([each.mean.value for each in found]) == pytest.approx(expected, abs=0.02)


def test_of_all_pairs_it_is_the_reliability_of_the_set():
    _, scores_NR = planted(np.random.default_rng(6), 30, 3, 0.5)
    one, other = reliability_at_like_cost(scores_NR, np.ones(30)), reliability(scores_NR)
    assert one.mean.value == pytest.approx(other.mean.value)
    assert one.needed == other.needed
    assert one.runs == pytest.approx(other.runs)


def test_pairs_without_true_difference_cannot_be_judged_though_the_set_can():
    """Architectures in twins of equal worth: of twins all is noise."""
    rng = np.random.default_rng(7)
    worth_N = np.repeat(np.arange(30.0), 2)
    scores_NR = worth_N[:, None] + 0.5 * rng.normal(size=(60, 4))
    of_twins = reliability_at_like_cost(scores_NR, 2.0**worth_N)
    assert judges(reliability(scores_NR)) is True
    assert of_twins.mean.value < 0.5
    assert judges(of_twins) is False


def test_of_one_run_or_no_pair_nothing_is_known():
    scores_NR = np.random.default_rng(8).normal(size=(5, 3))
    assert reliability_at_like_cost(scores_NR, 2.0 ** np.arange(5)).mean.value is None
    assert reliability_at_like_cost(scores_NR[:, :1], costs_of(5, 1)).mean.value is None
