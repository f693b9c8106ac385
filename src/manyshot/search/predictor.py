"""Weak predictors: fit one on the scores told, score a sample of its predicted best, repeat.

M counts the architectures of a pool, F the one-hot features.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive
from manyshot.search.base import Portion
from manyshot.search.limit import within
from manyshot.search.modelled import (
    Features,
    Modelled,
    ModelledOptions,
    best_in_turn,
    networks,
    one_hot,
)
from manyshot.space import Arch

_RIDGE = 0.1
"""Of the regression, for scores of unit variance and a kernel that is 4 at most."""

_LISTED = 20_000
"""A space of at most so many encodings is predicted as a whole."""

_FITTED = 2_000
"""A regression is fitted on so many scores at most, the newest: its time grows with their cube and
its memory with their square, so that 10,000 would take 11 s and 2.4 GB."""

_PREDICTED = 4_096
"""So many architectures are predicted at once, which bounds the memory that it takes."""

Predict = Callable[[Features], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PredictorOptions(ModelledOptions):
    """The options of `WeakPredictor`."""

    top: Positive = 10
    """Proposals are a uniform sample of so many predicted best that are new, or all of the best
    where as many are asked for; without effect beside `members`. (The paper: 100, which finds less
    in 50 scores: `benchmarks/studies/searchers`.)"""

    members: Annotated[int, Field(ge=0)] = 0
    """Regressions, each on scores drawn with replacement; proposals are the predicted best of each
    in turn, which explores where they disagree (Thompson sampling). Take some where a search
    proposes the like of its best again and again. Without any, see `top`."""

    pool: Positive = 2000
    """Architectures predicted for each limit, in a space too large to be predicted as a whole; half
    of them are mutants of the `parents`."""


@final
class WeakPredictor(Modelled[PredictorOptions]):
    """Random networks first, then a sample of those that a regression on all scores puts on top.

    The regression is ridge regression on options and on pairs of options, written as a kernel of
    how many decisions are equal; it is fitted anew in every `ask`, on the 2,000 newest if more were
    told. A space of at most 20,000 encodings is predicted as a whole. Of a larger
    one a pool is predicted, which is drawn anew each time: random networks within the limit, and
    mutants of the best told. With several limits each proposal is made for one of them in turn; one
    regression on one history serves all. Nothing told is proposed again. A single regression may
    stay where it is; several on resampled scores, of which each proposes in turn, go on to explore
    (`members`), which is not in the paper.

    References: WeakNAS (Wu et al. 2021, arXiv:2102.10490), section 3, from which it differs in the
    predictor (theirs is an MLP, a regression tree or a random forest), in `top`, in that all but
    the newest 2,000 are forgotten, in the pool of a large space, in the limits, and in `members`,
    whose idea is that of Osband & Van Roy 2015 (arXiv:1507.00300).
    """

    def set_up(self) -> None:
        """Knows the networks of no budget yet."""
        self._legal: dict[int, tuple[Sequence[Arch], Features]] = {}

    def fitted(self, rng: np.random.Generator, rows: npt.NDArray[np.intp]) -> list[Predict]:
        """One regression, or the members."""
        every = rows[-_FITTED:]
        drawn = (rng.choice(every, len(every)) for _ in range(self.options.members))
        return [self._fitted(some) for some in drawn] or [self._fitted(every)]

    def picked(self, portion: Portion, model: list[Predict]) -> list[Arch]:
        """A sample of the predicted best, or the best of each member in turn."""
        pool, features_MF = self._pool(portion)
        if not pool:
            return []
        if self.options.members:
            each = [predict(features_MF) for predict in model[: portion.want]]
            return best_in_turn(portion.want, pool, each, portion.refuses)
        return self._sampled(portion, pool, model[0](features_MF))

    def _fitted(self, rows: npt.NDArray[np.intp]) -> Predict:
        """A function that predicts scores, in units of their own, from some rows of the history."""
        from sklearn.kernel_ridge import KernelRidge  # takes a second to import

        score_N = self.history.scores_of(rows)
        spread = float(score_N.std()) or 1.0
        model = KernelRidge(
            alpha=_RIDGE,
            kernel="poly",
            degree=2,
            gamma=1 / len(self.space),
            coef0=1,
        )
        archs = [self.history.archs[i] for i in rows]
        model.fit(one_hot(self.space, archs), (score_N - score_N.mean()) / spread)

        def predict(features_MF: Features) -> npt.NDArray[np.float64]:
            starts = range(0, len(features_MF), _PREDICTED)
            parts = [model.predict(features_MF[i : i + _PREDICTED]) for i in starts]
            return np.concatenate(parts)

        return predict

    def _pool(self, portion: Portion) -> tuple[Sequence[Arch], Features]:
        """Networks within a budget to predict: all of them, or random ones and mutants."""
        space, budget, limits = self.space, portion.budget, portion.limits
        if space.size <= _LISTED:
            if budget not in self._legal:
                everything = networks(space)
                legal = list(itertools.compress(everything, within(everything, limits)))
                self._legal[budget] = legal, one_hot(space, legal)
            return self._legal[budget]
        many, told = self.options.pool, functools.partial(self.budgets.told, budget)
        pool = self.mutants(portion, many // 2, attempts=2)
        pool.sample(portion.rng, many - len(pool.archs), limits, told)
        return pool.archs, one_hot(space, pool.archs)

    def _sampled(
        self, portion: Portion, pool: Sequence[Arch], predicted_M: npt.NDArray[np.float64]
    ) -> list[Arch]:
        """A sample of the new ones of `pool` that are predicted best."""
        order = np.argsort(-predicted_M, kind="stable").tolist()
        new = (pool[i] for i in order if not portion.refuses(pool[i]))
        best = list(itertools.islice(new, max(portion.want, self.options.top)))
        return [best[i] for i in portion.rng.permutation(len(best))[: portion.want]]
