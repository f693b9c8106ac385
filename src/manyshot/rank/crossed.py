"""Differences between methods, with all that could have come out otherwise: a crossed bootstrap.

Two methods were trained with some seeds, scored on some architectures, and judged by some runs of
the truth. Each of the three is resampled, all in one draw. N counts architectures, R runs of the
truth, S seeds, D draws, P columns of proxy scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import kendall, regret, tied
from manyshot.rank.like_cost import LikePairs
from manyshot.run_folder import IntervalMethod, Reliability, Statistic
from manyshot.seeding import numpy_rng

DRAWS = 1000
LEVEL = 0.95
CROSSED = ("tau", "regret")
"""Statistics of a set that hang on its architectures and on the runs of its truth."""
Floats = npt.NDArray[np.float64]
Ends = tuple[float, float]
TAU: Ends = (-1.0, 1.0)
"""What tau can be."""
OF_TAUS: Ends = (-2.0, 2.0)
"""What a difference of two taus can be."""
REGRET: Ends = (0.0, math.inf)
"""What regret can be."""


@final
@dataclass(frozen=True, eq=False)
class Turn:
    """What one of several choosers chose of a set.

    Attributes:
        rows_K: which architectures of the set these are.
        judges_R: which runs of the truth judge them.
        chooser: the column of the run of the truth that chose them, which is no judge; None if a
            supernet did.
        passes: folders of runs that are not judged by these architectures, such as that of the
            supernet which chose them.
    """

    rows_K: npt.NDArray[np.intp]
    judges_R: npt.NDArray[np.bool_]
    chooser: int | None = None
    passes: frozenset[str] = frozenset()


@final
@dataclass(frozen=True, eq=False)
class JudgedSet:
    """A set of architectures on which several runs are compared.

    A statistic of a set of which several chose in turn is the mean over turns.

    Attributes:
        truth_NR: what judges, one column per run of the truth, nan where there was none; higher is
            better.
        scores: by the folder of a run its proxy scores, (N,) each; higher is better.
        whole: whether these are all architectures of a space, or its best: they are then no draw
            from anything, and are not resampled.
        reliability: of the truth; None if that was not recorded.
        turns: what each of several choosers chose; none if all were chosen together.
        costs_N: what the architectures cost, if only pairs of like cost count.
        spread: by statistic and folder what the seed of a run adds to a mean over seeds, where that
            is not the value of the run alone: a supernet that chooses has a part in other values.
    """

    truth_NR: Floats
    scores: Mapping[str, Floats]
    whole: bool = False
    reliability: Reliability | None = None
    turns: tuple[Turn, ...] = ()
    costs_N: Floats | None = None
    spread: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


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
        spread: of the statistic, as a `JudgedSet` has it.
    """

    drawn: Mapping[str, Floats]
    by_runs: Mapping[str, Floats]
    by_architectures: Mapping[str, Floats]
    architectures: int | None
    runs: int | None
    spread: Mapping[str, float] = field(default_factory=dict)


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

    Where runs of the truth choose in turn, a run that is drawn twice would choose and judge. There
    runs are left out one at a time instead, and deviations from the value of all are multiplied by
    the root of R - 1, so that their variance is the jackknife's; it takes three runs.

    Args:
        judged: the set.
        statistic: `"tau"` or `"regret"`.
        folders: the runs, whose scores are in `judged`.
        seed: of the draws.
        draws: how many.

    References: Efron 1979, "Bootstrap methods"; Owen 2007, "The pigeonhole bootstrap", on crossed
        factors; Bickel & Freedman 1981, section 6, on extremes; Rao & Wu 1988, on n - 1 of n;
        Arvesen 1969, "Jackknifing U-statistics".
    """
    n, r = judged.truth_NR.shape
    rng = numpy_rng(seed, "resamples", 1)
    by_archs = statistic == "tau" and not judged.whole
    jackknifed = any(turn.chooser is not None for turn in judged.turns)
    crossed = r > (2 if jackknifed else 1) and _is_complete(judged)
    kinds_MR, kind_D = np.ones((1, r)), np.zeros(draws, dtype=np.intp)
    if crossed and jackknifed:
        kinds_MR, kind_D = 1 - np.eye(r), rng.integers(r, size=draws)
    elif crossed:
        chosen_DR = rng.multinomial(r - 1, np.full(r, 1 / r), size=draws).astype(np.float64)
        kinds_MR, kind_D = np.unique(chosen_DR, axis=0, return_inverse=True)
        kind_D = kind_D.reshape(-1)
    weights_DN = np.ones((0, n))
    if by_archs:
        weights_DN = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    of = _Statistics(judged, statistic, folders, by_archs)
    all_R = np.ones(r)
    runs_MP = np.array([of.value(kind_R) for kind_R in kinds_MR])
    runs_DP = runs_MP[kind_D]
    archs_DP = of.drawn(all_R, weights_DN) if by_archs else np.tile(of.value(all_R), (draws, 1))
    drawn_DP = runs_DP
    if by_archs:
        drawn_DP = np.empty_like(archs_DP)
        for m, kind_R in enumerate(kinds_MR):
            drawn_DP[kind_D == m] = of.drawn(kind_R, weights_DN[kind_D == m])
    if crossed and jackknifed:
        far = math.sqrt(r - 1)
        drawn_DP = archs_DP + far * (drawn_DP - archs_DP)
        runs_DP = of.value(all_R) + far * (runs_DP - of.value(all_R))

    def by_folder(columns_DP: Floats) -> dict[str, Floats]:
        return {folder: columns_DP[:, i] for i, folder in enumerate(folders)}

    return Resampled(
        drawn=by_folder(drawn_DP),
        by_runs=by_folder(runs_DP),
        by_architectures=by_folder(archs_DP if by_archs else runs_DP),
        architectures=n if by_archs else None,
        runs=r if crossed else None,
        spread=judged.spread.get(statistic, {}),
    )


def mean_over_turns(judged: JudgedSet, statistic: str, folder: str) -> float | None:
    """Kendall's tau-b or regret of a run on a set, by all runs of the truth; None if undefined.

    Args:
        judged: the set.
        statistic: `"tau"` or `"regret"`.
        folder: the run.
    """
    of = _Statistics(judged, statistic, [folder], False)
    [value] = of.value(np.ones(judged.truth_NR.shape[1])).tolist()
    return None if math.isnan(value) else float(value)


def _turns(judged: JudgedSet) -> tuple[Turn, ...]:
    """The turns of a set; one of all architectures if they were chosen together."""
    n, r = judged.truth_NR.shape
    return judged.turns or (Turn(np.arange(n), np.ones(r, dtype=np.bool_)),)


def _is_complete(judged: JudgedSet) -> bool:
    """Whether every architecture has every run that judges it."""
    truth_NR = judged.truth_NR
    return not any(
        np.isnan(truth_NR[np.ix_(turn.rows_K, turn.judges_R)]).any() for turn in _turns(judged)
    )


_PAIRED = 400
"""The signs of all pairs of so many architectures are less work than a call of scipy each."""


class _Statistics:
    """A statistic of P runs on a set, as a function of which runs of the truth count."""

    def __init__(
        self, judged: JudgedSet, statistic: str, folders: Sequence[str], signs: bool
    ) -> None:
        self.judged, self.turns = judged, _turns(judged)
        self.of_turn = {"tau": self._tau, "regret": self._regret}[statistic]
        scores_PN = np.array([judged.scores[folder] for folder in folders])
        self.scores = [scores_PN[:, turn.rows_K] for turn in self.turns]
        self.passes = [np.array([f in turn.passes for f in folders]) for turn in self.turns]
        few = statistic == "tau" and all(len(turn.rows_K) <= _PAIRED for turn in self.turns)
        self.by_signs = few
        costs_N = judged.costs_N
        self.pairs = [None if costs_N is None else LikePairs(costs_N[t.rows_K]) for t in self.turns]
        self.signs: list[_Signs] = []
        if signs or few:
            self.signs = list(map(_Signs, self.scores, self.pairs))

    def _tau(self, turn: int, scores_K: Floats, truth_K: Floats) -> float | None:
        pairs = self.pairs[turn]
        return kendall(scores_K, truth_K) if pairs is None else pairs.tau(scores_K, truth_K)

    @staticmethod
    def _regret(_turn: int, scores_K: Floats, truth_K: Floats) -> float:
        return regret(scores_K, truth_K)

    def _truths(self, kind_R: Floats) -> list[tuple[int, float, Floats]]:
        """Of each turn with a judge its number, its weight, and what judges, (K,)."""
        found = []
        for t, turn in enumerate(self.turns):
            weights_R = np.where(turn.judges_R, kind_R, 0.0)
            weight = 1.0 if turn.chooser is None else float(kind_R[turn.chooser])
            if weight > 0 and weights_R.any():
                used_R = weights_R > 0
                truth_KR = self.judged.truth_NR[turn.rows_K][:, used_R]
                has_KR = ~np.isnan(truth_KR)
                sum_K = np.where(has_KR, truth_KR, 0.0) @ weights_R[used_R]
                found.append((t, weight, tied(sum_K / (has_KR @ weights_R[used_R]))))
        return found

    def value(self, kind_R: Floats) -> Floats:
        """Without draws of architectures, (P,)."""
        of_turns = []
        for t, weight, truth_K in self._truths(kind_R):
            if self.by_signs:
                of_turns.append((t, weight, self.signs[t].of_each_once(truth_K)))
                continue
            found = [self.of_turn(t, scores_K, truth_K) for scores_K in self.scores[t]]
            values_P = np.array([math.nan if value is None else value for value in found])
            of_turns.append((t, weight, values_P))
        return self._mean(of_turns, (len(self.scores[0]),))

    def drawn(self, kind_R: Floats, weights_DN: Floats) -> Floats:
        """On draws of architectures, (D, P)."""
        of_turns = [
            (t, weight, self.signs[t].taus(truth_K, weights_DN[:, self.turns[t].rows_K]))
            for t, weight, truth_K in self._truths(kind_R)
        ]
        return self._mean(of_turns, (len(weights_DN), len(self.scores[0])))

    def _mean(
        self, of_turns: Sequence[tuple[int, float, Floats]], shape: tuple[int, ...]
    ) -> Floats:
        """The mean over turns that have a value and judge, nan where there is none."""
        total, weights = np.zeros(shape), np.zeros(shape)
        for t, weight, values in of_turns:
            counts = weight * ~(np.isnan(values) | self.passes[t])
            total += np.where(counts > 0, values, 0.0) * counts
            weights += counts
        with np.errstate(invalid="ignore", divide="ignore"):  # where none has a value
            return np.asarray(total / weights)


class _Signs:
    """Tau-b of many columns on many draws, as quadratic forms of how often each row was drawn.

    With `s_ij` the sign of the difference of rows i and j in one column, and `t_ij` in the other,
    tau-b is the sum of `w_i w_j s_ij t_ij` over the root of the product of the sums of
    `w_i w_j |s_ij|` and of `w_i w_j |t_ij|`. All are whole numbers, exact in single precision.
    Where only pairs of like cost count, the signs of the others are 0.
    """

    def __init__(self, scores_PN: Floats, pairs: LikePairs | None) -> None:
        self.pairs_NN = 1 if pairs is None else pairs.matrix().astype(np.float32)
        self.signs = [self._of(column_N) * self.pairs_NN for column_N in scores_PN]
        self.flat_PM: npt.NDArray[np.float32] | None = None
        self.below_P = np.empty(0)

    @staticmethod
    def _of(column_N: Floats) -> npt.NDArray[np.float32]:
        return np.sign(column_N[:, None] - column_N).astype(np.float32)

    def of_each_once(self, truth_N: Floats) -> Floats:
        """Tau of all columns with a truth, (P,); nan where it is undefined."""
        if self.flat_PM is None:
            self.flat_PM = np.array([sign_NN.ravel() for sign_NN in self.signs])
            self.below_P = np.abs(self.flat_PM).sum(axis=1, dtype=np.float64)
        truth_M = (self._of(truth_N) * self.pairs_NN).ravel()
        above_P = (self.flat_PM @ truth_M).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):  # where a column is constant
            return np.asarray(above_P / np.sqrt(self.below_P * float(np.abs(truth_M).sum())))

    def taus(self, truth_N: Floats, weights_DN: Floats) -> Floats:
        """Tau of all columns with a truth on every draw, (D, P); nan where it is undefined."""
        truth_NN = self._of(truth_N) * self.pairs_NN
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
