"""Input resolution as a decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.layer import Layer, Tie, largest, values_of
from manyshot.nn.selection import Selection, active
from manyshot.space import Number, Size

Mode = Literal["bilinear", "bicubic"]


def resized(x: Tensor, side: int, mode: Mode) -> Tensor:
    """Images interpolated to a square; they are returned as they are if they have that size.

    Args:
        x: (B, C, H, W).
        side: the side of the square, in pixels.
        mode: how to interpolate, `bilinear` or `bicubic`.
    """
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode=mode, antialias=True)


class PlainResize(nn.Module):
    """What `ms.nn.Resize` becomes in an extracted network."""

    def __init__(self, side: int, mode: Mode) -> None:
        super().__init__()
        self.side, self.mode = side, mode

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, side, side)."""
        return resized(x, self.side, self.mode)

    def extra_repr(self) -> str:
        """Side and mode, for people."""
        return f"{self.side}, mode={self.mode!r}"


@final
class Resize(Layer):
    """Interpolates images to a side that may be a size: the first layer of a network.

    With policies images are resized to the chosen side and multiplied by its one-hot entry: the
    other sides get no gradient of the task loss (ShiftNAS does not say how resolution is relaxed).
    """

    def __init__(self, side: int | Size, mode: Mode = "bicubic") -> None:
        """Makes a layer that interpolates with antialiasing, corners not aligned.

        Raises:
            ValueError: for another mode, or a side below 1.
        """
        super().__init__()
        largest(side)
        if min(values_of(side)) < 1:
            raise ValueError(f"Resize: side {side!r} must be at least 1 in every architecture")
        if mode not in ("bilinear", "bicubic"):
            raise ValueError(f"Resize: mode must be 'bilinear' or 'bicubic', got {mode!r}")
        self.side, self.mode = side, mode

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The side."""
        yield "side", self.side

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, side, side)."""
        if not isinstance(self.side, Size):
            return resized(x, self.side, self.mode)
        selection = active(self)
        x = resized(x, selection.count(self.side), self.mode)
        for decision in self.side.decisions():
            policy = selection.policy(decision)
            if policy is not None:
                x = x * policy[selection.option(decision)].to(x.dtype)
        return x

    def plain(self, selection: Selection, tie: Tie) -> PlainResize:
        """A module of a fixed side."""
        return PlainResize(selection.count(self.side), self.mode)

    def extra_repr(self) -> str:
        """Side and mode, for people."""
        return f"{self.side!r}, mode={self.mode!r}"
