"""Leaving options out for good while their weights learn, at a price of costs that moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

LEAST = 4
"""A round that leaves out so many options, or more, is one (GOLD-NAS: n0)."""
NEAR = 5.0
"""Options below so many times the threshold may be left out to make a round of `LEAST`."""


@final
class Pruning:
    """Rounds of pruning, and the weight of costs that they move.

    A round leaves out all options whose weight is below the threshold, and of those below five
    times the threshold the smallest, until four are left out. If it leaves out four or more, the
    weight of costs is halved and its increment is what it was at first; else the increment doubles
    and is added. Of every decision the largest of the options that may win stays.

    Reference: Bi et al. 2020, GOLD-NAS (arXiv:2007.03331), by third-party code alone: thresholds of
    0.01 and 0.05, n0 = 4. That a decision keeps an option that may win is ours.

    Attributes:
        weight: that of costs now.
    """

    def __init__(self, threshold: float, weight: float) -> None:
        """Begins with the weight of costs, which is its first increment too."""
        self.threshold, self.weight = threshold, weight
        self._first = self._increment = weight

    def round(
        self, weights: Tensor, alive: Tensor, counts: Sequence[int], excluded: Tensor
    ) -> Tensor:
        """Which options are left after a round.

        Args:
            weights: (options of all decisions,).
            alive: which of them are left.
            counts: how many options each decision has.
            excluded: which of them no final architecture has.
        """
        left, dropped = alive.clone(), 0
        split = (torch.split(of_all, list(counts)) for of_all in (weights, alive & ~excluded))
        largest = torch.cat([_largest(*one) for one in zip(*split, strict=True)])
        order = torch.argsort(weights, stable=True).tolist()
        for i in order:
            if not alive[i] or largest[i] or weights[i] >= NEAR * self.threshold:
                continue
            if weights[i] < self.threshold or dropped < LEAST:
                left[i] = False
                dropped += 1
        if dropped >= LEAST:
            self._increment = self._first
            self.weight /= 2
        else:
            self._increment *= 2
            self.weight += self._increment
        return left

    def state_dict(self) -> dict[str, Any]:
        """The weight of costs, and its increment."""
        return {"weight": self.weight, "increment": self._increment}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.weight, self._increment = state["weight"], state["increment"]


def _largest(weights: Tensor, among: Tensor) -> Tensor:
    """Where the largest weight is of some of them."""
    at = weights.masked_fill(~among, -torch.inf).argmax()
    return torch.arange(len(weights)) == at
