"""What our searchers share, and what one of your own may be built on: `BaseSearcher`."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.plugins import Positive, checked
from manyshot.search.budgets import Budgets
from manyshot.search.draft import CHILD_ATTEMPTS, Draft, in_turn
from manyshot.search.limit import Cost, Limit
from manyshot.search.searcher import LearnsFromScores, pooled
from manyshot.space import Arch, SearchSpace


@final
class Portion:
    """The part of a proposal that is for one budget, in the making.

    Attributes:
        budget: its number, as `Budgets` counts them.
        limits: those of the budget; an architecture has to meet all of them.
        want: how many architectures are wanted.
        begins: whether proposals for this budget depend on no score yet.
        rng: the random stream of the whole proposal.
        archs: the architectures taken so far.
        at_random: how many of those wanted are random by design; further random ones are top-ups.
    """

    def __init__(
        self,
        draft: Draft,
        rng: np.random.Generator,
        budget: int,
        limits: Sequence[Limit],
        want: int,
        begins: bool,
    ) -> None:
        """Makes the part empty."""
        self.budget, self.limits, self.want, self.begins = budget, limits, want, begins
        self.rng, self._draft = rng, draft
        self.archs: list[Arch] = []
        self.at_random = want if begins else 0

    @property
    def missing(self) -> int:
        """How many are still wanted."""
        return self.want - len(self.archs)

    def refuses(self, arch: Arch) -> bool:
        """Whether a canonical architecture must not be proposed, or is already."""
        return not self._draft.free(arch)

    def take(self, archs: Iterable[Arch]) -> int:
        """Takes the new ones within the limits of canonical `archs`; returns how many."""
        taken = self._draft.take(archs, self.missing, self.limits)
        self.archs += taken
        return len(taken)

    def breed(
        self, child: Callable[[], Arch], most: int | None = None, attempts: int = CHILD_ATTEMPTS
    ) -> None:
        """Takes what is new and within the limits of the encodings that `child` draws.

        Args:
            child: draws an encoding.
            most: how many are taken at most; by default all that are missing.
            attempts: draws allowed per architecture wanted.
        """
        want = self.missing if most is None else most
        self.archs += self._draft.breed(child, want, self.limits, attempts)

    def sample(self, told: Callable[[], Sequence[Arch]]) -> int:
        """Takes random networks for all that are missing; returns how many.

        Args:
            told: gives the architectures told within the budget (see `Draft.sample`).
        """
        sampled = self._draft.sample(self.rng, self.missing, self.limits, told)
        self.archs += sampled
        return len(sampled)


class BaseSearcher(abc.ABC):
    """All of a searcher but what it makes of scores, which a subclass says in `fill`.

    Every proposal is made for the budgets in turn. Until `random_start` architectures were told,
    and for a budget within which none was, a searcher that learns (`LearnsFromScores`) begins with
    the networks that the run's sampler thinks good (`Pools`, such as `greedy`), the best first.
    Then `fill` has its say, and random networks within the budget take the places that are left.
    Nothing that was told is proposed again.

    In GreedyNAS (You et al. 2020, arXiv:2003.11236) evolution begins with such a pool; that all
    others do is ours.

    Attributes:
        history: what was told.
        budgets: the limits, and what was told within each.
        pool: the networks that the sampler thinks good, the best first.
        stale_scores: whether scores that were told at older weights versions count.
        refuse: tells which canonical architectures are not proposed.
        top_ups: random networks proposed since construction in place of what it learnt to propose.
    """

    stale_scores: bool = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        sampler: object = None,
        attempts: int = 500,
        keep: int = 10,
        costs: Mapping[str, Cost] | None = None,
    ) -> None:
        """Makes a searcher that was told nothing.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            sampler: the one that the supernet was trained by, which may have a pool.
            attempts: random draws per network wanted before giving up.
            keep: how many of the best `elites` returns, for each limit.
            costs: recorded beside those of the limits, by name.

        Raises:
            ValueError: if two limits have one name.
        """
        self.space, self.seed, self.limits = space, seed, tuple(limits)
        self.budgets = Budgets(space, self.limits, costs or {})
        self.history = self.budgets.history
        self.refuse: Callable[[Arch], bool] = self.history.seen
        self.pool, self.top_ups = pooled(sampler, space), 0
        self._attempts, self._keep = attempts, keep

    # -- what a searcher says ----------------------------------------------------------------

    @abc.abstractmethod
    def fill(self, portion: Portion) -> None:
        """Puts in what the scores told suggest for a budget; perhaps nothing, never too many."""

    def prepare(self, rng: np.random.Generator) -> None:  # noqa: B027 - most need none
        """Works out, once per proposal, what `fill` needs for all budgets; by default nothing."""

    def competing(self, budget: int) -> npt.NDArray[np.intp]:
        """The rows of the history within a budget whose scores count, oldest first."""
        return self.budgets.competing(budget, stale=self.stale_scores)

    def begins(self, budget: int) -> bool:
        """Whether proposals for a budget depend on no score yet; never if it learns from none."""
        if not isinstance(self, LearnsFromScores):
            return False
        return len(self.history) < self.random_start or not self.budgets.newest(budget, 1).size

    # -- what a searcher is ------------------------------------------------------------------

    @checked
    def ask(self, n: Positive) -> list[Arch]:
        """Up to `n` architectures; see `Searcher.ask`."""
        budgets, rng = self.budgets, self.history.generator(self.seed)
        draft = Draft(self.space, self.refuse, self._attempts)
        self.prepare(rng)

        def propose(budget: int, want: int) -> list[Arch]:
            begins = self.begins(budget)
            portion = Portion(draft, rng, budget, budgets.each[budget], want, begins)
            if begins:
                portion.take(self.pool)
            self.fill(portion)
            sampled = portion.sample(functools.partial(budgets.told, budget))
            self.top_ups += max(0, sampled - portion.at_random)
            return portion.archs

        return self.history.propose(in_turn(n, len(budgets), rng, propose))

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        self.history.tell(archs, scores, weights_version)

    def elites(self) -> list[Arch]:
        """The best within each limit, `keep` of the scores that count, best first."""
        best = (self.best(budget) for budget in range(len(self.budgets)))
        return list(dict.fromkeys(itertools.chain.from_iterable(best)))

    def best(self, budget: int) -> list[Arch]:
        """The `keep` best within a budget of the scores that count; fewer if there are fewer."""
        return self.budgets.ranked(budget, self.competing(budget), self._keep)
