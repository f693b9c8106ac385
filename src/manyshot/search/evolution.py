"""Evolution on frozen or moving supernet weights: SPOS's, and regularised evolution."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Literal, final

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, NotNegative, Positive, Probability, checked
from manyshot.search.budgets import Budgets
from manyshot.search.draft import Draft, in_turn
from manyshot.search.limit import Limit
from manyshot.search.searcher import pooled
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class EvolutionOptions:
    """The options of `Evolution`; the defaults are those of SPOS's public code."""

    population: Positive = 50
    """Architectures per generation; so many random ones come first."""

    parents: Positive = 10
    """The best of each limit that breed (the paper's top-k); `elites` returns them."""

    mutants: NotNegative = 25
    """Architectures per generation made by mutation of one parent."""

    crossovers: NotNegative = 25
    """Architectures per generation made from two parents; what is left over is random."""

    mutation_probability: Probability = 0.1
    """Probability that a decision is redrawn, perhaps to the same option (only where `mutation` is
    `each`)."""

    mutation: Literal["each", "one"] = "each"
    """What a mutant is: `each` decision is redrawn with `mutation_probability` (SPOS), or exactly
    `one` changes to another option (Real et al.)."""

    attempts: Positive = 500
    """Random draws per network wanted before giving up (SPOS: unbounded)."""

    dedupe: Literal["global", "per_generation"] = "global"
    """`global`: nothing told is proposed again (SPOS). `per_generation`: it may be, to be trained
    or scored again at moved weights (the code of Supernet Shifting)."""

    stale_scores: bool = False
    """Whether scores told at older weights versions compete for parenthood (the code of Supernet
    Shifting); if not, only scores of the latest version do, as long as there are any."""

    regularised: bool = False
    """Regularised evolution: every proposal is a mutant of the winner of a tournament among the
    newest `population`; `mutants` and `crossovers` have no effect."""

    tournament: Positive = 10
    """Entrants of a tournament, drawn with replacement (only with `regularised`)."""

    def __post_init__(self) -> None:
        if self.parents > self.population:
            raise ValueError(
                f"parents ({self.parents}) are chosen among the population ({self.population}): "
                "lower them or raise it"
            )
        if not self.regularised and self.mutants + self.crossovers > self.population:
            raise ValueError(
                f"mutants ({self.mutants}) and crossovers ({self.crossovers}) exceed the "
                f"population ({self.population}); lower them or raise it"
            )


@final
class Evolution:
    """Random networks first, then mutants and crossovers of the best told so far.

    Until `population` architectures were told, proposals are random; where the run's sampler has a
    pool of networks that it thinks good (`Pools`, such as `greedy`), they are these, the best
    first, and random when there are no more. With several limits each
    proposal is bred for one of them in turn, from parents within it; one history serves all.
    An `ask` for another number than `population` keeps the shares of mutants and crossovers.
    Where no new child is found in the attempts allowed, a random network takes its place.

    Reference: SPOS (Guo et al. 2020, arXiv:1904.00420), algorithm 1. It differs from the public
    code in proposing canonical architectures, in the bounded random draws, and in that the last
    generation counts as soon as it is told. For `regularised` see `regularised_evolution`. That it
    begins with a sampler's pool is GreedyNAS (You et al. 2020, arXiv:2003.11236).

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
        sampler: object = None,
        options: EvolutionOptions | None = None,
    ) -> None:
        """Makes a searcher.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            sampler: the one that the supernet was trained by, which may have a pool.
            options: sizes of generations, probabilities, and what counts.
        """
        self.space, self.seed, self.limits = space, seed, tuple(limits)
        self.options = options or EvolutionOptions()
        self.random_start = self.options.population
        self.stale_scores = self.options.stale_scores
        self.top_ups = 0
        self._pool = pooled(sampler, space)
        self._budgets = Budgets(space, self.limits)
        self.history = self._budgets.history

    @checked
    def ask(self, n: Positive) -> list[Arch]:
        """Up to `n` architectures, which are a generation (see `Searcher.ask`)."""
        history = self.history
        rng = history.generator(self.seed)
        refuse = history.seen if self.options.dedupe == "global" else history.pending
        draft = Draft(self.space, refuse, self.options.attempts)

        def propose(budget: int, want: int) -> list[Arch]:
            if len(history) < self.options.population or not self._budgets.newest(budget, 1).size:
                told = functools.partial(self._budgets.told, budget)
                return draft.sample(rng, want, self._budgets.each[budget], told, self._pool)
            return self._breed(draft, rng, want, budget)

        return history.propose(in_turn(n, len(self._budgets), rng, propose))

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        self.history.tell(archs, scores, weights_version)

    def elites(self) -> list[Arch]:
        """The parents of every limit, best first within a limit."""
        parents = (self._parents(budget) for budget in range(len(self._budgets)))
        return list(dict.fromkeys(itertools.chain.from_iterable(parents)))

    def _breed(self, draft: Draft, rng: np.random.Generator, want: int, budget: int) -> list[Arch]:
        limits = self._budgets.each[budget]
        told = functools.partial(self._budgets.told, budget)
        children: list[Arch] = []
        planned = 0
        for child, share in self._recipes(rng, want, budget):
            children += draft.breed(child, share, limits)
            planned += share
        sampled = draft.sample(rng, want - len(children), limits, told)
        self.top_ups += max(0, len(sampled) - (want - planned))
        return children + sampled

    def _recipes(
        self, rng: np.random.Generator, want: int, budget: int
    ) -> list[tuple[Callable[[], Arch], int]]:
        """The ways to make a child, each with how many of the `want` are made in that way."""
        options = self.options
        if options.regularised:
            alive = self._alive(budget)
            scores = self.history.scores_of(alive)

            def winner() -> Arch:
                entrants = rng.integers(len(alive), size=options.tournament)
                return self.history.archs[int(alive[entrants[np.argmax(scores[entrants])]])]

            return [(lambda: self._mutant(winner(), rng), want)]
        parents = self._parents(budget)

        def parent() -> Arch:
            return parents[rng.integers(len(parents))]

        # Evenly spaced positions on the scale of one generation: exact shares when want is the
        # population, else rounded up or down at random.
        positions = (np.arange(want) + rng.random()) * options.population / want
        ends = (options.mutants, options.mutants + options.crossovers)
        mutants, bred = np.searchsorted(positions, ends).tolist()
        return [
            (lambda: self._mutant(parent(), rng), mutants),
            (lambda: self.space.crossover(parent(), parent(), rng), bred - mutants),
        ]

    def _mutant(self, parent: Arch, rng: np.random.Generator) -> Arch:
        if self.options.mutation == "one":
            return self.space.change(parent, rng)
        return self.space.mutate(parent, rng, self.options.mutation_probability)

    def _alive(self, budget: int) -> npt.NDArray[np.intp]:
        """The rows that may become parents."""
        budgets, options = self._budgets, self.options
        ruled = options.regularised
        rows = budgets.newest(budget, options.population) if ruled else budgets.rows(budget)
        if options.stale_scores:
            return rows
        fresh = rows[self.history.fresh_of(rows)]
        return fresh if fresh.size else rows

    def _parents(self, budget: int) -> list[Arch]:
        return self._budgets.ranked(budget, self._alive(budget), self.options.parents)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RegularisedOptions(EvolutionOptions):
    """The options of `regularised_evolution`: those of `Evolution`, with smaller defaults.

    20 are alive, and the best of 5 of them drawn at random has the next mutant, of one change: for
    hundreds of scores. (The paper has 100 and 25, for 20,000.) Take `search.generation = 1` for the
    algorithm of the paper.
    """

    population: Positive = 20
    parents: Positive = 5
    tournament: Positive = 5
    mutation: Literal["each", "one"] = "one"
    regularised: Literal[True] = True


def regularised_evolution(
    space: SearchSpace,
    *,
    seed: int,
    limits: Sequence[Limit] = (),
    sampler: object = None,
    options: RegularisedOptions | None = None,
) -> Evolution:
    """An `Evolution` that is regularised; the arguments are those of `Evolution`.

    Reference: Regularised evolution (Real et al. 2019, arXiv:1802.01548), algorithm 1, where
    `mutation` is `one` and one architecture is asked for at a time (`search.generation = 1`). It
    differs in that mutants are drawn again until one is new, so that nothing is scored twice, and
    in that an architecture scored again does not become younger. An `ask` of one takes no longer
    when more were told.
    """
    options = options or RegularisedOptions()
    return Evolution(space, seed=seed, limits=limits, sampler=sampler, options=options)
