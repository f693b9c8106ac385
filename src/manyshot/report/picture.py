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
        name: what the decision is called.
        option: the option that was chosen.
        colour: the number of that option in the palette.
        size: how large the option is, from 0, the smallest of the decision, to 1, the largest.
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
        title: the line above it.
        winner: the network whose architecture it is.
        blocks: the decisions of the architecture, in order.
        score: its score on test images.
    """

    title: str
    winner: WinnerRecord
    blocks: Sequence[PictureBlock]
    score: str


def blocks(space: SearchSpace | None, winner: WinnerRecord) -> list[PictureBlock]:
    """The blocks of a winner; without the space, those of its choices, all of one size."""
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
