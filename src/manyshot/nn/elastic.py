"""Elastic layers: slices of the largest weight, as in once-for-all (Cai et al. 2020).

Lower-index channels come first; kernels are centre crops. Unlike once-for-all there is no learnt
transformation between kernel sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.layer import (
    Channels,
    Layer,
    Shape,
    Tie,
    channels,
    elastic,
    largest,
    leading,
    mask_dimension,
    values_of,
)
from manyshot.nn.pointwise import conv2d
from manyshot.nn.selection import Index, Selection, active
from manyshot.space import Concat, Number, Size


@final
class Conv2d(Layer):
    """2-D convolution whose channels, kernel and groups may be sizes.

    The weight is stored at its largest, (out, in / groups, k, k); an architecture uses the first
    channels and the centre of the kernel. Give an elastic kernel its padding as a size
    (`padding=kernel // 2`). With elastic channels and a *fixed* number of groups, each group of the
    smaller convolution takes the leading rows, as the extracted layer does; `groups=width` is
    depthwise, and `groups=width // 8` keeps groups of 8 channels. Of concatenated channels
    (`ms.concat`) the first of every part are used, and groups are those of the parts:
    `groups=channels` is depthwise.
    """

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels,
        kernel_size: int | Size | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | Size | tuple[int, int] | Literal["same", "valid"] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: Channels = 1,
        bias: bool = True,
    ) -> None:
        """Makes a convolution; channels, kernel, padding and groups may be sizes.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: the side of the kernel, or a pair of sides; all its options are odd, or all
                even.
            stride: see `torch.nn.Conv2d`.
            padding: see `torch.nn.Conv2d`; give an elastic kernel `kernel // 2`.
            dilation: see `torch.nn.Conv2d`.
            groups: see `torch.nn.Conv2d`.
            bias: whether there is one.

        Raises:
            ValueError: for kernels of mixed parity, channels that groups do not divide, a sum of
                sizes as channels (see `ms.concat`), or groups across concatenated channels.
        """
        super().__init__()
        self.in_channels: int | Size = channels(in_channels, "Conv2d: in_channels")
        self.out_channels: int | Size = channels(out_channels, "Conv2d: out_channels")
        self.groups: int | Size = channels(groups, "Conv2d: groups")
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding = padding
        self._elastic_kernel = isinstance(kernel_size, Size)
        if isinstance(kernel_size, Size) and len({k % 2 for k in kernel_size.over_options()}) > 1:
            raise ValueError(
                f"kernel {kernel_size!r} mixes odd and even sizes, which have no common centre"
            )
        self._per_group = _per_group("in_channels", self.in_channels, self.groups)
        self._out_per_group = _per_group("out_channels", self.out_channels, self.groups)
        kernel = (largest(kernel_size),) * 2 if not isinstance(kernel_size, tuple) else kernel_size
        self._elastic = elastic(*(size for _, size in self.sizes()))
        self._stored = (largest(self.out_channels), largest(self._per_group), *kernel)
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.bias = nn.Parameter(torch.empty(self._stored[0])) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as `torch.nn.Conv2d` does, with the fan of the largest weight."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """Channels, groups, and those of kernel and padding that are single numbers."""
        yield "in_channels", self.in_channels
        yield "out_channels", self.out_channels
        yield "groups", self.groups
        for name, size in (("kernel_size", self.kernel_size), ("padding", self.padding)):
            if isinstance(size, int | Size):
                yield name, size

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Weight and bias."""
        kernel: Shape = (
            self.kernel_size
            if isinstance(self.kernel_size, tuple)
            else (self.kernel_size, self.kernel_size)
        )
        yield "weight", (self.out_channels, self._per_group, *kernel)
        if self.has("bias"):
            yield "bias", (self.out_channels,)

    def part(self, name: str, selection: Selection) -> Index:
        """The first channels and the centre of the kernel."""
        if name == "bias":
            return leading(selection, self._stored, self.out_channels)
        index = leading(selection, self._stored, self.out_channels, self._per_group)
        if self._elastic_kernel:
            kernel = selection.extent(self.kernel_size)  # type: ignore[arg-type]
            start = (self._stored[-1] - kernel) // 2
            middle = slice(start, start + kernel) if start else slice(None)
            index = (*index, middle, middle)
        return index

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in, H, W) to (B, out, H', W')."""
        stride, dilation = self.stride, self.dilation
        padding: Any = self.padding
        groups: Any = self.groups
        if not self._elastic:
            return conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        selection = active(self)
        weight = self.cut("weight", selection)
        assert weight is not None
        if selection.policies is not None:
            weight = self._masked(weight, selection)
        return conv2d(
            x,
            weight,
            self.cut("bias", selection),
            stride,
            selection.extent(padding) if isinstance(padding, Size) else padding,
            dilation,
            selection.extent(groups),
        )

    def _masked(self, weight: Tensor, selection: Selection) -> Tensor:
        """The weight without the input channels and kernel positions that are not active."""
        self._check_maskable(selection)
        if not isinstance(self.groups, Size) and self.groups == 1:
            weight = mask_dimension(weight, 1, selection.mask(self.in_channels))
        if self._elastic_kernel:
            centre = selection.centre_mask(self.kernel_size)  # type: ignore[arg-type]
            weight = weight if centre is None else weight * centre.to(weight.dtype)
        return weight

    def _check_maskable(self, selection: Selection) -> None:
        """Refuses what full masks cannot express."""
        where = f"Conv2d {self.path!r}"
        if not isinstance(self.groups, int) or self.groups > 1:
            groups = selection.extent(self.groups)
            for channels, per_group in (
                (self.in_channels, self._per_group),
                (self.out_channels, self._out_per_group),
            ):
                each, all_groups = selection.extent(per_group), selection.extent(channels)
                if each != selection.count(per_group) or each * groups != all_groups:
                    raise ValueError(
                        f"{where}: with {self.groups!r} groups its channels per group are elastic, "
                        "so each width groups other channels, which masks cannot express: keep "
                        "channels per group fixed (groups=width // 8), or give masks='active'"
                    )
        if self._elastic_kernel:
            kernel: Any = self.kernel_size
            dilation = self.dilation if isinstance(self.dilation, tuple) else (self.dilation,) * 2
            more = selection.extent(kernel) - selection.count(kernel)
            padding = self.padding if isinstance(self.padding, int | Size) else None
            wider = (
                selection.extent(padding) - selection.count(padding) if padding is not None else 0
            )
            if self.padding != "same" and any(2 * wider != d * more for d in dilation):
                raise ValueError(
                    f"{where}: masking its elastic kernel {kernel!r} needs a padding that grows "
                    f"with it, got {self.padding!r}: give padding=kernel // 2 (times the "
                    "dilation), or masks='active'"
                )

    def plain(self, selection: Selection, tie: Tie) -> nn.Conv2d:
        """The convolution as a `torch.nn.Conv2d`."""
        size = selection.count
        conv = nn.Conv2d(
            size(self.in_channels),
            size(self.out_channels),
            self.kernel_size if isinstance(self.kernel_size, tuple) else size(self.kernel_size),
            self.stride,
            size(self.padding) if isinstance(self.padding, Size) else self.padding,
            self.dilation,
            size(self.groups),
            bias=self.has("bias"),
            device="meta",
        )
        conv.weight = tie("weight")
        if self.has("bias"):
            conv.bias = tie("bias")
        return conv

    def extra_repr(self) -> str:
        """The sizes, for people."""
        return (
            f"{self.in_channels!r}, {self.out_channels!r}, kernel_size={self.kernel_size!r}, "
            f"stride={self.stride}, padding={self.padding!r}, groups={self.groups!r}"
        )


def _per_group(name: str, channels: int | Size, groups: int | Size) -> int | Size:
    """The channels of one group; of concatenated channels, the number that all groups have.

    Raises:
        ValueError: if groups do not divide the channels, or would reach across a concatenation.
    """
    if isinstance(groups, int) and groups == 1:
        return channels
    if largest(groups) < 1 or min(values_of(groups)) < 1:
        raise ValueError(f"Conv2d: groups {groups!r} must be at least 1 in every architecture")
    if isinstance(channels, Concat) or isinstance(groups, Concat):
        counts = set(_counts_per_group(channels, groups))
        if len(counts) != 1 or None in counts:
            raise ValueError(
                f"Conv2d: groups {groups!r} of {name} {channels!r} would reach across concatenated "
                "channels, and meet others in every width: give groups the same parts, as "
                "groups=ms.concat(a, b) for depthwise on ms.concat(a, b), or "
                "ms.concat(a // 8, b // 8), with as many channels per group in all of them"
            )
        return int(counts.pop())  # type: ignore[arg-type]
    if any(values_of(channels - channels // groups * groups)):
        raise ValueError(
            f"Conv2d: {name} {channels!r} are not divided by groups {groups!r} in every "
            "architecture; round the channels to a multiple by ms.round_to(size, multiple)"
        )
    return channels // groups


def _counts_per_group(channels: int | Size, groups: int | Size) -> Iterator[Number | None]:
    """The channels per group of every part in every architecture; None where there is no number."""
    if not (isinstance(channels, Concat) and isinstance(groups, Concat)) or (
        len(channels.operands) != len(groups.operands)
    ):
        yield None
        return
    for part, each in zip(channels.operands, groups.operands, strict=True):
        if isinstance(part, Size) or isinstance(each, Size):
            rest = values_of(part - part // each * each)
            yield from values_of(part // each) if not any(rest) else [None]
        else:
            yield part // each if part % each == 0 else None


@final
class Linear(Layer):
    """A linear layer whose features may be sizes; the first rows and columns are used."""

    def __init__(self, in_features: Channels, out_features: Channels, bias: bool = True) -> None:
        """Makes a linear layer.

        Args:
            in_features: features of the input, which may be a size.
            out_features: features of the output, which may be a size.
            bias: whether there is one.

        Raises:
            ValueError: for a sum of sizes as features (see `ms.concat`).
        """
        super().__init__()
        self.in_features: int | Size = channels(in_features, "Linear: in_features")
        self.out_features: int | Size = channels(out_features, "Linear: out_features")
        self._elastic = elastic(self.in_features, self.out_features)
        self._stored = (largest(self.out_features), largest(self.in_features))
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.bias = nn.Parameter(torch.empty(self._stored[0])) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as `torch.nn.Linear` does, with the fan of the largest weight."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = self.weight.shape[1] ** -0.5 if self.weight.shape[1] else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """Features in and out."""
        yield "in_features", self.in_features
        yield "out_features", self.out_features

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Weight and bias."""
        yield "weight", (self.out_features, self.in_features)
        if self.has("bias"):
            yield "bias", (self.out_features,)

    def part(self, name: str, selection: Selection) -> Index:
        """The first rows and columns."""
        sizes = (self.out_features, self.in_features)[: 1 if name == "bias" else 2]
        return leading(selection, self._stored, *sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        if not self._elastic:
            return F.linear(x, self.weight, self.bias)
        selection = active(self)
        weight = self.cut("weight", selection)
        assert weight is not None
        weight = mask_dimension(weight, 1, selection.mask(self.in_features))
        return F.linear(x, weight, self.cut("bias", selection))

    def plain(self, selection: Selection, tie: Tie) -> nn.Linear:
        """The layer as a `torch.nn.Linear`."""
        linear = nn.Linear(
            selection.count(self.in_features),
            selection.count(self.out_features),
            bias=self.has("bias"),
            device="meta",
        )
        linear.weight = tie("weight")
        if self.has("bias"):
            linear.bias = tie("bias")
        return linear

    def extra_repr(self) -> str:
        """The sizes, for people."""
        return f"{self.in_features!r}, {self.out_features!r}, bias={self.has('bias')}"


class PlainParameter(nn.Module):
    """What `ms.nn.Parameter` becomes in an extracted network: `forward()` returns the tensor."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """The tensor."""
        return self.weight


@final
class Parameter(Layer):
    """A free elastic tensor (positions, scales): call it to get the active slice.

    `self.position = ms.nn.Parameter((1, 64, width))`, then `x + self.position()` in a `forward`.
    """

    def __init__(
        self,
        shape: Sequence[Channels],
        init: Callable[[Tensor], object] = nn.init.zeros_,
    ) -> None:
        """Makes a tensor of the largest `shape`, filled in place by `init` (default zeros).

        Raises:
            ValueError: for a sum of sizes in the shape (see `ms.concat`).
        """
        super().__init__()
        self.shape: tuple[int | Size, ...] = tuple(
            channels(size, f"Parameter: shape[{i}]") for i, size in enumerate(shape)
        )
        self._elastic = elastic(*self.shape)
        self._init = init
        self._stored = tuple(map(largest, self.shape))
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fills the tensor by `init`."""
        with torch.no_grad():
            self._init(self.weight)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The sizes of the shape, by dimension."""
        for i, size in enumerate(self.shape):
            yield f"shape_{i}", size

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """The tensor, which is its only parameter."""
        yield "weight", self.shape

    def part(self, name: str, selection: Selection) -> Index:
        """The leading entries of every dimension."""
        return leading(selection, self._stored, *self.shape)

    def forward(self) -> Tensor:
        """The active slice, of the active shape."""
        if not self._elastic:
            return self.weight
        active_slice = self.cut("weight", active(self))
        assert active_slice is not None
        return active_slice

    def plain(self, selection: Selection, tie: Tie) -> PlainParameter:
        """A small module whose `forward()` returns the tensor."""
        return PlainParameter(tie("weight"))

    def extra_repr(self) -> str:
        """The shape, for people."""
        return ", ".join(map(repr, self.shape))
