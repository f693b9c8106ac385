"""Blocks of mobile networks whose widths, kernels and expansions may be sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from manyshot import nn as msnn
from manyshot.space import Decision, Number, Size, choose, round_to

Width: TypeAlias = int | Size


def decide(options: Sequence[Number], name: str) -> Any:
    """A decision between `options`; if there is only one, which is no decision, the number itself.

    Raises:
        ValueError: for the reasons that `ms.choose` has.
    """
    return options[0] if len(options) == 1 else choose(options, name)


def elastic_conv_bn(
    into: Width,
    out: Width,
    kernel: Width,
    stride: int = 1,
    groups: Width = 1,
    *,
    activation: type[nn.Module] | None,
) -> list[nn.Module]:
    """A convolution without bias, batch norm, and an activation if there is one.

    Args:
        into: channels of the input.
        out: channels of the output.
        kernel: the side of the kernel; the padding is `kernel // 2`.
        stride: the stride.
        groups: the groups of channels.
        activation: makes the activation; None for none.
    """
    conv = msnn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = msnn.BatchNorm2d(out)
    return [conv, norm, *([activation()] if activation else [])]


class SqueezeExcite(nn.Module):
    """Gates channels by what all pixels have in common (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(
        self, width: Width, hidden: Width, activation: type[nn.Module], gate: type[nn.Module]
    ) -> None:
        """Makes a gate.

        Args:
            width: channels of the input.
            hidden: hidden channels.
            activation: the function after the first layer.
            gate: the function after the second layer.
        """
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            msnn.Conv2d(width, hidden, 1),
            activation(),
            msnn.Conv2d(hidden, width, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return x * self.gate(x)  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expands 1x1, convolves depthwise kxk, gates channels if asked, projects 1x1.

    This is MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) with the gate of MnasNet on the
    expanded channels. Batch norm follows each convolution, an activation the first two. What is
    added to the result, if anything, is the caller's.
    """

    def __init__(
        self,
        into: Width,
        out: Width,
        kernel: Width,
        stride: int,
        expansion: Width,
        *,
        squeeze: int = 0,
        shortcut: nn.Module | None = None,
        activation: type[nn.Module] = nn.SiLU,
        gate: type[nn.Module] = nn.Sigmoid,
        share: float = 0.0,
    ) -> None:
        """Makes an inverted residual.

        Args:
            into: channels of the input.
            out: channels of the output.
            kernel: the kernel of the depthwise convolution.
            stride: the stride of the depthwise convolution.
            expansion: `into * expansion` channels, rounded to a multiple of 8, are hidden; with the
                number 1 there is no first convolution, and `into` channels are.
            squeeze: the gate has a quarter of the hidden channels, rounded to a multiple of this;
                0 for no gate.
            shortcut: maps the input to what is added to the output; None to add nothing.
            activation: the activation after the first two convolutions and inside the gate.
            gate: the last function of the gate.
            share: how deep the block lies, for stochastic depth of what is added to the shortcut.
        """
        super().__init__()
        expands = isinstance(expansion, Size) or expansion != 1
        hidden = round_to(into * expansion, 8) if expands else into
        layers = elastic_conv_bn(into, hidden, 1, activation=activation) if expands else []
        layers += elastic_conv_bn(hidden, hidden, kernel, stride, hidden, activation=activation)
        if squeeze:
            quarter = round_to(hidden // 4, squeeze)
            layers.append(SqueezeExcite(hidden, quarter, activation, gate))
        layers += elastic_conv_bn(hidden, out, 1, activation=None)
        self.body = nn.Sequential(*layers)
        self.shortcut = shortcut
        self.drop = None if shortcut is None else msnn.DropPath(share)

    def forward(self, x: Tensor) -> Tensor:
        """(B, into, H, W) to (B, out, H / stride, W / stride)."""
        out: Tensor = self.body(x)
        if self.shortcut is None or self.drop is None:
            return out
        return self.drop(out) + self.shortcut(x)  # type: ignore[no-any-return]


class FitChannels(nn.Module):
    """Cuts the input, or fills it up with zeros, to a number of channels.

    It is the identity where it is chosen. Beside other options it keeps their shape, for masks and
    for the check that options agree.
    """

    def __init__(self, width: Width) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, width, H, W)."""
        missing = msnn.value(self.width) - x.shape[1]
        return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x


def pooled_shortcut(into: Width, out: Width, stride: int) -> nn.Module:
    """The shortcut of AttentiveNAS (arXiv:2011.09011).

    It is an average pool if there is a stride, and a 1x1 convolution, without bias and batch norm,
    in architectures whose widths differ. At odd sizes a last window of the pool is of what is
    there, which is ours.

    Args:
        into: channels of the input.
        out: channels of the output.
        stride: the stride of the block beside it.
    """
    pool = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
    convolution, same = msnn.Conv2d(into, out, 1, bias=False), FitChannels(out)

    def given(first: Number) -> nn.Module:
        return _by_value(out, lambda second: same if first == second else convolution)

    return nn.Sequential(*pool, _by_value(into, given))


def _by_value(width: Width, module_of: Callable[[Number], nn.Module]) -> nn.Module:
    """A choice by the value of `width`; the module itself if it is one for all values."""
    if not isinstance(width, Decision):
        assert isinstance(width, int)
        return module_of(width)
    modules = [module_of(value) for value in width.values]
    if all(module is modules[0] for module in modules):
        return modules[0]
    return msnn.Choice(dict(zip(map(str, width.values), modules, strict=True)), width)
