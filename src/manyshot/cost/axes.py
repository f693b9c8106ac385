"""Tables with an axis per decision, of what a size is and of where a use holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from manyshot.cost.tables import Table
from manyshot.nn.selection import Selection
from manyshot.space import Number, SearchSpace, Size, Use


def extents(space: SearchSpace, positions: Sequence[int], size: Number | Size) -> Table:
    """A size at the options of its decisions, with an axis for each of `positions`.

    Axes of decisions that it does not depend on have length one.

    Args:
        space: the search space.
        positions: of decisions, all those of the size among them.
        size: the size.

    Raises:
        ValueError: if it is not whole at some options.
    """
    decisions = size.decisions() if isinstance(size, Size) else ()
    held = [space.decisions[p] in decisions for p in positions]
    own = [space.decisions[p] for p in itertools.compress(positions, held)]
    table = np.zeros([len(d.options) for d in own], np.int64)
    for cell in np.ndindex(table.shape):
        table[cell] = Selection(own, cell).count(size)
    lengths = iter(table.shape)
    return table.reshape([next(lengths) if at else 1 for at in held])


def holds(space: SearchSpace, positions: Sequence[int], uses: Iterable[Use]) -> Table:
    """One where any of some uses holds and else zero, with an axis for each of `positions`.

    Args:
        space: the search space.
        positions: of decisions, all those of the uses among them.
        uses: conditions on decisions.
    """
    table = np.zeros((1,) * len(positions), np.bool_)
    for use in uses:
        both = np.ones((1,) * len(positions), np.bool_)
        for decision, allowed in use:
            axis = positions.index(space.index[decision])
            options = np.isin(np.arange(len(decision.options)), list(allowed))
            both = both & options.reshape([-1 if i == axis else 1 for i in range(len(positions))])
        table = table | both
    return table.astype(np.int64)
