"""Differences between methods, with all that could have come out otherwise: a crossed bootstrap.

Two methods were trained with some seeds, scored on some architectures, and judged by some runs of
the truth. Each of the three is resampled, all in one draw (`resampling.py` draws the last two). N
counts architectures, R runs of the truth, S seeds, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from manyshot.rank.resampling import Floats, Resampled
from manyshot.run_folder import IntervalMethod, Statistic
from manyshot.seeding import numpy_rng

LEVEL = 0.95
Ends = tuple[float, float]
TAU: Ends = (-1.0, 1.0)
"""What tau can be."""
OF_TAUS: Ends = (-2.0, 2.0)
"""What a difference of two taus can be."""
REGRET: Ends = (0.0, math.inf)
"""What regret can be."""


@final
@dataclass(frozen=True)
class Difference:
    """A difference of two methods.

    Attributes:
        value: the mean difference over seeds; None if there is no seed.
        low: where its 95 % interval begins; None if it is undefined.
        high: where it ends.
        error: its standard error.
        p: of no difference, two-sided.
        seeds: how many; of methods that share none the smaller number.
        paired: whether the seeds are the same.
    """

    value: float | None
    low: float | None
    high: float | None
    error: float | None
    p: float | None
    seeds: int
    paired: bool


def difference(
    first: Mapping[int, tuple[str, float]],
    second: Mapping[int, tuple[str, float]],
    resampled: Resampled | None = None,
    *,
    seed: int = 0,
) -> Difference:
    """The mean difference of two methods over seeds, with an interval and a p-value.

    Seeds are paired if the methods share one, and then those that both have count; else they are
    drawn for each method by itself. The interval is the difference give or take Student's quantile
    times the standard error. Draws of one factor alone have its own variance and that of its
    interactions, and joint draws have an interaction of two factors three times; so the variance
    is twice the sum of the three alone, less that of the joint draws, and at least that of one
    alone. The degrees of freedom are Satterthwaite's, of the variances by seeds (S - 1), by runs of
    the truth (R - 1) and by architectures (N - 1): a bootstrap of five seeds or three runs knows no
    more of their spread than these say. Without `resampled` it is Student's interval over seeds.

    Args:
        first: by seed the folder of a run and the value of the metric.
        second: likewise.
        resampled: the metric on draws of architectures and runs; None if it depends on neither.
        seed: of the draws of seeds.

    Reference: Satterthwaite 1946, "An approximate distribution of estimates of variance
        components".
    """
    shared = [own for own in first if own in second]
    paired = bool(shared) or not (first and second)
    groups = [[*first.values()], [*second.values()]]
    if paired:
        groups = [[first[own] for own in shared], [second[own] for own in shared]]
    n = min(map(len, groups))
    if n == 0:
        return Difference(None, None, None, None, None, 0, paired)
    columns = [np.array([value for _, value in group]) for group in groups]
    value = float(columns[0].mean() - columns[1].mean())
    nothing = Difference(value, None, None, None, None, n, paired)
    if n < 2:
        return nothing
    spreading = columns
    if resampled is not None and resampled.spread:
        spreading = [np.array([resampled.spread[f] for f, _ in group]) for group in groups]
    parts = [spreading[0] - spreading[1]] if paired else spreading
    spreads = [(float(part.var(ddof=1)) / len(part), len(part) - 1) for part in parts]
    by_seeds = sum(variance for variance, _ in spreads)
    total = by_seeds
    if resampled is not None:
        apart = [columns[0] - columns[1]] if paired else columns
        of_runs = sum(float(part.var(ddof=1)) / len(part) for part in apart)
        more = _beyond_seeds(groups, resampled, paired, (by_seeds, of_runs), seed)
        if more is None:
            return nothing
        total, further = more
        spreads += further
    scale = max(float(np.abs(column).max()) for column in columns)
    if total <= (1e-12 * scale) ** 2:
        return nothing
    from scipy import stats  # slow to import

    freedom = sum(v for v, _ in spreads) ** 2 / sum(v**2 / f for v, f in spreads if v)
    sd = math.sqrt(total)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * sd
    p = 2 * float(stats.t.sf(abs(value) / sd, freedom))
    return Difference(value, value - reach, value + reach, sd, p, n, paired)


def _beyond_seeds(
    groups: Sequence[Sequence[tuple[str, float]]],
    resampled: Resampled,
    paired: bool,
    seeds: tuple[float, float],
    seed: int,
) -> tuple[float, list[tuple[float, int]]] | None:
    """The variance of all together, and those by runs and by architectures; None if undefined.

    Args:
        groups: the folders and values of both methods.
        resampled: the metric on draws.
        paired: whether the methods share their seeds.
        seeds: the variance by seeds, and the one that values of runs alone have.
        seed: of the draws of seeds.
    """
    by_seeds, of_runs = seeds
    if resampled.runs is None and resampled.architectures is None:
        return by_seeds, []
    rng = numpy_rng(seed, "resamples", 2)
    joint: list[Floats] = []
    fixed: list[list[str]] = []
    for group in groups:
        values_DS = np.array([resampled.drawn[folder] for folder, _ in group]).T
        size = len(group)
        if not (joint and paired):
            counts_DS = rng.multinomial(size - 1, np.full(size, 1 / size), size=len(values_DS))
        values_DS = np.where(counts_DS > 0, values_DS, 0.0)  # what was not drawn may be undefined
        joint.append((values_DS * counts_DS).sum(axis=1) / (size - 1))
        fixed.append([folder for folder, _ in group])

    def variance(columns: Mapping[str, Floats]) -> float | None:
        first_D, second_D = (np.mean([columns[f] for f in own], axis=0) for own in fixed)
        return _variance(first_D - second_D)

    together = _variance(joint[0] - joint[1])
    alone: list[tuple[float | None, int]] = []
    if resampled.runs is not None:
        alone.append((variance(resampled.by_runs), resampled.runs - 1))
    if resampled.architectures is not None:
        alone.append((variance(resampled.by_architectures), resampled.architectures - 1))
    further = [(own, freedom) for own, freedom in alone if own is not None]
    if together is None or len(further) < len(alone):
        return None
    variances = [by_seeds, *(own for own, _ in further)]
    return _together(variances, together + by_seeds - of_runs), further


def _together(variances: Sequence[float], joint: float) -> float:
    """The variance by several factors, of those by each alone and that of joint draws."""
    return max(2 * sum(variances) - joint, *variances)


def interval_of_resampled(
    value: float, resampled: Resampled, of: Callable[[Mapping[str, Floats]], Floats]
) -> tuple[float, float] | None:
    """Where the 95 % interval of a value of one supernet begins and ends; None if undefined.

    It is by architectures and by runs of the truth, as far as these were resampled: the value give
    or take Student's quantile times the standard error, as of a `difference`.

    Args:
        value: the value.
        resampled: what it is of, on draws.
        of: the value on draws, (D,), of columns by folder.
    """
    alone: list[tuple[float | None, int]] = []
    if resampled.runs is not None:
        alone.append((_variance(of(resampled.by_runs)), resampled.runs - 1))
    if resampled.architectures is not None:
        alone.append((_variance(of(resampled.by_architectures)), resampled.architectures - 1))
    known = [(variance, freedom) for variance, freedom in alone if variance is not None]
    joint = _variance(of(resampled.drawn))
    if joint is None or not known or len(known) < len(alone):
        return None
    total = _together([variance for variance, _ in known], joint)
    if total <= 1e-24:
        return None
    from scipy import stats  # slow to import

    freedom = sum(v for v, _ in known) ** 2 / sum(v**2 / f for v, f in known if v)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total)
    return value - reach, value + reach


def with_crossed_interval(
    value: float | None,
    resampled: Resampled | None,
    of: Callable[[Mapping[str, Floats]], Floats],
    between: Ends,
) -> Statistic:
    """A value of one supernet with its `interval_of_resampled`.

    Args:
        value: the value; None if it is undefined.
        resampled: what it is of, on draws; None if nothing was drawn.
        of: the value on draws, (D,), of columns by folder.
        between: what the value can be.
    """
    ends = None
    if value is not None and resampled is not None:
        ends = interval_of_resampled(value, resampled, of)
    return with_ends(value, ends, between)


def cut(low: float, high: float, between: Ends) -> tuple[float, float, bool]:
    """An interval within what a value can be, and whether it reached beyond."""
    return max(low, between[0]), min(high, between[1]), low < between[0] or high > between[1]


def with_ends(
    value: float | None, ends: Ends | None, between: Ends, method: IntervalMethod = "crossed"
) -> Statistic:
    """A value with its interval, cut at what the value can be, which the record says.

    Args:
        value: the value; None if it is undefined.
        ends: of the interval; None if it has none.
        between: what the value can be.
        method: how the interval was found.
    """
    if value is None or ends is None:
        return Statistic(value=value, low=None, high=None)
    low, high, was_cut = cut(*ends, between)
    return Statistic(value=value, low=low, high=high, interval=method, cut=was_cut or None)


def _variance(values_D: Floats) -> float | None:
    """Over the draws on which a value is defined; None if these are no more than half."""
    defined_D = values_D[~np.isnan(values_D)]
    return None if 2 * len(defined_D) <= len(values_D) else float(defined_D.var(ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for how many comparisons there are.

    If those below 0.05 count as differences, one or more of them is wrong in at most 5 % of
    families, however the comparisons depend on each other.

    Reference: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted
