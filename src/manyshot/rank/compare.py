"""Methods side by side over seeds: means, paired differences, and what may be said of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95
EQUAL = 0.05
"""Budgets that differ by no larger share count as equal."""
LESS_IS_BETTER = "regret"
"""How the names of metrics begin for which less is better."""


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """The mean of one value per seed with Student's 95 % interval; None where it is undefined.

    The interval of one value, or of values that are all equal, is undefined: they say nothing about
    their spread. It has a meaning if seeds are independent and values roughly normal; of two or
    three seeds it is wide, as it should be.
    """
    n = len(values)
    mean = sum(values) / n if n else None
    if mean is None or len(set(values)) < 2:
        return {"mean": mean, "low": None, "high": None, "n": n}
    from scipy import stats  # slow to import

    reach = float(np.std(values, ddof=1)) / math.sqrt(n) * stats.t.ppf((1 + LEVEL) / 2, n - 1)
    return {"mean": mean, "low": mean - float(reach), "high": mean + float(reach), "n": n}


def compare(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compares methods by the runs that they were repeated in.

    Args:
        runs: records with `method`, `seed`, `images` (forwarded, by what for; with `trained` and
            `total`) and `metrics`: a number by name, None where it is undefined.

    Returns:
        A record with `methods` (means and intervals over seeds) and `pairs` (for each pair of
        methods and metric, paired differences by seed, a verdict and a sentence).

    Raises:
        ValueError: if there is no run, or a method has a seed twice.
    """
    if not runs:
        raise ValueError("there is nothing to compare: give at least one run")
    by_method: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        seeds = by_method.setdefault(run["method"], {})
        if run["seed"] in seeds:
            raise ValueError(
                f"{run['folder']} and {seeds[run['seed']]['folder']} are both method "
                f"{run['method']!r} with seed {run['seed']}: leave one out"
            )
        seeds[run["seed"]] = run
    metrics = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    return {
        "methods": [_method(name, seeds, metrics) for name, seeds in by_method.items()],
        "pairs": [
            _pair(first, second, metric, by_method)
            for first, second in itertools.combinations(by_method, 2)
            for metric in metrics
        ],
    }


def _method(
    name: str, seeds: Mapping[int, Mapping[str, Any]], metrics: Sequence[str]
) -> dict[str, Any]:
    return {
        "method": name,
        "seeds": sorted(seeds),
        "images": _mean_images(seeds, "total"),
        "trained_images": _mean_images(seeds, "trained"),
        "metrics": {metric: interval(list(_values(seeds, metric).values())) for metric in metrics},
    }


def _mean_images(seeds: Mapping[int, Mapping[str, Any]], kind: str) -> float:
    return float(sum(run["images"][kind] for run in seeds.values())) / len(seeds)


def _values(seeds: Mapping[int, Mapping[str, Any]], metric: str) -> dict[int, float]:
    """The values of a metric by seed, where it is defined."""
    found = {seed: run["metrics"].get(metric) for seed, run in sorted(seeds.items())}
    return {seed: value for seed, value in found.items() if value is not None}


def _pair(
    first: str,
    second: str,
    metric: str,
    by_method: Mapping[str, Mapping[int, Mapping[str, Any]]],
) -> dict[str, Any]:
    ours, theirs = (_values(by_method[name], metric) for name in (first, second))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    gain = interval(differences)
    low, high = gain["low"], gain["high"]
    if low is None or high is None:
        verdict = "undefined"
    elif low <= 0 <= high:
        verdict = "not distinguishable"
    else:
        gains = (low > 0) != metric.startswith(LESS_IS_BETTER)
        verdict = "better" if gains else "worse"
    images = [_mean_images(by_method[name], "trained") for name in (first, second)]
    equal = max(images) <= (1 + EQUAL) * min(images)
    return {
        "first": first,
        "second": second,
        "metric": metric,
        "n": gain["n"],
        "difference": gain["mean"],
        "low": low,
        "high": high,
        "verdict": verdict,
        "equal_images": equal,
        "sentence": " ".join(_sentence(first, second, metric, gain, verdict, images, equal)),
    }


def _sentence(
    first: str,
    second: str,
    metric: str,
    gain: Mapping[str, float | int | None],
    verdict: str,
    images: Sequence[float],
    equal: bool,
) -> Iterator[str]:
    n, mean = gain["n"], gain["mean"]
    if verdict == "undefined":
        why = f"as {n or 'no'} {'seed has' if n == 1 else 'seeds have'} both"
        if mean is not None and n != 1:
            why = f"as all {n} seeds differ by {mean:+.4f}, which tells nothing of their spread"
        yield f"{metric}: {first} and {second} cannot be told apart, {why}."
    else:
        by = f"{mean:+.4f} (95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}, {n} seeds)"
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
