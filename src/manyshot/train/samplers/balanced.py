"""A sampler that gives all options of a decision as many updates (BETANAS)."""

from __future__ import annotations

from typing import final

import numpy as np

from manyshot.seeding import numpy_rng
from manyshot.space import SearchSpace
from manyshot.train.plan import Plan, PlannedPath, Stateless


@final
class Balanced(Stateless):
    """One path per step, of options dealt out in rounds.

    Of each decision every option comes once in as many steps as it has options, in an order that is
    drawn anew for each round. So numbers of updates never differ by more than one, however many
    options decisions have, and a view of the space begins with new rounds.

    Reference: BETANAS, Fang et al. 2019, arXiv:1912.11191, of which the abstract was read: that
    candidates are trained equally between drops. How they are dealt out is ours; `fair` has them in
    one step, at the cost of so many paths.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        """A sampler of `space`; `seed` decides the order of all rounds."""
        self.space, self._seed, self._since = space, seed, 0

    def narrow(self, space: SearchSpace, step: int) -> None:
        """Deals out this view from step `step` on."""
        self.space, self._since = space, step

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The next option of every decision; the generator is not needed."""
        arch = []
        for i, options in enumerate(self.space.allowed):
            number, place = divmod(step - self._since, len(options))
            order = numpy_rng(self._seed, "deal", self._since, i, number).permutation(options)
            arch.append(int(order[place]))
        return Plan((PlannedPath(tuple(arch)),))
