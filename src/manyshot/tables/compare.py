"""Tables of a comparison: methods, pairs of them, and the winners and images of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from manyshot.rank.baselines import FREE
from manyshot.rank.compare import EQUAL, are_equal
from manyshot.rank.correlation import mean_of
from manyshot.rank.reliability import words
from manyshot.run_folder import (
    ComparedPair,
    ComparedRun,
    Comparison,
    Mean,
    RunPart,
    Spent,
    SpentPart,
    Statistic,
)
from manyshot.tables import numbers
from manyshot.tables.run import PARTS
from manyshot.tables.table import Table

IMAGES = "images"
"""The metric that is a number of images."""
BASELINES: dict[str, str] = {
    **{name: f"{words} alone" for name, words in FREE.items()},
    "run to run": "two trainings of the truth",
    "ceiling": "the ceiling by the truth's noise",
}
"""What orders without a supernet, or who knows what every architecture is worth."""
_SYMBOLS = {"better": "▲", "worse": "▼", "not distinguishable": "≈", "undefined": "–"}
_SAYS_NOTHING = "–"


def is_share(metric: str, comparison: Comparison) -> bool:
    """Whether a metric is a share, or a difference of shares."""
    if metric.startswith("finished "):
        return comparison.metric.share
    of_truth = metric.startswith(("regret ", "winner "))
    return of_truth and comparison.truth is not None and comparison.truth.metric.share


def metrics_of(comparison: Comparison) -> list[str]:
    """All metrics, in the order of their first appearance."""
    return list(dict.fromkeys(name for m in comparison.methods for name in m.metrics))


def value(
    metric: str,
    comparison: Comparison,
    number: float | None,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """A value as people read its metric, with its interval if it has one.

    Args:
        metric: the name of the metric.
        comparison: says whether it is a share.
        number: the value; None if it is undefined.
        low: where its interval begins.
        high: where its interval ends.
    """
    if metric == IMAGES:
        return numbers.count(number)
    estimate = Statistic(value=number, low=low, high=high)
    if is_share(metric, comparison):
        return numbers.share_statistic(estimate, 2)
    return numbers.statistic(estimate)


def _mean(metric: str, comparison: Comparison, over_seeds: Mean | None) -> str:
    if over_seeds is None:
        return numbers.UNDEFINED
    return value(metric, comparison, over_seeds.mean, over_seeds.low, over_seeds.high)


def methods(comparison: Comparison, metrics: Sequence[str]) -> Table:
    """Means of some metrics: a row per method, then what orders without a supernet."""
    rows = [
        {
            "Method": method.method,
            "Seeds": ", ".join(map(str, method.seeds)),
            "Images": numbers.count(method.images),
            **{numbers.budget(m): _mean(m, comparison, method.metrics.get(m)) for m in metrics},
        }
        for method in comparison.methods
    ]
    for baseline in comparison.baselines:
        cells = {
            numbers.budget(m): value(m, comparison, baseline.metrics[m])
            if m in baseline.metrics
            else ""
            for m in metrics
        }
        if any(cells.values()):
            name = BASELINES[baseline.name]
            rows.append({"Method": name, "Seeds": "", "Images": "", **cells})
    note = "Means over random seeds with 95 % intervals. What has no value is undefined."
    if any(
        mean.cut for m in comparison.methods for name, mean in m.metrics.items() if name in metrics
    ):
        note += (
            " Some intervals, of few seeds, reach beyond what a value can be, such as 0 to 100 %, "
            "and are cut there."
        )
    return Table(rows, ("Method", "Seeds"), note=note)


def pairs(compared: Sequence[ComparedPair], comparison: Comparison) -> Table:
    """Differences of methods, a row per pair and metric.

    Args:
        compared: the pairs.
        comparison: that they are of.
    """
    rows = [
        {
            "Metric": numbers.budget(pair.metric),
            "First": pair.first,
            "Second": pair.second,
            "First is": numbers.together(
                f"{_SYMBOLS.get(pair.verdict, _SAYS_NOTHING)} {pair.verdict}"
            ),
            "Difference": value(pair.metric, comparison, pair.difference, pair.low, pair.high),
            "p, corrected": _corrected(pair),
            "Seeds": str(pair.n),
            "Resampled": "" if pair.resampled is None else ", ".join(pair.resampled),
            "Images": "equal" if pair.equal_images else "different",
        }
        for pair in compared
    ]
    note = (
        "First minus second, with 95 % intervals, which are of each difference by itself; p-values "
        "are corrected for how many comparisons their family has (Holm). Seeds are those that both "
        "have; resampled is what an interval is by."
    )
    if any(row.cut for row in compared):
        note += " Some intervals reach beyond what a difference can be and are cut there."
    return Table(rows, ("Metric", "First", "Second", "First is", "Resampled", "Images"), note=note)


def _corrected(pair: ComparedPair) -> str:
    """A p-value with the size of its family."""
    if pair.corrected is None:
        return ""
    of = "" if pair.family is None else f" of {pair.family}"
    return f"{pair.corrected:.2g}{of}"


def families(comparison: Comparison) -> list[str]:
    """The families of Holm's correction, a sentence; none if nothing was corrected."""
    known = comparison.families or {}
    if not known:
        return []
    each = "; ".join(f"{name}: {numbers.plural(n, 'comparison')}" for name, n in known.items())
    return [
        "Families that p-values are corrected within: " + numbers.budget(each) + ". One or more "
        "verdicts of a family are wrong in at most 5 % of cases, of all families together in more."
    ]


def primary_pairs(comparison: Comparison) -> list[ComparedPair]:
    """The comparisons that the verdict is by: with the reference, by the primary metric."""
    return [p for p in comparison.pairs if p.primary and p.first == comparison.reference]


def primary(comparison: Comparison) -> list[str]:
    """What is said by the primary metric, with what it is."""
    found = primary_pairs(comparison)
    if not found:
        return []
    lead = f"By {comparison.primary}, the primary metric, against {comparison.reference}:"
    return [numbers.budget(words) for words in (lead, *(pair.sentence for pair in found))]


def gates(comparison: Comparison) -> list[str]:
    """Of each set whether it can judge, a sentence."""
    known = comparison.reliability or {}
    return [numbers.sentence(f"{name}: {words(each)}") for name, each in known.items()]


def winners(comparison: Comparison) -> Table:
    """The winners of all runs."""
    of_truth = comparison.metric if comparison.truth is None else comparison.truth.metric
    rows = [
        {
            "Method": run.method,
            "Seed": str(run.seed),
            "Budget": numbers.budget(winner.budget),
            "Architecture": winner.arch,
            "Truth": numbers.score(winner.truth, of_truth.share, 2),
            "Test": numbers.score(winner.test_score, comparison.metric.share, 2),
            "Folder": run.folder,
        }
        for run in comparison.runs
        for winner in run.winners
    ]
    code = ("Architecture", "Folder")
    return Table(rows, ("Method", "Budget", *code), code)


def spent(comparison: Comparison) -> Table:
    """What methods spent: means over seeds; what is not known of a run is not known of a method."""
    rows = []
    taken = {part for run in comparison.runs if run.spent for part in run.spent.seconds}
    timed = [part for part in get_args(RunPart) if part in taken]
    for method in comparison.methods:
        each = [run.spent for run in comparison.runs if run.method == method.method]
        own = [one for one in each if one is not None]
        if not own or len(own) < len(each):
            continue
        macs = {part: mean_of([one.macs.get(part) for one in own]) for part in _PARTS}
        total = None if None in macs.values() else sum(filter(None, macs.values()))
        seconds = {part: mean_of([one.seconds.get(part) for one in own]) for part in timed}
        rows.append(
            {
                "Method": method.method,
                "Weight steps": numbers.count(mean_of([one.weight_steps for one in own])),
                "Images": numbers.count(method.images),
                **{f"MACs of {part}": numbers.count(number) for part, number in macs.items()},
                "MACs": numbers.count(total),
                **{
                    f"Time of {PARTS.get(part, part)}": _seconds(number)
                    for part, number in seconds.items()
                },
            }
        )
    note = (
        "Means over seeds. Multiply-adds of a backward count as those of two forwards. What is "
        "undefined is not on record."
    )
    why = dict.fromkeys(
        f"{part}: {words}"
        for run in comparison.runs
        if run.spent is not None
        for part, words in run.spent.missing.items()
    )
    return Table(rows, ("Method",), note=" ".join([note, *map(numbers.sentence, why)]))


_PARTS: tuple[SpentPart, ...] = ("training", "probes", "search", "shifting", "finishing")


def _seconds(number: float | None) -> str:
    return numbers.UNDEFINED if number is None else numbers.seconds(number)


def budgets(comparison: Comparison) -> list[str]:
    """Whether methods are compared at equal weight steps and at equal compute, sentences.

    What is not known of one run of a method is not known of the method. Multiply-adds of what a
    shrinker scored are on no record, so that the images of that are named.
    """
    spent: dict[str, tuple[float | None, float | None]] = {}
    for method in comparison.methods:
        own = [run.spent for run in comparison.runs if run.method == method.method]
        steps = mean_of([None if one is None else one.weight_steps for one in own])
        training = mean_of([None if one is None else _training(one) for one in own])
        spent[method.method] = steps, training
    words = []
    for what, i in (("weight steps", 0), ("multiply-adds of training, probes and shifting", 1)):
        values = {name: own[i] for name, own in spent.items()}
        if any(value is None for value in values.values()):
            unknown = [name for name, value in values.items() if value is None]
            words.append(
                f"Whether methods have equal {what} is not known, as those of "
                f"{numbers.listed(unknown)} are not on record."
            )
            continue
        numbers_of = [value for value in values.values() if value is not None]
        if are_equal(numbers_of):
            words.append(f"All methods have equal {what}, within {100 * EQUAL:.0f} %.")
        else:
            each = ", ".join(f"{name} {numbers.count(value)}" for name, value in values.items())
            words.append(f"Not at equal {what}: {each}.")
    judged = {run.method: run.images["shrink"] for run in comparison.runs if "shrink" in run.images}
    for which, number in judged.items():
        words.append(
            f"Multiply-adds do not count what the shrinker of {which} scored: "
            f"{numbers.count(number)} images of one run, forwards alone."
        )
    return words


def _training(spent: Spent) -> int | None:
    parts = [spent.macs.get(part) for part in ("training", "probes", "shifting")]
    return None if None in parts else sum(filter(None, parts))


def images(runs: Sequence[ComparedRun]) -> Table:
    """The images that every run forwarded, by what for."""
    stages = dict.fromkeys(stage for run in runs for stage in run.images)
    stages.pop("total", None)
    rows = [
        {
            "Method": run.method,
            "Seed": str(run.seed),
            **{stage: numbers.whole(run.images.get(stage, 0)) for stage in (*stages, "total")},
        }
        for run in runs
    ]
    return Table(rows, ("Method",))
