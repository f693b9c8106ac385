"""A sampler of costs that learns nothing: a table of drawn architectures (AttentiveNAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final

import numpy as np

from manyshot.cost import CostTable
from manyshot.plugins import Positive, checked
from manyshot.seeding import numpy_rng
from manyshot.space import SearchSpace
from manyshot.train.plan import Plan, PlannedPath, Stateless
from manyshot.train.samplers.complexity import Grid

Prior = Literal["frequency", "uniform"]


@final
class ConditionalTable(Stateless):
    """Draws a target cost, then each decision by how often its options occur at that cost.

    Wang et al. 2021, arXiv:2011.09011: a table of uniformly drawn architectures, binned by cost;
    a target bin; each decision on its own by its empirical P(option | bin); again, up to 100 times,
    while the cost is in another bin. That the one nearest to the bin's centre is then taken, and
    the grid, are ours; their choice of the best or worst of several is not here.

    Attributes:
        grid: the bins.
        members: the table: the drawn architectures of each bin, shape (number, decisions).
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, CostTable],
        *,
        metric: str = "macs",
        grid: Grid | Sequence[float] | None = None,
        draws: Positive = 20_000,
        seed: int = 0,
        prior: Prior = "frequency",
        attempts: Positive = 100,
    ) -> None:
        """Draws the table.

        Args:
            space: the space.
            costs: cost tables of it, by metric.
            metric: which of them.
            grid: the bins, also as (lo, hi, step); by default `Grid.of` the cost.
            draws: architectures drawn for the table, those outside the grid included.
            seed: of the table.
            prior: of the bins: by their `frequency` in the table, or `uniform` over those that
                are not empty.
            attempts: architectures drawn for one path, at most.

        Raises:
            ValueError: for an unknown metric, a value that its type does not allow, a
                grid beyond the reach of the space, or one in which no draw falls.
        """
        if metric not in costs:
            raise ValueError(
                f"conditional table: no costs for metric {metric!r}; have {sorted(costs)}"
            )
        self.cost, self.attempts = costs[metric], attempts
        self.grid = Grid.given(grid, self.cost, space, seed=seed)
        drawn = space.draw(numpy_rng(seed, "costs"), draws)
        bins = self.grid.bin_of(self.cost(drawn))
        self.members = tuple(drawn[bins == k] for k in range(len(self.grid)))
        weights = np.array([len(m) for m in self.members], np.float64)
        if not weights.any():
            raise ValueError(
                f"conditional table: none of {draws:,} uniform draws falls in {self.grid}; widen "
                "it, or draw more"
            )
        if prior == "uniform":
            weights = (weights > 0).astype(np.float64)
        self._prior = weights / weights.sum()

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path, in the target bin if one of `attempts` draws is, else the nearest of them."""
        target = int(rng.choice(len(self._prior), p=self._prior))
        members = self.members[target]
        count, decisions = members.shape
        # the option of a random member has the probability P(option | bin)
        rows = rng.integers(count, size=(self.attempts, decisions))
        archs = members[rows, np.arange(decisions)]
        costs = self.cost(archs)
        inside = self.grid.bin_of(costs) == target
        far = np.abs(costs - self.grid.centres[target])
        chosen = int(inside.argmax() if inside.any() else far.argmin())
        return Plan((PlannedPath(tuple(archs[chosen].tolist())),))
