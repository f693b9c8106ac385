"""Several limits in one search: alternatives that one history serves.

N counts the distinct architectures told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.search.history import History
from manyshot.search.limit import Cost, Limit
from manyshot.space import Arch, SearchSpace


@final
class Budgets:
    """The limits of a search, and the told architectures within each.

    Without limits there is one budget, which everything satisfies.

    Attributes:
        history: what was told, with the costs of all limits in their order, then others.
        each: for every budget, the limits that a proposal for it must satisfy.
    """

    def __init__(
        self, space: SearchSpace, limits: Sequence[Limit], costs: Mapping[str, Cost]
    ) -> None:
        """Makes budgets with an empty history.

        Args:
            space: what is searched.
            limits: alternatives.
            costs: recorded beside those of the limits, by name.

        Raises:
            ValueError: if two limits have one name.
        """
        names = [limit.name for limit in limits]
        if len(set(names)) < len(names):
            raise ValueError(f"limits must have distinct names, got {names}")
        self.history = History(space, {**{limit.name: limit.cost for limit in limits}, **costs})
        self.each: tuple[tuple[Limit, ...], ...] = tuple((x,) for x in limits) or ((),)

    def __len__(self) -> int:
        return len(self.each)

    def rows(self, budget: int, since: int = 0) -> npt.NDArray[np.intp]:
        """The rows of the history within a budget, oldest first, from a row on."""
        rows = np.arange(since, len(self.history))
        if not self.each[budget]:
            return rows
        return rows[self.history.costs_NL[since:, budget] <= self.each[budget][0].limit]

    def competing(self, budget: int, *, stale: bool) -> npt.NDArray[np.intp]:
        """The rows within a budget whose scores count: all with `stale`, else the fresh ones.

        Where no score is of the latest weights version, all count too.
        """
        rows = self.rows(budget)
        fresh = rows if stale else rows[self.history.fresh_N[rows]]
        return fresh if fresh.size else rows

    def holds(self, budget: int, row: int) -> bool:
        """Whether a row of the history is within a budget."""
        limits = self.each[budget]
        return not limits or bool(self.history.costs_NL[row, budget] <= limits[0].limit)

    def newest(self, budget: int, most: int) -> npt.NDArray[np.intp]:
        """The newest rows within a budget, at most so many, oldest first.

        They are looked for from the end, so that this takes no longer when more were told.
        """
        end, block, rows = len(self.history), most, np.zeros(0, np.intp)
        while end and len(rows) < most:
            start = max(0, end - block)
            part = np.arange(start, end)
            if self.each[budget]:
                limit = self.each[budget][0].limit
                part = part[self.history.costs_NL[start:end, budget] <= limit]
            rows = np.concatenate([part, rows])
            end, block = start, 2 * block
        return rows[-most:]

    def told(self, budget: int) -> list[Arch]:
        """The architectures told within a budget, oldest first."""
        return [self.history.archs[i] for i in self.rows(budget)]

    def ranked(self, budget: int, rows: npt.NDArray[np.intp], most: int) -> list[Arch]:
        """At most so many of the architectures of `rows`, best first; ties by cost, then tuple."""
        costs_N = self.history.costs_NL[:, budget] if self.each[budget] else None
        return self.history.ranked(rows, most, costs_N)
