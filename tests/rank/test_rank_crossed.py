"""The crossed bootstrap against scipy and planted differences, and Holm against closed testing."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from manyshot.rank import resampling
from manyshot.rank.crossed import difference, holm, interval_of_resampled, with_ends
from manyshot.rank.like_cost import LikePairs
from manyshot.rank.resampling import JudgedSet, Turn, mean_over_turns, resample


def values_of(judged, folders):
    truth_N = judged.truth_NR.mean(axis=1)
    return {
        seed: (folder, float(stats.kendalltau(judged.scores[folder], truth_N).statistic))
        for seed, folder in enumerate(folders)
    }


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
    from manyshot.seeding import numpy_rng

    counts_DN = numpy_rng(7, "resamples", 1).multinomial(12, np.full(12, 1 / 12), size=30)
    for tau, counts_N in zip(found.drawn["a"], counts_DN, strict=True):
        rows = np.repeat(np.arange(12), counts_N)
        wanted = stats.kendalltau(judged.scores["a"][rows], judged.truth_NR[rows, 0]).statistic
        assert tau == pytest.approx(wanted)


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
