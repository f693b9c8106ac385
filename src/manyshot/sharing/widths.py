"""The sizes by which layers are cut, for schemes that place channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import nn

from manyshot.nn.adapted import Adapted
from manyshot.nn.layer import Layer
from manyshot.nn.selection import Part, Selection
from manyshot.space import Decision, SearchSpace, Size


@final
class _Noting:
    """A placement that notes what it is asked for; channels are the first."""

    def __init__(self) -> None:
        self.rooms: dict[Size, int] = {}

    def part(self, size: Size, count: int, room: int) -> Part:
        """The first channels (see `Placement.part`)."""
        self.rooms[size] = room
        return slice(count)


def cut_sizes(model: nn.Module, space: SearchSpace) -> dict[Size, int]:
    """The sizes that layers of an adopted model are cut by, none a concatenation, and their rooms.

    Kernels are not among them, which are cut to their centre.
    """
    noting = _Noting()
    selection = Selection(space.decisions, space.smallest, placement=noting)
    for module in model.modules():
        if isinstance(module, Layer):
            for name, _ in module.shapes():
                module.part(name, selection)
        elif isinstance(module, Adapted):
            for name in module._shapes:
                module.part(name, selection)
    return {size: room for size, room in noting.rooms.items() if len(set(size.over_options())) > 1}


def to_place(scheme: str, model: nn.Module, space: SearchSpace) -> dict[Size, int]:
    """What `cut_sizes` finds, for a scheme that places channels.

    Raises:
        ValueError: if there is nothing to place.
    """
    sizes = cut_sizes(model, space)
    if not sizes:
        raise ValueError(
            f"{scheme} says which channels of elastic widths a path uses, and this network has no "
            "layer of elastic width: give one that has (ms.nn.Conv2d(width, ...) with width = "
            "ms.choose(...), the zoo's convnet, or a converted network), or use "
            "sharing.name = 'one_shot'"
        )
    return sizes


def decisions_of(sizes: Iterable[Size], space: SearchSpace) -> list[Decision]:
    """The decisions that sizes depend on, in the order of the space."""
    held = {decision for size in sizes for decision in size.decisions()}
    return [decision for decision in space.decisions if decision in held]
