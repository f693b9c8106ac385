"""Tables of a rank: how well each predictor orders, what recalibration does, how it was done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from manyshot.rank.baselines import FREE, ordering_by
from manyshot.rank.reliability import judges, words
from manyshot.rank.sentences import is_untold as is_untold
from manyshot.rank.sentences import verdict
from manyshot.run_folder import (
    MovedRanking,
    MovedSet,
    PredictorStatistics,
    RankedSet,
    Ranking,
    Statistic,
)
from manyshot.tables import numbers
from manyshot.tables.numbers import count, decimal, share_statistic, statistic
from manyshot.tables.table import Table

TAU, RHO, R = "Kendall's τ", "Spearman's ρ", "Pearson's r"
LIKE_COST = "τ at like cost"
UNKNOWN = (
    "whether this set can judge is not on record, as it was ranked before that was written: rank "
    "the run again, which scores nothing anew"
)
CUT = " Some intervals reach beyond what a value can be and are cut there."
_PREDICTORS: dict[str, str] = {
    "without recalibration": "not recalibrated",
    **{name: words.removeprefix("the ") for name, words in FREE.items()},
}


def predictor(name: str, ranking: Ranking) -> str:
    """What a predictor is called: a proxy by what networks rank by."""
    task = ranking.task
    metric = f"proxy {task.metric.name}"
    proxies = {
        "proxy": metric if task.fitness == "metric" else "proxy loss",
        "proxy score": metric,
    }
    return {**_PREDICTORS, **proxies}.get(name, name)


def free_baseline(ranked: RankedSet) -> str:
    """What the best free baseline is called in sentences; counting MACs in older records."""
    return ordering_by(ranked.best_free or "macs")


class Gate(NamedTuple):
    """Whether a set can judge, and what is said of it."""

    judges: bool
    words: str


def gate(ranked: RankedSet | MovedSet) -> Gate | None:
    """Whether a set can judge; None for a record from before that was written."""
    known = ranked.reliability
    return None if known is None else Gate(judges(known) is True, words(known))


def statistics(ranked: RankedSet, ranking: Ranking) -> Table:
    """Every statistic of a set, a row per predictor; the note says what may be said of it."""
    rows = [
        _statistics_row(predictor(name, ranking), of, ranking.truth.metric.share)
        for name, of in ranked.predictors.items()
    ]
    each = [
        one
        for of in ranked.predictors.values()
        for one in (of.kendall, of.regret, of.like_cost, of.beats, of.beats_free)
    ]
    note = numbers.sentence(verdict(ranked))
    return Table(rows, ("Predictor",), note=note + (CUT if _any_is_cut(each) else ""))


def _any_is_cut(each: Iterable[Statistic | None]) -> bool:
    """Whether an interval ends where a value can be no more."""
    return any(one is not None and one.cut is True for one in each)


def _statistics_row(name: str, of: PredictorStatistics, in_percent: bool) -> dict[str, str]:
    return {
        "Predictor": name,
        TAU: statistic(of.kendall),
        RHO: statistic(of.spearman),
        R: statistic(of.pearson),
        **({} if of.weighted is None else {"Weighted τ": statistic(of.weighted)}),
        **({} if of.sparse is None else {"Sparse τ": statistic(of.sparse)}),
        **({} if of.like_cost is None else {LIKE_COST: statistic(of.like_cost)}),
        "Clear pairs": statistic(of.clear_pairs),
        **{f"Top {k}": share_statistic(share) for k, share in of.overlap.items()},
        f"Best rank, k = {', '.join(of.best_rank)}": ", ".join(
            numbers.whole(rank) if isinstance(rank, int) else decimal(rank, 1)
            for rank in of.best_rank.values()
        ),
        "Regret": share_statistic(of.regret, 2) if in_percent else statistic(of.regret),
        "Beats MACs by": "" if of.beats is None else statistic(of.beats),
        **({} if of.beats_free is None else {"Beats the best free by": statistic(of.beats_free)}),
    }


def moment(ranking: Ranking) -> str:
    """Which weights ranked, of a run whose search moved them; else nothing."""
    return "" if ranking.moment is None else f"weights {ranking.moment} shifting"


def moved(record: MovedRanking) -> Table:
    """What moving the weights did to the order of each set; the note says which can judge."""
    rows = [
        {
            "Set": each.name,
            "Networks": count(each.architectures),
            f"{TAU} before": decimal(each.before),
            f"{TAU} after": decimal(each.after),
            "Change": statistic(each.gain),
            "Verdict": _said_of(each),
        }
        for each in record.sets
    ]
    note = "Intervals are by architectures and runs of the truth; another seed is not in them."
    note += CUT if _any_is_cut(each.gain for each in record.sets) else ""
    if any(row["Verdict"] == "cannot judge" for row in rows):
        note += (
            " Of a set whose architectures the truth does not tell apart (reliability below 0.8) "
            "no order is called better."
        )
    gates = {each.name: gate(each) for each in record.sets}
    words = [
        numbers.sentence(f"{name}: {known.words if known else UNKNOWN}")
        for name, known in gates.items()
    ]
    return Table(rows, ("Set", "Verdict"), note=" ".join([note, *words]))


def _said_of(each: MovedSet) -> str:
    """Whether an order is better; of a set that is not known to judge, of neither order."""
    gain, known = each.gain, each.reliability
    can_judge = None if known is None else judges(known)
    if gain.low is None or gain.high is None or can_judge is None:
        return "not known"
    if not can_judge:
        return "cannot judge"
    if gain.low <= 0 <= gain.high:
        return "not distinguishable"
    return "better after" if gain.low > 0 else "worse after"


def recalibration(ranking: Ranking) -> Table:
    """What recalibrating batch norms does to the order of each set that was scored without."""
    rows = []
    for ranked in ranking.sets:
        if "without recalibration" in ranked.predictors:
            calibrated = ranked.predictors["proxy"].kendall
            shared = ranked.predictors["without recalibration"].kendall
            gain = None
            if calibrated.value is not None and shared.value is not None:
                gain = calibrated.value - shared.value
            rows.append(
                {
                    "Set": ranked.name,
                    "τ with own statistics": statistic(calibrated),
                    "τ with shared statistics": statistic(shared),
                    "Difference": decimal(gain),
                }
            )
    return Table(rows, ("Set",), note=_means(ranking))


def _means(ranking: Ranking) -> str:
    metric = ranking.task.metric
    both = [
        (point.proxy_score, point.shared_statistics_score)
        for point in ranking.points
        if point.shared_statistics_score is not None
    ]
    if not both:
        return numbers.sentence(f"{metric.name} with shared statistics was not taken")
    calibrated, shared = (sum(column) / len(both) for column in zip(*both, strict=True))
    return (
        f"Mean {metric.name} of {numbers.plural(len(both), 'architecture')}: "
        f"{numbers.score(calibrated, metric.share)} with statistics calibrated for each, "
        f"{numbers.score(shared, metric.share)} with statistics shared by all."
    )


def evaluation(ranking: Ranking) -> Table:
    """How the architectures of a truth were scored, and what that took."""
    done, truth = ranking.evaluation, ranking.truth
    values = {
        "Method": done.method,
        "Architectures": numbers.whole(done.architectures),
        "Images forwarded": numbers.whole(done.images_forwarded),
        "MACs executed": count(done.macs_executed),
        "MACs, one by one": count(done.macs_plain),
        "Time": numbers.seconds(done.seconds),
        "Truth": f"{truth.name}: {truth.source}",
        "Trainings of the truth": ", ".join(truth.runs),
        "Architectures of the truth": numbers.whole(truth.architectures),
        "Seed": str(ranking.seed),
        "Weights": str(ranking.weights),
    }
    rows = [{"What": what, "Value": value} for what, value in values.items()]
    return Table(rows, ("What", "Value"))
