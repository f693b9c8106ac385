"""What could have come out otherwise, drawn: architectures and runs of the truth, resampled.

Scores of some architectures are judged by some runs of the truth. Both are resampled, in one draw
and each by itself. N counts architectures, R runs of the truth, D draws, P columns of proxy scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import kendall, regret, tied
from manyshot.rank.like_cost import LikePairs
from manyshot.run_folder import Reliability
from manyshot.seeding import numpy_rng

DRAWS = 1000
CROSSED = ("tau", "regret")
"""Statistics of a set that hang on its architectures and on the runs of its truth."""
Floats = npt.NDArray[np.float64]


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
