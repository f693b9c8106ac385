"""Differences between methods, with all that could have come out otherwise: a crossed bootstrap.

Two methods were trained with some seeds, scored on some architectures, and judged by some runs of
the truth. Each of the three is resampled, all in one draw. N counts architectures, R runs of the
truth, S seeds, D draws, P columns of proxy scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import kendall, regret
from manyshot.run_folder import Reliability
from manyshot.seeding import numpy_rng

DRAWS = 1000
LEVEL = 0.95
Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class JudgedSet:
    """A set of architectures on which several runs are compared.

    Attributes:
        truth_NR: what judges, one column per run of the truth, nan where there was none; higher is
            better.
        scores: by the folder of a run its proxy scores, (N,) each; higher is better.
        whole: whether these are all architectures of a space, or its best: they are then no draw
            from anything, and are not resampled.
        reliability: of the truth; None if that was not recorded.
    """

    truth_NR: Floats
    scores: Mapping[str, Floats]
    whole: bool = False
    reliability: Reliability | None = None


@final
@dataclass(frozen=True, eq=False)
class Resampled:
    """A statistic of every run of a set, on what was drawn.

    Attributes:
        drawn: by folder, (D,): architectures and runs of the truth are drawn, the same for all.
        by_runs: by folder, (D,): runs of the truth alone are drawn.
        by_architectures: by folder, (D,): architectures alone are drawn, if they are drawn at all.
        architectures: how many were drawn from; None if they were not.
        runs: how many runs of the truth were drawn from; None if they were not.
    """

    drawn: Mapping[str, Floats]
    by_runs: Mapping[str, Floats]
    by_architectures: Mapping[str, Floats]
    architectures: int | None
    runs: int | None


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


def resample(
    judged: JudgedSet, statistic: str, folders: Sequence[str], *, seed: int = 0, draws: int = DRAWS
) -> Resampled:
    """Kendall's tau-b or regret of runs, on draws of architectures and of runs of the truth.

    Of R runs of the truth R - 1 are drawn, so that the variance of a mean over draws is that of the
    mean of R runs, where R draws of R would give a share (R - 1) / R of it. Architectures are not
    drawn if they are a whole space, nor for regret: it is an extreme, of which a bootstrap over
    architectures is not valid. Runs are not drawn if there is one, or if some are missing.

    Args:
        judged: the set.
        statistic: `"tau"` or `"regret"`.
        folders: the runs, whose scores are in `judged`.
        seed: of the draws.
        draws: how many.

    References: Efron 1979, "Bootstrap methods"; Owen 2007, "The pigeonhole bootstrap", on crossed
        factors; Bickel & Freedman 1981, section 6, on extremes; Rao & Wu 1988, on n - 1 of n.
    """
    n, r = judged.truth_NR.shape
    rng = numpy_rng(seed, "resamples", 1)
    crossed = r > 1 and not np.isnan(judged.truth_NR).any()
    chosen_DR = np.ones((draws, r))
    if crossed:
        chosen_DR = rng.multinomial(r - 1, np.full(r, 1 / r), size=draws).astype(np.float64)
    by_archs = statistic == "tau" and not judged.whole
    weights_DN = np.ones((0, n))
    if by_archs:
        weights_DN = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    mean_N = np.nanmean(judged.truth_NR, axis=1)
    scores_PN = np.array([judged.scores[folder] for folder in folders])
    kinds_MR, kind_D = np.unique(chosen_DR, axis=0, return_inverse=True)
    kind_D = kind_D.reshape(-1)
    drawn_DP, runs_MP = np.empty((draws, len(folders))), np.empty((len(kinds_MR), len(folders)))
    of_rows = {"tau": kendall, "regret": regret}[statistic]
    signs = _Signs(scores_PN) if by_archs else None
    for m, chosen_R in enumerate(kinds_MR):
        truth_N = judged.truth_NR @ chosen_R / chosen_R.sum() if crossed else mean_N
        rows = kind_D == m
        values = [of_rows(column_N, truth_N) for column_N in scores_PN]
        runs_MP[m] = [math.nan if value is None else value for value in values]
        drawn_DP[rows] = runs_MP[m] if signs is None else signs.taus(truth_N, weights_DN[rows])
    archs_DP = drawn_DP
    if signs is not None and crossed:
        archs_DP = signs.taus(mean_N, weights_DN)

    def by_folder(columns_DP: Floats) -> dict[str, Floats]:
        return {folder: columns_DP[:, i] for i, folder in enumerate(folders)}

    return Resampled(
        drawn=by_folder(drawn_DP),
        by_runs=by_folder(runs_MP[kind_D]),
        by_architectures=by_folder(archs_DP),
        architectures=n if by_archs else None,
        runs=r if crossed else None,
    )


class _Signs:
    """Tau-b of many columns on many draws, as quadratic forms of how often each row was drawn.

    With `s_ij` the sign of the difference of rows i and j in one column, and `t_ij` in the other,
    tau-b is the sum of `w_i w_j s_ij t_ij` over the root of the product of the sums of
    `w_i w_j |s_ij|` and of `w_i w_j |t_ij|`. All are whole numbers, exact in single precision.
    """

    def __init__(self, scores_PN: Floats) -> None:
        self.signs = [self._of(column_N) for column_N in scores_PN]

    @staticmethod
    def _of(column_N: Floats) -> npt.NDArray[np.float32]:
        return np.sign(column_N[:, None] - column_N).astype(np.float32)

    def taus(self, truth_N: Floats, weights_DN: Floats) -> Floats:
        """Tau of all columns with a truth on every draw, (D, P); nan where it is undefined."""
        truth_NN = self._of(truth_N)
        single_DN = weights_DN.astype(np.float32)
        both = [_form(sign_NN * truth_NN, single_DN) for sign_NN in self.signs]
        below = [_form(np.abs(sign_NN), single_DN) for sign_NN in self.signs]
        truth_D = _form(np.abs(truth_NN), single_DN)
        with np.errstate(invalid="ignore", divide="ignore"):  # where a column is constant
            return np.asarray(np.array(both).T / np.sqrt(np.array(below).T * truth_D[:, None]))


def _form(matrix_NN: npt.NDArray[np.float32], weights_DN: npt.NDArray[np.float32]) -> Floats:
    """`w' M w` for every row w of the weights, (D,)."""
    return np.asarray(np.einsum("dn,dn->d", weights_DN @ matrix_NN, weights_DN, dtype=np.float64))


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
    parts = [columns[0] - columns[1]] if paired else columns
    spreads = [(float(part.var(ddof=1)) / len(part), len(part) - 1) for part in parts]
    by_seeds = sum(variance for variance, _ in spreads)
    total = by_seeds
    if resampled is not None:
        more = _beyond_seeds(groups, resampled, paired, by_seeds, seed)
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
    by_seeds: float,
    seed: int,
) -> tuple[float, list[tuple[float, int]]] | None:
    """The variance over joint draws, and those by runs and by architectures; None if undefined."""
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
    return max(2 * sum(variances) - together, *variances), further


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
