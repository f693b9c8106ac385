"""Methods side by side over seeds: means, paired differences, and what may be said of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from manyshot.plugins import nearest
from manyshot.rank.crossed import TAU, Difference, cut, difference, holm
from manyshot.rank.reliability import judges, words
from manyshot.rank.resampling import CROSSED, JudgedSet, Resampled, resample
from manyshot.run_folder import ComparedMethod, ComparedPair, ComparedRun, Factor, Mean, Verdict

LEVEL = 0.95
FEWEST = 5
"""Of fewer seeds nothing is said but how large a difference is."""
WRONG = 0.05
"""The share of families in which a verdict may be wrong."""
EQUAL = 0.05
"""Budgets that differ by no larger share count as equal."""
TAUS = {"tau": TAU}
"""What values of metrics can be, by how the names of the metrics begin."""
LESS_IS_BETTER = "regret"
"""How the names of metrics begin for which less is better whatever the task is."""


def are_equal(amounts: Sequence[float]) -> bool:
    """Whether what methods spent counts as equal: they differ by a share `EQUAL` at most."""
    return max(amounts, default=0) <= (1 + EQUAL) * min(amounts, default=0)


@final
@dataclass(frozen=True)
class Compared:
    """What a comparison says.

    Attributes:
        methods: means and intervals over seeds.
        pairs: differences, with a verdict and a sentence for each pair of methods and metric.
        primary: the metric that the verdict of the whole is by; None if there is none.
        reference: the method that the others are compared with by it: that of the first run.
        families: of Holm's correction, how many comparisons each has, by name.
    """

    methods: tuple[ComparedMethod, ...]
    pairs: tuple[ComparedPair, ...]
    primary: str | None
    reference: str
    families: dict[str, int]


Tested = tuple[str, str, str, Difference]
"""A pair of methods, a metric, and by how much they differ in it."""


def mean_over_seeds(
    values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Mean:
    """Mean of one value per seed with Student's 95 % interval; None where it is undefined.

    The interval of one value, or of values that are all equal, is undefined: they say nothing about
    their spread. It has a meaning if seeds are independent and values roughly normal; of two or
    three seeds it is wide, as it should be, and where it reaches beyond what a value can be it is
    cut there, which the mean says.
    """
    n = len(values)
    mean = sum(values) / n if n else None
    if mean is None or len(set(values)) < 2:
        return Mean(mean=mean, low=None, high=None, n=n)
    from scipy import stats  # slow to import

    reach = float(np.std(values, ddof=1)) / math.sqrt(n) * stats.t.ppf((1 + LEVEL) / 2, n - 1)
    low, high, was_cut = cut(mean - float(reach), mean + float(reach), bounds)
    return Mean(mean=mean, low=low, high=high, n=n, cut=was_cut or None)


def _bounds_of(metric: str, bounds: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """What the values of a metric can be."""
    own = (between for begins, between in bounds.items() if metric.startswith(begins))
    return next(own, (-math.inf, math.inf))


def compare(
    runs: Sequence[ComparedRun],
    less_is_better: Sequence[str] = (LESS_IS_BETTER,),
    *,
    primary: str | None = None,
    sets: Mapping[str, JudgedSet] | None = None,
    bounds: Mapping[str, tuple[float, float]] = TAUS,
) -> Compared:
    """Compares methods by the runs that they were repeated in.

    A method is better than another only if there are `FEWEST` seeds, if the truth can judge the set
    (see `manyshot.rank.judges`), and if the p-value is below 0.05 after Holm's correction. Families
    of comparisons are fixed before: those with the reference by the primary metric are one; of the
    other metrics, those of one set of architectures (tau and regret), those of winners trained
    alone and those of finished winners are a family each; and all of these once more for the pairs
    without the reference. Verdicts of a family are wrong in at most 5 % of cases; those of several
    families together in more.

    Args:
        runs: all runs of all methods; the method of the first is the reference.
        less_is_better: how the names of metrics begin for which less is better.
        primary: the metric that the verdict is by, chosen before the runs were made; by default the
            first that there is.
        sets: by name, sets of architectures; of `tau NAME` and `regret NAME` architectures and
            runs of the truth are then resampled besides seeds.
        bounds: what values of metrics can be, by how the names of the metrics begin; intervals are
            cut there.

    Raises:
        ValueError: if there is no run, a method has a seed twice, or no run has the primary metric.
    """
    if not runs:
        raise ValueError("there is nothing to compare: give at least one run")
    by_method: dict[str, dict[int, ComparedRun]] = {}
    for run in runs:
        seeds = by_method.setdefault(run.method, {})
        if run.seed in seeds:
            raise ValueError(
                f"{run.folder} and {seeds[run.seed].folder} are both method {run.method!r} with "
                f"seed {run.seed}: leave one out"
            )
        seeds[run.seed] = run
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if primary is not None and primary not in metrics:
        raise ValueError(
            f"no run has the primary metric {primary!r}; {nearest(primary, metrics)}it is one of "
            f"{', '.join(metrics)}"
        )
    primary = primary or next(iter(metrics), None)
    judged = {
        f"{kind} {name}": (kind, one) for name, one in (sets or {}).items() for kind in CROSSED
    }
    drawn = {
        metric: resample(judged[metric][1], judged[metric][0], [run.folder for run in runs])
        for metric in metrics
        if metric in judged
    }
    tested = [
        (first, second, metric, _difference(by_method, first, second, metric, drawn.get(metric)))
        for first, second in itertools.combinations(by_method, 2)
        for metric in metrics
    ]
    reference = next(iter(by_method))
    barred = [_barred(metric, found, judged) for _, _, metric, found in tested]
    families = [
        None if why is not None else _family(metric, primary, reference, first == reference)
        for (first, _, metric, _), why in zip(tested, barred, strict=True)
    ]
    corrected = _corrected(tested, families)
    resampled_of = {metric: _words_of(drawn.get(metric)) for metric in metrics}
    return Compared(
        tuple(_method(name, seeds, metrics, drawn, bounds) for name, seeds in by_method.items()),
        tuple(
            _pair(one, by_method, why, holm_of, tuple(less_is_better), primary).model_copy(
                update={
                    "family_name": family,
                    "resampled": resampled_of[one[2]],
                    **_cut_pair(one[3], _bounds_of(one[2], bounds)),
                }
            )
            for one, why, holm_of, family in zip(tested, barred, corrected, families, strict=True)
        ),
        primary,
        reference,
        {name: families.count(name) for name in dict.fromkeys(families) if name is not None},
    )


def _family(metric: str, primary: str | None, reference: str, has_reference: bool) -> str:
    """The name of the family of Holm's correction that a comparison is in."""
    kind, _, rest = metric.partition(" ")
    kinds = {"winner": "winners trained alone", "finished": "finished winners"}
    of = kinds.get(kind, f"set {rest}" if kind in CROSSED and rest else metric)
    if not has_reference:
        return f"{of}, pairs without {reference}"
    return (
        f"{of}, with {reference}" if metric != primary else f"{metric} (primary), with {reference}"
    )


def _words_of(drawn: Resampled | None) -> tuple[Factor, ...]:
    """What was resampled."""
    factors: list[Factor] = ["seeds"]
    if drawn is not None and drawn.architectures is not None:
        factors.append("architectures")
    if drawn is not None and drawn.runs is not None:
        factors.append("runs of the truth")
    return tuple(factors)


def _cut_pair(by: Difference, bounds: tuple[float, float]) -> dict[str, object]:
    """The interval of a difference, within what a difference can be."""
    if by.low is None or by.high is None:
        return {}
    most = bounds[1] - bounds[0]
    low, high, was_cut = cut(by.low, by.high, (-most, most))
    return {"low": low, "high": high, "cut": was_cut or None}


def _difference(
    by_method: Mapping[str, Mapping[int, ComparedRun]],
    first: str,
    second: str,
    metric: str,
    resampled: Resampled | None,
) -> Difference:
    groups = []
    for name in (first, second):
        values = _values(by_method[name], metric)
        groups.append({s: (by_method[name][s].folder, value) for s, value in values.items()})
    return difference(groups[0], groups[1], resampled)


def _barred(
    metric: str, found: Difference, judged: Mapping[str, tuple[str, JudgedSet]]
) -> tuple[Verdict, str] | None:
    """Why no direction may be said, as a verdict and in words."""
    if found.low is None:
        return "undefined", ""
    known = judged[metric][1].reliability if metric in judged else None
    if known is not None and judges(known) is not True:
        return "cannot judge", words(known)
    if found.seeds < FEWEST:
        return "too few seeds", f"too few seeds to say which is better: that takes {FEWEST}"
    return None


def _corrected(
    tested: Sequence[Tested], families: Sequence[str | None]
) -> list[tuple[float, int] | None]:
    """P-values after Holm's correction, with the size of their family; None without a family."""
    corrected: list[tuple[float, int] | None] = [None] * len(tested)
    for family in set(families) - {None}:
        rows = [i for i, own in enumerate(families) if own == family]
        p_values = [p for i in rows if (p := tested[i][3].p) is not None]
        for i, p in zip(rows, holm(p_values), strict=True):
            corrected[i] = p, len(rows)
    return corrected


def _method(
    name: str,
    seeds: Mapping[int, ComparedRun],
    metrics: Sequence[str],
    drawn: Mapping[str, Resampled],
    bounds: Mapping[str, tuple[float, float]],
) -> ComparedMethod:
    means = {}
    for metric in metrics:
        values = _values(seeds, metric)
        spread = drawn[metric].spread if metric in drawn else {}
        own = [spread.get(seeds[seed].folder, value) for seed, value in values.items()]
        means[metric] = mean_over_seeds(own, _bounds_of(metric, bounds))
    return ComparedMethod(
        method=name,
        seeds=tuple(sorted(seeds)),
        images=_mean_images(seeds, "total"),
        metrics=means,
    )


def _mean_images(seeds: Mapping[int, ComparedRun], kind: str) -> float:
    return float(sum(run.images[kind] for run in seeds.values())) / len(seeds)


def _values(seeds: Mapping[int, ComparedRun], metric: str) -> dict[int, float]:
    """The values of a metric by seed, where it is defined."""
    values = {seed: run.metrics.get(metric) for seed, run in sorted(seeds.items())}
    return {seed: value for seed, value in values.items() if value is not None}


def _pair(
    tested: Tested,
    by_method: Mapping[str, Mapping[int, ComparedRun]],
    barred: tuple[Verdict, str] | None,
    corrected: tuple[float, int] | None,
    less_is_better: tuple[str, ...],
    primary: str | None,
) -> ComparedPair:
    first, second, metric, by = tested
    verdict: Verdict
    if barred is not None:
        verdict = barred[0]
    elif by.value is None or corrected is None or corrected[0] >= WRONG:
        verdict = "not distinguishable"
    else:
        gains = (by.value > 0) != metric.startswith(less_is_better)
        verdict = "better" if gains else "worse"
    images = [_mean_images(by_method[name], "trained") for name in (first, second)]
    equal = are_equal(images)
    said = [_sentence(first, second, metric, by, verdict, barred, corrected)]
    if not equal:
        said.append(
            f"Not at equal training: {images[0]:,.0f} and {images[1]:,.0f} images were forwarded "
            "for it."
        )
    return ComparedPair(
        first=first,
        second=second,
        metric=metric,
        n=by.seeds,
        difference=by.value,
        low=by.low,
        high=by.high,
        verdict=verdict,
        equal_images=equal,
        sentence=" ".join(said),
        paired=by.paired,
        primary=metric == primary,
        p=by.p,
        corrected=None if corrected is None else corrected[0],
        family=None if corrected is None else corrected[1],
    )


def _sentence(
    first: str,
    second: str,
    metric: str,
    by: Difference,
    verdict: Verdict,
    barred: tuple[Verdict, str] | None,
    corrected: tuple[float, int] | None,
) -> str:
    n = by.seeds
    if by.value is None or by.low is None or by.high is None:
        why = f"as {n or 'no'} {'seed has' if n == 1 else 'seeds have'} both"
        if by.value is not None and n != 1:
            why = f"as all {n} seeds differ by {by.value:+.4f}, which tells nothing of their spread"
        return f"{metric}: {first} and {second} cannot be told apart, {why}."
    seeds = f"{n} seeds" if by.paired else f"at least {n} seeds, which are not the same"
    bounds = f"95 % interval {by.low:+.4f} to {by.high:+.4f}, {seeds}"
    if barred is not None:
        return f"{metric}: {first} and {second} differ by {by.value:+.4f} ({bounds}); {barred[1]}."
    if corrected is not None:
        many = f" of {corrected[1]} comparisons" if corrected[1] > 1 else ""
        bounds += f", p {corrected[0]:.2g}{many}"
    says = {
        "better": f"{first} is better than {second}",
        "worse": f"{first} is worse than {second}",
    }
    told = says.get(verdict, f"{first} and {second} are not distinguishable")
    return f"{metric}: {told}: {by.value:+.4f} ({bounds})."
