"""What searchers that fit a model to the scores share: which scores count, what is predicted.

M counts the architectures that are predicted, F features.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar, final

import numpy as np
import numpy.typing as npt

from manyshot.search.budgets import Budgets
from manyshot.search.draft import Draft, in_turn
from manyshot.search.limit import Limit
from manyshot.space import Arch, SearchSpace

Features = npt.NDArray[np.float64]
Refuse = Callable[[Arch], bool]
Model = TypeVar("Model")


@final
class Modelled:
    """A history with limits, of which a model is fitted once for every proposal.

    Attributes:
        space: what is searched.
        budgets: the limits, and what was told within each.
        history: what was told.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        limits: Sequence[Limit],
        *,
        initial: int,
        parents: int,
        attempts: int,
        stale_scores: bool,
    ) -> None:
        """Makes an empty history.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            initial: so many architectures are told before a model is fitted.
            parents: the best of each limit, which `elites` returns.
            attempts: random draws per network wanted before giving up.
            stale_scores: whether scores told at older weights versions count.
        """
        self.space, self.budgets = space, Budgets(space, limits)
        self.history = self.budgets.history
        self._seed, self._initial, self._parents_wanted = seed, initial, parents
        self._attempts, self._stale_scores = attempts, stale_scores

    def ask(
        self,
        n: int,
        fitted: Callable[[np.random.Generator, npt.NDArray[np.intp]], Model],
        picked: Callable[[np.random.Generator, Model, int, int, Refuse], list[Arch]],
    ) -> list[Arch]:
        """Up to `n` architectures for the limits in turn; random ones where a model gives none.

        Args:
            n: how many are wanted.
            fitted: makes a model of the scores of some rows of the history.
            picked: `picked(rng, model, budget, want, refuse)` gives up to `want` distinct
                architectures within a budget that `refuse` does not refuse.
        """
        history, budgets = self.history, self.budgets
        rng = history.generator(self._seed)
        taken: set[Arch] = set()

        def refuse(arch: Arch) -> bool:
            return arch in taken or history.seen(arch)

        draft = Draft(self.space, refuse, self._attempts)
        enough = len(history) >= self._initial
        models = [fitted(rng, self.competing_rows())] if enough else []

        def propose(budget: int, want: int) -> list[Arch]:
            archs: list[Arch] = []
            for model in models if want and budgets.rows(budget).size else []:
                archs = picked(rng, model, budget, want, refuse)
            taken.update(archs)
            told = functools.partial(budgets.told, budget)
            sampled = draft.sample(rng, want - len(archs), budgets.each[budget], told)
            taken.update(sampled)
            return archs + sampled

        return history.propose(in_turn(n, len(budgets), rng, propose))

    def elites(self) -> list[Arch]:
        """The best architectures within each limit, of the scores that count."""
        parents = (self.parents(budget) for budget in range(len(self.budgets)))
        return list(dict.fromkeys(itertools.chain.from_iterable(parents)))

    def parents(self, budget: int) -> list[Arch]:
        """The best within a limit, of the scores that count."""
        rows = self.budgets.rows(budget)
        competing = np.intersect1d(rows, self.competing_rows(), assume_unique=True)
        rows = competing if competing.size else rows
        return self.budgets.ranked(budget, rows, self._parents_wanted)

    def competing_rows(self) -> npt.NDArray[np.intp]:
        """The rows of the history whose scores count, oldest first."""
        fresh = np.flatnonzero(self.history.fresh_N)
        few = len(fresh) < self._initial
        return np.arange(len(self.history)) if self._stale_scores or few else fresh

    def mutants(
        self, rng: np.random.Generator, budget: int, many: int, refuse: Refuse, attempts: int
    ) -> Draft:
        """New mutants of the best within a limit, of one changed decision on average.

        Args:
            rng: the random stream.
            budget: the limit.
            many: how many are wanted.
            refuse: tells which are not new.
            attempts: draws allowed per mutant wanted.
        """
        parents = self.parents(budget)

        def mutant() -> Arch:
            parent = parents[rng.integers(len(parents))]
            return self.space.mutate(parent, rng, 1 / len(self.space))

        draft = Draft(self.space, refuse, attempts)
        draft.breed(mutant, many, self.budgets.each[budget], attempts)
        return draft


def best_in_turn(
    want: int,
    pool: Sequence[Arch],
    predicted: Sequence[npt.NDArray[np.float64]],
    refuse: Refuse,
) -> list[Arch]:
    """The new ones of `pool` that each of some predictions puts on top, in turn."""
    orders = [iter(np.argsort(-of_M, kind="stable").tolist()) for of_M in predicted]
    picked: dict[Arch, None] = {}
    for turn in itertools.count():
        order = orders[turn % len(orders)]
        best = next((pool[i] for i in order if pool[i] not in picked and not refuse(pool[i])), None)
        if best is None or len(picked) == want:
            return list(picked)
        picked[best] = None
    raise AssertionError("unreachable: the orders end")


@functools.lru_cache(maxsize=2)
def networks(space: SearchSpace) -> tuple[Arch, ...]:
    """All canonical architectures of a space, in lexicographic order."""
    return tuple(sorted({space.canonical(arch) for arch in space.enumerate()}))


def one_hot(space: SearchSpace, archs: Sequence[Arch]) -> Features:
    """One-hot encodings as `SearchSpace.one_hot` has them, shape (M, F)."""
    return options_of(space, archs, [(i,) for i in range(len(space))])


def options_of(
    space: SearchSpace, archs: Sequence[Arch], groups: Sequence[Sequence[int]]
) -> Features:
    """One-hot encodings of what groups of decisions choose together, shape (M, F).

    Args:
        space: of the architectures.
        archs: the architectures.
        groups: positions of decisions; of each group all combinations of options are features.
    """
    choice_MD = np.array(archs, dtype=np.int64).reshape(len(archs), len(space))
    sizes = [int(np.prod(space.counts[list(group)])) for group in groups]
    one_hot_MF = np.zeros((len(archs), sum(sizes)))
    first = 0
    for group, size in zip(groups, sizes, strict=True):
        combination_M = np.zeros(len(archs), np.int64)
        for i in group:
            combination_M = combination_M * space.counts[i] + choice_MD[:, i]
        one_hot_MF[np.arange(len(archs)), first + combination_M] = 1
        first += size
    return one_hot_MF
