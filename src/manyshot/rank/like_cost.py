"""Pairs of networks of like cost: where the truth goes with cost, an order of costs alone has no
tau among them. N counts networks, M pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import numpy as np
import numpy.typing as npt

LIKE = 1.1
"""Networks are of like cost if their multiply-adds differ by no larger factor."""
MOST_PAIRED = 1000
"""Of more networks pairs are not resampled: a draw takes memory and time of their square."""


@final
class LikePairs:
    """The pairs of different networks of like cost, in memory of their number of networks.

    In the order of costs those that a network is paired with are neighbours.
    """

    def __init__(self, costs_N: npt.NDArray[np.float64]) -> None:
        """Sorts the networks by what they cost; a cost below 0 is like no other."""
        self._order_N = np.argsort(costs_N, kind="stable")
        sorted_N = costs_N[self._order_N]
        self._from_N = np.searchsorted(LIKE * sorted_N, costs_N, side="left")
        to_N = np.searchsorted(sorted_N, LIKE * costs_N, side="right")
        self._to_N = np.maximum(self._from_N, to_N)

    def __len__(self) -> int:
        """How many pairs there are."""
        alike_N = self._to_N - self._from_N  # with itself
        return int((alike_N - (alike_N > 0)).sum()) // 2

    def of(self, network: int) -> npt.NDArray[np.intp]:
        """The networks that one is paired with, by their numbers, as they are ordered by cost."""
        alike = self._order_N[self._from_N[network] : self._to_N[network]]
        return np.asarray(alike[alike != network])

    def matrix(self) -> npt.NDArray[np.bool_]:
        """Which pairs these are, (N, N), symmetric."""
        n = len(self._order_N)
        pairs_NN = np.zeros((n, n), dtype=np.bool_)
        for i in range(n):
            pairs_NN[i, self.of(i)] = True
        return pairs_NN

    def mean(self, of: Callable[[int, npt.NDArray[np.intp]], npt.NDArray[np.float64]]) -> float:
        """The mean over the pairs, of which there is one at least, of a function of both networks.

        It takes 8 bytes a pair, so that it is the mean of all values at once to the last bit.

        Args:
            of: a value for each pair of a network with the networks in an array.
        """
        values_M, done = np.empty(len(self)), 0
        for i in range(len(self._order_N)):
            alike = self.of(i)
            later = np.sort(alike[alike > i])
            values_M[done : done + len(later)] = of(i, later)
            done += len(later)
        return float(values_M.mean())

    def tau(self, x_N: npt.NDArray[np.float64], y_N: npt.NDArray[np.float64]) -> float | None:
        """Kendall's tau-b of two scores over these pairs; None where it is undefined."""
        above = of_x = of_y = 0.0
        for i in range(len(x_N)):
            alike = self.of(i)
            x_M, y_M = np.sign(x_N[i] - x_N[alike]), np.sign(y_N[i] - y_N[alike])
            above, of_x, of_y = above + x_M @ y_M, of_x + x_M @ x_M, of_y + y_M @ y_M
        below = of_x * of_y
        return float(above / math.sqrt(below)) if below > 0 else None
