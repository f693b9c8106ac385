"""Costs of layers of many channels to choose from, without trying all combinations of them.

A convolution or a linear layer takes as many multiply-adds as its input has channels, times those
of its output, by its groups, times a number that depends on kernel and resolution alone. So that
number is observed at all options of the other decisions, and channels are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
from torch import nn

from manyshot.cost.axes import extents, holds
from manyshot.cost.recording import CostMismatch, Positions, Recording
from manyshot.cost.tables import MAX_CELLS, Table
from manyshot.nn import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
)
from manyshot.nn.selection import Selection
from manyshot.nn.structure import sizes_of
from manyshot.space import Number, SearchSpace, Size

LISTED = 100
"""A layer of at most so many combinations is observed at all of them."""
_CHANNELS = ("in_channels", "out_channels", "groups", "in_features", "out_features")
_CONVOLUTIONS = (Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)


@final
@dataclass(frozen=True)
class Product:
    """A layer whose cost is its channels multiplied, times what the other decisions say.

    Attributes:
        module: the layer.
        sizes: channels of input and output, and groups.
        channels: the decisions of these.
        rest: the decisions that its cost depends on besides.
    """

    module: nn.Module
    sizes: tuple[Number | Size, Number | Size, Number | Size]
    channels: Positions
    rest: Positions

    @classmethod
    def of(cls, recording: Recording, module: nn.Module, depends: Positions) -> Product | None:
        """The layer in this form; None if it is none of ours or is small enough to list.

        Args:
            recording: what observes it.
            module: the layer; of a class derived from ours nothing is assumed.
            depends: all decisions that its cost depends on.
        """
        space = recording.space
        if math.prod(int(space.counts[p]) for p in depends) <= LISTED:
            return None
        sizes: tuple[Number | Size, Number | Size, Number | Size]
        if type(module) is Linear:
            sizes = (module.in_features, module.out_features, 1)
        elif isinstance(module, _CONVOLUTIONS) and type(module) in _CONVOLUTIONS:
            sizes = (module.in_channels, module.out_channels, module.groups)
        else:
            return None
        channels = _positions(space, sizes)
        others = _positions(space, (s for n, s in sizes_of(module, "") if n not in _CHANNELS))
        rest = tuple(p for p in depends if p not in channels or p in others)
        return cls(module, sizes, channels, rest)

    def factor(self, selection: Selection, count: int) -> Fraction:
        """What a cost is besides the product of channels."""
        into, out, groups = map(selection.count, self.sizes)
        return Fraction(count * groups, into * out or 1)

    def table(
        self, recording: Recording, factors: Mapping[Positions, Fraction]
    ) -> tuple[Positions, Table]:
        """The cost as a table, zero where the layer is not in the network.

        Args:
            recording: what observed the layer.
            factors: what was observed besides channels, by the options of `rest`.

        Returns:
            The decisions of the table, and the table.

        Raises:
            ValueError: if the table would be too large.
            CostMismatch: if a cost is not whole.
        """
        space, uses = recording.space, recording.uses[self.module]
        axes = tuple(sorted({*self.channels, *self.rest, *recording.gates(self.module)}))
        shape = [int(space.counts[p]) for p in axes]
        if math.prod(shape) > MAX_CELLS:
            raise ValueError(
                f"module {recording.paths[self.module]!r} depends on {len(axes)} decisions at once "
                f"({math.prod(shape):,} combinations; at most {MAX_CELLS:,}): nest fewer choices "
                "or let fewer sizes meet in it"
            )
        factor = np.zeros([int(space.counts[p]) for p in self.rest], np.int64)
        divisor = np.ones_like(factor)
        for cell, seen in factors.items():
            factor[cell], divisor[cell] = seen.as_integer_ratio()
        kept = [int(space.counts[p]) if p in self.rest else 1 for p in axes]
        factor, divisor = factor.reshape(kept), divisor.reshape(kept)
        into, out, groups = (extents(space, axes, size) for size in self.sizes)
        table, left = np.divmod(factor * into * out * holds(space, axes, uses), divisor * groups)
        if left.any():
            raise CostMismatch(
                f"module {recording.paths[self.module]!r}: its cost is no whole multiple of its "
                "channels"
            )
        return axes, np.broadcast_to(table, shape)


def _positions(space: SearchSpace, sizes: Iterable[Number | Size]) -> Positions:
    found = {space.index[d] for s in sizes if isinstance(s, Size) for d in s.decisions()}
    return tuple(sorted(found))
