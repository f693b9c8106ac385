"""Elastic mobile networks: BigNAS, AttentiveNAS, and one for small images.

The two spaces of the CNN experiments of ShiftNAS (Zhang et al., ICCV 2023, arXiv:2307.08300), which
prints no candidates. `bignas` (Yu et al. 2020, arXiv:2003.11142) has those of an unofficial
implementation (xfey/pytorch-BigNAS), with kernels decided per block, as ShiftNAS says.
`attentivenas` (Wang et al. 2021, arXiv:2011.09011) has those of its authors' public code, all per
stage; it reproduces the multiply-adds of their published A0 to A6. `tiny_cnn` is ours.

Convolutions have no bias, batch norm follows them, then Swish. An architecture uses the lower
channels and the centre of kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from manyshot import nn as msnn
from manyshot.plugins import Counts, Positive, checked
from manyshot.space import Decision, scope
from manyshot.zoo.blocks import Chain
from manyshot.zoo.mobilenet_blocks import (
    InvertedResidual,
    Width,
    decide,
    elastic_conv_bn,
    pooled_shortcut,
)


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """What the blocks of a stage may be.

    Attributes:
        widths: the numbers of channels that all its blocks may have.
        depths: the numbers of blocks, at least 1.
        kernels: the kernels that depthwise convolutions may have.
        expansions: the expansions that all its blocks may have.
        stride: the stride of its first block.
        squeeze: whether blocks have squeeze-and-excitation.
    """

    widths: Sequence[int]
    depths: Sequence[int]
    kernels: Sequence[int]
    expansions: Sequence[int]
    stride: int
    squeeze: bool


BIGNAS = (
    Stage((16, 24), (1, 2), (3,), (1,), 1, True),
    Stage((24, 32), (2, 3), (3,), (6,), 2, True),
    Stage((40, 48), (2, 3), (3, 5), (6,), 2, True),
    Stage((80, 88), (2, 3, 4), (3, 5), (6,), 2, True),
    Stage((112, 120, 128), (2, 3, 4, 5, 6), (3, 5), (6,), 1, True),
    Stage((192, 200, 208, 216), (2, 3, 4, 5, 6), (3, 5), (6,), 2, True),
    Stage((320, 352), (1, 2), (3, 5), (6,), 1, True),
)
ATTENTIVENAS = (
    Stage((16, 24), (1, 2), (3, 5), (1,), 1, False),
    Stage((24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2, False),
    Stage((32, 40), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, True),
    Stage((64, 72), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, False),
    Stage((112, 120, 128), (3, 4, 5, 6, 7, 8), (3, 5), (4, 5, 6), 1, True),
    Stage((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (3, 5), (6,), 2, True),
    Stage((216, 224), (1, 2), (3, 5), (6,), 1, True),
)
TINY = (
    Stage((8, 12), (1, 2), (3, 5), (2, 4), 1, False),
    Stage((16, 24), (1, 2, 3), (3, 5), (2, 4), 2, False),
    Stage((32, 40), (1, 2), (3, 5), (2, 4), 2, False),
)


@final
class MobileNet(Chain):
    """The network of `bignas`, `attentivenas` and `tiny_cnn`."""


@checked
def bignas(
    channels: Positive = 3,
    classes: Positive = 1000,
    resolutions: Counts = (192, 224, 288, 320),
) -> MobileNet:
    """The BigNAS space, to be wrapped by `ms.Supernet`: 38 decisions, 0.21 to 1.85 GMACs.

    Decisions are `resolution`, `first`, then per stage `mb1.width`, `mb1.depth` and, per block,
    `mb3.block0.kernel`, and `last`. Expansions are 6 (1 in `mb1`), and all blocks have
    squeeze-and-excitation. A stage's first block adds nothing to its result, the others add their
    input.

    Args:
        channels: channels of the images.
        classes: outputs of the classifier.
        resolutions: the sides to which images are resized.

    Raises:
        ValueError: if a number is below one.
    """
    chain, width = _body(channels, resolutions, (32, 40), 2, BIGNAS, attentive=False)
    return MobileNet([*chain, *_head(width, (1280, 1408), classes)])


@checked
def attentivenas(
    channels: Positive = 3,
    classes: Positive = 1000,
    resolutions: Counts = (192, 224, 256, 288),
) -> MobileNet:
    """The AttentiveNAS space, to be wrapped by `ms.Supernet`: 28 decisions, 0.20 to 1.94 GMACs.

    Decisions are `resolution`, `first`, then per stage `mb1.width`, `mb1.depth`, `mb1.kernel` and
    `mb2.expand`, and `last`. A stage's first block adds its input by an average pool and, in
    architectures where widths differ, a 1x1 convolution. The head widens sixfold, pools, and goes
    to `last` channels by a convolution without batch norm.

    Args:
        channels: channels of the images.
        classes: outputs of the classifier.
        resolutions: the sides to which images are resized.

    Raises:
        ValueError: if a number is below one.
    """
    chain, width = _body(channels, resolutions, (16, 24), 2, ATTENTIVENAS, attentive=True)
    last = decide((1792, 1984), "last")
    mix = [nn.AdaptiveAvgPool2d(1), msnn.Conv2d(6 * width, last, 1, bias=False), nn.SiLU()]
    return MobileNet(
        [
            *chain,
            nn.Sequential(*elastic_conv_bn(width, 6 * width, 1, activation=nn.SiLU)),
            nn.Sequential(*mix, nn.Flatten(), msnn.Linear(last, classes)),
        ]
    )


@checked
def tiny_cnn(
    channels: Positive = 3,
    classes: Positive = 10,
    resolutions: Counts = (24, 32),
    stem_stride: Positive = 2,
    last: Positive = 96,
) -> MobileNet:
    """A mobile network for small images, to be wrapped by `ms.Supernet`; it is ours.

    It is like `bignas`, with three stages, expansions decided per stage, and no
    squeeze-and-excitation.

    Args:
        channels: channels of the images.
        classes: outputs of the classifier.
        resolutions: the sides to which images are resized.
        stem_stride: the stride of the first convolution; two of the stages halve the resolution
            further.
        last: channels before the classifier.

    Raises:
        ValueError: if a number is below one.
    """
    chain, width = _body(channels, resolutions, (8, 12), stem_stride, TINY, attentive=False)
    return MobileNet([*chain, *_head(width, (last,), classes)])


def _body(
    channels: int,
    resolutions: Sequence[int],
    first: Sequence[int],
    stem_stride: int,
    stages: Sequence[Stage],
    *,
    attentive: bool,
) -> tuple[list[nn.Module], Width]:
    """The modules up to the last stage, and its width."""
    resolution = decide(resolutions, "resolution")
    width: Width = decide(first, "first")
    stem = elastic_conv_bn(channels, width, 3, stem_stride, activation=nn.SiLU)
    chain: list[nn.Module] = [nn.Sequential(msnn.Resize(resolution), *stem)]
    all_blocks, before = sum(max(stage.depths) for stage in stages), 0
    for number, stage in enumerate(stages, 1):
        shares = [(before + i) / max(1, all_blocks - 1) for i in range(max(stage.depths))]
        before += len(shares)
        with scope(f"mb{number}"):
            blocks, width = _stage(stage, width, shares, attentive=attentive)
        chain.append(blocks)
    return chain, width


def _stage(
    stage: Stage, into: Width, shares: Sequence[float], *, attentive: bool
) -> tuple[nn.Module, Width]:
    """The blocks of a stage, and its width.

    Args:
        stage: what they may be.
        into: channels of the input.
        shares: how deep each of them lies.
        attentive: whether all is decided per stage, and the first block has a shortcut too.
    """
    out, depth = decide(stage.widths, "width"), decide(stage.depths, "depth")
    kernel = decide(stage.kernels, "kernel") if attentive else None
    expansion = decide(stage.expansions, "expand")
    blocks: list[nn.Module] = []
    for i, share in enumerate(shares):
        stride = stage.stride if i == 0 else 1
        shortcut: nn.Module | None = nn.Identity()
        if i == 0:
            shortcut = pooled_shortcut(into, out, stride) if attentive else None
        blocks.append(
            InvertedResidual(
                into,
                out,
                decide(stage.kernels, f"block{i}.kernel") if kernel is None else kernel,
                stride,
                expansion,
                squeeze=8 if stage.squeeze else 0,
                shortcut=shortcut,
                share=share,
            )
        )
        into = out
    if isinstance(depth, Decision):
        return msnn.Depth(blocks, depth), out
    return nn.Sequential(*blocks), out


def _head(width: Width, lasts: Sequence[int], classes: int) -> list[nn.Module]:
    last = decide(lasts, "last")
    linear = msnn.Linear(last, classes)
    return [
        nn.Sequential(*elastic_conv_bn(width, last, 1, activation=nn.SiLU)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear),
    ]
