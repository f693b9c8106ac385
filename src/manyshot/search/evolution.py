"""Evolution on frozen or moving supernet weights: SPOS's, and regularised evolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, final

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, NotNegative, Positive, Probability
from manyshot.search.base import Portion
from manyshot.search.limit import Limit
from manyshot.search.optioned import OptionedSearcher, VersionedOptions
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class EvolutionOptions(VersionedOptions):
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

    dedupe: Literal["global", "per_generation"] = "global"
    """`global`: nothing told is proposed again (SPOS). `per_generation`: it may be, to be trained
    or scored again at moved weights (the code of Supernet Shifting)."""

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
class Evolution(OptionedSearcher[EvolutionOptions]):
    """Random networks first, then mutants and crossovers of the best told so far.

    Until `population` architectures were told, proposals are random. With several limits each
    proposal is bred for one of them in turn, from parents within it; one history serves all.
    An `ask` for another number than `population` keeps the shares of mutants and crossovers.
    Where no new child is found in the attempts allowed, a random network takes its place.

    Reference: SPOS (Guo et al. 2020, arXiv:1904.00420), algorithm 1. It differs from the public
    code in proposing canonical architectures, in the bounded random draws, and in that the last
    generation counts as soon as it is told. For `regularised` see `regularised_evolution`. That it
    begins with a sampler's pool is GreedyNAS (You et al. 2020, arXiv:2003.11236). That stale
    scores compete for parenthood (`stale_scores`) is the code of Supernet Shifting.
    """

    random_start_option, elites_option = "population", "parents"

    def set_up(self) -> None:
        """Proposes again what was told, where it may."""
        if self.options.dedupe == "per_generation":
            self.refuse = self.history.pending

    def fill(self, portion: Portion) -> None:
        """Breeds mutants and crossovers of the best."""
        if portion.begins:
            return
        planned = 0
        for child, share in self._recipes(portion):
            portion.breed(child, share)
            planned += share
        portion.at_random = portion.want - planned

    def _recipes(self, portion: Portion) -> list[tuple[Callable[[], Arch], int]]:
        """The ways to make a child, each with how many of those wanted are made in that way."""
        options, rng, want = self.options, portion.rng, portion.want
        if options.regularised:
            alive = self.competing(portion.budget)
            scores = self.history.scores_of(alive)

            def winner() -> Arch:
                entrants = rng.integers(len(alive), size=options.tournament)
                return self.history.archs[int(alive[entrants[np.argmax(scores[entrants])]])]

            return [(lambda: self._mutant(winner(), rng), want)]
        parents = self.best(portion.budget)

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

    def competing(self, budget: int) -> npt.NDArray[np.intp]:
        """The rows that may become parents, oldest first."""
        if not self.options.regularised:
            return super().competing(budget)
        rows = self.budgets.newest(budget, self.options.population)
        fresh = rows if self.stale_scores else rows[self.history.fresh_of(rows)]
        return fresh if fresh.size else rows


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
