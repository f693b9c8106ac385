"""An architecture as a column of labelled blocks, one per decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manyshot.report.figures import COLOURS
from manyshot.run_folder import WinnerRecord
from manyshot.space import SearchSpace


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


@dataclass(frozen=True, slots=True)
class Picture:
    """Blocks from input to output: a colour for each option, wider for larger ones.

    Attributes:
        title: above it.
        winner: whose architecture it is.
        blocks: its decisions, in order.
    """

    title: str
    winner: WinnerRecord
    blocks: Sequence[PictureBlock]


def blocks(space: SearchSpace | None, winner: WinnerRecord) -> list[PictureBlock]:
    """The blocks of a winner: by its space, or if that is unknown by the names of its choices."""
    if space is None:
        options = list(dict.fromkeys(str(option) for option in winner.choices.values()))
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
