"""The first fronts of what is told over time. N points, D objectives, all to be minimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.search.pareto import fronts

Rows = npt.NDArray[np.intp]

_RESERVE = 4
"""How many times the rows wanted are kept, so that all is seldom sorted anew."""


@final
class Leading:
    """The rows on the first fronts of all: at least as many as wanted, if there are so many.

    What lies behind these fronts is forgotten, so that adding rows takes no longer when more were
    added before. That is exact: a new point sets others back and never forward, and what lay behind
    d complete fronts is dominated by a point of each, now as then. So the first d fronts of what is
    kept and what is new are those of all. Where fewer rows than wanted are left on them, all must
    be sorted anew.

    Attributes:
        rows: those on the fronts, in ascending order.
    """

    def __init__(self, wanted: int) -> None:
        """Makes it empty.

        Args:
            wanted: the least number of rows.
        """
        self.rows: Rows = np.zeros(0, np.intp)
        self._wanted = wanted
        self._complete: int | None = None  # how many fronts; None while nothing is forgotten

    def add(self, rows: Rows, points_of: Callable[[Rows], npt.NDArray[np.float64]]) -> bool:
        """Adds rows, which are above those before; returns False if all must be sorted anew.

        Args:
            rows: (N,), in ascending order.
            points_of: the objectives of any rows, (N, D).
        """
        if not rows.size:
            return True
        every = np.concatenate([self.rows, rows])
        first = fronts(points_of(every), _RESERVE * self._wanted)
        if self._complete is not None:
            first = first[: self._complete]
        kept = np.sort(np.concatenate(first))
        if self._complete is not None and len(kept) < self._wanted:
            return False
        if self._complete is not None or len(kept) < len(every):
            self._complete = len(first)
        self.rows = every[kept]
        return True
