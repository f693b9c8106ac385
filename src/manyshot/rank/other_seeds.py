"""The local set by prediction that supernets of other seeds choose, for every run compared.

Who chooses the set decides much of a tau on it. Here every supernet chooses in turn, and judges all
but those of its own seed; so a method that is compared chooses as often for others as they do for
it, and nobody chooses for itself. N counts architectures, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import kendall, regret, tied
from manyshot.rank.reliability import over_turns, reliability
from manyshot.rank.resampling import JudgedSet, Turn
from manyshot.rank.sets import SMALLEST
from manyshot.run_folder import ComparedRun

NAME = "local by other seeds"
Floats = npt.NDArray[np.float64]


def by_other_seeds(
    runs: Sequence[ComparedRun],
    scores: Mapping[str, Floats],
    truth_NR: Floats,
    *,
    share: float,
    whole: bool = False,
) -> tuple[JudgedSet, tuple[int, ...]] | None:
    """The set, with the rows of its architectures; None if it cannot be made.

    It needs two seeds that all methods have, of which all supernets choose.

    Args:
        runs: all runs of all methods.
        scores: by folder the proxy scores of all architectures, (N,) each; higher is better.
        truth_NR: of all architectures; higher is better, nan where there was no run.
        share: of the architectures that each chooses.
        whole: whether they are all of a space.
    """
    methods = {run.method for run in runs}
    seeds_of = {method: {run.seed for run in runs if run.method == method} for method in methods}
    shared = set.intersection(*seeds_of.values())
    count = max(SMALLEST, math.ceil(share * len(truth_NR)))
    complete_R = ~np.isnan(truth_NR).any(axis=0)
    if len(shared) < 2 or count >= len(truth_NR) or not complete_R.any():
        return None
    truth_NR = truth_NR[:, complete_R]
    choosers = [run for run in runs if run.seed in shared]
    tops = [np.argsort(-scores[run.folder], kind="stable")[:count] for run in choosers]
    union = np.unique(np.concatenate(tops))
    judges_R = np.ones(truth_NR.shape[1], dtype=np.bool_)
    turns = tuple(
        Turn(
            np.searchsorted(union, top),
            judges_R,
            passes=frozenset(run.folder for run in runs if run.seed == chooser.seed),
        )
        for chooser, top in zip(choosers, tops, strict=True)
    )
    alike = len(shared) > 2 and all(seeds == shared for seeds in seeds_of.values())
    mean_N = tied(truth_NR.mean(axis=1))
    judged = JudgedSet(
        truth_NR[union],
        {folder: column_N[union] for folder, column_N in scores.items()},
        whole=whole,
        reliability=over_turns([reliability(truth_NR[top]) for top in tops]),
        turns=turns,
        spread=_spread(runs, choosers, tops, scores, mean_N) if alike else {},
    )
    return judged, tuple(union.tolist())


def _spread(
    runs: Sequence[ComparedRun],
    choosers: Sequence[ComparedRun],
    tops: Sequence[npt.NDArray[np.intp]],
    scores: Mapping[str, Floats],
    mean_N: Floats,
) -> dict[str, dict[str, float]]:
    """By statistic and folder the jackknife's pseudo-values of the seeds.

    The mean of a method is one over pairs of a seed that is judged and another that chooses. With
    U of all seeds and U_s of all but s, the mean of S U - (S - 1) U_s over seeds is U, and their
    variance is that of both parts that a seed has.

    Reference: Arvesen 1969, "Jackknifing U-statistics".
    """
    seeds = sorted({run.seed for run in runs})
    spread: dict[str, dict[str, float]] = {}
    for name, statistic in (("tau", kendall), ("regret", regret)):
        by_folder: dict[str, float] = {}
        for method in dict.fromkeys(run.method for run in runs):
            own = {run.seed: run.folder for run in runs if run.method == method}
            pairs = [
                (seed, chooser.seed, statistic(scores[folder][top], mean_N[top]))
                for seed, folder in own.items()
                for chooser, top in zip(choosers, tops, strict=True)
                if chooser.seed != seed
            ]
            values = [value for _, _, value in pairs if value is not None]
            if len(values) < len(pairs):
                return {}
            every = sum(values) / len(values)
            for left in seeds:
                rest = [v for s, c, v in pairs if left not in (s, c) and v is not None]
                without = sum(rest) / len(rest)
                by_folder[own[left]] = len(seeds) * every - (len(seeds) - 1) * without
        spread[name] = by_folder
    return spread
