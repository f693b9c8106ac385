"""Whether a truth can judge: how far the mean of its runs tells the architectures of a set apart.

The score of architecture i in run r is taken as `a_i + b_r + e_ir`: what the architecture is worth,
what the seed of the run adds to all alike, and the rest, which is noise. The reliability of the
mean of R runs is the share of its variance between architectures that is not noise. N counts
architectures, R runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import mean_of
from manyshot.rank.like_cost import LikePairs
from manyshot.run_folder import Reliability, Statistic

ENOUGH = 0.8
"""A set is judged only if the truth's reliability there is at least so high."""
_LEVEL = 0.95
_ZERO = 1e-9
"""A share of the largest eigenvalue below which one counts as 0."""
_DRAWN = 1500
"""The ceiling is a mean over pairs of architectures; of more, so many are taken evenly by score."""
CEILING_DRAWS = 200
"""Enough for the interval of the ceiling, by a bootstrap over architectures."""
_RESAMPLED = 300
"""Of more architectures so many are resampled, taken evenly by score."""


def reliability(runs: npt.ArrayLike, *, whole: bool = False, draws: int = 0) -> Reliability:
    """How reliable the mean of the runs of a set is, and how many runs would be enough.

    Variances are those of an analysis of variance over architectures and runs; where runs are
    missing, by Henderson's third method. What a run adds to all architectures alike is no noise
    here, as it changes no order. The interval is that of the F distribution, exact if architectures
    are drawn from a normal distribution, noise is normal and equally strong everywhere, and no run
    is missing. For a whole enumerated space, which is no draw, it is wider than it need be.

    Args:
        runs: stand-alone scores, shape (N, R), one column per run; nan where there was none.
        whole: whether the architectures are all of a space, or its best, and so no draw.
        draws: of the bootstrap over architectures that the interval of the ceiling is by; without
            draws the ceiling has none. Of a whole space it is what the ceiling would be at both
            ends of the interval of the reliability.

    Returns:
        A record. Without a second run, or a second architecture, everything but the number of runs
        is undefined. The variance between architectures is recorded as it is estimated and may be
        negative; the reliability is then 0.

    Raises:
        ValueError: for another shape, an infinite number, or an architecture without any run.

    References: Spearman 1910 and Brown 1910, on the reliability of a mean; McGraw & Wong 1996,
        "Forming inferences about some intraclass correlation coefficients", their ICC(C, k);
        Henderson 1953, "Estimation of variance and covariance components".
    """
    runs_NR = np.asarray(runs, dtype=np.float64)
    if runs_NR.ndim != 2 or np.isinf(runs_NR).any():
        raise ValueError(
            "runs must have shape (N, R), architectures by runs, of finite numbers or nan; got "
            f"shape {runs_NR.shape} with {np.count_nonzero(np.isinf(runs_NR))} infinite"
        )
    has_NR = ~np.isnan(runs_NR)
    if not has_NR.any(axis=1).all():
        row = int(np.flatnonzero(~has_NR.any(axis=1))[0])
        raise ValueError(
            f"row {row} of runs, counted from 0, is nan in every run, and an architecture needs a "
            "score of one at least: leave it out"
        )
    each = len(runs_NR) / float((1 / has_NR.sum(axis=1)).sum()) if len(runs_NR) else 0.0
    squares = _mean_squares(runs_NR[:, has_NR.any(axis=0)])
    if squares is None:
        return _unknown(each)
    between, within, F, n0, freedoms = squares
    bounds = None
    if within > 0:
        from scipy import stats  # slow to import

        top, bottom = freedoms
        reach = (1 + _LEVEL) / 2
        ends = (F / stats.f.ppf(reach, top, bottom), F * stats.f.ppf(reach, bottom, top))
        low, high = (float(_of_ratio((end - 1) / n0, 1.0, each) or 0.0) for end in ends)
        bounds = low, high
    if whole:
        ceiling_bounds = _ceiling_bounds(runs_NR, within / each, bounds)
    else:
        ceiling_bounds = _resampled_ceiling(runs_NR, draws)
    ceiling = _ceiling(runs_NR, between, within)
    return _record(between, within, each, bounds, ceiling, ceiling_bounds)


def reliability_at_like_cost(runs: npt.ArrayLike, costs_N: npt.NDArray[np.float64]) -> Reliability:
    """How reliably the mean of the runs of a set orders its pairs of like cost.

    What counts are differences of two means. Their mean square over these pairs is that of
    true differences and that of noise, which is `within * (1 / R_i + 1 / R_j)` for architectures
    with R_i and R_j runs; the reliability is the share that is not noise. `within` is that of all
    architectures, as `reliability` has it, and what a run adds to all alike is taken off. Of all
    pairs of a complete table it is the reliability of the set. It has no interval and no ceiling.

    Args:
        runs: stand-alone scores, shape (N, R); nan where there was none.
        costs_N: what the architectures cost.

    Returns:
        A record, whose variance between architectures is half the mean square of true differences.
        Without a second run, or a pair of like cost, all but the number of runs is undefined.
    """
    runs_NR = np.asarray(runs, dtype=np.float64)
    has_NR = ~np.isnan(runs_NR)
    count_N = has_NR.sum(axis=1)
    pairs = LikePairs(costs_N)
    if not len(pairs):
        return _unknown(float(count_N.mean()) if len(count_N) else 0.0)
    each = 1 / (pairs.mean(lambda i, others: 1 / count_N[i] + 1 / count_N[others]) / 2)
    squares = _mean_squares(runs_NR[:, has_NR.any(axis=0)])
    if squares is None:
        return _unknown(each)
    within = squares[1]
    scores_NR = np.where(has_NR, runs_NR, 0.0)
    mean_N = scores_NR.sum(axis=1) / count_N - _of_runs(scores_NR, has_NR)
    square = pairs.mean(lambda i, others: (mean_N[i] - mean_N[others]) ** 2)
    between = square / 2 - within / each
    return _record(between, within, each)


def _of_runs(
    scores_NR: npt.NDArray[np.float64], has_NR: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """What the seeds of its runs add to the mean of each architecture, by least squares, (N,)."""
    mask_NR, count_N = has_NR.astype(np.float64), has_NR.sum(axis=1)
    off_NR = np.where(has_NR, scores_NR - (scores_NR.sum(axis=1) / count_N)[:, None], 0.0)
    normal_RR = np.diag(mask_NR.sum(axis=0)) - mask_NR.T @ (mask_NR / count_N[:, None])
    effect_R = np.linalg.pinv(normal_RR, rcond=_ZERO, hermitian=True) @ off_NR.sum(axis=0)
    return np.asarray(mask_NR @ effect_R / count_N)


def _record(
    between: float,
    within: float,
    runs: float,
    bounds: tuple[float, float] | None = None,
    ceiling: float | None = None,
    ceiling_bounds: tuple[float, float] | None = None,
) -> Reliability:
    """The record of what two variances say of a mean of so many runs.

    Args:
        between: the variance between architectures.
        within: that of a run about what its architecture is worth.
        runs: how many runs the mean is of.
        bounds: of the reliability.
        ceiling: of tau; None if it is not known.
        ceiling_bounds: its bounds.
    """
    value, one = _of_ratio(between, within, runs), _of_ratio(between, within, 1.0)
    if value is None or one is None:
        return _unknown(runs)
    low, high = bounds or (None, None)
    return Reliability(
        mean=Statistic(value=value, low=low, high=high, interval=None if low is None else "F"),
        runs=runs,
        one_run=one,
        between=between,
        within=within,
        needed=None if one == 0 else max(1, math.ceil(_runs_for(one) - 1e-9)),
        ceiling=ceiling,
        ceiling_bounds=ceiling_bounds,
    )


def _unknown(runs: float) -> Reliability:
    nothing = Statistic(value=None, low=None, high=None)
    return Reliability(
        mean=nothing, runs=runs, one_run=None, between=None, within=None, needed=None, ceiling=None
    )


def _of_ratio(between: float, within: float, runs: float) -> float | None:
    """The reliability of a mean of so many runs; None if nothing varies."""
    if between <= 0:
        return None if within == 0 else 0.0
    return between / (between + within / runs)


def _runs_for(one: float) -> float:
    """How many runs are enough if one has this reliability, by Spearman and Brown."""
    return ENOUGH / (1 - ENOUGH) * (1 - one) / one


def _mean_squares(
    runs_NR: npt.NDArray[np.float64],
) -> tuple[float, float, float, float, tuple[int, int]] | None:
    """Variances between architectures and within, their F, its factor, and degrees of freedom.

    None if there are too few architectures or runs.
    """
    has_NR = ~np.isnan(runs_NR)
    scores_NR = np.where(has_NR, runs_NR, 0.0)
    if has_NR.any():
        scores_NR = np.where(has_NR, runs_NR - runs_NR[has_NR].mean(), 0.0)  # for the digits
    count_N, count_R = has_NR.sum(axis=1), has_NR.sum(axis=0)
    total, (n, r) = int(has_NR.sum()), runs_NR.shape
    if n < 2 or r < 2:
        return None
    # what is left of scores and of the indicators of runs, within architectures
    off_NR = np.where(has_NR, scores_NR - (scores_NR.sum(axis=1) / count_N)[:, None], 0.0)
    mask_NR = has_NR.astype(np.float64)
    normal_RR = np.diag(count_R.astype(np.float64)) - mask_NR.T @ (mask_NR / count_N[:, None])
    right_R = off_NR.sum(axis=0)
    # a shift of all runs together is no effect, so at least one eigenvalue is 0 but for its digits
    effect_R = np.linalg.pinv(normal_RR, rcond=_ZERO, hermitian=True) @ right_R
    rank = int(np.linalg.matrix_rank(normal_RR, rtol=_ZERO, hermitian=True))
    noise = max(0.0, float((off_NR**2).sum() - right_R @ effect_R))
    of_run_NR = np.where(has_NR, scores_NR - scores_NR.sum(axis=0) / count_R, 0.0)
    spread = max(0.0, float((of_run_NR**2).sum()) - noise)
    freedoms = n + rank - r, total - n - rank
    if min(freedoms) < 1:
        return None
    scale = float((scores_NR**2).sum())
    if noise <= 1e-24 * scale:  # no more than the last digits
        noise = 0.0
    n0 = (total - r) / freedoms[0]
    above, below = spread / freedoms[0], noise / freedoms[1]
    F = math.inf if below == 0 else above / below
    return (above - below) / n0, below, F, n0, freedoms


def _ceiling(runs_NR: npt.NDArray[np.float64], between: float, within: float) -> float:
    """The mean Kendall's tau with the mean of the runs of who knows what architectures are worth.

    Two architectures whose worth differs by d come in order with probability `Phi(d / s)`, if s is
    the standard error of the difference of their means; tau is the mean over pairs of twice that,
    less 1. What each is worth is not known. In its place stand the means, drawn together until
    their variance is the one between architectures; if all is normal this is `2 / pi *
    arcsin(sqrt(reliability))`.
    """
    if between <= 0:
        return 0.0
    if within == 0:
        return 1.0
    mean_N = np.nanmean(runs_NR, axis=1)
    error_N = within / np.count_nonzero(~np.isnan(runs_NR), axis=1)
    return _of_means(mean_N, error_N, between, np.ones(len(mean_N)))


def _of_means(
    mean_N: npt.NDArray[np.float64],
    error_N: npt.NDArray[np.float64],
    between: float,
    count_N: npt.NDArray[np.float64],
) -> float:
    """The ceiling of architectures that were drawn so often; pairs of one with itself are none.

    Args:
        mean_N: their means.
        error_N: the squared standard errors of these.
        between: the variance between architectures.
        count_N: how often each was drawn.
    """
    from scipy import special  # slow to import

    centre = float(np.average(mean_N, weights=count_N))
    spread = float(count_N @ (mean_N - centre) ** 2) / (float(count_N.sum()) - 1)
    if spread > 0:
        mean_N = mean_N * math.sqrt(between / spread)
    order_N = np.argsort(mean_N, kind="stable")
    if len(order_N) > _DRAWN:
        order_N = order_N[np.linspace(0, len(order_N) - 1, _DRAWN).round().astype(np.int64)]
    mean_N, error_N, count_N = mean_N[order_N], error_N[order_N], count_N[order_N]
    first, second = np.triu_indices(len(mean_N), k=1)
    apart = (mean_N[second] - mean_N[first]) / np.sqrt(2 * (error_N[first] + error_N[second]))
    return float(np.average(special.erf(apart), weights=count_N[first] * count_N[second]))


def _resampled_ceiling(runs_NR: npt.NDArray[np.float64], draws: int) -> tuple[float, float] | None:
    """Where 95 % of ceilings lie, of draws of architectures with replacement."""
    from manyshot.seeding import numpy_rng

    if draws < 1:
        return None
    if len(runs_NR) > _RESAMPLED:
        order_N = np.argsort(np.nanmean(runs_NR, axis=1), kind="stable")
        runs_NR = runs_NR[order_N[np.linspace(0, len(order_N) - 1, _RESAMPLED).astype(np.int64)]]
    n, rng = len(runs_NR), numpy_rng(0, "resamples", 3)
    mean_N = np.nanmean(runs_NR, axis=1)
    each_N = np.count_nonzero(~np.isnan(runs_NR), axis=1)
    ceilings = []
    for count_N in rng.multinomial(n, np.full(n, 1 / n), size=draws):
        rows = np.repeat(np.arange(n), count_N)
        drawn_NR = runs_NR[rows]
        squares = _mean_squares(drawn_NR[:, ~np.isnan(drawn_NR).all(axis=0)])
        drawn = count_N > 0
        if squares is None or np.count_nonzero(drawn) < 2:
            continue
        between, within, *_ = squares
        if between <= 0 or within == 0:
            ceilings.append(float(between > 0))
            continue
        error_N = within / each_N[drawn]
        ceilings.append(
            _of_means(mean_N[drawn], error_N, between, count_N[drawn].astype(np.float64))
        )
    if 2 * len(ceilings) < draws:
        return None
    low, high = np.quantile(ceilings, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2)).tolist()
    return low, high


def _ceiling_bounds(
    runs_NR: npt.NDArray[np.float64], error: float, bounds: tuple[float, float] | None
) -> tuple[float, float] | None:
    """The ceilings at both ends of the interval of the reliability.

    Args:
        runs_NR: the scores.
        error: the variance of a mean of the runs about what its architecture is worth.
        bounds: of the interval; None if it has none.
    """
    if bounds is None or error <= 0:
        return None
    mean_N = np.nanmean(runs_NR, axis=1)
    count_N = np.ones(len(mean_N))
    ends = [
        1.0 if end >= 1 else _of_means(mean_N, count_N * error, error * end / (1 - end), count_N)
        for end in bounds
    ]
    return ends[0], ends[1]


def over_turns(each: Sequence[Reliability]) -> Reliability:
    """The reliability of a set of which several chose in turn: by the mean variances over turns.

    The bounds are means over turns too: turns share most of their architectures, so that the
    interval of their mean is hardly narrower than one of them.

    Args:
        each: the reliability of what each chose.
    """
    between, within, ceiling = (
        mean_of([getattr(own, name) for own in each]) for name in ("between", "within", "ceiling")
    )
    runs = sum(own.runs for own in each) / len(each)
    if between is None or within is None:
        return _unknown(runs)
    bounds = _mean_bounds([(own.mean.low, own.mean.high) for own in each])
    ceiling_bounds = _mean_bounds([own.ceiling_bounds for own in each])
    return _record(between, within, runs, bounds, ceiling, ceiling_bounds)


def _mean_bounds(
    bounds: Sequence[tuple[float | None, float | None] | None],
) -> tuple[float, float] | None:
    """The means of both ends; None if one is undefined."""
    low, high = (mean_of([None if both is None else both[i] for both in bounds]) for i in (0, 1))
    return None if low is None or high is None else (low, high)


def judges(known: Reliability) -> bool | None:
    """Whether a set can judge; None if that is not known."""
    return None if known.mean.value is None else known.mean.value >= ENOUGH


def words(known: Reliability) -> str:
    """Whether a set can judge, and if not, how many runs would be enough."""
    mean, runs = known.mean, f"{known.runs:.3g}"
    if mean.value is None:
        if known.runs <= 1:
            return (
                "whether this set can judge is unknown, as one run judges it, and no order is "
                "called better on it: train its architectures with one more seed (manyshot truth "
                "with another number in truth.seeds; with truth.plan = 'best' the best alone), "
                "then rank again"
            )
        return "whether this set can judge is undefined: too few scores differ"
    bounds = "" if mean.low is None else f", 95 % interval {mean.low:.2f} to {mean.high:.2f}"
    said = f"reliability {mean.value:.2f}{bounds}"
    if mean.value >= ENOUGH:
        return f"this set can judge: {runs} runs each tell its architectures apart ({said})"
    if known.needed is None:
        return (
            "this set cannot judge: its architectures differ no more than runs of one do, so that "
            f"no number of runs is known to be enough ({said})"
        )
    return (
        f"this set cannot judge: {runs} runs each do not tell its architectures apart ({said}), "
        f"and for a reliability of {ENOUGH:.1f} it would need about {known.needed:,} runs each"
    )
