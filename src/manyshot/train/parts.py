"""Decisions whose options are sets of parts, such as which of its edges a node sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor

from manyshot.space import Decision, SearchSpace


@final
class Parts:
    """The parts that the options of one decision put into the network, as the space declares them.

    A part is a decision that matters only under some of the options, as the operation of an edge
    does where the edge is taken; what is nested in a part belongs to it.

    Attributes:
        members: the positions of the parts in the space.
        holds: (options, parts), which option holds which.
        weight: at which weight of all options every part has weight one: one over the number of
            options that hold it. Of pairs of n edges that is 1 / (n - 1).
    """

    def __init__(self, members: Sequence[int], holds: Tensor, weight: float) -> None:
        """By which options, (options, parts), hold which parts."""
        self.members, self.weight, self.holds = tuple(members), weight, holds

    @classmethod
    def of(cls, space: SearchSpace, decision: Decision) -> Self:
        """The parts of a decision.

        Raises:
            ValueError: if there are none, or some are held by more options than others.
        """
        under = {
            part: [dict(use)[decision] for use in uses]
            for part, uses in space.uses.items()
            if uses and all(decision in dict(use) for use in uses)
        }
        outer = [
            part
            for part in under
            if not any(other in under for use in space.uses[part] for other, _ in use)
        ]
        if not outer:
            raise ValueError(
                f"no decision matters only under some options of {decision.name!r}, so that these "
                "are no sets of parts: leave it out of summed"
            )
        rows = range(len(decision.options))
        held = [frozenset[int]().union(*under[part]) for part in outer]
        counts = {str(part.name): len(options) for part, options in zip(outer, held, strict=True)}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name!r} by {count}" for name, count in counts.items())
            raise ValueError(
                f"the options of {decision.name!r} hold some parts more often than others "
                f"({listed}), so that no equal weight gives each of them one: leave it out of "
                "summed"
            )
        holds = torch.tensor([[i in options for options in held] for i in rows])
        return cls([space.index[part] for part in outer], holds, 1 / len(held[0]))

    def shares(self, strengths: Tensor) -> Tensor:
        """For every option the product of the strengths of its parts, so that all sum to one.

        Args:
            strengths: (parts,).
        """
        logs = strengths.log()
        return torch.stack([logs[row].sum() for row in self.holds]).softmax(0)
