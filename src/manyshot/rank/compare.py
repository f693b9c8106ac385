"""Methods side by side over seeds: means, paired differences, and what may be said of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from manyshot.run_folder import ComparedMethod, ComparedPair, ComparedRun, Mean, Verdict

LEVEL = 0.95
EQUAL = 0.05
"""Budgets that differ by no larger share count as equal."""
LESS_IS_BETTER = "regret"
"""How the names of metrics begin for which less is better whatever the task is."""


@final
@dataclass(frozen=True)
class Compared:
    """What a comparison says.

    Attributes:
        methods: means and intervals over seeds.
        pairs: paired differences by seed, with a verdict and a sentence for each pair of methods
            and metric.
    """

    methods: tuple[ComparedMethod, ...]
    pairs: tuple[ComparedPair, ...]


def interval(values: Sequence[float]) -> Mean:
    """Mean of one value per seed with Student's 95 % interval; None where it is undefined.

    The interval of one value, or of values that are all equal, is undefined: they say nothing about
    their spread. It has a meaning if seeds are independent and values roughly normal; of two or
    three seeds it is wide, as it should be.
    """
    n = len(values)
    mean = sum(values) / n if n else None
    if mean is None or len(set(values)) < 2:
        return Mean(mean=mean, low=None, high=None, n=n)
    from scipy import stats  # slow to import

    reach = float(np.std(values, ddof=1)) / math.sqrt(n) * stats.t.ppf((1 + LEVEL) / 2, n - 1)
    return Mean(mean=mean, low=mean - float(reach), high=mean + float(reach), n=n)


def compare(
    runs: Sequence[ComparedRun], less_is_better: Sequence[str] = (LESS_IS_BETTER,)
) -> Compared:
    """Compares methods by the runs that they were repeated in.

    Args:
        runs: all runs of all methods.
        less_is_better: how the names of metrics begin for which less is better.

    Raises:
        ValueError: if there is no run, or a method has a seed twice.
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
    return Compared(
        tuple(_method(name, seeds, metrics) for name, seeds in by_method.items()),
        tuple(
            _pair(first, second, metric, by_method, tuple(less_is_better))
            for first, second in itertools.combinations(by_method, 2)
            for metric in metrics
        ),
    )


def _method(name: str, seeds: Mapping[int, ComparedRun], metrics: Sequence[str]) -> ComparedMethod:
    return ComparedMethod(
        method=name,
        seeds=tuple(sorted(seeds)),
        images=_mean_images(seeds, "total"),
        metrics={metric: interval(list(_values(seeds, metric).values())) for metric in metrics},
    )


def _mean_images(seeds: Mapping[int, ComparedRun], kind: str) -> float:
    return float(sum(run.images[kind] for run in seeds.values())) / len(seeds)


def _values(seeds: Mapping[int, ComparedRun], metric: str) -> dict[int, float]:
    """The values of a metric by seed, where it is defined."""
    values = {seed: run.metrics.get(metric) for seed, run in sorted(seeds.items())}
    return {seed: value for seed, value in values.items() if value is not None}


def _pair(
    first: str,
    second: str,
    metric: str,
    by_method: Mapping[str, Mapping[int, ComparedRun]],
    less_is_better: tuple[str, ...],
) -> ComparedPair:
    ours, theirs = (_values(by_method[name], metric) for name in (first, second))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    by = interval(differences)
    low, high = by.low, by.high
    verdict: Verdict
    if low is None or high is None:
        verdict = "undefined"
    elif low <= 0 <= high:
        verdict = "not distinguishable"
    else:
        gains = (low > 0) != metric.startswith(less_is_better)
        verdict = "better" if gains else "worse"
    images = [_mean_images(by_method[name], "trained") for name in (first, second)]
    equal = max(images) <= (1 + EQUAL) * min(images)
    return ComparedPair(
        first=first,
        second=second,
        metric=metric,
        n=by.n,
        difference=by.mean,
        low=low,
        high=high,
        verdict=verdict,
        equal_images=equal,
        sentence=" ".join(_sentence(first, second, metric, by, verdict, images, equal)),
    )


def _sentence(
    first: str,
    second: str,
    metric: str,
    difference: Mean,
    verdict: Verdict,
    images: Sequence[float],
    equal: bool,
) -> Iterator[str]:
    n, mean = difference.n, difference.mean
    if verdict == "undefined":
        why = f"as {n or 'no'} {'seed has' if n == 1 else 'seeds have'} both"
        if mean is not None and n != 1:
            why = f"as all {n} seeds differ by {mean:+.4f}, which tells nothing of their spread"
        yield f"{metric}: {first} and {second} cannot be told apart, {why}."
    else:
        low, high = difference.low, difference.high
        by = f"{mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, {n} seeds)"
        says = {
            "better": f"{first} is better than {second}",
            "worse": f"{first} is worse than {second}",
            "not distinguishable": f"{first} and {second} are not distinguishable",
        }
        yield f"{metric}: {says[verdict]}: {by}."
    if not equal:
        yield (
            f"Not at equal training: {images[0]:,.0f} and {images[1]:,.0f} images were forwarded "
            "for it."
        )
