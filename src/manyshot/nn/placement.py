"""Which channels a width uses, of those that a layer has room for: its placement.

By default they are the first, as everywhere in the literature of weight sharing. A forward may be
told another placement, which layers read where they cut tensors, part by part of concatenated
channels; nothing else of a layer knows of it.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

from manyshot.space import Size

if TYPE_CHECKING:
    from manyshot.nn.selection import Part


class Placement(Hashable, Protocol):
    """A rule by which channels are used; equal ones use the same of every size.

    All tensors that have the channels of one size must be cut alike, so what it answers depends on
    the size (as a function of its decisions, up to a factor), the count and the room alone.
    """

    def part(self, size: Size, count: int, room: int) -> Part:
        """The channels that are used.

        Args:
            size: the size, which is no concatenation.
            count: how many channels it is in the active architecture.
            room: how many a tensor has for it.
        """
        ...


class Side(enum.Enum):
    """Channels at one end: the first of them, or the last."""

    LEFT = "left"
    RIGHT = "right"

    def part(self, size: Size, count: int, room: int) -> Part:
        """The first or the last `count` channels (see `Placement.part`)."""
        return slice(count) if self is LEFT else slice(room - count, room)


LEFT, RIGHT = Side.LEFT, Side.RIGHT
