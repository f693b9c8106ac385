"""MnasNet's reward: a score and a cost as one number, beside hard limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT
from manyshot.search.limit import Cost, Limit, limits_of
from manyshot.space import Arch, Budget


@final
@dataclass(frozen=True, slots=True, config=STRICT)
class Reward:
    """A score times a power of a cost: `score * (cost / target) ** below`, or `** above` it.

    A searcher is told this in place of the score, and winners are chosen by it. A target is soft:
    who exceeds it pays, and how much is the exponent. Equal exponents also pay for what is saved
    below; 0 and -1 make the target nearly hard. Scores must be at least 0, where higher is better:
    of a loss or an error a power of a cost would reward what is dear.

    Reference: Tan et al. 2019, "MnasNet: Platform-Aware Neural Architecture Search for Mobile"
    (arXiv:1807.11626): the formula, its exponents (there alpha and beta) and -0.07 for both are the
    paper's; 0 and -1 are told from memory. There the cost is a latency on a phone; that it is any
    cost, and that hard limits hold beside it, is ours.

    Attributes:
        target: such as `"macs<=25%"` or `"latency_ms<=2.5"`.
    """

    target: str

    below: float = Field(default=-0.07, le=0, kw_only=True)
    """The exponent where the cost is the target's at most."""

    above: float = Field(default=-0.07, le=0, kw_only=True)
    """The exponent where it is more."""

    def __post_init__(self) -> None:
        Budget.parse(self.target)
        if self.below == self.above == 0:
            raise ValueError("below = 0 and above = 0 leave scores as they are: give one below 0")

    @property
    def metric(self) -> str:
        """The cost that it is on."""
        return Budget.parse(self.target).metric

    def limit(self, costs: Mapping[str, Cost], largest: Arch) -> Limit:
        """The target as a number of a cost.

        Args:
            costs: by metric.
            largest: the architecture whose costs are 100 %.

        Raises:
            ValueError: as `limits_of`.
        """
        [limit] = limits_of([self.target], costs, largest)
        return limit

    def of(self, limit: Limit, archs: Sequence[Arch], scores: Sequence[float]) -> list[float]:
        """The reward of each architecture.

        Args:
            limit: the target, as `limit` gives it.
            archs: N architectures.
            scores: N scores.

        Raises:
            ValueError: for a score below 0, or a cost that has no such power.
        """
        rewards = []
        for arch, score, cost in zip(archs, scores, limit.costs(archs).tolist(), strict=True):
            exponent = self.below if cost <= limit.limit else self.above
            if score < 0:
                raise ValueError(
                    f"architecture {arch} has score {score:g}, and a reward multiplies scores of "
                    "at least 0, where higher is better: score by another metric, or leave out "
                    "the reward"
                )
            if cost < 0 or (cost == 0 and exponent):
                raise ValueError(
                    f"architecture {arch} has a cost of {cost:g} by {self.metric}, of which a "
                    f"reward takes the power {exponent:g}: costs must be above 0"
                )
            rewards.append(score * (cost / limit.limit) ** exponent)
        return rewards
