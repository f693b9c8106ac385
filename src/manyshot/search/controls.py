"""Networks within a budget that need no supernet: what a winner has to beat.

N counts the architectures that are looked at together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from manyshot.search.limit import Limit
from manyshot.search.reach import reach
from manyshot.space import Arch, SearchSpace

DRAWN = 20_000
"""So many uniform draws are looked at for one within a limit before architectures are bred."""

_TURN = 500
"""How many are drawn at once."""

_SCALES = 64
"""How many scales of all widths are tried."""


def random_within(space: SearchSpace, limit: Limit, rng: np.random.Generator) -> Arch | None:
    """A uniform draw of the encodings within a limit, canonical; None if none was met.

    Where draws do not meet the limit, what breeding towards it gives, which is no uniform draw.

    Args:
        space: where architectures come from.
        limit: must hold.
        rng: the random stream.
    """
    for _ in range(DRAWN // _TURN):
        archs = _archs(space.draw(rng, _TURN))
        within_N = np.flatnonzero(limit.satisfied(archs))
        if len(within_N):
            return space.canonical(archs[within_N[0]])
    arch = reach(space, [limit], rng)
    return None if arch is None else space.canonical(arch)


def largest_within(space: SearchSpace, limit: Limit, starts: Iterable[Arch]) -> Arch | None:
    """The costliest architecture within a limit that climbing finds, canonical; None without any.

    From every start, the change of one decision that costs most and stays within the limit is made,
    as long as there is one that costs more. The costliest end is taken, of equal ones the first.

    Args:
        space: where architectures come from.
        limit: must hold; its cost is called for all changes of a step at once.
        starts: where climbs begin; those beyond the limit are left out, the smallest is always one.
    """
    ends: dict[Arch, float] = {}
    for start in dict.fromkeys((*starts, space.smallest)):
        arch, cost = space.inside(start), float(limit.costs([start])[0])
        if cost > limit.limit:
            continue
        while True:
            changed = _changes(space, arch)
            costs_N = limit.costs(changed)
            costs_N[costs_N > limit.limit] = -np.inf
            if not changed or costs_N.max() <= cost:
                break
            step = int(costs_N.argmax())
            arch, cost = changed[step], float(costs_N[step])
        ends.setdefault(arch, cost)
    if not ends:
        return None
    return space.canonical(max(ends, key=lambda arch: ends[arch]))


def scaled_within(space: SearchSpace, limit: Limit, scaled: Collection[str]) -> Arch | None:
    """The largest with some sizes scaled alike until it is within a limit; None if it never is.

    Args:
        space: where architectures come from.
        limit: must hold.
        scaled: the names of the decisions on sizes that are scaled, each to the option nearest to
            the same share of its largest. All others stay as in the largest.
    """
    archs: list[Arch] = []
    for share in np.linspace(1.0, 0.0, _SCALES + 1):
        arch = list(space.largest)
        for i, decision in enumerate(space.decisions):
            if decision.name in scaled:
                options = space.allowed[i]
                values = np.asarray([decision.values[o] for o in options], dtype=np.float64)
                arch[i] = options[int(np.abs(values - share * values.max()).argmin())]
        archs.append(space.canonical(tuple(arch)))
    within_N = np.flatnonzero(limit.satisfied(archs))
    return archs[within_N[0]] if len(within_N) else None


def _changes(space: SearchSpace, arch: Arch) -> list[Arch]:
    """All architectures that differ from one in one decision."""
    return [
        (*arch[:i], option, *arch[i + 1 :])
        for i, options in enumerate(space.allowed)
        for option in options
        if option != arch[i]
    ]


def _archs(archs_NL: npt.NDArray[np.int64]) -> Sequence[Arch]:
    return [tuple(arch) for arch in archs_NL.tolist()]
