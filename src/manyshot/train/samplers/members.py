"""Architectures whose cost is near a target, drawn uniformly; and how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np

from manyshot.cost import CostTable
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace
from manyshot.train.samplers.complexity import Grid

DRAWS = 20_000
"""Uniform draws from which the members of sub-spaces are taken; of a space that has no more
encodings, all of them are."""


@final
class Members:
    """The sub-spaces of a grid: which architectures are in each, and how many.

    Of a space of at most 20,000 encodings all are known, and what is said is exact. Of larger ones
    it is estimated from as many uniform draws; a sub-space that none of them hits has no members
    here, though it may have some.

    Attributes:
        drawn: (draws, decisions), the encodings, of all sub-spaces and of none.
        rows: for every sub-space, which of `drawn` are in it.
        entropy_nats: for every sub-space that of the uniform distribution over it, the logarithm of
            its number of encodings; None for one without members.
    """

    def __init__(self, space: SearchSpace, table: CostTable, grid: Grid, *, seed: int) -> None:
        """Enumerates or draws.

        Args:
            space: the space.
            table: the cost that the grid is of.
            grid: says where sub-spaces end.
            seed: of the draws.
        """
        log_total = float(np.log([len(options) for options in space.allowed]).sum())
        if log_total <= math.log(DRAWS):
            grids = np.meshgrid(*map(np.array, space.allowed), indexing="ij")
            self.drawn = np.stack([own.ravel() for own in grids], axis=1).astype(np.int64)
        else:
            self.drawn = space.draw(numpy_rng(seed, "costs"), DRAWS)
        self._away = np.abs(table(self.drawn)[:, None] - grid.centres)
        bins = grid.bin_of(table(self.drawn))
        self.rows = [np.flatnonzero(bins == k) for k in range(len(grid))]
        self.entropy_nats: Sequence[float | None] = [
            log_total + math.log(len(rows) / len(self.drawn)) if len(rows) else None
            for rows in self.rows
        ]

    def draw(self, bin_: int, rng: np.random.Generator) -> Arch | None:
        """One of a sub-space, all of whose members are as likely; None where there are none."""
        rows = self.rows[bin_]
        return tuple(self.drawn[rng.choice(rows)].tolist()) if len(rows) else None

    def spread(self, bin_: int, count: int, rng: np.random.Generator) -> list[Arch]:
        """So many of a sub-space, different ones if it has as many; by chance, all as likely.

        For one without members these are what is nearest to its target.
        """
        rows = self.rows[bin_]
        if not len(rows):
            rows = np.argsort(self._away[:, bin_], kind="stable")[:1]
        chosen = rng.choice(rows, size=count, replace=len(rows) < count)
        return [tuple(arch) for arch in self.drawn[chosen].tolist()]
