"""The crossed bootstrap against scipy and planted differences, and Holm against closed testing."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from manyshot.rank.crossed import difference, holm, with_ends
from manyshot.rank.resampling import JudgedSet, resample


def values_of(judged, folders):
    truth_N = judged.truth_NR.mean(axis=1)
    return {
        seed: (folder, float(stats.kendalltau(judged.scores[folder], truth_N).statistic))
        for seed, folder in enumerate(folders)
    }


def test_without_draws_it_is_students_test():
    rng = np.random.default_rng(2)
    a, b = rng.random(6), rng.random(6)
    first = {s: ("", float(v)) for s, v in enumerate(a)}
    found = difference(first, {s: ("", float(v)) for s, v in enumerate(b)})
    wanted = stats.ttest_rel(a, b)
    assert found.paired and found.seeds == 6 and found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval()))
    found = difference(first, {100 + s: ("", float(v)) for s, v in enumerate(b[:4])})
    wanted = stats.ttest_ind(a, b[:4], equal_var=False)
    assert not found.paired and found.seeds == 4 and found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval()))


def test_a_whole_space_and_one_run_leave_the_seeds_alone():
    rng = np.random.default_rng(3)
    scores = {name: rng.random(20) for name in "abcdef"}
    judged = JudgedSet(rng.random((20, 1)), scores, whole=True)
    first, second = values_of(judged, "abc"), values_of(judged, "def")
    found = difference(first, second, resample(judged, "tau", "abcdef"))
    wanted = stats.ttest_rel([v for _, v in first.values()], [v for _, v in second.values()])
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval()), rel=0.1)


def expected_tau(low, high, noise):
    """Mean tau with a mean of runs of who is off by a normal of a uniformly drawn size."""

    def tau(own):
        return 2 / math.pi * math.asin(1 / math.sqrt((1 + own**2) * (1 + noise**2)))

    return integrate.quad(tau, low, high)[0] / (high - low)


@pytest.mark.parametrize("shared", [True, False])
def test_intervals_cover_planted_differences(shared):
    """Seeds differ in how good they are, architectures and runs are new every time."""
    rng, n, seeds, runs, noise = np.random.default_rng(4), 40, 6, 3, 0.5
    true = expected_tau(0.3, 1.5, noise / math.sqrt(runs))
    true -= expected_tau(0.8, 2.0, noise / math.sqrt(runs))
    draws, covered, values, errors = 120, 0, [], []
    for _ in range(draws):
        worth_N = rng.standard_normal(n)
        truth_NR = worth_N[:, None] + noise * rng.standard_normal((n, runs))
        offs_S = rng.uniform(0, 1.2, seeds)
        scores = {}
        for name, least in (("a", 0.3), ("b", 0.8)):
            own_S = offs_S if shared else rng.uniform(0, 1.2, seeds)
            for s in range(seeds):
                off_N = (least + own_S[s]) * rng.standard_normal(n)
                scores[f"{name}{s}"] = worth_N + off_N
        judged = JudgedSet(truth_NR, scores)
        first, second = (values_of(judged, [f"{m}{s}" for s in range(seeds)]) for m in "ab")
        if not shared:
            second = {100 + s: own for s, own in second.items()}
        found = difference(first, second, resample(judged, "tau", [*scores], draws=150))
        assert found.paired == shared
        covered += found.low <= true <= found.high
        values.append(found.value)
        errors.append(found.error)
    assert covered / draws > 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)
    assert np.mean(values) == pytest.approx(true, abs=4 * stats.sem(values))
    size = math.sqrt(np.mean(np.square(errors)))  # chance moves the spread of 120 by 6 %
    assert size == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_holm_is_closed_testing_by_bonferroni():
    """Adjusted by definition: the largest over all families that hold the comparison."""
    rng = np.random.default_rng(6)
    for size in (1, 2, 5, 6):
        p = (rng.random(size) ** 3).tolist()
        wanted = [
            max(
                min(1.0, len(family) * min(p[j] for j in family))
                for k in range(1, size + 1)
                for family in itertools.combinations(range(size), k)
                if i in family
            )
            for i in range(size)
        ]
        assert holm(p) == pytest.approx(wanted)
    assert holm([]) == []


@pytest.mark.parametrize(
    ("ends", "between", "low", "high", "was_cut"),
    [
        ((-1.2, 0.5), (-1, 1), -1, 0.5, True),
        ((-0.2, 1.5), (-1, 1), -0.2, 1, True),
        ((-0.2, 0.5), (-1, 1), -0.2, 0.5, None),
        ((-3, 3), (-2, 2), -2, 2, True),
        ((-0.1, 9), (0, math.inf), 0, 9, True),
    ],
)
def test_intervals_end_where_a_value_can_be_no_more(ends, between, low, high, was_cut):
    found = with_ends(0.1, ends, between)
    assert (found.value, found.low, found.high, found.cut) == (0.1, low, high, was_cut)
    assert with_ends(None, ends, between).low is with_ends(0.1, None, between).low is None
