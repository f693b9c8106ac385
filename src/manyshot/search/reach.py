"""Looking for one architecture within limits that random draws do not meet.

N counts the architectures that are looked at together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manyshot.search.limit import Limit
from manyshot.space import Arch, SearchSpace

ATTEMPTS = 20_000
"""How many architectures `reach` looks at before it gives up."""

_KEPT = 64
"""How many of them, the nearest to the limits, are bred from."""

_BRED = 256
"""How many are bred at once."""

_CHANGED = (1, 2, 3)
"""How many decisions a child changes on average, one kind of child beside the other."""


def reach(
    space: SearchSpace,
    limits: Sequence[Limit],
    rng: np.random.Generator,
    attempts: int = ATTEMPTS,
) -> Arch | None:
    """An architecture within all of `limits`, or None if none was met in so many attempts.

    What is nearest to the limits is bred from: each architecture counts by the limit that it
    exceeds most, in shares of that limit. It begins with the smallest, the largest and random ones.

    Args:
        space: where architectures come from.
        limits: all must hold.
        rng: the random stream.
        attempts: how many architectures to look at.
    """
    random = space.draw(rng, _BRED)
    pool_NL = np.vstack([[space.smallest, space.largest], random])
    excess_N = _excess(pool_NL, limits)
    seen = len(pool_NL)
    while excess_N.min() > 0:
        if seen >= attempts:
            return None
        nearest = np.argsort(excess_N, kind="stable")[:_KEPT]
        pool_NL, excess_N = pool_NL[nearest], excess_N[nearest]
        children_NL = _bred(space, pool_NL, rng)
        seen += len(children_NL)
        pool_NL = np.vstack([pool_NL, children_NL])
        excess_N = np.concatenate([excess_N, _excess(children_NL, limits)])
        pool_NL, first = np.unique(pool_NL, axis=0, return_index=True)
        excess_N = excess_N[first]
    return tuple(pool_NL[excess_N.argmin()].tolist())


def _bred(
    space: SearchSpace, pool_NL: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Mutants of architectures of the pool, in which a few decisions are drawn anew."""
    parents = pool_NL[rng.integers(len(pool_NL), size=_BRED)]
    share = rng.choice(_CHANGED, size=(_BRED, 1)) / max(len(space), 1)
    redraw = rng.random(parents.shape) < share
    return np.where(redraw, space.draw(rng, len(parents)), parents)


def _excess(archs_NL: npt.NDArray[np.int64], limits: Sequence[Limit]) -> npt.NDArray[np.float64]:
    """By how much each architecture exceeds the limit that it exceeds most; 0 or less within all.

    In shares of the limit, or in the unit of the cost where that is zero.
    """
    archs = [tuple(arch) for arch in archs_NL.tolist()]
    worst_N = np.full(len(archs), -np.inf)
    for limit in limits:
        share_N = (limit.costs(archs) - limit.limit) / (abs(limit.limit) or 1.0)
        worst_N = np.maximum(worst_N, share_N)
    return worst_N
