"""Plain convolutions for images of any size: stages of 3x3, batch norm and ReLU; it is ours.

It is what one would write by hand for a folder of images, with every width and depth left open.
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn

from manyshot import nn as msnn
from manyshot.plugins import Positive, checked
from manyshot.space import Size, choose
from manyshot.zoo.blocks import Chain

RATIOS = (0.25, 0.5, 0.75, 1.0)
"""Widths, as parts of the widest."""
_SIDE = 32
"""The first stage sees images of about so many pixels."""
_LAST = 8
"""Stages halve the image until its side is at most so long, at least twice."""


class _Layer(nn.Sequential):
    """A convolution of 3x3, batch norm and ReLU, of elastic widths."""

    def __init__(self, into: int | Size, out: int | Size, stride: int = 1) -> None:
        super().__init__(
            msnn.Conv2d(into, out, 3, stride, 1, bias=False),
            msnn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )


class _Residual(nn.Module):
    """Such a layer beside which its input goes on."""

    def __init__(self, width: int | Size, share: float) -> None:
        super().__init__()
        self.layer = _Layer(width, width)
        self.drop = msnn.DropPath(share)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        out: Tensor = self.layer(x)
        return x + self.drop(out)  # type: ignore[no-any-return]


@final
class ConvNet(Chain):
    """The network of `convnet`."""

    def __init__(self, width: int, depth: int, size: int, channels: int, classes: int) -> None:
        """Makes the network that `convnet` describes."""
        halvings = max(0, round(math.log2(max(size, 1) / _SIDE)))
        stages = 1 + max(2, math.ceil(math.log2(max(size, 1) / 2**halvings / _LAST)))
        widest = [width * (1 + i) for i in range(stages)]
        widths = [
            choose(tuple(dict.fromkeys(max(1, round(w * r)) for r in RATIOS)), f"width{i}")
            for i, w in enumerate(widest)
        ]
        chain: list[nn.Module] = []
        into: int | Size = channels
        for i, out in enumerate(widths):
            stem = [_Layer(into, out, 2 if i or halvings else 1)]
            if not i:
                stem += [_Layer(out, out, 2) for _ in range(halvings - 1)]
            depths = tuple(range(1, depth + 1))
            shares = [(i * depth + j + 1) / (stages * depth) for j in range(depth)]
            more = msnn.Depth([_Residual(out, s) for s in shares], depths, f"depth{i}")
            chain += [*stem, more]
            into = out
        head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), msnn.Linear(widths[-1], classes)
        )
        super().__init__([*chain, head])


@checked
def convnet(
    width: Positive = 24,
    depth: Positive = 2,
    image_size: Positive = 32,
    channels: Positive = 3,
    classes: Positive = 10,
) -> ConvNet:
    """Plain convolutions for images of any size, to be wrapped by `ms.Supernet`.

    The first stage sees images of about 32 pixels: larger ones are halved before. Further stages
    halve them to a side of 8 or less. Each stage begins with a layer and has one to `depth` more
    with residuals. Decided are the width of every stage, a quarter to all of its widest, and its
    depth.

    Args:
        width: channels of the first stage at its widest; the others have 2, 3, ... times as many.
        depth: the most residual layers in a stage.
        image_size: the side of the images, which decides how often they are halved.
        channels: channels of the images.
        classes: outputs of the classifier.
    """
    return ConvNet(width, depth, image_size, channels, classes)
