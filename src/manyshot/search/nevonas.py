"""NEvoNAS: evolution towards good and novel architectures. N counts the distinct ones told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive, Probability
from manyshot.search.base import Portion
from manyshot.search.chosen import chosen
from manyshot.search.optioned import OptionedSearcher, VersionedOptions
from manyshot.search.survivors import Survivors
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class NEvoNASOptions(VersionedOptions):
    """The options of `NEvoNAS`; the defaults are those of its public code."""

    neighbours: Positive = 5
    """An architecture is as novel as its mean distance to so many nearest others."""

    population: Annotated[int, Field(ge=2)] = 20
    """Survivors within each limit that breed; so many random architectures come first."""

    crossover_probability: Probability = 0.7
    """Probability that a child has two parents; each decision comes from either."""

    mutation_probability: Probability = 0.1
    """Probability that a decision of a child is redrawn, perhaps to the same option."""


@final
class NEvoNAS(OptionedSearcher[NEvoNASOptions]):
    """Maximises score and novelty at once by NSGA-II, so that a search stays varied.

    The novelty of an architecture is its mean distance to the nearest others of the archive, which
    holds all that was told. The distance of two is that of Jaccard between the sets of their chosen
    (decision, option) pairs. With several limits each proposal is bred for one of them in turn,
    from survivors within it; one archive serves all. Winners are chosen by score alone, as always.
    `elites` are the survivors: with `[shifting]` the supernet trains on them and their children,
    and scores both again.

    Reference: Sinha and Chen 2022, "Novelty Driven Evolutionary Neural Architecture Search"
    (arXiv:2204.00188), from its abstract and its public code. The two objectives, NSGA-II and the
    training of the supernet between generations are the paper's. The distance, the archive without
    a threshold, the neighbours (5 are its default) and the probabilities are the public code's,
    which breeds vectors of numbers, where an architecture is the largest of each group, by
    simulated binary crossover and polynomial mutation; its survivors keep their scores, as with
    `stale_scores`. Ours are crossover and mutation of decisions, novelty that is measured anew as
    the archive grows, decisions that do not matter in an architecture left out of its pairs, and
    the limits.
    """

    random_start_option = "population"

    def set_up(self) -> None:
        """Begins with no measures of how novel architectures are."""
        self._points_N2 = np.zeros((0, 2))

    def prepare(self, rng: np.random.Generator) -> None:
        """Measures how novel all are."""
        if len(self.history) >= self.random_start:
            self._points_N2 = self._points()

    def fill(self, portion: Portion) -> None:
        """Breeds survivors."""
        if portion.begins:
            return
        options, survivors = self.options, self._survivors(portion.budget, self._points_N2)
        child = survivors.child_of(
            self.space, portion.rng, options.crossover_probability, options.mutation_probability
        )
        portion.breed(child)

    def elites(self) -> list[Arch]:
        """The survivors of every limit, best first within a limit."""
        points_N2 = self._points()
        told = (i for i in range(len(self.budgets)) if self.competing(i).size)
        return list(dict.fromkeys(a for i in told for a in self._survivors(i, points_N2).archs))

    def _points(self) -> npt.NDArray[np.float64]:
        """The objectives of all told, (N, 2), to be minimised."""
        novelty_N = novelty(self.space, self.history.archs, self.options.neighbours)
        return -np.column_stack([self.history.scores_N, novelty_N])

    def _survivors(self, budget: int, points_N2: npt.NDArray[np.float64]) -> Survivors:
        """Of a budget within which something was told."""
        rows = self.competing(budget)
        archs = [self.history.archs[i] for i in rows]
        return Survivors(archs, points_N2[rows], self.options.population)


def novelty(space: SearchSpace, archs: Sequence[Arch], neighbours: int) -> npt.NDArray[np.float64]:
    """The mean Jaccard distance of each architecture to its nearest others, (N,).

    Args:
        space: that of the architectures.
        archs: N canonical architectures, all distinct.
        neighbours: how many nearest; all others if there are fewer. One alone has novelty 0.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to import

    if len(archs) < 2:
        return np.zeros(len(archs))
    count = min(neighbours, len(archs) - 1)
    nearest = NearestNeighbors(n_neighbors=count, metric="jaccard", algorithm="brute")
    distance_NK, _ = nearest.fit(chosen(space, archs)).kneighbors()  # of others, not of itself
    return np.asarray(distance_NK.mean(axis=1))
