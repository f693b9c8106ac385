"""How proxy scores agree with the truth, over the whole space and at its top, by all statistics.

N counts the architectures of a set. Statistics without a value are None.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import (
    best_rank,
    bootstrap,
    clear_pairs,
    kendall,
    null_sd,
    overlap,
    pearson,
    regret,
    run_to_run,
    sparse_tau,
    spearman,
    weighted_tau,
)
from manyshot.rank.crossed import JudgedSet, Resampled, resample
from manyshot.rank.reliability import judges, reliability, words
from manyshot.rank.selection import FrozenSet
from manyshot.rank.truth import TruthTable, text_of
from manyshot.run_folder import PredictorStatistics, RankedSet, Statistic
from manyshot.space import Arch

OfRows = Callable[[npt.NDArray[np.float64]], float | None]
"""A statistic of rows of a set, by their numbers."""
DRAWS = 500
"""How many resamples a bootstrap interval has."""
TOPS = (1, 5, 10)
"""`best_rank` is reported for these tops and `overlap` for all but 1, both for a tenth too."""
RESOLUTION = 0.001
"""To which a truth that is a share is rounded for the sparse tau."""
SMALLEST = 5
"""A local set of fewer architectures is not made."""
NEEDS = {
    "local by truth": "a second run of the best: truth.plan = 'best' with other truth.seeds",
    "local by prediction": f"more than {SMALLEST} architectures",
    "local by search": f"a search that scored {SMALLEST} architectures of the truth",
}
"""What a local set that cannot be made lacks."""


@final
@dataclass(frozen=True)
class RankSet:
    """A set of architectures to rank, and the truth that judges it.

    Attributes:
        chosen: the architectures, and what chose them.
        why: how they were chosen, a sentence.
        truth: their accuracies, by the runs that may judge them.
        whole: whether they are all architectures of a space, or the best of all: then they are no
            draw from anything.
    """

    chosen: FrozenSet
    why: str
    truth: TruthTable
    whole: bool = False


def rank_sets(
    truth: TruthTable,
    *,
    share: float = 0.1,
    prediction: Mapping[Arch, float] | None = None,
    own_prediction: bool = True,
    history: Mapping[Arch, float] | None = None,
    whole: bool = False,
) -> Iterator[RankSet]:
    """The global set and the local ones, as far as they can be made.

    - Local by truth: the best `share` by one run, judged by the others, so that no seed's luck both
      chooses and judges; it needs a second run for those chosen.
    - Local by prediction: the best `share` by the proxy of one supernet, which should not be the
      one that is judged.
    - Local by search: the best of what a search scored.

    Where some architectures have more runs than others, all but the set by truth are judged by the
    runs that all have (see `TruthTable.even`).

    Args:
        truth: the truth of the architectures that have a proxy score.
        share: the share of the architectures, in (0, 1], that a local set has.
        prediction: proxy scores that choose.
        own_prediction: whether these are of the weights that are judged.
        history: proxy scores of all that a search scored.
        whole: whether the truth has all architectures of its space.

    Raises:
        ValueError: if `share` is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"share of the architectures in a local set must be in (0, 1], got {share}"
        )
    even = truth.even
    everything = FrozenSet("global", truth.archs)
    yield RankSet(everything, f"all {len(truth):,} architectures that have a truth", even, whole)
    count = max(SMALLEST, math.ceil(share * len(truth)))
    if count < len(truth):
        yield from _by_truth(truth, count, whole)
        if prediction is not None:
            why = f"the {count} best by the proxy score of a reference supernet"
            if own_prediction:
                why = f"the {count} best by this supernet's own proxy score, which favours it"
            scores = {arch: prediction[arch] for arch in truth.archs if arch in prediction}
            yield from _best(even, "local by prediction", why, scores, count, whole)
    if history is not None:
        scores = {arch: history[arch] for arch in truth.archs if arch in history}
        why = f"the best of {len(history):,} that the search scored, as far as they have a truth"
        yield from _best(even, "local by search", why, scores, count, False)


def _by_truth(truth: TruthTable, count: int, whole: bool) -> Iterator[RankSet]:
    """The set chosen by the run that most architectures have, if others judge all of it."""
    has_NR = ~np.isnan(truth.scores_NR)
    run = int(has_NR.sum(axis=0).argmax())
    rows = np.flatnonzero(has_NR[:, run])
    archs = [truth.archs[i] for i in rows]
    if len(truth.runs) < 2 or len(archs) < count:
        return
    scores = truth.fitness_NR[rows, run].tolist()
    chosen = FrozenSet.top("local by truth", archs, scores, count)
    rest = truth.without_run(run)
    row_of = {arch: i for i, arch in enumerate(rest.archs)}
    if all(arch in row_of for arch in chosen.archs):
        why = f"the {count} best by {truth.runs[run]}, which does not judge them"
        yield RankSet(chosen, why, rest.subset(row_of[arch] for arch in chosen.archs), whole)


def _best(
    truth: TruthTable,
    name: str,
    why: str,
    scores: Mapping[Arch, float],
    count: int,
    whole: bool,
) -> Iterator[RankSet]:
    if min(count, len(scores)) < SMALLEST:
        return
    archs = list(scores)
    chosen = FrozenSet.top(name, archs, [scores[a] for a in archs], min(count, len(archs)))
    row_of = {arch: i for i, arch in enumerate(truth.archs)}
    yield RankSet(chosen, why, truth.subset(row_of[arch] for arch in chosen.archs), whole)


def rank_set(ranked: RankSet, predictors: Mapping[str, Mapping[Arch, float]]) -> RankedSet:
    """All statistics of a set.

    Args:
        ranked: the set.
        predictors: by name, a score of every architecture of the set; higher is better.

    Returns:
        A record: sizes, the reliability of the truth with its ceiling, and for every predictor its
        statistics, each with the bounds of a 95 % bootstrap interval over architectures where it
        has one; of regret, and of tau on a whole set, the runs of the truth are resampled instead.
        `beats` is the difference of Kendall's tau to that of `macs`.
    """
    truth, archs = ranked.truth, ranked.truth.archs
    columns = {name: np.array([by[a] for a in archs]) for name, by in predictors.items()}
    taus = {
        name: _of_rows(kendall, column_N, truth.fitness_N) for name, column_N in columns.items()
    }
    judged = JudgedSet(truth.fitness_NR, columns, ranked.whole)
    by_regret = resample(judged, "regret", [*columns])
    by_tau = resample(judged, "tau", [*columns]) if ranked.whole else None
    statistics = {
        name: _statistics(
            column_N,
            truth,
            taus[name],
            None if name == "macs" else taus.get("macs"),
            _Draws(name, by_regret, by_tau),
        )
        for name, column_N in columns.items()
    }
    return RankedSet(
        name=ranked.chosen.name,
        why=ranked.why,
        architectures=len(archs),
        judged_by=truth.runs,
        archs=tuple(text_of(arch) for arch in archs),
        run_to_run=run_to_run(truth.fitness_NR),
        null_sd=null_sd(len(archs)) if len(archs) > 1 else None,
        predictors=statistics,
        reliability=reliability(truth.fitness_NR),
        whole=ranked.whole,
    )


class _Draws(NamedTuple):
    """What resampling the runs of the truth gives for one predictor."""

    name: str
    regret: Resampled
    tau: Resampled | None
    """None unless the set is whole, so that no architecture may be resampled."""

    def of_regret(self, value: float) -> Statistic:
        """Regret, which is never below 0, with an interval."""
        found = _by_runs(value, self.regret.by_runs[self.name], self.regret.runs)
        if found.low is None:
            return found
        return found.model_copy(update={"low": max(0.0, found.low)})

    def of_tau(self, value: float | None, less: str | None = None) -> Statistic:
        """Tau of a whole set, or its difference to that of another predictor."""
        assert self.tau is not None
        drawn_D = self.tau.by_runs[self.name]
        if less is not None:
            drawn_D = drawn_D - self.tau.by_runs[less]
        return _by_runs(value, drawn_D, self.tau.runs)


def _by_runs(value: float | None, drawn_D: npt.NDArray[np.float64], runs: int | None) -> Statistic:
    """A value with Student's interval by the runs of the truth, if there are several."""
    nothing = Statistic(value=value, low=None, high=None)
    if value is None or runs is None or np.isnan(drawn_D).any():
        return nothing
    from scipy import stats  # slow to import

    reach = float(stats.t.ppf(0.975, runs - 1) * drawn_D.std(ddof=1))
    return Statistic(value=value, low=value - reach, high=value + reach, interval="runs")


def _statistics(
    scores_N: npt.NDArray[np.float64],
    truth: TruthTable,
    tau: OfRows,
    tau_of_macs: OfRows | None,
    draws: _Draws,
) -> PredictorStatistics:
    truth_N, errors_N, n = truth.fitness_N, truth.errors_N, len(truth)
    tops = sorted({k for k in (*TOPS, math.ceil(n / 10)) if k <= n})
    clear = None if errors_N is None else clear_pairs(scores_N, truth_N, errors_N)
    rows_N = np.arange(n, dtype=np.float64)
    whole = draws.tau is not None

    def of(statistic: Callable[..., float | None]) -> Statistic:
        if whole:
            return _alone(statistic(scores_N, truth_N))
        return _with_interval(statistic, scores_N, truth_N)

    def beats(rows_N: npt.NDArray[np.float64]) -> float | None:
        mine, other = tau(rows_N), None if tau_of_macs is None else tau_of_macs(rows_N)
        return None if mine is None or other is None else mine - other

    beaten = None
    if tau_of_macs is not None:
        beaten = _with_interval(beats, rows_N) if not whole else None
        beaten = beaten or draws.of_tau(beats(rows_N), less="macs")
    return PredictorStatistics(
        kendall=draws.of_tau(tau(rows_N)) if whole else _with_interval(tau, rows_N),
        spearman=of(spearman),
        pearson=of(pearson),
        clear_pairs=_alone(clear),
        overlap={str(k): of(functools.partial(overlap, k=k)) for k in tops if 1 < k < n},
        best_rank={str(k): best_rank(scores_N, truth_N, k) for k in tops},
        regret=draws.of_regret(regret(scores_N, truth_N)),
        beats=beaten,
        weighted=_alone(weighted_tau(scores_N, truth_N)),
        sparse=_alone(sparse_tau(scores_N, truth_N, RESOLUTION)) if truth.metric.share else None,
    )


def _alone(value: float | None) -> Statistic:
    """A value without an interval."""
    return Statistic(value=value, low=None, high=None)


def _of_rows(statistic: Callable[..., float | None], *columns: npt.NDArray[np.float64]) -> OfRows:
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


def _with_interval(
    statistic: Callable[..., float | None], *columns: npt.NDArray[np.float64]
) -> Statistic:
    value = statistic(*columns)
    bounds = None if value is None else bootstrap(statistic, *columns, seed=0, draws=DRAWS)
    if bounds is None:
        return Statistic(value=value, low=None, high=None)
    return Statistic(value=value, low=bounds.low, high=bounds.high, interval=bounds.method)


def verdict(ranked: RankedSet) -> str:
    """A set's record in plain sentences: whether it can judge, the proxy beside MACs, the ceiling.

    A set that cannot judge, or of which that is not known, says of no order that it is better.
    Where the 95 % interval of tau holds 0, or tau is within two standard deviations of unrelated
    orders, the architectures are too few to tell, and the sentence says how many would be needed.
    """
    n, tau, known = ranked.architectures, ranked.predictors["proxy"].kendall, ranked.reliability
    judged = known is None or judges(known) is True
    if tau.value is None:
        parts = ["tau of the proxy is undefined: its scores, or the truth, are all equal"]
    elif _is_untold(tau, n, ranked.whole is True):
        beside = _beside_macs(ranked, only_told=True) if judged else ""
        parts = [f"{_untold(tau, n)}{beside}"]
    else:
        said = f"the proxy orders these {n} architectures with tau {tau.value:.2f}"
        parts = [f"{said}{_beside_macs(ranked) if judged else ''}"]
    if known is not None:
        parts.insert(len(parts) if judged else 0, words(known))
        if known.ceiling is not None:
            parts.append(
                f"who knew what each is worth would order their mean with tau {known.ceiling:.2f}"
            )
    runs = ranked.run_to_run
    if runs is not None:
        parts.append(f"one training run orders another's with tau {runs:.2f}")
    elif len(ranked.judged_by) == 1:
        parts.append("only one run judges them, so how well runs agree is unknown")
    else:
        parts.append("how well two training runs agree is undefined")
    return "; ".join(parts)


def _is_untold(tau: Statistic, n: int, whole: bool) -> bool:
    """Whether `n` architectures are too few to tell such an order from a random one.

    Those of a whole space are no draw, and an interval by runs of the truth is no matter of theirs.
    """
    if whole and tau.value is not None:
        return abs(tau.value) <= 2 * null_sd(n)
    if tau.value is None or tau.low is None or tau.high is None:
        return True
    return tau.low <= 0 <= tau.high or abs(tau.value) <= 2 * null_sd(n)


def _untold(tau: Statistic, n: int) -> str:
    """That `n` architectures are too few, and how many would be enough."""
    assert tau.value is not None
    bounds = ""
    if tau.low is not None and tau.high is not None:
        bounds = f", 95 % interval {tau.low:.2f} to {tau.high:.2f}"
    needed = _needed(tau, n)
    more = "" if needed is None else f"; for a tau of this size about {needed:,} would be needed"
    return (
        f"these {n} architectures are too few to tell the proxy's order from a random one (tau "
        f"{tau.value:.2f}{bounds}){more}"
    )


def _needed(tau: Statistic, n: int) -> int | None:
    """About how many architectures would tell a tau of this size from 0; None if it is 0.

    The interval shrinks with the root of their number, and so does `null_sd`.
    """
    if not tau.value:
        return None
    needed = max(2, math.ceil(16 / (9 * tau.value**2)))
    while 2 * null_sd(needed) >= abs(tau.value):
        needed += 1
    beyond = tau.low if tau.value > 0 else tau.high  # the end of the interval towards 0
    if beyond is not None:
        needed = max(needed, math.ceil(n * ((tau.value - beyond) / tau.value) ** 2))
    return max(needed, n + 1)


def _beside_macs(ranked: RankedSet, *, only_told: bool = False) -> str:
    """Whether the proxy is told apart from counting MACs; nothing if that is not known.

    Args:
        ranked: the record.
        only_told: whether to say nothing either where it is not.
    """
    beats = ranked.predictors["proxy"].beats
    if beats is None or beats.low is None or beats.high is None:
        return ""
    said = "not distinguishable from"
    if beats.low > 0 or beats.high < 0:
        said = "better than" if beats.low > 0 else "worse than"
    elif only_told:
        return ""
    return f", {said} counting MACs ({ranked.predictors['macs'].kendall.value:.2f})"
