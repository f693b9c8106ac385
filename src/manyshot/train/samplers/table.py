"""A sampler of costs that learns nothing: a table of drawn architectures (AttentiveNAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
from torch import Tensor

from manyshot.cost import CostTable
from manyshot.plugins import Positive, checked
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed, Stateless
from manyshot.train.samplers.complexity import Grid

Prior = Literal["frequency", "uniform"]
Choice = Literal["any", "best", "worst"]


@final
class ConditionalTable(Stateless):
    """Draws a target cost, then each decision by how often its options occur at that cost.

    A table of uniformly drawn architectures is binned by cost. A step draws a target bin, then each
    decision on its own by its empirical P(option | bin), again, up to 100 times, while the cost is
    in another bin.

    With `choose = "best"` (or `"worst"`) several architectures are drawn for one target, and the
    one with the lowest (highest) loss on held-out images is trained. They are compared by a probe
    after the step before, at the weights that the step will move, so that the first step of
    training has no choice.

    Reference: AttentiveNAS (Wang et al. 2021, arXiv:2011.09011). The table, the draws and the best
    or worst of several, of which their public code has three, are the paper's; that the draw
    nearest to the bin's centre is taken where none is inside, the grid, and that held-out images
    say which is best, are ours.

    Attributes:
        grid: the bins.
        members: the table: the drawn architectures of each bin, shape (number, decisions).
        probes: whether losses decide, and so held-out images are needed.
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
        choose: Choice = "any",
        of: Positive | None = None,
        images: Positive | None = None,
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
            choose: which of several architectures of the target bin is trained, by their losses;
                `any` draws one.
            of: how many these are; by default 3.
            images: how many held-out images say which it is; by default 256.

        Raises:
            ValueError: for an unknown metric, a value that its type does not allow, a
                grid beyond the reach of the space, one in which no draw falls, or `of` or `images`
                where nothing is chosen.
        """
        if choose == "any" and (of, images) != (None, None):
            raise ValueError(
                "conditional table: of and images say among how many the best or worst is chosen, "
                "and on what: set choose = 'best' or 'worst', or leave them out"
            )
        self.probes = choose != "any"
        self._sign = -1.0 if choose == "worst" else 1.0
        self._of, self._images = of or 3, images or 256
        self._asked: list[Arch] = []
        self._next: Arch | None = None
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
        return Plan((PlannedPath(self._next or self._drawn(self._target(rng), rng)),))

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """Asks for the losses of several architectures of one target."""
        if not self.probes:
            return None
        target = self._target(rng)
        self._asked = [self._drawn(target, rng) for _ in range(self._of)]
        return Probe(tuple(map(PlannedPath, self._asked)), images=self._images)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Chooses what the next step trains."""
        if probed is not None:
            self._next = self._asked[int((self._sign * probed.losses).argmin())]

    def state_dict(self) -> dict[str, Any]:
        """What the next step trains, if that is chosen."""
        return {"next": self._next} if self.probes else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`.

        Raises:
            ValueError: if it is of a table that chooses otherwise.
        """
        if not self.probes:
            super().load_state_dict(state)
        else:
            self._next = None if state["next"] is None else tuple(state["next"])

    def _target(self, rng: np.random.Generator) -> int:
        return int(rng.choice(len(self._prior), p=self._prior))

    def _drawn(self, target: int, rng: np.random.Generator) -> Arch:
        members = self.members[target]
        count, decisions = members.shape
        # the option of a random member has the probability P(option | bin)
        rows = rng.integers(count, size=(self.attempts, decisions))
        archs = members[rows, np.arange(decisions)]
        costs = self.cost(archs)
        inside = self.grid.bin_of(costs) == target
        far = np.abs(costs - self.grid.centres[target])
        chosen = int(inside.argmax() if inside.any() else far.argmin())
        return tuple(archs[chosen].tolist())
