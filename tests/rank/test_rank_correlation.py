"""Statistics of order against the formulas, scipy, double loops and a published table."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from manyshot.rank import (
    FrozenSet,
    Interval,
    best_rank,
    bootstrap,
    clear_pairs,
    kendall,
    null_sd,
    overlap,
    regret,
    run_to_run,
    spearman,
)
from manyshot.seeding import numpy_rng
from published_tables import rows_of

ROUNDING = 1e-12
"""Sums and square roots of numbers below a thousand, in other orders."""


def columns(count: int, most: int = 12, least: int = 0):
    """Rows of small integers, so that ties are common, as `count` columns."""
    row = st.tuples(*[st.integers(0, 4)] * count)
    return st.lists(row, min_size=least, max_size=most).map(
        lambda rows: [[row[i] for row in rows] for i in range(count)]
    )


def sign(a, b) -> int:
    return int(a > b) - int(a < b)


def pair_signs(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    return [(sign(x[i], x[j]), sign(y[i], y[j])) for i, j in pairs]


def tau_b(x, y) -> float | None:
    """(C - D) / sqrt((n0 - n1)(n0 - n2)), pair by pair."""
    signs = pair_signs(x, y)
    difference = sum(a * b for a, b in signs)
    below = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    return difference / math.sqrt(below) if below else None


def orders(values):
    """All orders of the indices by falling value: one per order of those tied."""
    groups = [
        [i for i, value in enumerate(values) if value == level]
        for level in sorted(set(values), reverse=True)
    ]
    for parts in itertools.product(*map(itertools.permutations, groups)):
        yield [i for part in parts for i in part]


@given(columns(2))
def test_kendall_is_the_formula_and_scipys(xy) -> None:
    x, y = xy
    expected = tau_b(x, y)
    if expected is None:
        assert kendall(x, y) is None
    else:
        assert kendall(x, y) == pytest.approx(expected, abs=ROUNDING)
        assert kendall(x, y) == stats.kendalltau(x, y).statistic


@given(columns(2))
def test_spearman_is_the_correlation_of_ranks_by_counting(xy) -> None:
    x, y = xy
    if len(x) < 2 or len(set(x)) == 1 or len(set(y)) == 1:
        assert spearman(x, y) is None
    else:
        ranks = [[sum(sign(a, b) for b in column) for a in column] for column in (x, y)]
        assert spearman(x, y) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=ROUNDING)


@pytest.mark.parametrize("statistic", [kendall, spearman])
def test_perfect_reversed_and_undefined(statistic) -> None:
    for n in (2, 3, 40):
        x = np.linspace(0.1, 0.9, n)
        assert statistic(x, x**3) == pytest.approx(1, abs=ROUNDING)
        assert statistic(x, -x) == pytest.approx(-1, abs=ROUNDING)
        assert statistic(x, np.full(n, 0.1)) is None
        assert statistic(np.full(n, 0.1), x) is None
    assert statistic([], []) is None
    assert statistic([0.5], [0.5]) is None
    assert type(statistic([1, 2, 3], [1, 3, 2])) is float


@pytest.mark.parametrize(
    "call",
    [
        kendall,
        spearman,
        regret,
        lambda x, y: overlap(x, y, 1),
        lambda x, y: best_rank(x, y, 1),
        lambda x, y: clear_pairs(x, y, [0.1] * len(x)),
    ],
    ids=["kendall", "spearman", "regret", "overlap", "best_rank", "clear_pairs"],
)
def test_columns_are_checked(call) -> None:
    with pytest.raises(ValueError, match="has 2,.* has 3.*same architectures"):
        call([1.0, 2.0], [1.0, 2.0, 3.0])
    for bad in (np.nan, np.inf, -np.inf):
        for x, y in (([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad])):
            with pytest.raises(ValueError, match="1 not finite"):
                call(x, y)
    with pytest.raises(ValueError, match=r"got shape \(2, 1\)"):
        call([[1.0], [2.0]], [1.0, 2.0])


@pytest.mark.parametrize("n", range(2, 8))
def test_null_sd_is_that_of_all_orders(n) -> None:
    taus = [tau_b(range(n), order) for order in itertools.permutations(range(n))]
    assert null_sd(n) == pytest.approx(np.std(taus), abs=ROUNDING)


def test_null_sd_values_and_simulation() -> None:
    published = {10: 0.248, 20: 0.162, 50: 0.098, 100: 0.068}
    assert {n: round(null_sd(n), 3) for n in published} == published
    # The sd of 4,000 near-normal draws is off by 0.248 / sqrt(8000) = 0.003: 0.01 is 3.6 of those.
    rng = np.random.default_rng(0)
    taus = [kendall(rng.random(10), rng.random(10)) for _ in range(4000)]
    assert np.std(taus) == pytest.approx(0.248, abs=0.01)
    for n in (1, 0, -3):
        with pytest.raises(ValueError, match=f"at least 2.*{n}"):
            null_sd(n)


@given(columns(2, most=6, least=1), st.data())
def test_ties_are_a_mean_over_orders_or_the_worst_of_them(xy, data) -> None:
    """Every order that the ties allow, written out; `truth` is on a grid of 5, so it ties too."""
    proxy, truth = xy
    n = len(proxy)
    k = data.draw(st.integers(1, n))
    predicted = [set(order[:k]) for order in orders(proxy)]
    true = [set(order[:k]) for order in orders(truth)]
    shares = [len(a & b) / k for a in predicted for b in true]
    assert overlap(proxy, truth, k) == pytest.approx(np.mean(shares), abs=ROUNDING)
    ranks = [sorted(truth, reverse=True).index(value) + 1 for value in truth]
    worst = max(min(ranks[i] for i in top) for top in predicted)
    assert best_rank(proxy, truth, k) == worst
    picks = [truth[order[0]] for order in orders(proxy)]
    assert regret(proxy, truth) == pytest.approx(max(truth) - np.mean(picks), abs=ROUNDING)


def test_tops_in_closed_form() -> None:
    truth = [0.9, 0.8, 0.7, 0.6, 0.5]
    assert overlap(truth, truth, 2) == 1
    assert overlap(truth[::-1], truth, 2) == 0
    assert overlap(truth[::-1], truth, 3) == pytest.approx(1 / 3)
    assert overlap([0] * 5, truth, 2) == pytest.approx(2 / 5)  # as chance
    assert overlap([3, 2, 2, 1, 0], truth, 2) == pytest.approx((1 + 0.5) / 2)
    assert [best_rank(truth, truth, k) for k in (1, 5)] == [1, 1]
    assert [best_rank(truth[::-1], truth, k) for k in range(1, 6)] == [5, 4, 3, 2, 1]
    assert best_rank([0] * 5, truth, 2) == 4  # the truly worst two first
    assert best_rank([1, 0, 0], [0.8, 0.9, 0.8], 1) == 2  # the two of 0.8 share rank 2
    assert type(best_rank(truth, truth, 1)) is int
    assert regret(truth, truth) == 0
    assert regret(truth[::-1], truth) == pytest.approx(0.4)
    assert regret([0] * 5, truth) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="at least one"):
        regret([], [])


@pytest.mark.parametrize("call", [overlap, best_rank])
def test_k_is_checked(call) -> None:
    for k in (0, -1, 4):
        with pytest.raises(ValueError, match=rf"1\.\.3.*got {k}"):
            call([1, 2, 3], [1, 2, 3], k)


def test_run_to_run_is_the_mean_over_pairs() -> None:
    runs = np.array([[1, 1, 3], [2, 3, 2], [3, 2, 1], [4, 4, 0]])
    taus = [tau_b(runs[:, i], runs[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert len(set(taus)) == 3
    assert run_to_run(runs) == pytest.approx(sum(taus) / 3, abs=ROUNDING)


def test_run_to_run_is_over_the_architectures_that_both_have() -> None:
    runs_NR = np.random.default_rng(1).random((10, 3))
    runs_NR[:6, 1], runs_NR[4:, 2] = np.nan, np.nan  # runs 1 and 2 share nothing
    tau = stats.kendalltau(runs_NR[6:, 0], runs_NR[6:, 1]).statistic
    other = stats.kendalltau(runs_NR[:4, 0], runs_NR[:4, 2]).statistic
    assert run_to_run(runs_NR) == pytest.approx((tau + other) / 2, abs=ROUNDING)
    runs_NR[7:, 1], runs_NR[1:, 2] = np.nan, np.nan
    assert run_to_run(runs_NR) is None


def test_run_to_run_undefined_and_wrong() -> None:
    assert run_to_run(np.zeros((5, 0))) is None
    assert run_to_run(np.arange(5.0)[:, None]) is None
    assert run_to_run([[1, 2, 3]]) is None
    assert run_to_run([[1, 1, 7], [2, 2, 7], [3, 3, 7]]) is None  # one run is constant
    with pytest.raises(ValueError, match=r"\(N, R\).*got shape \(3,\)"):
        run_to_run([1, 2, 3])
    with pytest.raises(ValueError, match="run 1 must be.*1 not finite"):
        run_to_run([[1, 2], [2, np.inf]])


@given(columns(3, most=15), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_clear_pairs_is_the_double_loop(xye, z) -> None:
    x, y, errors = xye
    value, count = 0, 0
    for i, j in itertools.combinations(range(len(x)), 2):
        # Squares of small integers: equality is decided exactly.
        if (y[i] - y[j]) ** 2 > z**2 * (errors[i] ** 2 + errors[j] ** 2):
            count += 1
            value += sign(x[i], x[j]) * sign(y[i], y[j])
    expected = value / count if count else None
    assert clear_pairs(x, y, errors, z) == expected


@given(columns(2, least=2))
def test_clear_pairs_without_errors_is_somers_d(xy) -> None:
    x, y = xy
    value = clear_pairs(x, y, np.zeros(len(x)))
    if len(set(y)) == 1:
        assert value is None
    elif len(set(x)) > 1:
        assert value == pytest.approx(stats.somersd(y, x).statistic, abs=ROUNDING)


def test_clear_pairs_by_hand() -> None:
    x, y = [1, 2, 1], [0.0, 1.0, 5.0]
    # Standard errors of differences sqrt(2) / 2: twice that is 1.41, so 0 against 1 is not clear.
    # 0 against 5 ties in x, 1 against 5 is discordant.
    assert clear_pairs(x, y, [0.5] * 3) == -0.5
    assert clear_pairs(x, y, [0.5] * 3, z=1.0) == pytest.approx(0)  # now 0 against 1: concordant
    assert clear_pairs(x, y, [9.0] * 3) is None
    assert clear_pairs([], [], []) is None
    with pytest.raises(ValueError, match="zero or more, got -0.5"):
        clear_pairs(x, y, [0.5, -0.5, 0.5])
    for z in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite number of standard errors"):
            clear_pairs(x, y, [0.5] * 3, z=z)


def noisy(n: int):
    rng = np.random.default_rng(1)
    truth = rng.random(n)
    return truth + 0.1 * rng.standard_normal(n), truth


def test_bootstrap_is_that_of_the_mean() -> None:
    """The mean's bootstrap distribution has sd `std / sqrt(n)`, and is near normal at n = 200."""
    values = np.random.default_rng(2).random(200)
    interval = bootstrap(lambda x: float(x.mean()), values, seed=0, draws=4000, level=0.9)
    half = stats.norm.ppf(0.95) * values.std() / math.sqrt(200)
    # A 5 % quantile of 4,000 draws is off by sqrt(.05 * .95 / 4000) / pdf = 0.033 sd: 0.1 is 3.
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half / 1.645)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half / 1.645)
    assert (interval.draws, interval.method) == (4000, "BCa")


def bca(values_D, value, without_N, level):
    """Efron 1987, equations 2.3, 2.7 and 6.6: the ends, written out."""
    normal = statistics.NormalDist()
    below = (np.mean(values_D < value) + np.mean(values_D <= value)) / 2
    bias = normal.inv_cdf(below)
    pull_N = without_N.mean() - without_N
    skew = (pull_N**3).sum() / (6 * (pull_N**2).sum() ** 1.5)
    ends = [bias + normal.inv_cdf(share) for share in ((1 - level) / 2, (1 + level) / 2)]
    shares = [normal.cdf(bias + end / (1 - skew * end)) for end in ends]
    return np.quantile(values_D, shares)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_bootstrap_is_bca_written_out(level) -> None:
    """A tau near 1, where draws lean to one side and percentiles differ clearly."""
    proxy, truth = noisy(25)
    rows_DN = numpy_rng(3, "resamples").integers(25, size=(600, 25))
    values_D = np.array([kendall(proxy[rows], truth[rows]) for rows in rows_DN])
    without_N = np.array([kendall(np.delete(proxy, i), np.delete(truth, i)) for i in range(25)])
    expected = bca(values_D, kendall(proxy, truth), without_N, level)
    interval = bootstrap(kendall, proxy, truth, seed=3, draws=600, level=level)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-9)
    plain = np.quantile(values_D, [(1 - level) / 2, (1 + level) / 2])
    assert np.abs(expected - plain).max() > 0.003


def test_bootstrap_is_of_percentiles_where_bca_has_no_value() -> None:
    proxy, truth = noisy(301)
    rows_DN = numpy_rng(0, "resamples").integers(301, size=(50, 301))
    plain = np.quantile([kendall(proxy[rows], truth[rows]) for rows in rows_DN], [0.025, 0.975])
    interval = bootstrap(kendall, proxy, truth, seed=0, draws=50)  # too many to leave out each
    assert (interval.low, interval.high) == pytest.approx(tuple(plain), abs=ROUNDING)
    assert interval.method == "percentile"
    proxy, truth = proxy[:300], truth[:300]
    assert bootstrap(kendall, proxy, truth, seed=0, draws=50).method == "BCa"
    assert bootstrap(lambda x: float(x.max()), truth, seed=0).method == "BCa"
    one_side = bootstrap(lambda x: float(len(set(x))), truth, seed=0)  # of all rows: the most
    assert one_side.method == "percentile" and one_side.high < 300

    def needs_the_best(x):
        return None if x.max() < truth.max() else float(x.mean())

    undefined_without = bootstrap(needs_the_best, truth, seed=0)
    assert undefined_without.method == "percentile" and undefined_without.draws < 1000


def test_bootstrap_holds_the_estimate_and_depends_on_the_seed_only() -> None:
    proxy, truth = noisy(80)
    first = bootstrap(kendall, proxy, truth, seed=0)
    assert first.low < kendall(proxy, truth) < first.high
    assert first == bootstrap(kendall, list(proxy), list(truth), seed=0)
    assert first != bootstrap(kendall, proxy, truth, seed=1)
    narrow = bootstrap(kendall, proxy, truth, seed=0, level=0.5)
    assert first.low < narrow.low < narrow.high < first.high
    assert bootstrap(kendall, proxy, truth, seed=0, draws=30).draws == 30


def test_bootstrap_draws_rows_jointly() -> None:
    """Rows that lie on a line still do; drawn separately, columns would have nothing in common."""
    truth = noisy(30)[1]
    for statistic, data in ((kendall, (truth, 2 * truth)), (run_to_run, (np.c_[truth, truth**3],))):
        interval = bootstrap(statistic, *data, seed=0, draws=50)
        assert (interval.low, interval.high) == pytest.approx((1, 1), abs=ROUNDING)


def test_bootstrap_leaves_undefined_draws_out() -> None:
    """Of two rows, a draw is defined if it has both: it must be exactly those draws."""
    rng = numpy_rng(5, "resamples")
    defined = sum(len(set(rng.integers(2, size=2))) == 2 for _ in range(100))
    assert 50 <= defined < 100  # or the test would see no undefined draw, or no interval
    assert bootstrap(kendall, [0, 1], [0, 1], seed=5, draws=100) == Interval(
        1.0, 1.0, defined, "percentile"
    )
    assert bootstrap(kendall, [0, 0], [0, 1], seed=0) is None
    assert bootstrap(kendall, [], [], seed=0) is None
    assert bootstrap(regret, [1], [1], seed=0) is None


@pytest.mark.parametrize("undefined", [0, 49, 50, 51, 100])
def test_bootstrap_is_none_where_most_draws_are_undefined(undefined) -> None:
    calls = itertools.count()

    def statistic(x):
        return None if next(calls) < undefined else 3.0

    expected = Interval(3.0, 3.0, 100 - undefined, "percentile") if undefined <= 50 else None
    assert bootstrap(statistic, [1.0, 2.0], seed=0, draws=100) == expected


def test_bootstrap_arguments_are_checked() -> None:
    x = [1.0, 2.0, 3.0]
    for bad in ((), (x, x[:2]), (1.0,)):
        with pytest.raises(ValueError, match="equally many rows"):
            bootstrap(kendall, *bad, seed=0)
    with pytest.raises(ValueError, match="draws >= 1, got 0"):
        bootstrap(kendall, x, x, seed=0, draws=0)
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match=f"level.*got {level}"):
            bootstrap(kendall, x, x, seed=0, level=level)
    with pytest.raises(ValueError, match="returned nan.*None"):
        bootstrap(lambda _: math.nan, x, seed=0)


def test_seed_noise_of_a_published_table() -> None:
    """NAS-Bench-Macro: a tau of 0.88 overall, and 0.35 among the tenth that another run chose."""
    runs = {
        tuple(map(int, row["arch"])): [float(row[f"acc_{i}"]) for i in (1, 2, 3)]
        for row in rows_of("nas_bench_macro")
    }
    assert len(runs) == 6561
    everything = np.array(list(runs.values()))
    assert kendall(everything[:, 0], everything[:, 1]) == pytest.approx(0.882, abs=5e-4)
    chosen = FrozenSet.top("top tenth by run 3", list(runs), everything[:, 2], 656)
    best = np.array([runs[arch] for arch in chosen.archs])
    assert kendall(best[:, 0], best[:, 1]) == pytest.approx(0.352, abs=5e-4)
    assert run_to_run(best[:, :2]) == kendall(best[:, 0], best[:, 1])
