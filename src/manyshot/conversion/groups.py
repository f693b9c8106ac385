"""Channels that vary together: groups, and the layouts of dimensions that are made of them.

A *group* is a number of units (channels, or heads) that are kept or dropped together wherever they
appear. The *layout* of a dimension says which groups it holds: a tuple of segments, each a group
and the entries that every unit of it has there, such as 49 after a 7 x 7 map was flattened. Groups
are joined as operations meet them: two layouts of one dimension become one. That may refine a
group: 96 channels that meet a concatenation of 32 and 64 are two groups from then on, and 128
channels that meet 32 groups of a convolution are 32 units of 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias, final

Segment: TypeAlias = "tuple[Group, int]"
"""A group, and the entries that each of its units has in a dimension."""
Layout: TypeAlias = tuple[Segment, ...]


@final
class Group:
    """A number of units that vary together.

    Attributes:
        units: how many there are in the original network.
        reason: why the group must stay as it is; None as long as it is free.
        heads: whether its units are heads of an attention.
        alike: whether it is of entries that are all alike, and has met no channels yet.
    """

    def __init__(self, units: int, *, alike: bool = False) -> None:
        self.units, self.alike = units, alike
        self.reason: str | None = None
        self.heads = False
        self._is: Layout | None = None  # what it turned out to be, in other groups

    def resolved(self) -> Layout:
        """The group in groups that are not made of others."""
        if self._is is None:
            return ((self, 1),)
        self._is = resolved(self._is)
        return self._is

    def fix(self, reason: str) -> None:
        """Lets the group stay as it is; the first reason counts."""
        for root, _ in self.resolved():
            if root.reason is None:
                root.reason = reason

    def become(self, layout: Layout) -> None:
        """Says that this group is what `layout` is, which is as long and holds the rest of it."""
        for root, _ in resolved(layout):
            if self.reason is not None:
                root.fix(self.reason)
            root.heads = root.heads or self.heads
            root.alike = root.alike and self.alike
        self._is = layout

    def __repr__(self) -> str:
        return f"Group({self.units}{', fixed' if self.reason else ''})"


def resolved(layout: Layout) -> Layout:
    """The same layout in groups that are not made of others."""
    return tuple(
        (root, inner * entries) for group, entries in layout for root, inner in group.resolved()
    )


def length(layout: Layout) -> int:
    """The entries of a dimension of this layout."""
    return sum(group.units * entries for group, entries in layout)


def fix(layout: Layout | None, reason: str) -> None:
    """Lets all groups of a layout stay as they are."""
    for group, _ in layout or ():
        group.fix(reason)


def groups_of(layouts: Iterable[Layout | None]) -> Iterator[Group]:
    """The distinct groups of some layouts, in order."""
    roots = (group for layout in layouts for group, _ in resolved(layout or ()))
    yield from dict.fromkeys(roots)


def join(one: Layout, other: Layout, where: str) -> None:
    """Lets two layouts of one dimension be the same, by joining and refining their groups.

    What cannot be joined, such as a group of 8 channels with three quarters of another's units,
    is fixed.

    Args:
        one: a layout.
        other: another of the same length.
        where: the operation that met them, for the reason of what is fixed.
    """
    left, right = list(resolved(one)), list(resolved(other))
    while left and right:
        (a, a_entries), (b, b_entries) = left[0], right[0]
        a_length, b_length = a.units * a_entries, b.units * b_entries
        if a is b and a_entries == b_entries:
            left, right = left[1:], right[1:]
        elif a is b:
            _fix_all(left, right, f"{where} meets it in two arrangements")
            break
        elif a_length == b_length:
            if not _merge(left[0], right[0]):
                _fix_all(left[:1], right[:1], f"{where} meets groups of other sizes")
                left, right = left[1:], right[1:]
        else:
            longer = right[0] if a_length < b_length else left[0]
            if not _split(longer, min(a_length, b_length)):
                _fix_all(left, right, f"{where} meets a part of its channels")
                break
        left, right = list(resolved(tuple(left))), list(resolved(tuple(right)))


def _merge(one: Segment, other: Segment) -> bool:
    """Lets two segments of one length be of one group; returns whether that can be."""
    (a, a_entries), (b, b_entries) = one, other
    common = math.lcm(a_entries, b_entries)
    if (a.units * a_entries) % common:
        return False
    if common == a_entries:
        b.become(((a, a_entries // b_entries),))
    elif common == b_entries:
        a.become(((b, b_entries // a_entries),))
    else:
        base = Group(a.units * a_entries // common)
        a.become(((base, common // a_entries),))
        b.become(((base, common // b_entries),))
    return True


def _fix_all(left: Iterable[Segment], right: Iterable[Segment], reason: str) -> None:
    fix((*left, *right), reason)


def _split(segment: Segment, at: int) -> bool:
    """Splits a group so that its first part has `at` entries; returns whether that can be."""
    group, entries = segment
    if at % entries:
        return False
    units = at // entries
    group.become(((Group(units), 1), (Group(group.units - units), 1)))
    return True


def merged(outer: int, layout: Layout, inner: int) -> Layout:
    """The layout of a dimension that was merged with others around it.

    Args:
        outer: entries of the dimensions before it.
        layout: of the dimension.
        inner: entries of the dimensions after it.
    """
    return tuple((group, entries * inner) for group, entries in layout) * outer


def factored(layout: Layout, shape: tuple[int, ...]) -> tuple[Layout | None, ...] | None:
    """What the dimensions hold that one of `layout` is split into, by undoing merges.

    Args:
        layout: of the dimension, not empty.
        shape: the entries of the dimensions that it is split into.

    Returns:
        A layout per dimension, None where it holds no groups; or None if it splits units.
    """
    layout = resolved(layout)
    if len(shape) == 1:
        return (layout,)
    rest = math.prod(shape[1:])
    if all(entries % rest == 0 for _, entries in layout):
        whole = tuple((group, entries // rest) for group, entries in layout)
        return (whole, *(None for _ in shape[1:]))
    copies, over = divmod(len(layout), shape[0])
    if not over and layout == layout[:copies] * shape[0]:
        parts = factored(layout[:copies], shape[1:])
        return None if parts is None else (None, *parts)
    return None
