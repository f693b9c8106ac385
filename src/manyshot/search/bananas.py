"""BANANAS: an ensemble of small networks predicts scores, and its disagreement is explored.

M counts the architectures that are predicted, F features, E members of the ensemble.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Counts, Positive
from manyshot.search.base import Portion
from manyshot.search.modelled import Features, Modelled, ModelledOptions, best_in_turn, options_of
from manyshot.space import Arch, SearchSpace

_FITTED = 1_000
"""The newest scores that an ensemble is fitted on at most."""

_PATHS = 1_000
"""Features of paths at most; with more of them the longest paths are left out."""

_BATCH, _RATE = 32, 0.01
"""Of the training of a member, as in the public code."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class BananasOptions(ModelledOptions):
    """The options of `Bananas`."""

    initial: Annotated[int, Field(ge=2)] = 10
    parents: Positive = 5

    members: Annotated[int, Field(ge=2)] = 5
    """Networks of the ensemble, which differ by where their training begins."""

    layers: Counts = (64, 64)
    """Hidden layers of a member. (The public code: ten of 20, which takes three times as long and
    orders no better in our trial.)"""

    epochs: Positive = 50
    """Passes over the scores in the training of a member. (The public code: 150.)"""

    encoding: Literal["path", "one_hot"] = "path"
    """What a member sees: which options are on each path through a cell, or of each decision."""

    acquisition: Literal["its", "ts"] = "its"
    """How proposals are picked: `its`, the highest of a normal draw for each architecture with the
    mean and deviation of the ensemble (independent Thompson sampling, the paper's); `ts`, the
    predicted best of each member in turn."""

    mutants: Positive = 100
    """Architectures that are predicted for each limit, mutants of the `parents`."""


@final
class Bananas(Modelled[BananasOptions]):
    """Random networks first, then those mutants of the best that an ensemble has hopes of.

    Every proposal fits `members` multilayer perceptrons to the 1,000 newest scores, predicts new
    mutants of the best `parents` within a limit, and takes those that Thompson sampling puts on
    top; random networks where there are too few mutants. With several limits each proposal is for
    one of them in turn; one ensemble on one history serves all. Nothing told is proposed again.

    Reference: White, Neiswanger & Savani 2021, "BANANAS: Bayesian Optimization with Neural
    Architectures for Neural Architecture Search" (arXiv:1910.11858), whose text was not read: the
    rules are those of its public code (naszilla/naszilla): path encoding, an ensemble of five, 100
    mutants of the best five, independent Thompson sampling, ten random networks first. Ours: what a
    path is in any space (`paths`), so that paths of different edges are different features (180 in
    place of 155 in NAS-Bench-201); members of scikit-learn, with the squared error in place of the
    absolute one, and their size; limits; several decisions of a mutant may change.
    """

    def set_up(self) -> None:
        """Finds the paths, if they are what members see."""
        singles = [(i,) for i in range(len(self.space))]
        is_path = self.options.encoding == "path"
        self._groups = paths(self.space, _PATHS) if is_path else singles

    def _features(self, archs: Sequence[Arch]) -> Features:
        return options_of(self.space, archs, self._groups)

    def fitted(self, rng: np.random.Generator, rows: npt.NDArray[np.intp]) -> list[Any]:
        """An ensemble: regressors of scores in units of their own."""
        from sklearn.exceptions import ConvergenceWarning  # takes a second to import
        from sklearn.neural_network import MLPRegressor

        rows = rows[-_FITTED:]
        score_N = self.history.scores_of(rows)
        target_N = (score_N - score_N.mean()) / (float(score_N.std()) or 1.0)
        features_NF = self._features([self.history.archs[i] for i in rows])
        members = []
        for begins in rng.integers(2**31, size=self.options.members).tolist():
            member = MLPRegressor(
                hidden_layer_sizes=tuple(self.options.layers),
                learning_rate_init=_RATE,
                batch_size=min(_BATCH, len(rows)),
                max_iter=self.options.epochs,
                random_state=begins,
            )
            with warnings.catch_warnings():  # the number of epochs is what ends a training
                warnings.simplefilter("ignore", ConvergenceWarning)
                members.append(member.fit(features_NF, target_N))
        return members

    def picked(self, portion: Portion, model: list[Any]) -> list[Arch]:
        """Those mutants of the best that Thompson sampling puts on top."""
        many = max(portion.want, self.options.mutants)
        pool = self.mutants(portion, many, attempts=5).archs
        if not pool:
            return []
        predicted_EM = np.array([member.predict(self._features(pool)) for member in model])
        if self.options.acquisition == "its":
            mean_M, deviation_M = predicted_EM.mean(axis=0), predicted_EM.std(axis=0)
            predicted_EM = portion.rng.normal(mean_M, deviation_M)[None]
        return best_in_turn(portion.want, pool, list(predicted_EM), portion.refuses)


def paths(space: SearchSpace, most: int) -> list[tuple[int, ...]]:
    """The decisions that matter together, which in a cell are the paths from input to output.

    A use of a decision with those that it is conditional on is a path, unless all of it is part of
    another; the shortest are kept. A decision that is in none that is kept is a path alone.

    Args:
        space: the space; where no decision is conditional all paths are single decisions.
        most: the paths kept have so many combinations of options in all.

    Returns:
        The positions of each path's decisions.
    """
    whole = {
        frozenset({i, *(space.index[other] for other, _ in use)})
        for i, decision in enumerate(space.decisions)
        for use in space.uses.get(decision, ((),))
    }
    maximal = [tuple(sorted(path)) for path in whole if not any(path < other for other in whole)]
    size = {path: math.prod(space.counts[list(path)].tolist()) for path in maximal}
    kept: list[tuple[int, ...]] = []
    for path in sorted(maximal, key=lambda path: (size[path], path)):
        if sum(size[other] for other in kept) + size[path] <= most:
            kept.append(path)
    covered = {i for path in kept for i in path}
    return kept + [(i,) for i in range(len(space)) if i not in covered]
