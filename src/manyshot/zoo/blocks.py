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
    """Convolution without bias (padding `kernel // 2`), batch norm, and a ReLU if asked.

    A strided 1x1 convolution is one of stride 1 on every `stride`-th pixel: the same numbers, and
    safe in channels last on every CPU (see `manyshot.nn.pointwise`).
    """
    every: list[nn.Module] = []
    if kernel == 1 and stride > 1:
        every, stride = [nn.AvgPool2d(1, stride)], 1
    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out, affine=affine)
    return [*every, conv, norm, *([nn.ReLU(inplace=True)] if relu else [])]


class MBConv(nn.Module):
    """Inverted residual of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381).

    Expand 1x1, depthwise kxk, project 1x1, each with batch norm, ReLU after the first two; a
    residual only when the stride is 1 and the widths are equal.
    """

    def __init__(
        self, into: int, out: int, kernel: int, stride: int, expansion: int | Size
    ) -> None:
        """Widths in and out, depthwise kernel, stride, and the (elastic) expansion factor.

        `into * expansion` channels are hidden, rounded by `ms.round_to`.
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
        self.residual = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        out: Tensor = self.body(x)
        return x + out if self.residual else out


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
    """Global average pool and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
