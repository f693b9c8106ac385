"""What a supernet's order is compared with: orders that are free, and networks of like cost.

Whatever orders without training a supernet is a free baseline, and the best of them by tau is what
a supernet has to beat. To take the best after seeing all favours the baselines. And where the truth
goes with cost, an order of nothing but costs has a high tau; it has none among networks of like
cost. Both are ours. N counts architectures.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from manyshot.rank.crossed import TAU, with_crossed_interval
from manyshot.rank.like_cost import MOST_PAIRED, LikePairs
from manyshot.rank.resampling import JudgedSet, mean_over_turns, resample
from manyshot.run_folder import FreeBaseline, PredictorStatistics, Statistic

FREE: dict[FreeBaseline, str] = {
    "macs": "MACs",
    "params": "parameters",
    "synflow": "synflow",
    "naswot": "NASWOT",
    "grad norm": "the gradient norm",
}
"""Predictors without a supernet, and what they are called."""
COSTS: tuple[FreeBaseline, ...] = ("macs", "params")
"""Those of them that are costs; the others are scores of networks that are not trained."""
BY_OPTIONS = "weights of options"
"""The predictor by how large the weights of an architecture's options are, which a sampler that
mixes options learnt. It takes no forward, but that training, so that it is no free baseline."""
_DRAWS = 300


def ordering_by(name: FreeBaseline) -> str:
    """What it is called to order by a baseline."""
    return f"counting {FREE[name]}" if name in COSTS else FREE[name]


def best_free(predictors: Mapping[str, PredictorStatistics]) -> FreeBaseline | None:
    """The free baseline with the highest tau; None if none has one."""
    taus = {
        name: tau
        for name in FREE
        if name in predictors and (tau := predictors[name].kendall.value) is not None
    }
    return max(taus, key=lambda name: taus[name], default=None)


def at_like_cost(judged: JudgedSet, costs_N: npt.NDArray[np.float64]) -> dict[str, Statistic]:
    """By name of a predictor its tau over pairs of like cost, with a crossed interval.

    Of more architectures than `MOST_PAIRED` there is no interval.

    Args:
        judged: the set, with a score of every architecture by each predictor.
        costs_N: what the architectures cost.
    """
    names = [*judged.scores]
    like, drawn = dataclasses.replace(judged, costs_N=costs_N), None
    if len(costs_N) <= MOST_PAIRED and len(LikePairs(costs_N)):
        drawn = resample(like, "tau", names, draws=_DRAWS)
    return {
        name: with_crossed_interval(
            mean_over_turns(like, "tau", name), drawn, operator.itemgetter(name), TAU
        )
        for name in names
    }
