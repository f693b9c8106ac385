"""How proxy scores agree with the truth, over the whole space and at its top, by all statistics.

N counts the architectures of a set. Statistics without a value are None.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from manyshot.rank.baselines import FREE, MOST_PAIRED, at_like_cost, best_free, like_pairs
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
from manyshot.rank.crossed import (
    OF_TAUS,
    REGRET,
    TAU,
    Ends,
    JudgedSet,
    Resampled,
    Turn,
    interval,
    resample,
    with_ends,
)
from manyshot.rank.reliability import (
    CEILING_DRAWS,
    judges,
    of_pairs,
    over_turns,
    reliability,
    words,
)
from manyshot.rank.selection import FrozenSet
from manyshot.rank.truth import TruthTable, text_of
from manyshot.run_folder import PredictorStatistics, RankedSet, RankedTurn, Statistic
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
    "local by truth": "two runs of the best to be made, three to be judged: truth.plan = 'best' "
    "with other truth.seeds",
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
        turns: of a set of which several chose in turn the set of each, whose `why` names it; the
            set has the architectures of all, and its statistics are means over turns.
    """

    chosen: FrozenSet
    why: str
    truth: TruthTable
    whole: bool = False
    turns: tuple[RankSet, ...] = ()


def rank_sets(
    truth: TruthTable,
    *,
    share: float = 0.1,
    prediction: Mapping[str, Mapping[Arch, float]] | None = None,
    own_prediction: bool = True,
    history: Mapping[Arch, float] | None = None,
    whole: bool = False,
) -> Iterator[RankSet]:
    """The global set and the local ones, as far as they can be made.

    - Local by truth: the best `share` by one run, judged by the others, so that no seed's luck both
      chooses and judges. All runs that have every architecture choose in turn, as which of them
      chooses decides much; where fewer than two have every architecture, the run that has most
      chooses, and it needs a second run for those chosen. It takes two runs to be made and three to
      be judged, as whoever chooses is no judge and one run alone has no reliability.
    - Local by prediction: the best `share` by the proxy of a supernet, which should not be the one
      that is judged; several choose in turn.
    - Local by search: the best of what a search scored.

    Where some architectures have more runs than others, all but the set by truth are judged by the
    runs that all have (see `TruthTable.even`).

    Args:
        truth: the truth of the architectures that have a proxy score.
        share: the share of the architectures, in (0, 1], that a local set has.
        prediction: proxy scores that choose, by the name of the supernet.
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
        if prediction:
            yield from _by_prediction(even, count, prediction, own_prediction, whole)
    if history is not None:
        scores = {arch: history[arch] for arch in truth.archs if arch in history}
        why = f"the best of {len(history):,} that the search scored, as far as they have a truth"
        yield from _best(even, "local by search", why, scores, count, False)


def _by_truth(truth: TruthTable, count: int, whole: bool) -> Iterator[RankSet]:
    """The set that the runs with every architecture choose in turn, or the run that has most."""
    name, even = "local by truth", truth.even
    if len(even.runs) > 1 and even.complete.all():
        turns = []
        for run, chooser in enumerate(even.runs):
            chosen = FrozenSet.top(name, even.archs, even.fitness_NR[:, run].tolist(), count)
            turns.append(_turn(even.without_run(run), chosen, chooser, whole))
        why = f"the {count} best by each run in turn, judged by the others"
        yield _in_turn(even, name, why, turns, whole)
        return
    has_NR = ~np.isnan(truth.scores_NR)
    run = int(has_NR.sum(axis=0).argmax())
    rows = np.flatnonzero(has_NR[:, run])
    archs = [truth.archs[i] for i in rows]
    if len(truth.runs) < 2 or len(archs) < count:
        return
    chosen = FrozenSet.top(name, archs, truth.fitness_NR[rows, run].tolist(), count)
    rest = truth.without_run(run)
    if set(chosen.archs) <= set(rest.archs):
        why = (
            f"the {count} best by {truth.runs[run]}, which does not judge them; no other run has "
            "every architecture, so that none can choose in its turn"
        )
        yield _turn(rest, chosen, why, whole)


def _by_prediction(
    truth: TruthTable,
    count: int,
    prediction: Mapping[str, Mapping[Arch, float]],
    own_prediction: bool,
    whole: bool,
) -> Iterator[RankSet]:
    """The set that supernets choose in turn."""
    name = "local by prediction"
    why = f"the {count} best by the proxy score of a reference supernet"
    if own_prediction:
        why = f"the {count} best by this supernet's own proxy score, which favours it"
    turns: list[RankSet] = []
    for chooser, scores_of in prediction.items():
        scores = {arch: scores_of[arch] for arch in truth.archs if arch in scores_of}
        says = why if len(prediction) == 1 else chooser
        turns += _best(truth, name, says, scores, count, whole)
    if len(turns) < 2:
        yield from turns
        return
    why = f"the {count} best by the proxy score of each of {len(turns)} reference supernets in turn"
    yield _in_turn(truth, name, why, turns, whole)


def _turn(truth: TruthTable, chosen: FrozenSet, why: str, whole: bool) -> RankSet:
    """The architectures that one chooser chose, judged by the runs of a table."""
    row_of = {arch: i for i, arch in enumerate(truth.archs)}
    return RankSet(chosen, why, truth.subset(row_of[arch] for arch in chosen.archs), whole)


def _in_turn(
    truth: TruthTable, name: str, why: str, turns: Sequence[RankSet], whole: bool
) -> RankSet:
    """A set of which several chose in turn."""
    chosen = {arch for turn in turns for arch in turn.chosen.archs}
    rows = [i for i, arch in enumerate(truth.archs) if arch in chosen]
    union = truth.subset(rows)
    return RankSet(FrozenSet(name, union.archs), why, union, whole, tuple(turns))


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
    yield _turn(truth, chosen, why, whole)


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
    if ranked.turns:
        return _rank_turns(ranked, predictors)
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

    def gain(name: str, other: str) -> Statistic:
        rows_N = np.arange(len(archs), dtype=np.float64)
        by_rows = _less(taus[name], taus[other])
        if by_tau is not None:
            return _Draws(name, by_regret, by_tau).of_tau(by_rows(rows_N), less=other)
        return _with_interval(by_rows, rows_N)

    best = best_free(statistics)
    statistics = _with_gains(statistics, best, gain)
    like = at_like_cost(judged, columns["macs"]) if "macs" in columns else {}
    like_NN = like_pairs(columns["macs"]) if like else None
    statistics = {
        name: own.model_copy(update={"like_cost": like[name]}) if like else own
        for name, own in statistics.items()
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
        reliability=reliability(truth.fitness_NR, whole=ranked.whole, draws=CEILING_DRAWS),
        whole=ranked.whole,
        like_cost_pairs=None if like_NN is None else int(like_NN.sum()) // 2,
        like_cost_reliability=None if like_NN is None else of_pairs(truth.fitness_NR, like_NN),
        best_free=best,
    )


def _less(one: OfRows, other: OfRows) -> OfRows:
    """The difference of two statistics of the same rows."""

    def difference(rows_N: npt.NDArray[np.float64]) -> float | None:
        mine, theirs = one(rows_N), other(rows_N)
        return None if mine is None or theirs is None else mine - theirs

    return difference


def _with_gains(
    statistics: Mapping[str, PredictorStatistics],
    best: str | None,
    gain: Callable[[str, str], Statistic],
) -> dict[str, PredictorStatistics]:
    """The statistics, of what is no baseline with its gain over the best one.

    Args:
        statistics: by predictor.
        best: the best baseline; None if there is none.
        gain: by how much the first orders better than the second.
    """
    found = {}
    for name, own in statistics.items():
        beats = None
        if best is not None and name not in FREE:
            beats = own.beats if best == "macs" else gain(name, best)
        found[name] = own.model_copy(update={"beats_free": beats})
    return found


def turns_of(ranked: RankSet) -> tuple[Turn, ...]:
    """The turns of a set as rows of its table and columns of its runs."""
    row_of = {arch: i for i, arch in enumerate(ranked.truth.archs)}
    runs = ranked.truth.runs
    return tuple(
        Turn(
            np.array([row_of[arch] for arch in turn.chosen.archs]),
            np.array([run in turn.truth.runs for run in runs]),
            runs.index(turn.why) if turn.why in {*runs} - {*turn.truth.runs} else None,
        )
        for turn in ranked.turns
    )


def _rank_turns(ranked: RankSet, predictors: Mapping[str, Mapping[Arch, float]]) -> RankedSet:
    """The record of a set of which several chose in turn: means over turns."""
    truth, count = ranked.truth, len(ranked.turns[0].chosen.archs)
    columns = {name: np.array([by[a] for a in truth.archs]) for name, by in predictors.items()}
    judged = JudgedSet(truth.fitness_NR, columns, ranked.whole, turns=turns_of(ranked))
    taus, regrets = (resample(judged, kind, [*columns]) for kind in ("tau", "regret"))
    statistics = {
        name: _over_turns(name, ranked, by, predictors.get("macs"), taus, regrets)
        for name, by in predictors.items()
    }
    runs = [run_to_run(turn.truth.fitness_NR) for turn in ranked.turns]

    def gain(name: str, other: str) -> Statistic:
        values = [statistics[own].kendall.value for own in (name, other)]
        value = None if values[0] is None or values[1] is None else values[0] - values[1]
        return _crossed(value, taus, lambda by: by[name] - by[other], OF_TAUS)

    best = best_free(statistics)
    statistics = _with_gains(statistics, best, gain)
    return RankedSet(
        name=ranked.chosen.name,
        why=ranked.why,
        architectures=count,
        judged_by=truth.runs,
        archs=tuple(text_of(arch) for arch in truth.archs),
        run_to_run=_mean(runs),
        null_sd=null_sd(count),
        predictors=statistics,
        reliability=over_turns(
            [
                reliability(turn.truth.fitness_NR, whole=ranked.whole, draws=CEILING_DRAWS)
                for turn in ranked.turns
            ]
        ),
        whole=ranked.whole,
        best_free=best,
        turns=tuple(
            RankedTurn(
                by=turn.why,
                archs=tuple(text_of(arch) for arch in turn.chosen.archs),
                judged_by=turn.truth.runs,
            )
            for turn in ranked.turns
        ),
    )


def _over_turns(
    name: str,
    ranked: RankSet,
    scores: Mapping[Arch, float],
    macs: Mapping[Arch, float] | None,
    taus: Resampled,
    regrets: Resampled,
) -> PredictorStatistics:
    """Means over turns of the statistics of one predictor; tau, its gain and regret have intervals.

    Args:
        name: of the predictor.
        ranked: the set.
        scores: by the predictor.
        macs: what it is compared with.
        taus: tau of all predictors on draws.
        regrets: likewise regret.
    """
    each = [
        _plain(np.array([scores[a] for a in turn.chosen.archs]), turn.truth)
        for turn in ranked.turns
    ]
    tau = _mean([own.kendall.value for own in each])
    beats = None
    if macs is not None and name != "macs":
        other = _mean(
            [
                kendall([macs[a] for a in turn.chosen.archs], turn.truth.fitness_N)
                for turn in ranked.turns
            ]
        )
        gain = None if tau is None or other is None else tau - other
        beats = _crossed(gain, taus, lambda by: by[name] - by["macs"], OF_TAUS)
    lost = _mean([own.regret.value for own in each])
    assert lost is not None  # regret always has a value
    sparse = [own.sparse for own in each if own.sparse is not None]
    return PredictorStatistics(
        kendall=_crossed(tau, taus, lambda by: by[name], TAU),
        spearman=_alone(_mean([own.spearman.value for own in each])),
        pearson=_alone(_mean([own.pearson.value for own in each])),
        clear_pairs=_alone(_mean([own.clear_pairs.value for own in each])),
        overlap={k: _alone(_mean([own.overlap[k].value for own in each])) for k in each[0].overlap},
        best_rank={k: sum(own.best_rank[k] for own in each) / len(each) for k in each[0].best_rank},
        regret=_Draws(name, regrets, None).of_regret(lost),
        beats=beats,
        weighted=_alone(_mean([own.weighted.value for own in each if own.weighted is not None])),
        sparse=_alone(_mean([own.value for own in sparse])) if sparse else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if there is none, or one of them is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _crossed(
    value: float | None,
    resampled: Resampled,
    of: Callable[[Mapping[str, npt.NDArray[np.float64]]], npt.NDArray[np.float64]],
    between: Ends,
) -> Statistic:
    """A value with its interval by architectures and runs of the truth.

    Args:
        value: the value; None if it is undefined.
        resampled: what it is of, on draws.
        of: the value on draws.
        between: what the value can be.
    """
    ends = None if value is None else interval(value, resampled, of)
    return with_ends(value, ends, between)


class _Draws(NamedTuple):
    """What resampling the runs of the truth gives for one predictor."""

    name: str
    regret: Resampled
    tau: Resampled | None
    """None unless the set is whole, so that no architecture may be resampled."""

    def of_regret(self, value: float) -> Statistic:
        """Regret, which is never below 0, with an interval."""
        return _by_runs(value, self.regret.by_runs[self.name], self.regret.runs, REGRET)

    def of_tau(self, value: float | None, less: str | None = None) -> Statistic:
        """Tau of a whole set, or its difference to that of another predictor."""
        assert self.tau is not None
        drawn_D = self.tau.by_runs[self.name]
        if less is not None:
            drawn_D = drawn_D - self.tau.by_runs[less]
        return _by_runs(value, drawn_D, self.tau.runs, TAU if less is None else OF_TAUS)


def _by_runs(
    value: float | None, drawn_D: npt.NDArray[np.float64], runs: int | None, between: Ends
) -> Statistic:
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


def _plain(scores_N: npt.NDArray[np.float64], truth: TruthTable) -> PredictorStatistics:
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


def _statistics(
    scores_N: npt.NDArray[np.float64],
    truth: TruthTable,
    tau: OfRows,
    tau_of_macs: OfRows | None,
    draws: _Draws,
) -> PredictorStatistics:
    plain, truth_N = _plain(scores_N, truth), truth.fitness_N
    rows_N = np.arange(len(truth), dtype=np.float64)
    whole = draws.tau is not None

    def of(statistic: Callable[..., float | None]) -> Statistic:
        return _with_interval(statistic, scores_N, truth_N)

    beaten = None
    if tau_of_macs is not None:
        beats = _less(tau, tau_of_macs)
        beaten = _with_interval(beats, rows_N) if not whole else None
        beaten = beaten or draws.of_tau(beats(rows_N), less="macs")
    assert plain.regret.value is not None  # it always has one
    bounded: dict[str, object] = {
        "kendall": draws.of_tau(tau(rows_N)) if whole else _with_interval(tau, rows_N),
        "regret": draws.of_regret(plain.regret.value),
        "beats": beaten,
    }
    if not whole:
        bounded["spearman"], bounded["pearson"] = of(spearman), of(pearson)
        bounded["overlap"] = {k: of(functools.partial(overlap, k=int(k))) for k in plain.overlap}
    return plain.model_copy(update=bounded)


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
        beside = _beside_free(ranked, only_told=True) if judged else ""
        parts = [f"{_untold(tau, n)}{beside}"]
    else:
        said = f"the proxy orders these {n} architectures with tau {tau.value:.2f}"
        parts = [f"{said}{_beside_free(ranked) if judged else ''}"]
    like = _at_like_cost(ranked)
    if like is not None:
        parts.append(like)
    if known is not None:
        parts.insert(len(parts) if judged else 0, words(known))
        if known.ceiling is not None:
            bounds = ""
            if known.ceiling_bounds is not None:
                low, high = known.ceiling_bounds
                bounds = f" (95 % interval {low:.2f} to {high:.2f})"
            parts.append(
                "who knew what each is worth would order their mean with tau "
                f"{known.ceiling:.2f}{bounds}"
            )
    runs = ranked.run_to_run
    if runs is not None:
        parts.append(f"one training run orders another's with tau {runs:.2f}")
    elif {len(turn.judged_by) for turn in ranked.turns or (ranked,)} == {1}:
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


def _beside_free(ranked: RankedSet, *, only_told: bool = False) -> str:
    """Whether the proxy is told apart from the best free baseline; nothing if that is not known.

    Args:
        ranked: the record.
        only_told: whether to say nothing either where it is not.
    """
    proxy, best = ranked.predictors["proxy"], ranked.best_free or "macs"
    beats = proxy.beats_free or proxy.beats
    if beats is None or beats.low is None or beats.high is None:
        return ""
    said = "not distinguishable from"
    if beats.low > 0 or beats.high < 0:
        said = "better than" if beats.low > 0 else "worse than"
    elif only_told:
        return ""
    return f", {said} {FREE[best]} ({ranked.predictors[best].kendall.value:.2f})"


def _at_like_cost(ranked: RankedSet) -> str | None:
    """What is said of pairs of like cost; None if that is not known.

    They are judged by the reliability of the truth on these pairs, which is lower than that of all
    where the truth goes with cost.
    """
    like, pairs = ranked.predictors["proxy"].like_cost, ranked.like_cost_pairs
    known = ranked.like_cost_reliability
    if like is None or like.value is None or not pairs or known is None:
        return None
    said = f"among networks whose multiply-adds differ by 10 % at most its tau is {like.value:.2f}"
    if like.low is None or like.high is None:
        if ranked.architectures <= MOST_PAIRED:
            return None
        return (
            f"{said} ({pairs:,} pairs; of more than {MOST_PAIRED:,} networks without an interval)"
        )
    between = f"95 % interval {like.low:.2f} to {like.high:.2f}, {pairs:,} pairs"
    if judges(known) is not True:
        of = "unknown" if known.mean.value is None else f"{known.mean.value:.2f}"
        return (
            f"{said} ({between}), of which the truth cannot judge: its reliability on these pairs "
            f"is {of}"
        )
    if like.low <= 0:
        return f"{said} ({between}), so that it is not known to order more than costs"
    return f"{said} ({between})"
