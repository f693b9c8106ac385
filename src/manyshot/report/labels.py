"""Where the labels of marks go, so that none covers another, however wide a page is.

A page is drawn where nobody knows how large it will be. So places are tried for a plot as on a
phone, on a tablet and on a desk: marks lie further apart the larger it is, and labels keep their
size and their distance from their marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from manyshot.report import figures as f

LINE_BREAK = "<br>"
_LETTER, _ROW, _EDGE = 7.7, 16.0, 2.0
"""How large letters of a label are at most on average, and what is around it, in pixels."""
_MARK = 9.0
"""Half of the size of a star, in pixels."""
_AWAY = (12.0, 40.0, 80.0, 120.0)
_STEP, _STEPS = 20.0, 8
"""How far labels are tried from their marks: across, and up and down."""
_COLUMNS = ((262.0, 1), (540.0, 2), (880.0, 3))
"""How wide a plot is on a phone, a tablet and a desk; columns of a legend above it."""
_BESIDES = 78.0
"""What of the height of a figure is neither plot nor legend."""


class Range(NamedTuple):
    """What an axis shows."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """Values with the room that an axis leaves around them."""
        return cls(*f.padded(values, 0.06))

    def share(self, value: float) -> float:
        """How far along the axis a value is."""
        return (value - self.low) / (self.high - self.low)


class Box(NamedTuple):
    """A rectangle, in pixels from the lower left corner of a plot."""

    left: float
    low: float
    right: float
    high: float

    def overlaps(self, other: Box) -> bool:
        """Whether they have more than an edge in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.low < other.high
            and other.low < self.high
        )


@dataclass(frozen=True, slots=True)
class Label:
    """The words of a mark, which is at a share of both axes.

    Attributes:
        x: how far along the horizontal axis.
        y: how far along the vertical one.
        text: lines between `LINE_BREAK`s; no entities are longer than what they stand for.
    """

    x: float
    y: float
    text: str

    def box(self, place: Place, width: float, height: float) -> Box:
        """Where it is in a plot of a size."""
        lines = self.text.split(LINE_BREAK)
        across = _LETTER * max(map(len, lines)) + 2 * _EDGE
        half = (_ROW * len(lines)) / 2 + _EDGE
        x, y = self.x * width + place.right, self.y * height + place.up
        left = x - across if place.leftwards else x
        return Box(left, y - half, left + across, y + half)


class Mark(NamedTuple):
    """What is drawn from one end to another of a plot, as shares of its axes."""

    left: float
    right: float
    low: float
    high: float
    around: float = _MARK
    """Room around it, in pixels."""

    def box(self, width: float, height: float) -> Box:
        """What it covers in a plot of a size."""
        return Box(
            self.left * width - self.around,
            self.low * height - self.around,
            self.right * width + self.around,
            self.high * height + self.around,
        )


class Place(NamedTuple):
    """How far a label is from its mark, in pixels.

    Attributes:
        right: from the mark to the end of the label where its words begin, or, of one that goes
            leftwards, end.
        up: from the mark to the middle of the label.
        leftwards: whether the words end there.
    """

    right: float
    up: float
    leftwards: bool

    @property
    def is_beside(self) -> bool:
        """Whether it is seen without a line which mark the label belongs to."""
        return abs(self.right) <= _AWAY[0] and abs(self.up) <= _STEP

    def drawn(self, colour: str) -> dict[str, Any]:
        """What plotly reads of it; where it is not beside its mark, a line leads there."""
        anchor = {"xanchor": "right" if self.leftwards else "left", "yanchor": "middle"}
        if self.is_beside:
            return {**anchor, "xshift": self.right, "yshift": self.up}
        line = {"arrowhead": 0, "arrowwidth": 1.2, "arrowcolor": colour, "standoff": _MARK}
        return {**anchor, "showarrow": True, "ax": self.right, "ay": -self.up, **line}


def plots(height: int, entries: int) -> list[tuple[float, float]]:
    """The sizes of the plot of a figure with so many entries in its legend."""
    return [
        (width, max(120.0, height - _BESIDES - 19 * math.ceil(entries / columns)))
        for width, columns in _COLUMNS
    ]


def places(
    labels: Sequence[Label],
    covered: Sequence[Mark],
    sizes: Sequence[tuple[float, float]],
) -> list[Place]:
    """A place for each label: the nearest at which it covers no other label, and few marks.

    Args:
        labels: what is to be placed, the one that may stay nearest to its mark first.
        covered: what should not be.
        sizes: width and height of the plots that this is to hold for.
    """
    blocks = [[mark.box(*size) for mark in covered] for size in sizes]
    taken: list[list[Box]] = [[] for _ in sizes]
    chosen = []
    for label in labels:

        def cost(place: Place, label: Label = label) -> float:
            total = math.hypot(place.right, place.up) / 200
            for size, others, block in zip(sizes, taken, blocks, strict=True):
                box = label.box(place, *size)
                total += 100 * sum(map(box.overlaps, others)) + sum(map(box.overlaps, block))
                total += 3 * (box.left < 0 or box.right > size[0])
                total += 3 * (box.low < 0 or box.high > size[1] + _STEP)  # an axis makes room
            return total

        best = min(_CANDIDATES, key=cost)
        chosen.append(best)
        for size, others in zip(sizes, taken, strict=True):
            others.append(label.box(best, *size))
    return chosen


_CANDIDATES = [
    *(Place(12.0, 0.0, False), Place(-12.0, 0.0, True)),
    *(Place(-8.0, _STEP, False), Place(8.0, _STEP, True)),
    *(Place(-8.0, -_STEP, False), Place(8.0, -_STEP, True)),
    *(
        Place(side * away, up * step * _STEP, side < 0)
        for step in range(_STEPS)
        for up in (1, -1)
        for away in _AWAY
        for side in (1, -1)
    ),
]
"""All places that are tried; of those equally far the first is taken."""
