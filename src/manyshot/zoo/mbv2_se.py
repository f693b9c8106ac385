"""Inverted residuals with and without squeeze-and-excitation: 21 layers of 13 operations.

The mobile space of GreedyNAS, MCT-NAS (Su et al. 2021) and K-shot NAS (Su et al. 2021,
arXiv:2106.06442): 13^21 encodings, 44.0 M parameters in operations and 1.69 M elsewhere. Operations
are {expansion 3, 6} x {kernel 3, 5, 7} x {without, with squeeze-and-excitation}, and the identity,
which in the first layer of a stage is a 1x1 convolution with batch norm. The gate has a quarter of
the expanded channels and a hard sigmoid; blocks have hard swish.

Ours: hard swish in the stem and the head too; widths, repeats and strides are arguments, so that
small images work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import nn

from manyshot.nn import Choice
from manyshot.plugins import Counts, Positive, checked
from manyshot.space import Commutation
from manyshot.zoo.blocks import Chain, conv_bn, pooled_classifier
from manyshot.zoo.mobilenet_blocks import InvertedResidual, elastic_conv_bn


@final
class MobileNetSE(Chain):
    """The network of `mbv2_se`."""

    def __init__(self, chain: Sequence[nn.Module], moving: Sequence[Sequence[Choice]]) -> None:
        """Makes the network of a chain; identities of the `moving` layers of a stage commute."""
        super().__init__(chain)
        self._moving = moving

    def commutations(self) -> list[Commutation]:
        """Identities inside a stage, but for its first layer, commute."""
        stages = [[c.decision for c in s if isinstance(c, Choice)] for s in self._moving]
        return [Commutation(tuple(decisions), 12) for decisions in stages if decisions]


@checked
def mbv2_se(
    channels: Positive = 3,
    classes: Positive = 1000,
    widths: Counts = (32, 40, 80, 96, 192, 320),
    repeats: Counts = (4, 4, 4, 4, 4, 1),
    strides: Counts = (2, 2, 2, 1, 2, 1),
    stem_stride: Positive = 2,
) -> MobileNetSE:
    """The 13-operation space, to be wrapped by `ms.Supernet`.

    Decisions are `layer0`, `layer1`, ..., each of `mb3_k3`, `mb3_k3_se`, `mb3_k5`, ...,
    `mb6_k7_se`, `identity`.

    Args:
        channels: channels of the images.
        classes: outputs of the classifier.
        widths: channels of each stage; the stem has 32, a first fixed block 16, the head 1280.
        repeats: layers of each stage.
        strides: the stride of the first layer of each stage.
        stem_stride: the stride of the first convolution.

    Raises:
        ValueError: if lengths differ or a number is below one.
    """
    if not len(widths) == len(repeats) == len(strides):
        raise ValueError(
            f"mbv2_se: widths {widths}, repeats {repeats} and strides {strides} must have one "
            "entry per stage each"
        )
    stem = elastic_conv_bn(channels, 32, 3, stem_stride, activation=nn.Hardswish)
    first = InvertedResidual(32, 16, 3, 1, 1, activation=nn.Hardswish)
    chain: list[nn.Module] = [nn.Sequential(*stem, first)]
    moving: list[list[Choice]] = []
    into, number = 16, 0
    for out, count, stride in zip(widths, repeats, strides, strict=True):
        layers: list[Choice] = []
        for i in range(count):
            share = number / max(1, sum(repeats) - 1)
            layers.append(_layer(into, out, stride if i == 0 else 1, f"layer{number}", share))
            into, number = out, number + 1
        chain += layers
        moving.append(layers[1:])
    head = elastic_conv_bn(into, 1280, 1, activation=nn.Hardswish)
    chain += [nn.Sequential(*head), pooled_classifier(1280, classes)]
    return MobileNetSE(chain, moving)


def _layer(into: int, out: int, stride: int, name: str, share: float) -> Choice:
    fits = stride == 1 and into == out
    options: dict[str, nn.Module] = {
        f"mb{expansion}_k{kernel}{'_se' if squeeze else ''}": InvertedResidual(
            into,
            out,
            kernel,
            stride,
            expansion,
            squeeze=squeeze,
            shortcut=nn.Identity() if fits else None,
            activation=nn.Hardswish,
            gate=nn.Hardsigmoid,
            share=share,
        )
        for expansion in (3, 6)
        for kernel in (3, 5, 7)
        for squeeze in (0, 1)
    }
    project = [] if fits else conv_bn(into, out, 1, stride, relu=False)
    return Choice({**options, "identity": nn.Sequential(*project)}, name)
