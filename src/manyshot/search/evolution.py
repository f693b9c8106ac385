"""Evolution on frozen or moving supernet weights: SPOS's, and regularised evolution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.search.budgets import Budgets
from manyshot.search.draft import Draft, in_turn
from manyshot.search.limit import Limit
from manyshot.search.options import check_fraction, check_switch, check_whole
from manyshot.space import Arch, SearchSpace

DEDUPE = ("global", "per_generation")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionConfig:
    """The options of `Evolution`; the defaults are those of SPOS's public code."""

    population: int = 50
    """Architectures per generation; so many random ones come first."""

    parents: int = 10
    """The best of each limit that breed (the paper's top-k); `elites` returns them."""

    mutants: int = 25
    """Architectures per generation made by mutation of one parent."""

    crossovers: int = 25
    """Architectures per generation made from two parents; what is left over is random."""

    mutation_probability: float = 0.1
    """Probability that a decision is redrawn, perhaps to the same option."""

    child_attempts: int = 10
    """Children bred per one wanted before a random network takes its place."""

    attempts: int = 500
    """Random draws per network wanted before giving up (SPOS: unbounded)."""

    dedupe: str = "global"
    """`global`: nothing told is proposed again (SPOS). `per_generation`: it may be, to be trained
    or scored again at moved weights (the code of Supernet Shifting)."""

    stale_scores: bool = False
    """Whether scores told at older weights versions compete for parenthood (the code of Supernet
    Shifting); if not, only scores of the latest version do, as long as there are any."""

    regularised: bool = False
    """Regularised evolution: every proposal is a mutant of the winner of a tournament among the
    newest `population`; `mutants` and `crossovers` have no effect."""

    tournament: int = 10
    """Entrants of a tournament, drawn with replacement (only with `regularised`)."""

    def __post_init__(self) -> None:
        check_whole("population", self.population, 1)
        check_whole("parents", self.parents, 1, self.population)
        check_whole("mutants", self.mutants, 0)
        check_whole("crossovers", self.crossovers, 0)
        check_whole("child_attempts", self.child_attempts, 1)
        check_whole("attempts", self.attempts, 1)
        check_whole("tournament", self.tournament, 1)
        check_fraction("mutation_probability", self.mutation_probability)
        check_switch("stale_scores", self.stale_scores)
        check_switch("regularised", self.regularised)
        if not self.regularised and self.mutants + self.crossovers > self.population:
            raise ValueError(
                f"mutants ({self.mutants}) and crossovers ({self.crossovers}) exceed the "
                f"population ({self.population}); lower them or raise it"
            )
        if self.dedupe not in DEDUPE:
            raise ValueError(f"dedupe must be one of {', '.join(DEDUPE)}, got {self.dedupe!r}")


@final
class Evolution:
    """Random networks first, then mutants and crossovers of the best told so far.

    Until `population` architectures were told, proposals are random. With several limits each
    proposal is bred for one of them in turn, from parents within it; one history serves all.
    An `ask` for another number than `population` keeps the shares of mutants and crossovers.
    Where no new child is found in the attempts allowed, a random network takes its place.

    Reference: Guo et al. 2020 (arXiv:1904.00420), algorithm 1. It differs from the public code in
    proposing canonical architectures, in the bounded random draws, and in that the last generation
    counts as soon as it is told. `regularised` is Real et al. 2019 (arXiv:1802.01548), algorithm 1;
    it differs in that a mutant may change several decisions or, once, none that a network shows
    (then it is redrawn), and in that an architecture scored again does not become younger.

    Attributes:
        history: what was told.
        top_ups: random networks proposed since construction for want of children.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        config: EvolutionConfig | None = None,
    ) -> None:
        """Makes a searcher.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            config: the options.
        """
        check_whole("seed", seed, 0)
        self.space, self.seed, self.limits = space, seed, tuple(limits)
        self.config = EvolutionConfig() if config is None else config
        self.top_ups = 0
        self._budgets = Budgets(space, self.limits)
        self.history = self._budgets.history

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` architectures, which are a generation (see `Searcher.ask`)."""
        check_whole("n", n, 1)
        history = self.history
        rng = history.generator(self.seed)
        refuse = history.seen if self.config.dedupe == "global" else history.pending
        draft = Draft(self.space, refuse, self.config.attempts)

        def propose(budget: int, want: int) -> list[Arch]:
            rows = self._budgets.rows(budget)
            limits = self._budgets.each[budget]
            if len(history) < self.config.population or not rows.size:
                return draft.sample(rng, want, limits, [history.archs[i] for i in rows])
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
        told = [self.history.archs[i] for i in self._budgets.rows(budget)]
        children: list[Arch] = []
        planned = 0
        for child, share in self._recipes(rng, want, budget):
            children += draft.breed(child, share, limits, self.config.child_attempts)
            planned += share
        sampled = draft.sample(rng, want - len(children), limits, told)
        self.top_ups += max(0, len(sampled) - (want - planned))
        return children + sampled

    def _recipes(
        self, rng: np.random.Generator, want: int, budget: int
    ) -> list[tuple[Callable[[], Arch], int]]:
        """The ways to make a child, each with how many of the `want` are made in that way."""
        config, space = self.config, self.space
        if config.regularised:
            alive = self._alive(budget)
            scores = self.history.scores_N[alive]

            def winner() -> Arch:
                entrants = rng.integers(len(alive), size=config.tournament)
                return self.history.archs[int(alive[entrants[np.argmax(scores[entrants])]])]

            return [(lambda: space.mutate(winner(), rng, config.mutation_probability), want)]
        parents = self._parents(budget)

        def parent() -> Arch:
            return parents[rng.integers(len(parents))]

        # Evenly spaced positions on the scale of one generation: exact shares when want is the
        # population, else rounded up or down at random.
        positions = (np.arange(want) + rng.random()) * config.population / want
        ends = (config.mutants, config.mutants + config.crossovers)
        mutants, bred = np.searchsorted(positions, ends).tolist()
        return [
            (lambda: space.mutate(parent(), rng, config.mutation_probability), mutants),
            (lambda: space.crossover(parent(), parent(), rng), bred - mutants),
        ]

    def _alive(self, budget: int) -> npt.NDArray[np.intp]:
        """The rows that may become parents."""
        rows = self._budgets.rows(budget)
        if self.config.regularised:
            rows = rows[-self.config.population :]
        if self.config.stale_scores:
            return rows
        fresh = rows[self.history.fresh_N[rows]]
        return fresh if fresh.size else rows

    def _parents(self, budget: int) -> list[Arch]:
        return self._budgets.ranked(budget, self._alive(budget))[: self.config.parents]
