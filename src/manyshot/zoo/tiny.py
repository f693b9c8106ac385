"""A toy space for tests and ground truth on a laptop: 4 layers of 4 operations on 8x8 images.

It is ours. Every layer has weights, and no operation is an identity, so that no two of the 256
encodings are one network.
"""

from __future__ import annotations

from typing import final

from torch import nn

from manyshot.nn import Choice
from manyshot.plugins import Positive, checked
from manyshot.zoo.blocks import Chain, conv_bn, pooled_classifier


@final
class Tiny(Chain):
    """The network of `tiny`."""

    def __init__(self, width: int, channels: int, classes: int) -> None:
        """Makes the network that `tiny` describes."""
        chain: list[nn.Module] = [nn.Sequential(*conv_bn(channels, width, 3, relu=True))]
        widths = (width, width, 2 * width, 2 * width, 3 * width)
        for i, (into, out) in enumerate(zip(widths, widths[1:], strict=False)):
            layer = _layer(into, out, f"layer{i}")
            chain.append(nn.Sequential(layer, nn.MaxPool2d(2)) if i % 2 else layer)
        chain.append(pooled_classifier(widths[-1], classes))
        super().__init__(chain)


def _layer(into: int, out: int, name: str) -> Choice:
    separable = [
        *conv_bn(into, into, 3, groups=into, relu=False),
        *conv_bn(into, out, 1, relu=True),
    ]
    return Choice(
        {
            "project": nn.Sequential(*conv_bn(into, out, 1, relu=False)),
            "conv1": nn.Sequential(*conv_bn(into, out, 1, relu=True)),
            "sep3": nn.Sequential(*separable),
            "conv3": nn.Sequential(*conv_bn(into, out, 3, relu=True)),
        },
        name,
    )


@checked
def tiny(width: Positive = 8, channels: Positive = 1, classes: Positive = 10) -> Tiny:
    """The toy network, to be wrapped by `ms.Supernet`: 256 encodings, 256 networks.

    Args:
        width: channels of the stem; layers have 1, 2, 2 and 3 times as many.
        channels: channels of the images, which must be at least 4x4.
        classes: outputs of the classifier.
    """
    return Tiny(width, channels, classes)
