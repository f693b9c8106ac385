"""Random search: the baseline that every other searcher must beat."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from manyshot.search.budgets import Budgets
from manyshot.search.draft import Draft, in_turn
from manyshot.search.limit import Limit
from manyshot.search.options import check_whole
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomConfig:
    """The options of `RandomSearch`."""

    keep: int = 10
    """How many of the best `elites` returns, for each limit."""

    attempts: int = 500
    """Random draws per network wanted before giving up."""

    def __post_init__(self) -> None:
        check_whole("keep", self.keep, 1)
        check_whole("attempts", self.attempts, 1)


@final
class RandomSearch:
    """Uniform random networks within the limits, none proposed twice.

    With several limits each proposal is drawn for one of them in turn.

    Reference: Li and Talwalkar 2019 (arXiv:1902.07638), who found it hard to beat; drawing without
    replacement over distinct networks is ours.

    Attributes:
        history: what was told.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        config: RandomConfig | None = None,
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
        self.config = RandomConfig() if config is None else config
        self._budgets = Budgets(space, self.limits)
        self.history = self._budgets.history

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` random architectures; see `Searcher.ask`."""
        check_whole("n", n, 1)
        rng = self.history.generator(self.seed)
        draft = Draft(self.space, self.history.seen, self.config.attempts)

        def propose(budget: int, want: int) -> list[Arch]:
            told = [self.history.archs[i] for i in self._budgets.rows(budget)]
            return draft.sample(rng, want, self._budgets.each[budget], told)

        return self.history.propose(in_turn(n, len(self._budgets), rng, propose))

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        self.history.tell(archs, scores, weights_version)

    def elites(self) -> list[Arch]:
        """The `keep` best architectures within each limit, of all scores told."""
        budgets = self._budgets
        kept = (budgets.ranked(i, budgets.rows(i))[: self.config.keep] for i in range(len(budgets)))
        return list(dict.fromkeys(itertools.chain.from_iterable(kept)))
