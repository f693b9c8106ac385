"""How proxy scores agree with the truth on a set, by all statistics.

N counts the architectures of a set. Statistics without a value are None.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from manyshot.rank.baselines import FREE, at_like_cost, best_free
from manyshot.rank.correlation import (
    best_rank,
    bootstrap,
    clear_pairs,
    kendall,
    mean_of,
    null_sd,
    overlap,
    pearson,
    regret,
    run_to_run,
    sparse_tau,
    spearman,
    weighted_tau,
)
from manyshot.rank.crossed import OF_TAUS, REGRET, TAU, Ends, with_crossed_interval, with_ends
from manyshot.rank.like_cost import LikePairs
from manyshot.rank.reliability import CEILING_DRAWS, reliability_at_like_cost
from manyshot.rank.resampling import JudgedSet, resample
from manyshot.rank.sets import RankSet
from manyshot.rank.truth import TruthTable, text_of
from manyshot.run_folder import PredictorStatistics, RankedSet, RankedTurn, Statistic
from manyshot.space import Arch

Floats = npt.NDArray[np.float64]
OfRows = Callable[[Floats], float | None]
"""A statistic of rows of a set, by their numbers."""
DRAWS = 500
"""How many resamples a bootstrap interval has."""
TOPS = (1, 5, 10)
"""`best_rank` is reported for these tops and `overlap` for all but 1, both for a tenth too."""
RESOLUTION = 0.001
"""To which a truth that is a share is rounded for the sparse tau."""


def rank_set(ranked: RankSet, predictors: Mapping[str, Mapping[Arch, float]]) -> RankedSet:
    """All statistics of a set.

    Args:
        ranked: the set.
        predictors: by name, a score of every architecture of the set; higher is better.

    Returns:
        A record: sizes, the reliability of the truth with its ceiling, and for every predictor its
        statistics, each with the bounds of a 95 % bootstrap interval over architectures where it
        has one; of regret, and of tau on a whole set, the runs of the truth are resampled instead,
        and of tau on a set of several choosers architectures and runs. `beats` is the difference
        of Kendall's tau to that of `macs`, `beats_free` to that of the best baseline.
    """
    truth, each = ranked.truth, ranked.each
    columns = {name: _column(by, truth) for name, by in predictors.items()}
    plain = {
        name: _mean([_plain(_column(by, turn.truth), turn.truth) for turn in each])
        for name, by in predictors.items()
    }
    best = best_free(plain)
    judged = ranked.judged(columns)
    taus, regrets = _Taus(ranked, judged, plain), resample(judged, "regret", [*columns])
    macs_N = None if ranked.turns else columns.get("macs")
    like = {} if macs_N is None else at_like_cost(judged, macs_N)
    statistics = {}
    for name, own in plain.items():
        beats = taus.of(name, less="macs") if "macs" in columns and name != "macs" else None
        beats_free = None
        if best is not None and name not in FREE:
            beats_free = beats if best == "macs" else taus.of(name, less=best)
        regret_D = regrets.by_runs[name]
        bounded: dict[str, object] = {
            "kendall": taus.of(name),
            "regret": _by_runs(own.regret.value, regret_D, regrets.runs, REGRET),
            "beats": beats,
            "beats_free": beats_free,
            "like_cost": like.get(name),
        }
        if not ranked.turns and not ranked.whole:
            bounded |= _bootstrapped(own, columns[name], truth)
        statistics[name] = own.model_copy(update=bounded)
    return RankedSet(
        name=ranked.chosen.name,
        why=ranked.why,
        architectures=len(each[0].truth),
        judged_by=truth.runs,
        archs=tuple(map(text_of, truth.archs)),
        run_to_run=mean_of([run_to_run(turn.truth.fitness_NR) for turn in each]),
        null_sd=null_sd(len(each[0].truth)) if len(each[0].truth) > 1 else None,
        predictors=statistics,
        reliability=ranked.reliability(CEILING_DRAWS),
        whole=ranked.whole,
        like_cost_pairs=None if macs_N is None else len(LikePairs(macs_N)),
        like_cost_reliability=None
        if macs_N is None
        else reliability_at_like_cost(truth.fitness_NR, macs_N),
        best_free=best,
        turns=tuple(map(_turn, ranked.turns)) or None,
    )


def _column(scores: Mapping[Arch, float], truth: TruthTable) -> Floats:
    """The scores of the architectures of a table, in its order."""
    return np.array([scores[arch] for arch in truth.archs])


def _turn(turn: RankSet) -> RankedTurn:
    archs = tuple(map(text_of, turn.chosen.archs))
    return RankedTurn(by=turn.why, archs=archs, judged_by=turn.truth.runs)


def _plain(scores_N: Floats, truth: TruthTable) -> PredictorStatistics:
    """All statistics of a predictor without intervals, and without what it is compared with."""
    truth_N, errors_N, n = truth.fitness_N, truth.errors_N, len(truth)
    tops = sorted({k for k in (*TOPS, math.ceil(n / 10)) if k <= n})
    clear = None if errors_N is None else clear_pairs(scores_N, truth_N, errors_N)
    return PredictorStatistics(
        kendall=_alone(kendall(scores_N, truth_N)),
        spearman=_alone(spearman(scores_N, truth_N)),
        pearson=_alone(pearson(scores_N, truth_N)),
        clear_pairs=_alone(clear),
        overlap={str(k): _alone(overlap(scores_N, truth_N, k)) for k in tops if 1 < k < n},
        best_rank={str(k): best_rank(scores_N, truth_N, k) for k in tops},
        regret=_alone(regret(scores_N, truth_N)),
        weighted=_alone(weighted_tau(scores_N, truth_N)),
        sparse=_alone(sparse_tau(scores_N, truth_N, RESOLUTION)) if truth.metric.share else None,
    )


def _mean(each: Sequence[PredictorStatistics]) -> PredictorStatistics:
    """Means over turns of the statistics of a predictor, without intervals."""
    first = each[0]
    if len(each) == 1:
        return first

    def over_turns(name: str) -> Statistic:
        return _alone(mean_of([getattr(own, name).value for own in each]))

    names = ("kendall", "spearman", "pearson", "clear_pairs", "regret", "weighted")
    means: dict[str, object] = {name: over_turns(name) for name in names}
    return first.model_copy(
        update={
            **means,
            "overlap": {
                k: _alone(mean_of([own.overlap[k].value for own in each])) for k in first.overlap
            },
            "best_rank": {
                k: sum(own.best_rank[k] for own in each) / len(each) for k in first.best_rank
            },
            "sparse": None if first.sparse is None else over_turns("sparse"),
        }
    )


def _bootstrapped(
    plain: PredictorStatistics, scores_N: Floats, truth: TruthTable
) -> dict[str, object]:
    """The statistics that have an interval over architectures, but for tau."""

    def of(statistic: Callable[..., float | None]) -> Statistic:
        return _with_interval(statistic, scores_N, truth.fitness_N)

    tops = {k: of(functools.partial(overlap, k=int(k))) for k in plain.overlap}
    return {"spearman": of(spearman), "pearson": of(pearson), "overlap": tops}


class _Taus:
    """Kendall's tau of the predictors of a set, and differences of two, with their intervals.

    Those of a set that several chose in turn are by architectures and runs of the truth, those of a
    whole space by runs, and others by architectures.
    """

    def __init__(
        self, ranked: RankSet, judged: JudgedSet, plain: Mapping[str, PredictorStatistics]
    ) -> None:
        self.values = {name: own.kendall.value for name, own in plain.items()}
        self.in_turn, self.drawn = bool(ranked.turns), None
        if self.in_turn or ranked.whole:
            self.drawn = resample(judged, "tau", [*judged.scores])
        truth_N = ranked.truth.fitness_N
        self.rows_N = np.arange(len(truth_N), dtype=np.float64)
        self.of_rows = {
            name: _of_rows(kendall, scores_N, truth_N) for name, scores_N in judged.scores.items()
        }

    def of(self, name: str, less: str | None = None) -> Statistic:
        """Tau of a predictor, or by how much it is above that of another."""
        if self.drawn is None:
            of_rows = self.of_rows[name]
            if less is not None:
                of_rows = _difference(of_rows, self.of_rows[less])
            return _with_interval(of_rows, self.rows_N)
        value, between = self.values[name], TAU
        if less is not None:
            other, between = self.values[less], OF_TAUS
            value = None if value is None or other is None else value - other

        def drawn(by: Mapping[str, Floats]) -> Floats:
            return by[name] if less is None else by[name] - by[less]

        if self.in_turn:
            return with_crossed_interval(value, self.drawn, drawn, between)
        return _by_runs(value, drawn(self.drawn.by_runs), self.drawn.runs, between)


def _of_rows(statistic: Callable[..., float | None], *columns: Floats) -> OfRows:
    """The statistic as a function of row numbers that remembers what it returned.

    Draws are the same for all statistics of a set, so a difference of two costs nothing more.
    """
    known: dict[bytes, float | None] = {}

    def of_rows(rows_N: npt.NDArray[np.float64]) -> float | None:
        key = hashlib.sha256(rows_N.tobytes()).digest()
        if key not in known:
            known[key] = statistic(*(column[rows_N.astype(np.int64)] for column in columns))
        return known[key]

    return of_rows


def _difference(one: OfRows, other: OfRows) -> OfRows:
    """The difference of two statistics of the same rows."""

    def difference(rows_N: npt.NDArray[np.float64]) -> float | None:
        mine, theirs = one(rows_N), other(rows_N)
        return None if mine is None or theirs is None else mine - theirs

    return difference


def _with_interval(statistic: Callable[..., float | None], *columns: Floats) -> Statistic:
    """A statistic of columns with its bootstrap interval over architectures."""
    value = statistic(*columns)
    bounds = None if value is None else bootstrap(statistic, *columns, seed=0, draws=DRAWS)
    if bounds is None:
        return _alone(value)
    return Statistic(value=value, low=bounds.low, high=bounds.high, interval=bounds.method)


def _by_runs(value: float | None, drawn_D: Floats, runs: int | None, between: Ends) -> Statistic:
    """A value with Student's interval by the runs of the truth, if there are several.

    Args:
        value: the value; None if it is undefined.
        drawn_D: the value on draws of runs.
        runs: how many were drawn from; None if they were not.
        between: what the value can be.
    """
    if value is None or runs is None or np.isnan(drawn_D).any():
        return _alone(value)
    from scipy import stats  # slow to import

    reach = float(stats.t.ppf(0.975, runs - 1) * drawn_D.std(ddof=1))
    return with_ends(value, (value - reach, value + reach), between, "runs")


def _alone(value: float | None) -> Statistic:
    """A value without an interval."""
    return Statistic(value=value, low=None, high=None)
