"""An architecture as a column of labelled blocks, one per decision."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from manyshot.report.figures import COLOURS
from manyshot.report.markup import Html, tag
from manyshot.run_folder import WinnerRecord
from manyshot.space import SearchSpace

_LABELS, _BLOCKS, _GAP = 130, 210, 10
"""Widths, in pixels unless there is less room: of names at most, of blocks, between."""
_CHARACTER = 7.6
"""About how wide a letter is."""
_MANY = 16
"""More blocks than this are drawn lower."""


@dataclass(frozen=True, slots=True)
class PictureBlock:
    """A decision in an architecture.

    Attributes:
        name: of the decision.
        option: that was chosen.
        colour: number of it in the palette.
        size: from 0, the smallest option of the decision, to 1, the largest.
        active: whether the decision matters.
    """

    name: str
    option: str
    colour: int
    size: float
    active: bool = True


def blocks(space: SearchSpace | None, winner: WinnerRecord) -> list[PictureBlock]:
    """The blocks of a winner: by its space, or if that is unknown by the names of its choices."""
    if space is None:
        options = list(dict.fromkeys(str(o) for o in winner.choices.values()))
        return [
            PictureBlock(str(name), str(option), options.index(str(option)) % COLOURS, 1.0)
            for name, option in winner.choices.items()
        ]
    arch = space.from_text(winner.arch)
    drawn = []
    for decision, option, active in zip(space.decisions, arch, space.active(arch), strict=True):
        order = sorted(set(space.ranks(decision)))
        rank = order.index(space.ranks(decision)[option])
        size = rank / (len(order) - 1) if len(order) > 1 else 1.0
        text = str(decision.options[option])
        drawn.append(PictureBlock(str(decision.name), text, option % COLOURS, size, active))
    return drawn


def picture(column: Sequence[PictureBlock], title: str) -> Html:
    """An SVG of blocks from input to output: colour by option, wider for larger ones.

    Args:
        column: the blocks, in order.
        title: what a screen reader says.
    """
    step, high = (36, 26) if len(column) <= _MANY else (27, 20)
    longest = max((len(block.name) for block in column), default=0)
    left = min(_LABELS, longest * _CHARACTER)
    width = left + _GAP + _BLOCKS + 2
    centre = left + _GAP + _BLOCKS / 2
    bottom = 34 + step * len(column)
    parts = [
        tag("title", title),
        tag("line", x1=centre, x2=centre, y1=20, y2=bottom + 8, class_="wire"),
        *_end("images", centre, 2),
    ]
    for i, block in enumerate(column):
        parts += _block(block, left, centre, 34 + step * i, high)
    parts += _end("classes", centre, bottom + 2)
    return tag(
        "svg",
        *parts,
        class_="picture",
        role="img",
        viewBox=f"0 0 {width:g} {bottom + 26}",
        style=f"max-width:{width:g}px",
    )


def _block(block: PictureBlock, left: float, centre: float, top: float, high: float) -> list[Html]:
    wide = _BLOCKS * (0.5 + 0.5 * block.size)
    colour = f"var(--c{block.colour})"
    style = f"fill:{colour};stroke:{colour}" if block.active else None
    shown = block.option if block.active else "not used"
    middle = top + high / 2 + 4.5
    words = "inactive, does not matter here" if not block.active else block.option
    left_edge, width = round(centre - wide / 2, 1), round(wide, 1)
    box = functools.partial(tag, "rect", x=left_edge, y=top, width=width, height=high, rx=6)
    name = cut(block.name, left + 1, keep_end=True)
    return [
        tag("text", name, x=round(left, 1), y=middle, text_anchor="end", class_="soft"),
        tag(
            "g",
            tag("title", f"{block.name}: {words}"),
            # an opaque ground, so that the wire does not shine through
            box(style="fill:var(--card)"),
            box(class_="block" if block.active else "hollow", style=style),
            tag(
                "text",
                cut(shown, wide),
                x=centre,
                y=middle,
                text_anchor="middle",
                class_=None if block.active else "soft",
            ),
        ),
    ]


def _end(text: str, centre: float, top: float) -> list[Html]:
    return [
        tag("rect", x=centre - 40, y=top, width=80, height=20, rx=10, class_="end"),
        tag("text", text, x=centre, y=top + 14.5, text_anchor="middle", class_="soft"),
    ]


def cut(text: str, wide: float, *, keep_end: bool = False) -> str:
    """`text` that fits: its beginning, or its end."""
    most = int(wide / _CHARACTER)
    if len(text) <= most:
        return text
    return f"…{text[len(text) - most + 1 :]}" if keep_end else f"{text[: most - 1]}…"
