"""NSGA-II: the whole front of score against one cost. N counts the distinct architectures told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Probability
from manyshot.search.base import Portion
from manyshot.search.leading import Leading
from manyshot.search.limit import Cost, Limit, any_of
from manyshot.search.optioned import OptionedSearcher, VersionedOptions
from manyshot.search.pareto import non_dominated
from manyshot.search.survivors import Survivors
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class NSGA2Options(VersionedOptions):
    """The options of `NSGA2`."""

    objective: Limit | Cost | None = None
    """The cost to minimise, that of a `Limit` or a function from architectures to costs; by default
    the cost of the first limit."""

    population: Annotated[int, Field(ge=2)] = 50
    """Survivors that breed; so many random architectures come first."""

    crossover_probability: Probability = 0.9
    """Probability that a child has two parents; each decision comes from either."""

    mutation_probability: Probability = 0.1
    """Probability that a decision of a child is redrawn, perhaps to the same option."""


@final
class NSGA2(OptionedSearcher[NSGA2Options]):
    """Maximises the score and minimises one cost at once, within hard limits.

    Non-dominated sorting and crowding distances are pymoo's. Survivors are chosen from everything
    told, not from the last survivors and their children, so that a score told again counts and
    that the searcher stays a function of its history; nothing told is proposed again. The first
    fronts are kept up to date as scores are told, so that an `ask` takes no longer when more were.

    Reference: NSGA-II (Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm",
    doi:10.1109/4235.996017). It differs in that survivors are chosen from everything told, that
    nothing is proposed twice, and in the operators, which are the space's own; equal crowding is
    settled by tuple order among survivors and at random in tournaments.
    """

    random_start_option = "population"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        sampler: object = None,
        options: NSGA2Options | None = None,
    ) -> None:
        """Makes a searcher; see `BaseSearcher`.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            sampler: the one that the supernet was trained by, which may have a pool.
            options: the cost to minimise, sizes of generations, and probabilities.

        Raises:
            ValueError: if there is neither an objective nor a limit.
        """
        options = options or NSGA2Options()
        objective = options.objective or next(iter(limits), None)
        if objective is None:
            raise ValueError(
                "nsga2 needs a cost to minimise: give a limit, or the option 'objective', a Limit "
                "or a function from architectures to costs"
            )
        super().__init__(
            space,
            seed=seed,
            limits=[any_of(limits)] if len(limits) > 1 else limits,
            sampler=sampler,
            options=options,
            costs={"the objective": objective.cost if isinstance(objective, Limit) else objective},
        )
        self._leading, self._known = Leading(options.population), 0

    def fill(self, portion: Portion) -> None:
        """Breeds children of binary tournaments among the survivors."""
        if portion.begins:
            return
        options, rows = self.options, self._first_fronts()
        archs = [self.history.archs[i] for i in rows]
        survivors = Survivors(archs, self._points(rows), options.population)
        child = survivors.child_of(
            self.space, portion.rng, options.crossover_probability, options.mutation_probability
        )
        portion.breed(child)

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        again = any(map(self.history.was_told, archs))
        super().tell(archs, scores, weights_version)
        if again:  # what has another score may bring others forward
            self._leading, self._known = Leading(self.options.population), 0

    def elites(self) -> list[Arch]:
        """The current non-dominated front, cheapest first."""
        rows = self._first_fronts()
        archs, cost_N = self.history.archs, self.history.costs_NL[:, -1]
        front = rows[non_dominated(self._points(rows))]
        return [archs[i] for i in sorted(front, key=lambda i: (cost_N[i], archs[i]))]

    def _first_fronts(self) -> npt.NDArray[np.intp]:
        """The rows on the first fronts of all that compete, enough for all survivors.

        What was told since they were asked for last is added to those fronts. All is sorted anew if
        some of what they hold does not count any more, or if too little is left on them.
        """
        leading, fresh = self._leading, self.history.fresh_of
        new = self.budgets.rows(0, since=self._known)
        all_count = True
        if not self.stale_scores:
            new, all_count = new[fresh(new)], bool(fresh(leading.rows).all())
        if not (all_count and leading.add(new, self._points) and leading.rows.size):
            self._leading = leading = Leading(self.options.population)
            leading.add(self.competing(0), self._points)
        self._known = len(self.history)
        return leading.rows

    def _points(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        return np.column_stack([-self.history.scores_of(rows), self.history.costs_NL[rows, -1]])
