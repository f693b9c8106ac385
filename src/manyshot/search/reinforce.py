"""REINFORCE: a policy, one softmax per decision, that is moved towards what scored above average.

D counts decisions, O the options of the decision that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, AboveZero, Positive, Share
from manyshot.search.base import Portion
from manyshot.search.optioned import OptionedSearcher, SearcherOptions
from manyshot.space import Arch, SearchSpace

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
"""Of Adam."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ReinforceOptions(SearcherOptions):
    """The options of `Reinforce`."""

    lr: AboveZero = 0.01
    """The step size of Adam, one step per score. The default is that of NATS-Bench's command, with
    which hundreds of scores move the policy little."""

    momentum: Share = 0.9
    """Of the moving average of scores that an architecture is compared with."""

    parents: Positive = 10
    """How many of the best `elites` returns, for each limit."""


@final
class Reinforce(OptionedSearcher[ReinforceOptions]):
    """Draws every decision from a softmax of its own, which each score told moves.

    The loss of an architecture is -log p * (score - average), with p its probability and the
    average an exponential one of the scores so far, this one included; its gradient moves the
    policy by Adam. The policy is what the history makes of it, in the order of first tells.
    Proposals are new networks within the limit, drawn from the policy; where it gives none in the
    attempts allowed, as when it has settled on what is told already, random ones. With several
    limits there is a policy for each, which learns from what is within it. All scores count,
    whatever the weights version they were told at.

    It is here to be compared with, and there is no reason to prefer it: in
    `benchmarks/studies/searchers` it is above random search only after 200 to 400 scores, and below
    evolution in most budgets from 100 on; with ten times the rate it comes near.

    References: Zoph & Le 2017, "Neural Architecture Search with Reinforcement Learning"
    (arXiv:1611.01578), whose policy is a recurrent network. The table of logits, the moving average
    and Adam are those of NATS-Bench's public code (D-X-Y/AutoDL-Projects,
    exps/NATS-algos/reinforce.py; Dong et al. 2021, arXiv:2009.00437), which this follows; the
    papers were not read. Ours: logits of zero at first, limits, that nothing is proposed twice,
    that an inactive decision gets no gradient, and that a score that is told again counts as if it
    had been the first.
    """

    random_start, elites_option = 1, "parents"

    def set_up(self) -> None:
        """Begins with uniform policies."""
        self._policies = [_Policy(self.space, self.options) for _ in self.budgets.each]

    def fill(self, portion: Portion) -> None:
        """Draws from the policy."""
        probability_DO = self.policy(portion.budget)
        portion.breed(lambda: _drawn(probability_DO, portion.rng))

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        if any(map(self.history.was_told, archs)):  # what they moved is undone: all steps anew
            self._policies = [_Policy(self.space, self.options) for _ in self.budgets.each]
        super().tell(archs, scores, weights_version)

    def policy(self, budget: int = 0) -> npt.NDArray[np.float64]:
        """The probabilities that what was told within a budget gives, (D, O); 0 beyond options."""
        policy = self._policies[budget]
        for row in range(policy.row, len(self.history)):
            if self.budgets.holds(budget, row):
                arch = self.history.archs[row]
                policy.move(arch, self.history.score(arch))
        policy.row = len(self.history)
        return policy.probability_DO


class _Policy:
    """Logits, the moments of Adam, and the average of scores.

    Attributes:
        row: of the history, the first that it has not learnt from.
    """

    def __init__(self, space: SearchSpace, options: ReinforceOptions) -> None:
        self.row = self._steps = 0
        self._space, self._options = space, options
        self._average = 0.0
        there_DO = np.zeros((len(space), space.counts.max(initial=1)), dtype=bool)
        for there_O, allowed in zip(there_DO, space.allowed, strict=True):
            there_O[list(allowed)] = True
        self._logits_DO = np.where(there_DO, 0.0, -np.inf)
        self._moments = np.zeros((2, *there_DO.shape))

    @property
    def probability_DO(self) -> npt.NDArray[np.float64]:
        """The softmax of the logits of each decision."""
        weight_DO = np.exp(self._logits_DO - self._logits_DO.max(axis=1, keepdims=True))
        return np.asarray(weight_DO / weight_DO.sum(axis=1, keepdims=True))

    def move(self, arch: Arch, score: float) -> None:
        """One step of Adam on the loss of an architecture."""
        self._steps += 1
        momentum, first, second = self._options.momentum, *_BETAS
        self._average = momentum * self._average + (1 - momentum) * score
        advantage = score - self._average / (1 - momentum**self._steps)
        slope_DO = self.probability_DO
        slope_DO[np.arange(len(arch)), arch] -= 1
        slope_DO *= advantage * np.array(self._space.active(arch))[:, None]
        self._moments[0] = first * self._moments[0] + (1 - first) * slope_DO
        self._moments[1] = second * self._moments[1] + (1 - second) * slope_DO**2
        mean_DO = self._moments[0] / (1 - first**self._steps)
        size_DO = np.sqrt(self._moments[1] / (1 - second**self._steps))
        self._logits_DO -= self._options.lr * mean_DO / (size_DO + _EPSILON)


def _drawn(probability_DO: npt.NDArray[np.float64], rng: np.random.Generator) -> Arch:
    """An encoding from independent decisions."""
    below_DO = probability_DO.cumsum(axis=1)
    threshold_D = rng.random(len(below_DO)) * below_DO[:, -1]
    return tuple((below_DO <= threshold_D[:, None]).sum(axis=1).tolist())
