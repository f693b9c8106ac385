"""The networks of the study: six layers of five operations whose worth does not follow their cost.

Every operation mixes channels; they differ in how far they see, how much they can hold and what
they cost. The costliest but one, `wide`, sees a single pixel; `pool`, the cheapest, sees nine. So a
network cannot be ranked by its multiply-adds alone, and what a layer is worth depends on what the
others see.
"""

from __future__ import annotations

from torch import nn

import manyshot as ms
from manyshot.zoo.blocks import Chain, pooled_classifier

OPERATIONS = ("conv", "separable", "bottleneck", "pool", "wide")
WIDTHS = (8, 8, 16, 16, 24, 24)
HALVED = (2,)
"""The layers that halve the side of what they see; the stem has halved the image before."""


def _unit(into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2
    convolution = nn.Conv2d(into, out, kernel, stride, padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU()]


def layer(into: int, out: int, stride: int, name: str) -> ms.nn.Choice:
    """One of the five operations."""
    hidden = out // 4
    return ms.nn.Choice(
        {
            "conv": nn.Sequential(*_unit(into, out, 3, stride)),
            "separable": nn.Sequential(
                nn.Conv2d(into, into, 5, stride, 2, groups=into, bias=False),
                nn.BatchNorm2d(into),
                *_unit(into, out, 1),
            ),
            "bottleneck": nn.Sequential(
                *_unit(into, hidden, 1), *_unit(hidden, hidden, 3, stride), *_unit(hidden, out, 1)
            ),
            "pool": nn.Sequential(nn.MaxPool2d(3, stride, 1), *_unit(into, out, 1)),
            "wide": nn.Sequential(*_unit(into, 4 * out, 1, stride), *_unit(4 * out, out, 1)),
        },
        name,
    )


def network(classes: int = 10) -> Chain:
    """The network with all of its choices: 15,625 networks for images of one channel."""
    chain: list[nn.Module] = [nn.Sequential(*_unit(1, WIDTHS[0], 3, 2))]
    for i, (into, out) in enumerate(zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)):
        chain.append(layer(into, out, 2 if i in HALVED else 1, f"layer{i}"))
    return Chain([*chain, pooled_classifier(WIDTHS[-1], classes)])
