"""Widths, and in the next step what they left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from torch import Tensor

from manyshot.space import Arch, Decision, Number, SearchSpace
from manyshot.train.plan import Plan, PlannedPath, Probed, Stateless


def complement(decision: Decision, option: int) -> int:
    """The option whose width is nearest to what a width leaves of the widest, the narrower of two.

    What leaves nothing is its own.
    """
    values = decision.values
    rest = max(values) - values[option]
    if not rest:
        return option

    def far(other: int) -> tuple[Number, Number]:
        return abs(values[other] - rest), values[other]

    return min(range(len(values)), key=far)


@final
class Complement(Stateless):
    """A uniform path in one step, and in the next the same with its widths' complements.

    The complement of a width of c of C channels has C - c: with `sharing.name = "bilateral"` two
    such steps train every channel equally often, if C - c is an option, as it is where widths are
    1, 2, ..., n steps of one size. Otherwise it is the nearest option, and channels train nearly
    equally often. Kernels, depths and operations stay.

    Reference: Su et al. 2021, "BCNet: Searching for Network Width with Bilaterally Coupled
    Network", arXiv:2105.10446. The stochastic complementary strategy is the paper's (abstract), a
    path and its complement in turn its authors' public code's. There the complement of the widest
    has one bin; here it is the widest, which trains all channels alike. The nearest option is ours.
    """

    def __init__(self, space: SearchSpace, widths: Sequence[Decision]) -> None:
        """Makes a sampler that begins with a uniform path.

        Args:
            space: the space.
            widths: its decisions about numbers of channels.

        Raises:
            ValueError: if there is none.
        """
        if not widths:
            raise ValueError(
                "sampler complement trains a width and what it leaves out in turn, and no decision "
                "of this space is a number of channels: take sampler.name = 'uniform', or a "
                "network of elastic widths, such as the zoo's convnet"
            )
        self.space = space
        self.others = {
            space.index[d]: [complement(d, i) for i in range(len(d.options))] for d in widths
        }
        self._before: Arch | None = None

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path: uniform, or the complement of the one before."""
        if self._before is None:
            return Plan((PlannedPath(self.space.sample(rng)),))
        arch = list(self._before)
        for position, others in self.others.items():
            arch[position] = others[arch[position]]
        return Plan((PlannedPath(tuple(arch)),))

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Remembers a uniform path until its complement has trained."""
        self._before = plan.paths[0].arch if self._before is None else None

    def state_dict(self) -> dict[str, Any]:
        """The path whose complement is next; empty if a uniform one is."""
        return {} if self._before is None else {"before": list(self._before)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`.

        Raises:
            ValueError: if that is of another sampler, or of another space.
        """
        super().load_state_dict({name: v for name, v in state.items() if name != "before"})
        before = state.get("before")
        self._before = None if before is None else self.space.check(tuple(before))
