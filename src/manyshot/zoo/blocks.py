"""Small blocks that several networks of the zoo are made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from manyshot import nn as msnn
from manyshot.space import Size, round_to


def conv_bn(
    into: int,
    out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    relu: bool,
    affine: bool = True,
) -> list[nn.Module]:
    """A convolution without bias, batch norm, and a ReLU if asked.

    A strided 1x1 convolution becomes one of stride 1 on every `stride`-th pixel: the same numbers,
    and safe in channels last on every CPU (see `manyshot.nn.pointwise`).

    Args:
        into: channels of the input.
        out: channels of the output.
        kernel: the side of the kernel; the padding is `kernel // 2`.
        stride: the stride.
        groups: the groups of channels.
        relu: whether a ReLU follows.
        affine: whether the batch norm scales and shifts.
    """
    every: list[nn.Module] = []
    if kernel == 1 and stride > 1:
        every, stride = [nn.AvgPool2d(1, stride)], 1
    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out, affine=affine)
    return [*every, conv, norm, *([nn.ReLU(inplace=True)] if relu else [])]


class MBConv(nn.Module):
    """The inverted residual of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381).

    It expands 1x1, convolves depthwise kxk and projects 1x1, each with batch norm, and a ReLU after
    the first two. There is a residual only when the stride is 1 and the widths are equal.
    """

    def __init__(
        self,
        into: int,
        out: int,
        kernel: int,
        stride: int,
        expansion: int | Size,
        share: float,
    ) -> None:
        """Makes a block, in which `into * expansion` channels are hidden, rounded by `ms.round_to`.

        Args:
            into: channels of the input.
            out: channels of the output.
            kernel: the kernel of the depthwise convolution.
            stride: the stride of the depthwise convolution.
            expansion: the factor of the hidden channels, which may be a size.
            share: how deep the block lies, for stochastic depth.
        """
        super().__init__()
        hidden = round_to(into * expansion, 1)
        self.body = nn.Sequential(
            msnn.Conv2d(into, hidden, 1, bias=False),
            msnn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            msnn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            msnn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            msnn.Conv2d(hidden, out, 1, bias=False),
            msnn.BatchNorm2d(out),
        )
        is_residual = stride == 1 and into == out
        self.drop = msnn.DropPath(share) if is_residual else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        out: Tensor = self.body(x)
        return out if self.drop is None else x + self.drop(out)


class Chain(nn.Module):
    """A network that is a chain of modules, from the images to the logits."""

    def __init__(self, chain: Sequence[nn.Module]) -> None:
        super().__init__()
        self.chain = nn.ModuleList(chain)

    def stages(self) -> list[nn.Module]:
        """The modules that `forward` runs one after the other."""
        return list(self.chain)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to logits (B, classes)."""
        for stage in self.chain:
            x = stage(x)
        return x


def pooled_classifier(width: int, classes: int) -> nn.Sequential:
    """A global average pool and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
