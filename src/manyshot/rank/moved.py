"""By how much a supernet orders better after its weights moved, on the same set and truth."""

from __future__ import annotations

from manyshot.rank.crossed import OF_TAUS, with_crossed_interval
from manyshot.rank.resampling import DRAWS, JudgedSet, mean_over_turns, resample
from manyshot.run_folder import AFTER, BEFORE, Statistic


def gain(judged: JudgedSet, *, seed: int = 0, draws: int = DRAWS) -> Statistic:
    """The difference of Kendall's tau-b after and before, with a paired 95 % interval.

    Architectures and runs of the truth are resampled, the same for both weights, as far as they are
    a draw from anything (see `resample`); what another seed of the training would change is not in
    the interval.

    Args:
        judged: the set, with scores named `BEFORE` and `AFTER`.
        seed: of the draws.
        draws: how many.
    """
    before, after = (mean_over_turns(judged, "tau", moment) for moment in (BEFORE, AFTER))
    if before is None or after is None:
        return Statistic(value=None, low=None, high=None)
    value = after - before
    drawn = resample(judged, "tau", [BEFORE, AFTER], seed=seed, draws=draws)
    return with_crossed_interval(value, drawn, lambda by: by[AFTER] - by[BEFORE], OF_TAUS)
