"""What a supernet's order is compared with: orders that are free, and networks of like cost.

Whatever orders without training a supernet is a free baseline, and the best of them by tau is what
a supernet has to beat. To take the best after seeing all favours the baselines. And where the truth
goes with cost, an order of nothing but costs has a high tau; it has none among networks of like
cost. Both are ours. N counts architectures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from manyshot.rank.crossed import TAU, JudgedSet, interval, mean_over_turns, resample, with_ends
from manyshot.run_folder import PredictorStatistics, Statistic

FREE = {
    "macs": "counting MACs",
    "params": "counting parameters",
    "synflow": "synflow",
    "naswot": "NASWOT",
    "grad norm": "the gradient norm",
}
"""Predictors without a supernet, and what they are called in sentences."""
LIKE = 1.1
"""Networks are of like cost if their multiply-adds differ by no larger factor."""
_DRAWS = 300
MOST_PAIRED = 1000
"""Of more architectures pairs of like cost are not resampled: pairs grow with the square."""


def best_free(predictors: Mapping[str, PredictorStatistics]) -> str | None:
    """The free baseline with the highest tau; None if none has one."""
    taus = {
        name: predictors[name].kendall.value
        for name in FREE
        if name in predictors and predictors[name].kendall.value is not None
    }
    return max(taus, key=lambda name: taus[name] or 0.0, default=None)


def like_pairs(costs_N: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which pairs of different architectures are of like cost, (N, N)."""
    larger_NN = np.maximum(costs_N[:, None], costs_N)
    pairs_NN = larger_NN <= LIKE * np.minimum(costs_N[:, None], costs_N)
    np.fill_diagonal(pairs_NN, False)
    return pairs_NN


def at_like_cost(judged: JudgedSet, costs_N: npt.NDArray[np.float64]) -> dict[str, Statistic]:
    """By name of a predictor its tau over pairs of like cost, with a crossed interval.

    Of more than 1,000 architectures there is no interval.

    Args:
        judged: the set, with a score of every architecture by each predictor.
        costs_N: what the architectures cost.
    """
    names = [*judged.scores]
    like = dataclasses.replace(judged, pairs_NN=like_pairs(costs_N))
    drawn = None
    if len(costs_N) <= MOST_PAIRED and like.pairs_NN is not None and like.pairs_NN.any():
        drawn = resample(like, "tau", names, draws=_DRAWS)
    found = {}
    for name in names:
        value = mean_over_turns(like, "tau", name)
        bounds = None
        if value is not None and drawn is not None:
            bounds = interval(value, drawn, lambda by, name=name: by[name])  # type: ignore[misc]
        found[name] = with_ends(value, bounds, TAU)
    return found
