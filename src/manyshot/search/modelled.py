"""What searchers that fit a model to the scores share: which scores count, what is predicted.

M counts the architectures that are predicted, F features.
"""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive
from manyshot.search.base import Portion
from manyshot.search.draft import Draft
from manyshot.search.optioned import OptionedSearcher, VersionedOptions
from manyshot.space import Arch, SearchSpace

Features = npt.NDArray[np.float64]
Refuse = Callable[[Arch], bool]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ModelledOptions(VersionedOptions):
    """The options of any `Modelled`."""

    initial: Annotated[int, Field(ge=2)] = 20
    """Random architectures told before the first fit."""

    parents: Positive = 10
    """The best of each limit, whose mutants are predicted; `elites` returns them."""

    stale_scores: bool = False
    """Whether scores told at older weights versions are fitted; if not, only those of the latest
    version are, as long as there are `initial` of them."""


Fits = TypeVar("Fits", bound=ModelledOptions)


class Modelled(OptionedSearcher[Fits]):
    """A searcher that fits a model once for every proposal; a subclass says which."""

    random_start_option, elites_option = "initial", "parents"

    _model: Any = None

    @abc.abstractmethod
    def fitted(self, rng: np.random.Generator, rows: npt.NDArray[np.intp]) -> Any:
        """A model of the scores of some rows of the history.

        Args:
            rng: the random stream of the proposal.
            rows: those whose scores count, oldest first, (N,).
        """

    @abc.abstractmethod
    def picked(self, portion: Portion, model: Any) -> list[Arch]:
        """What a model puts on top: new networks within the limits, at most as many as wanted.

        Args:
            portion: the proposal that they are for.
            model: what `fitted` gave.
        """

    def prepare(self, rng: np.random.Generator) -> None:
        """Fits the model."""
        if len(self.history) >= self.random_start:
            self._model = self.fitted(rng, self.competing_rows())

    def fill(self, portion: Portion) -> None:
        """Takes what the model puts on top."""
        if portion.want and not portion.begins:
            portion.take(self.picked(portion, self._model))

    def competing(self, budget: int) -> npt.NDArray[np.intp]:
        """The rows within a budget whose scores count; all where none does, oldest first."""
        rows = self.budgets.rows(budget)
        competing = np.intersect1d(rows, self.competing_rows(), assume_unique=True)
        return competing if competing.size else rows

    def competing_rows(self) -> npt.NDArray[np.intp]:
        """The rows of the history whose scores count, oldest first."""
        fresh = np.flatnonzero(self.history.fresh_N)
        few = len(fresh) < self.random_start
        return np.arange(len(self.history)) if self.stale_scores or few else fresh

    def mutants(self, portion: Portion, many: int, attempts: int) -> Draft:
        """New mutants of the best within a limit, of one changed decision on average.

        Args:
            portion: the proposal that they are for.
            many: how many are wanted.
            attempts: draws allowed per mutant wanted.
        """
        parents = self.best(portion.budget)

        def mutant() -> Arch:
            parent = parents[portion.rng.integers(len(parents))]
            return self.space.mutate(parent, portion.rng, 1 / len(self.space))

        draft = Draft(self.space, portion.refuses, attempts)
        draft.breed(mutant, many, portion.limits, attempts)
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
