"""Widths whose last channels may be others nearby, those with the smallest training loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, TypeAlias, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from manyshot.nn.layer import joined
from manyshot.nn.placement import LEFT, Placement
from manyshot.nn.selection import Part
from manyshot.plugins import Positive, checked
from manyshot.sharing.scheme import Passes, Shares
from manyshot.sharing.widths import to_place
from manyshot.space import Arch, SearchSpace, Size

Row: TypeAlias = tuple[int, int]
"""A kind of channels, and how many bins of it are used."""
_NEW = 0.1
"""The share of what is remembered of a way that its last trial decides."""


@final
class Bins(dict[Size, Row]):
    """Sizes by the kind of their channels, and how many channels a bin of theirs has.

    Sizes that are multiples of one another in every architecture are one kind, as those of a width
    and of what a flattened image has of it.
    """

    def __init__(self, sizes: Mapping[Size, int], space: SearchSpace) -> None:
        super().__init__()
        self._space = space
        self._kinds: dict[Hashable, int] = {}
        self.rooms: list[int] = []  # how many bins there are of each kind
        for size, room in sizes.items():
            key, unit = self._key(size)
            if key not in self._kinds:
                self._kinds[key] = len(self.rooms)
                self.rooms.append(room // unit)
            self[size] = (self._kinds[key], unit)

    def _key(self, size: Size) -> tuple[Hashable, int]:
        """What sizes of one kind have in common, and how many channels a bin has."""
        decisions = sorted(size.decisions(), key=self._space.index.__getitem__)
        cells = itertools.product(*(d.values for d in decisions))
        numbers = [int(size.evaluate(dict(zip(decisions, cell, strict=True)))) for cell in cells]
        unit = math.gcd(*numbers) or 1
        positions = tuple(self._space.index[d] for d in decisions)
        return (positions, tuple(number // unit for number in numbers)), unit

    def __missing__(self, size: Size) -> Row:
        key, unit = self._key(size)  # written down twice, as only in a layer without parameters
        self[size] = (self._kinds.get(key, -1), unit)
        return self[size]

    def rows(self, arch: Arch) -> set[Row]:
        """Which widths an architecture has: of each kind, how many bins."""
        values = {
            d: d.values[i] for d, i in zip(self._space.decisions, arch, strict=True) if d.is_number
        }
        return {(kind, int(size.evaluate(values)) // unit) for size, (kind, unit) in self.items()}


def free_bins(offset: int, used: int, room: int) -> list[tuple[int, ...]]:
    """All ways to use so many of the bins, each in order; the first way is the first bins.

    Fixed are the bins below `used - offset`; the others are any of those below `used + offset`.
    """
    base = max(0, used - offset)
    zone = range(base, min(room, used + offset))
    fixed = tuple(range(base))
    return [(*fixed, *some) for some in itertools.combinations(zone, used - base)]


@final
class FreePlacement:
    """Which bins widths use: of each row a way of `free_bins`, the first where nothing is said."""

    def __init__(self, bins: Bins, offset: int, ways: Mapping[Row, int]) -> None:
        self.bins, self.offset = bins, offset
        self.ways = {row: way for row, way in ways.items() if way}
        self._key = (offset, frozenset(self.ways.items()))

    def part(self, size: Size, count: int, room: int) -> Part:
        """The channels of the bins (see `Placement.part`)."""
        kind, unit = self.bins[size]
        used, bins = count // unit, room // unit
        way = self.ways.get((kind, used), 0)
        chosen = free_bins(self.offset, used, bins)[way] if way else range(used)
        marks = set(chosen)
        parts = (slice(unit if i in marks else 0) for i in range(bins))
        return joined([unit] * bins, parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreePlacement) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"FreePlacement({self.ways})"


@final
class LocallyFree(Shares, nn.Module):
    """A width is a fixed base and channels that lie freely in a zone around its end.

    Channels come in bins, as many at once as all widths of a layer are multiples of. A width of c
    bins uses the bins below c - r, and any r of those from c - r to c + r: so many ways there are.
    A step of training tries some of them, drawn for all layers at once, of which the first is the
    one that is delivered; it trains the one whose loss is the smallest on its images (the inner
    and the outer minimum of min-min), and remembers of every way how much its loss was above the
    mean of those tried. `net(images, arch)`, scores and `net.extract(arch)` use, width by width,
    the way that was lowest so. At r = 0 it is one copy, bit for bit.

    A step takes `tries` forwards more, and waits for their losses. Where several processes train,
    or gradients are accumulated over parts of a batch, each takes the best on its own images, and
    of several processes what the first remembers counts.

    Reference: Su et al. 2021, "Locally Free Weight Sharing for Network Width Search" (CafeNet),
    arXiv:2102.05258. Base and free channels, the local zone and min-min are the paper's
    (abstract); there is no public code. The bounds of base and zone, bins that are equal (the
    paper sets them by MACs), how ways are drawn, that few of them are tried, and what is remembered
    of them, so that one way is delivered, are ours.
    """

    losses: Tensor
    _bins: Bins | None = None

    @checked
    def __init__(
        self, *, offset: Annotated[int, Field(ge=0, le=4)] = 1, tries: Positive = 3
    ) -> None:
        """Makes a scheme for one supernet.

        Args:
            offset: r, how many bins of a width are free.
            tries: how many ways a step tries; 1 trains what is delivered.

        Raises:
            ValueError: for a value that is not allowed.
        """
        super().__init__()
        self.offset, self.tries = offset, tries

    def attach(self, model: nn.Module, space: SearchSpace) -> None:
        """Looks up the widths of layers, and remembers nothing of any way yet.

        Raises:
            RuntimeError: if this scheme has a supernet already.
            ValueError: if no layer has an elastic width.
        """
        if self._bins is not None:
            raise RuntimeError(
                "this LocallyFree belongs to another supernet already: make a new one"
            )
        self._bins = Bins(to_place("LocallyFree", model, space), space)
        self._ways: dict[Row, int] = {}  # how many there are, where there is more than one
        for kind, room in enumerate(self._bins.rooms):
            for used in range(1, room):
                count = len(free_bins(self.offset, used, room))
                if count > 1:
                    self._ways[kind, used] = count
        most = max(self._ways.values(), default=1)
        self.register_buffer("losses", torch.zeros(len(self._ways), most))

    def placement(self, arch: Arch) -> Placement:
        """The best way of every width, as far as known."""
        return self._of(self._best())

    def scored(self, arch: Arch) -> tuple[Placement, ...]:
        """What is delivered."""
        return (self.placement(arch),)

    def trained(
        self, arch: Arch, loss_of: Callable[[Placement], Tensor], rng: np.random.Generator
    ) -> tuple[Placement, ...]:
        """The one of several with the smallest loss."""
        best, free = self._best(), self._free(arch)
        if not self.passes(arch).tried:
            return (self._of(best),)
        tried = [best]
        for _ in range(self.tries - 1):
            tried.append({**best, **{row: int(rng.integers(self._ways[row])) for row in free}})
        placements = [self._of(ways) for ways in tried]
        losses = torch.stack([loss_of(placement) for placement in placements]).to(self.losses)
        above = (losses - losses.mean()).tolist()
        numbers = {row: number for number, row in enumerate(self._ways)}
        for ways, how_much in zip(tried, above, strict=True):
            for row in free:
                self.losses[numbers[row], ways[row]].lerp_(losses.new_tensor(how_much), _NEW)
        return (placements[above.index(min(above))],)

    def passes(self, arch: Arch) -> Passes:
        """Those that are tried, if there is more than one, and one."""
        return Passes(self.tries if self.tries > 1 and self._free(arch) else 0, 1)

    def _free(self, arch: Arch) -> list[Row]:
        """The widths of an architecture that may lie in several ways."""
        used = self._attached.rows(arch)
        return [row for row in self._ways if row in used]

    def _best(self) -> dict[Row, int]:
        rows = zip(self._ways.items(), self.losses.tolist(), strict=True)
        return {row: losses.index(min(losses[:count])) for (row, count), losses in rows}

    def _of(self, ways: Mapping[Row, int]) -> Placement:
        return FreePlacement(self._attached, self.offset, ways) if any(ways.values()) else LEFT

    @property
    def _attached(self) -> Bins:
        assert self._bins is not None, "a supernet attaches its scheme"
        return self._bins
