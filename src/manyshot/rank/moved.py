"""By how much a supernet orders better after its weights moved, on the same set and truth."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import kendall
from manyshot.rank.crossed import DRAWS, LEVEL, JudgedSet, resample
from manyshot.run_folder import Statistic

BEFORE, AFTER = "before", "after"
Floats = npt.NDArray[np.float64]


def gain(judged: JudgedSet, *, seed: int = 0, draws: int = DRAWS) -> Statistic:
    """The difference of Kendall's tau-b after and before, with a paired 95 % interval.

    Architectures and runs of the truth are resampled, the same for both weights, as far as they are
    a draw from anything (see `resample`). The variance is twice the sum of those by one factor
    alone, less that of joint draws, and at least that of one alone; the interval is Student's, with
    Satterthwaite's degrees of freedom, as that of a difference of methods is
    (`manyshot.rank.crossed.difference`). What another seed of the training would change is not in
    it.

    Args:
        judged: the set, with scores named `BEFORE` and `AFTER`.
        seed: of the draws.
        draws: how many.
    """
    n, r = judged.truth_NR.shape
    truth_N = np.nanmean(judged.truth_NR, axis=1)
    taus = [kendall(judged.scores[moment], truth_N) for moment in (BEFORE, AFTER)]
    before, after = taus
    if before is None or after is None:
        return Statistic(value=None, low=None, high=None)
    value = after - before
    nothing = Statistic(value=value, low=None, high=None)
    drawn = resample(judged, "tau", [BEFORE, AFTER], seed=seed, draws=draws)
    alone = []
    if drawn.runs is not None:
        alone.append((_variance(drawn.by_runs[AFTER] - drawn.by_runs[BEFORE]), r - 1))
    if drawn.architectures is not None:
        columns = drawn.by_architectures
        alone.append((_variance(columns[AFTER] - columns[BEFORE]), n - 1))
    together = _variance(drawn.drawn[AFTER] - drawn.drawn[BEFORE])
    known = [(variance, freedom) for variance, freedom in alone if variance is not None]
    if not known or len(known) < len(alone) or together is None:
        return nothing
    variances = [variance for variance, _ in known]
    total = max(2 * sum(variances) - together, *variances)
    if total <= 0:
        return nothing
    from scipy import stats  # slow to import

    freedom = sum(variances) ** 2 / sum(v**2 / f for v, f in known if v)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total)
    return Statistic(value=value, low=value - reach, high=value + reach, interval="crossed")


def _variance(values_D: Floats) -> float | None:
    """Over the draws on which a difference is defined; None if these are no more than half."""
    defined_D = values_D[~np.isnan(values_D)]
    return None if 2 * len(defined_D) <= len(values_D) else float(defined_D.var(ddof=1))
