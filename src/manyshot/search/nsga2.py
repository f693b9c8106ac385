"""NSGA-II: the whole front of score against one cost. N counts the distinct architectures told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive, Probability, checked
from manyshot.search.draft import Draft
from manyshot.search.history import History
from manyshot.search.limit import Cost, Limit, any_of
from manyshot.search.pareto import non_dominated
from manyshot.search.survivors import Survivors
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class NSGA2Options:
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

    attempts: Positive = 500
    """Random draws per network wanted before giving up."""

    stale_scores: bool = False
    """Whether scores told at older weights versions compete; if not, only scores of the latest
    version do, as long as there are any."""


@final
class NSGA2:
    """Maximises the score and minimises one cost at once, within hard limits.

    Non-dominated sorting and crowding distances are pymoo's. Survivors are chosen from everything
    told, not from the last survivors and their children, so that a score told again counts and
    that the searcher stays a function of its history; nothing told is proposed again.

    Reference: NSGA-II (Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm",
    doi:10.1109/4235.996017). It differs in that survivors are chosen from everything told, that
    nothing is proposed twice, and in the operators, which are the space's own; equal crowding is
    settled by tuple order among survivors and at random in tournaments.

    Attributes:
        history: what was told.
        random_start: see `LearnsFromScores`.
        stale_scores: likewise.
        top_ups: random networks proposed since construction for want of children.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        options: NSGA2Options | None = None,
    ) -> None:
        """Makes a searcher.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            options: the cost to minimise, sizes of generations, and probabilities.

        Raises:
            ValueError: if there is neither an objective nor a limit.
        """
        self.space, self.seed = space, seed
        self.limits = (any_of(limits),) if len(limits) > 1 else tuple(limits)
        self.options = options or NSGA2Options()
        self.random_start = self.options.population
        self.stale_scores = self.options.stale_scores
        self.top_ups = 0
        objective = self.options.objective or next(iter(limits), None)
        if objective is None:
            raise ValueError(
                "nsga2 needs a cost to minimise: give a limit, or the option 'objective', a Limit "
                "or a function from architectures to costs"
            )
        cost = objective.cost if isinstance(objective, Limit) else objective
        costs = {"the objective": cost, **{limit.name: limit.cost for limit in self.limits}}
        self.history = History(space, costs)

    @checked
    def ask(self, n: Positive) -> list[Arch]:
        """Up to `n` architectures; see `Searcher.ask`."""
        history = self.history
        rng = history.generator(self.seed)
        draft = Draft(self.space, history.seen, self.options.attempts)
        rows = self._rows()
        children: list[Arch] = []
        bred = len(history) >= self.options.population and rows.size > 0
        if bred:
            child = self._child(rng, rows)
            children += draft.breed(child, n, self.limits)

        def told() -> list[Arch]:
            return [history.archs[i] for i in rows]

        sampled = draft.sample(rng, n - len(children), self.limits, told)
        self.top_ups += len(sampled) if bred else 0
        return history.propose(children + sampled)

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        self.history.tell(archs, scores, weights_version)

    def elites(self) -> list[Arch]:
        """The current non-dominated front, cheapest first."""
        rows = self._rows()
        archs, cost_N = self.history.archs, self.history.costs_NL[:, 0]
        front = rows[non_dominated(self._points(rows))]
        return [archs[i] for i in sorted(front, key=lambda i: (cost_N[i], archs[i]))]

    def _rows(self) -> npt.NDArray[np.intp]:
        """The rows within all limits that compete."""
        limits_L = np.array([limit.limit for limit in self.limits])
        rows = np.flatnonzero((self.history.costs_NL[:, 1:] <= limits_L).all(axis=1))
        if self.options.stale_scores:
            return rows
        fresh = rows[self.history.fresh_N[rows]]
        return fresh if fresh.size else rows

    def _points(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        return np.column_stack([-self.history.scores_N, self.history.costs_NL[:, 0]])[rows]

    def _child(self, rng: np.random.Generator, rows: npt.NDArray[np.intp]) -> Callable[[], Arch]:
        """A function that draws children of binary tournaments among the survivors of `rows`."""
        options, archs = self.options, [self.history.archs[i] for i in rows]
        survivors = Survivors(archs, self._points(rows), options.population)
        return survivors.child_of(
            self.space, rng, options.crossover_probability, options.mutation_probability
        )
