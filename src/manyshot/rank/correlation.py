"""How well proxy scores order architectures, and how much of that is noise.

N architectures in one fixed order; higher scores are better. A statistic that has no value (too
few architectures, or all of them tied) is None, never 0. Which statistics, and of which sets of
architectures, is ours: Supernet Shifting (arXiv:2403.11380) asks for order preserved over the whole
space and among the best, and its measure is not known to us.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manyshot.run_folder import IntervalMethod
from manyshot.seeding import numpy_rng


def _scores(**columns: npt.ArrayLike) -> list[npt.NDArray[np.float64]]:
    """The columns, (N,) each.

    Raises:
        ValueError: unless they are finite and equally long.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns.values()]
    for name, array in zip(columns, arrays, strict=True):
        if array.ndim != 1 or not np.isfinite(array).all():
            raise ValueError(
                f"{name} must be one finite number per architecture, shape (N,); got shape "
                f"{array.shape} with {np.count_nonzero(~np.isfinite(array))} not finite"
            )
    if len({len(array) for array in arrays}) > 1:
        lengths = ", ".join(
            f"{name} has {len(array)}" for name, array in zip(columns, arrays, strict=True)
        )
        raise ValueError(f"{lengths} architectures; give the same architectures in the same order")
    return arrays


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n}, the number of architectures; got {k}")


def _undefined(x_N: npt.NDArray[np.float64], y_N: npt.NDArray[np.float64]) -> bool:
    """Whether one column is constant, as it is with fewer than two architectures."""
    return min(len(np.unique(x_N)), len(np.unique(y_N))) < 2


def tied(means_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of runs, of which those that differ in their last digits alone are one number.

    The same scores added in another order differ in their last digits, and would be no tie: of 256
    networks with 5 runs on 449 images there are 88 means, of which floating point makes 114. Of
    means that are 1e-12 of the largest or less apart all are the lowest; others stay as they are.

    Args:
        means_N: the means, (N,); nan stays nan.
    """
    tied_N, finite_N = means_N.copy(), np.isfinite(means_N)
    kept_M = means_N[finite_N]
    order_M = np.argsort(kept_M, kind="stable")
    sorted_M = kept_M[order_M]
    apart_M = np.diff(sorted_M) > 1e-12 * np.abs(sorted_M).max(initial=0.0)
    begins_M = np.concatenate([[True], apart_M])[: len(sorted_M)]
    lowest_M = np.maximum.accumulate(np.where(begins_M, np.arange(len(sorted_M)), 0))
    kept_M[order_M] = sorted_M[lowest_M]
    tied_N[finite_N] = kept_M
    return tied_N


def kendall(x: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Kendall's tau-b of two score columns, in [-1, 1]; None where it is undefined.

    Tau-b, because accuracies on few images tie often: ties count in neither the numerator nor
    that column's factor of the denominator. Computed by scipy.

    Args:
        x: scores, shape (N,).
        y: scores of the same architectures, shape (N,).

    Returns:
        None for fewer than two architectures, or if `x` or `y` is constant.

    Raises:
        ValueError: for unequal lengths, or a number that is not finite.

    Reference: Kendall 1945, "The treatment of ties in ranking problems".
    """
    x_N, y_N = _scores(x=x, y=y)
    if _undefined(x_N, y_N):
        return None
    from scipy import stats  # slow to import

    return float(stats.kendalltau(x_N, y_N, variant="b").statistic)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Spearman's rho of two score columns, in [-1, 1]: the correlation of their ranks.

    Tied scores share their mean rank. Computed by scipy; arguments, None and errors are those of
    `kendall`.
    """
    x_N, y_N = _scores(x=x, y=y)
    if _undefined(x_N, y_N):
        return None
    from scipy import stats  # slow to import

    return float(stats.spearmanr(x_N, y_N).statistic)


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Pearson's r of two score columns, in [-1, 1]: how linear their relation is.

    Arguments, None and errors are those of `kendall`. Not scipy's `pearsonr`: it takes eight times
    as long (350 µs beside 46 for 256 architectures), on every draw of `bootstrap`.
    """
    x_N, y_N = _scores(x=x, y=y)
    if _undefined(x_N, y_N):
        return None
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    x_N, y_N = x_N / np.abs(x_N).max(), y_N / np.abs(y_N).max()  # squares must not underflow
    return float(np.clip(x_N @ y_N / math.sqrt((x_N @ x_N) * (y_N @ y_N)), -1, 1))


def weighted_tau(x: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Kendall's tau with weights that fall with rank, in [-1, 1]: errors at the top count most.

    A pair weighs the sum of `1 / (rank + 1)` of its two, the best having rank 0; ranks by `x` and
    by `y` are taken in turn, and the result is the mean of both. Computed by scipy; arguments, None
    and errors are those of `kendall`.

    Reference: Vigna 2015, "A weighted correlation index for rankings with ties".
    """
    x_N, y_N = _scores(x=x, y=y)
    if _undefined(x_N, y_N):
        return None
    from scipy import stats  # slow to import

    return float(stats.weightedtau(x_N, y_N).statistic)


def sparse_tau(x: npt.ArrayLike, y: npt.ArrayLike, resolution: float) -> float | None:
    """Kendall's tau-b with `y` rounded to multiples of `resolution`, so that less is no difference.

    Args:
        x: proxy scores, shape (N,).
        y: stand-alone score, shape (N,).
        resolution: above 0, in the unit of `y`.

    Returns:
        None where `kendall` is undefined, as where all of `y` are rounded to one number.

    Raises:
        ValueError: as `kendall`, or for a resolution that is not finite or not above 0.

    Reference: Yu et al. 2020, "How to Train Your Super-Net" (arXiv:2003.04276), with 0.001 of
        accuracy.
    """
    if not (math.isfinite(resolution) and resolution > 0):
        raise ValueError(f"resolution must be a finite number above 0, such as 0.001: {resolution}")
    x_N, y_N = _scores(x=x, y=y)
    return kendall(x_N, np.round(y_N / resolution))


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of values of a statistic; None if there is none, or one of them is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def null_sd(n: int) -> float:
    """The standard deviation of tau over `n` architectures if two orders have nothing in common.

    It is `sqrt(2(2n + 5) / (9n(n - 1)))`, without ties: 0.248 at n = 10, 0.068 at n = 100. A tau
    within two of these of zero shows no agreement.

    Raises:
        ValueError: if `n` is below two.

    Reference: Kendall 1938, "A new measure of rank correlation".
    """
    if n < 2:
        raise ValueError(f"tau needs at least 2 architectures, got n = {n}")
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))


def _in_top(values_N: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """How often each is among the `k` best, (N,), over all orders of those tied."""
    last = np.sort(values_N)[-k]
    above_N, tied_N = values_N > last, values_N == last
    share = (k - np.count_nonzero(above_N)) / np.count_nonzero(tied_N)
    return np.asarray(above_N + share * tied_N)


def overlap(proxy: npt.ArrayLike, truth: npt.ArrayLike, k: int) -> float:
    """P@k: the share of the true top `k` that is among the predicted top `k`, in [0, 1].

    With ties across the k-th place it is the mean over all orders of the tied, in both columns
    independently, so it does not depend on the order of the architectures: a constant proxy gets
    `k / N`, as chance does. A perfect proxy whose k-th place is tied gets less than 1.

    Args:
        proxy: proxy scores, shape (N,).
        truth: stand-alone score, shape (N,).
        k: how many count as top.

    Raises:
        ValueError: for unequal lengths, a number that is not finite, or `k` outside 1..N.
    """
    proxy_N, truth_N = _scores(proxy=proxy, truth=truth)
    _check_k(k, len(proxy_N))
    return float(_in_top(proxy_N, k) @ _in_top(truth_N, k)) / k


def best_rank(proxy: npt.ArrayLike, truth: npt.ArrayLike, k: int) -> int:
    """The best true rank among the predicted top `k`; 1 is the best of all, N the worst.

    The rank is one more than the number of truly better architectures, so equal truths share the
    better rank. A mean over tied predictions would be no rank, and the order of the arrays may
    itself be sorted by truth, so of tied predictions the truly worst are taken first: ties never
    flatter. A constant proxy gets `N - k + 1`.

    Args:
        proxy: proxy scores, shape (N,).
        truth: stand-alone score, shape (N,).
        k: how many count as top.

    Raises:
        ValueError: for unequal lengths, a number that is not finite, or `k` outside 1..N.
    """
    proxy_N, truth_N = _scores(proxy=proxy, truth=truth)
    _check_k(k, len(proxy_N))
    top_k = np.lexsort((truth_N, -proxy_N))[:k]
    return 1 + int(np.count_nonzero(truth_N > truth_N[top_k].max()))


def regret(proxy: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """What picking by proxy loses: the best truth minus that of the pick, in the unit of `truth`.

    If several share the best proxy score, the pick is the mean over them.

    Args:
        proxy: proxy scores, shape (N,).
        truth: stand-alone score, shape (N,).

    Raises:
        ValueError: for unequal lengths, a number that is not finite, or no architecture.
    """
    proxy_N, truth_N = _scores(proxy=proxy, truth=truth)
    if not len(proxy_N):
        raise ValueError("regret needs at least one architecture, got none")
    return float(np.mean(truth_N.max() - truth_N[proxy_N == proxy_N.max()]))


def run_to_run(runs: npt.ArrayLike) -> float | None:
    """The mean tau-b between two runs of the ground truth, over all pairs of runs.

    It says how well one training run predicts the order of another, only the seed differing. It is
    no ceiling for a tau against the mean of several runs, which is less noisy than one; that is
    `reliability(runs).ceiling`. Among the best it is far lower than overall.

    Args:
        runs: stand-alone score, shape (N, R), one column per run; nan where there was none. A
            pair counts over the architectures that have both runs, if they are two or more.

    Returns:
        None if no two runs share two architectures, or if the tau of such a pair is undefined.

    Raises:
        ValueError: for another shape, or an infinite number.
    """
    runs_NR = np.asarray(runs, dtype=np.float64)
    if runs_NR.ndim != 2:
        raise ValueError(
            f"runs must have shape (N, R), architectures by runs; got shape {runs_NR.shape}"
        )
    taus: list[float] = []
    for one, other in itertools.combinations(range(runs_NR.shape[1]), 2):
        both_N = ~np.isnan(runs_NR[:, [one, other]]).any(axis=1)
        if np.count_nonzero(both_N) < 2:
            continue
        pair = {f"run {number}": runs_NR[both_N, number] for number in (one, other)}
        tau = kendall(*_scores(**pair))
        if tau is None:
            return None
        taus.append(tau)
    return sum(taus) / len(taus) if taus else None


def clear_pairs(
    x: npt.ArrayLike, y: npt.ArrayLike, errors: npt.ArrayLike, z: float = 2.0
) -> float | None:
    """Tau over the pairs whose difference in `y` is clear, in [-1, 1].

    A pair is clear if its difference in `y` exceeds `z` standard errors of that difference (errors
    of different architectures being independent). The result is concordant minus discordant pairs,
    over all clear pairs: one tied in `x` is neither, but counts below. With no errors this is
    Somers' D of `x` given `y`. It takes N^2 time and N memory.

    Args:
        x: proxy scores, shape (N,).
        y: stand-alone score, shape (N,).
        errors: the standard error of each `y`, shape (N,).
        z: how many standard errors, zero or more.

    Returns:
        None if no pair is clear.

    Raises:
        ValueError: for unequal lengths, a number that is not finite, or a negative error or `z`.
    """
    x_N, y_N, errors_N = _scores(x=x, y=y, errors=errors)
    if (errors_N < 0).any():
        raise ValueError(f"errors must be zero or more, got {errors_N.min()}")
    if not (math.isfinite(z) and z >= 0):
        raise ValueError(f"z must be a finite number of standard errors, zero or more; got {z}")
    agreeing, clear = 0, 0
    for i in range(len(x_N)):
        by = y_N[i + 1 :] - y_N[i]
        is_clear = np.abs(by) > z * np.hypot(errors_N[i + 1 :], errors_N[i])
        clear += int(np.count_nonzero(is_clear))
        agreeing += int((np.sign(x_N[i + 1 :] - x_N[i]) * np.sign(by))[is_clear].sum())
    return agreeing / clear if clear else None


MOST_LEFT_OUT = 300
"""For more architectures intervals are percentiles: to leave out each of 500 made a ranking take
more than twice as long, and what BCa corrects shrinks as 1 / N."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a statistic by resampling.

    Attributes:
        low: its lower end.
        high: its upper end.
        draws: how many resamples it rests on: those on which the statistic was defined.
        method: how its ends follow from the draws, which `bootstrap` and `jackknife` explain.
    """

    low: float
    high: float
    draws: int
    method: IntervalMethod


def bootstrap(
    statistic: Callable[..., float | None],
    *columns: npt.ArrayLike,
    seed: int,
    draws: int = 1000,
    level: float = 0.95,
) -> Interval | None:
    """A bootstrap interval of `statistic(*columns)` over architectures, computed by scipy.

    It says how much the value hangs on which architectures were drawn, not on the seeds of their
    training. Rows are drawn with replacement, the same ones in all columns, so a draw repeats
    architectures: `kendall` leaves such ties out, `overlap` and `best_rank` see them and are a
    little lower.

    The ends are bias-corrected and accelerated (BCa), from the draws and from the statistic without
    each architecture in turn. They are percentiles of the draws where BCa has no value, and for
    more than `MOST_LEFT_OUT` architectures. BCa has no value if all draws are equal, or lie on one
    side of the statistic, or if the statistic is undefined without some architecture. Percentiles
    are too narrow for few architectures, or near -1 and 1.

    Args:
        statistic: a function of the columns that returns a number, or None where undefined.
        columns: at least one, with N rows each: shape (N,), or (N, R) for `run_to_run`.
        seed: the seed of the draws; equal seeds draw equal rows from columns of equal length.
        draws: how many resamples; those on which the statistic is None are left out.
        level: the share of the draws within the interval.

    Returns:
        None for fewer than two architectures, or if the statistic is undefined on more than half
        of the draws.

    Raises:
        ValueError: for no column, columns of unequal length, `draws` below one, `level` outside
            (0, 1), or a statistic that returns a number that is not finite.

    Reference: Efron 1987, "Better bootstrap confidence intervals".
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    lengths = [len(array) if array.ndim else None for array in arrays]
    if not lengths or None in lengths or len(set(lengths)) > 1:
        raise ValueError(f"bootstrap needs columns with equally many rows, got {lengths}")
    if draws < 1:
        raise ValueError(f"bootstrap needs draws >= 1, got {draws}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95; got {level}")

    def of_rows(rows: npt.NDArray[np.int64]) -> float:
        value = statistic(*(array[rows] for array in arrays))
        if value is None:
            return math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"the statistic returned {value} on a draw; return None where it is undefined"
            )
        return value

    n = len(arrays[0])
    if n < 2:
        return None
    from scipy import stats  # slow to import

    resample = functools.partial(
        stats.bootstrap,
        (np.arange(n),),
        of_rows,
        vectorized=False,
        batch=100,
        confidence_level=level,
        rng=numpy_rng(seed, "resamples"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # where BCa divides by zero
        drawn = resample(n_resamples=draws, method="percentile")
        values_D = drawn.bootstrap_distribution[~np.isnan(drawn.bootstrap_distribution)]
        if 2 * len(values_D) < draws:
            return None
        defined = dataclasses.replace(drawn, bootstrap_distribution=values_D)
        methods: tuple[IntervalMethod, ...] = ("BCa", "percentile")
        for method in methods[n > MOST_LEFT_OUT :]:
            again = resample(n_resamples=0, bootstrap_result=defined, method=method)
            low, high = map(float, again.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                break
    return Interval(low, high, len(values_D), method)


def jackknife(
    statistic: Callable[..., float | None], *columns: npt.ArrayLike, level: float = 0.95
) -> Interval | None:
    """Student's interval of `statistic(*columns)` from its values without each row in turn.

    It is for few architectures, of which draws with replacement repeat most. Of the difference of
    two taus of 6 to 20 architectures that is none, it left out zero in 0.5 to 4.3 % of 4,000 draws
    where 5 % are allowed, the less the closer both orders are to the truth.

    Args:
        statistic: a function of the columns that returns a number, or None where undefined.
        columns: at least one, with N rows each.
        level: how often such intervals hold what they are of.

    Returns:
        None for fewer than three rows, or if the statistic is undefined on all of them or without
        one of them.

    Reference: Tukey 1958, "Bias and confidence in not-quite large samples".
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    n, value = len(arrays[0]), statistic(*arrays)
    without = [statistic(*(np.delete(array, i, axis=0) for array in arrays)) for i in range(n)]
    known = [each for each in without if each is not None]
    if n < 3 or value is None or len(known) < n:
        return None
    from scipy import stats  # slow to import

    error = math.sqrt((n - 1) * float(np.var(known)))
    reach = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(value - reach, value + reach, n, "jackknife")
