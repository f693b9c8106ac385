"""Random search: the baseline that every other searcher must beat."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import final

from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive, checked
from manyshot.search.budgets import Budgets
from manyshot.search.draft import Draft, in_turn
from manyshot.search.limit import Limit
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RandomOptions:
    """The options of `RandomSearch`."""

    keep: Positive = 10
    """How many of the best `elites` returns, for each limit."""

    attempts: Positive = 500
    """Random draws per network wanted before giving up."""


@final
class RandomSearch:
    """Uniform random networks within the limits, none proposed twice.

    With several limits each proposal is drawn for one of them in turn.

    Reference: Random search as a baseline (Li & Talwalkar 2019, arXiv:1902.07638, who found it hard
    to beat). Drawing without replacement over distinct networks is ours.

    Attributes:
        history: what was told.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        options: RandomOptions | None = None,
    ) -> None:
        """Makes a searcher.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            options: how many it keeps, and how often it tries.
        """
        self.space, self.seed, self.limits = space, seed, tuple(limits)
        self.options = options or RandomOptions()
        self._budgets = Budgets(space, self.limits)
        self.history = self._budgets.history

    @checked
    def ask(self, n: Positive) -> list[Arch]:
        """Up to `n` random architectures; see `Searcher.ask`."""
        rng = self.history.generator(self.seed)
        draft = Draft(self.space, self.history.seen, self.options.attempts)

        def propose(budget: int, want: int) -> list[Arch]:
            told = functools.partial(self._budgets.told, budget)
            return draft.sample(rng, want, self._budgets.each[budget], told)

        return self.history.propose(in_turn(n, len(self._budgets), rng, propose))

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        self.history.tell(archs, scores, weights_version)

    def elites(self) -> list[Arch]:
        """The `keep` best architectures within each limit, of all scores told."""
        return self._budgets.best_of_each(self.options.keep)
