"""Survivors of NSGA-II: the best of many by fronts and crowding, and children of their tournaments.

N architectures, D objectives, all to be minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.search.pareto import rank_and_crowding
from manyshot.space import Arch, SearchSpace


@final
class Survivors:
    """The best of N architectures by the number of their front, then by crowding distance.

    Attributes:
        archs: the survivors, best first; equals are in the order of their tuples.
    """

    def __init__(
        self, archs: Sequence[Arch], points_ND: npt.NDArray[np.float64], count: int
    ) -> None:
        """Chooses survivors.

        Args:
            archs: N architectures, at least one.
            points_ND: their objectives.
            count: how many survive, if there are so many.
        """
        rank, crowding = rank_and_crowding(points_ND, count)
        ranked = np.flatnonzero(rank <= np.sort(rank)[:count].max()).tolist()
        ranked.sort(key=lambda i: (rank[i], -crowding[i], archs[i]))
        self.archs = [archs[i] for i in ranked[:count]]
        self._order = [(rank[i], -crowding[i]) for i in ranked[:count]]

    def child_of(
        self, space: SearchSpace, rng: np.random.Generator, crossover: float, mutation: float
    ) -> Callable[[], Arch]:
        """A function that draws children of binary tournaments; equals win at random.

        Args:
            space: that of the architectures.
            rng: the random stream.
            crossover: the probability that a child has two parents.
            mutation: the probability that a decision of a child is redrawn.
        """

        def parent() -> Arch:
            one, two = (int(i) for i in rng.integers(len(self.archs), size=2))
            return self.archs[two if self._order[two] < self._order[one] else one]

        def child() -> Arch:
            one, two = parent(), parent()
            if rng.random() < crossover:
                one = space.crossover(one, two, rng)
            return space.mutate(one, rng, mutation)

        return child
