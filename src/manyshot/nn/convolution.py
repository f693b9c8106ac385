"""Elastic convolutions in one, two and three dimensions, and transposed ones.

They are slices of the largest weight, as in once-for-all (Cai et al. 2020): lower-index channels
come first; kernels are centre crops. Unlike once-for-all there is no learnt transformation between
kernel sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.groups import check_groups_maskable, per_group
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
    to_be_given,
)
from manyshot.nn.pointwise import conv2d
from manyshot.nn.selection import Index, Selection, active, current
from manyshot.space import Number, Size

Whole: TypeAlias = int | tuple[int, ...]
"""A whole number, or one for each dimension."""
Sides: TypeAlias = int | Size | tuple[int | Size, ...]
"""A number that may be a size, or one for each dimension."""
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
_MODES = ("zeros", "reflect", "replicate", "circular")


class _Kernel(Layer):
    """What all convolutions share: elastic channels, kernel, padding and groups."""

    dimensions: ClassVar[int]
    _plain: ClassVar[Callable[..., Any]]
    _function: ClassVar[Callable[..., Tensor]]
    _input: ClassVar[int]
    """Which dimension of the weight the input channels are."""

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels,
        kernel_size: Sides,
        stride: Whole,
        padding: Sides | str,
        dilation: Whole,
        groups: Channels,
        bias: bool,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.in_channels: int | Size = channels(in_channels, f"{kind}: in_channels")
        self.out_channels: int | Size = channels(out_channels, f"{kind}: out_channels")
        self.groups: int | Size = channels(groups, f"{kind}: groups")
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding: Any = padding
        for name in ("kernel_size", "stride", "padding", "dilation"):
            self._each(name)  # whether there is one for each dimension
        self._elastic_padding = elastic(*self._each("padding"))
        self._centres = self._elastic_sides()
        into = per_group(f"{kind}: in_channels", self.in_channels, self.groups)
        out = per_group(f"{kind}: out_channels", self.out_channels, self.groups)
        self._grouped = ((self.in_channels, into), (self.out_channels, out))
        self._channels = (self.out_channels, into) if self._input else (self.in_channels, out)
        self._elastic = elastic(*(size for _, size in self.sizes()))
        self._stored = tuple(map(largest, (*self._channels, *self._each("kernel_size"))))
        self.weight = nn.Parameter(torch.empty(self._stored))
        self._outputs = (largest(self.out_channels),)
        self.bias = nn.Parameter(torch.empty(self._outputs)) if bias else None
        self.reset_parameters()

    def _each(self, name: str) -> tuple[Any, ...]:
        """An attribute that is one number, or one for each dimension, for each dimension."""
        value = getattr(self, name)
        if not isinstance(value, tuple):
            return (value,) * self.dimensions
        if len(value) != self.dimensions:
            raise ValueError(
                f"{type(self).__name__}: {name} {value!r} must be one number, or a tuple of "
                f"{self.dimensions}"
            )
        return value

    def _elastic_sides(self) -> list[tuple[Size, list[int]]]:
        """The sizes among the sides of the kernel, each with the dimensions that it is the side of.

        Raises:
            ValueError: if one mixes odd and even sides.
        """
        sides: dict[Size, list[int]] = {}
        for dimension, side in enumerate(self._each("kernel_size")):
            if isinstance(side, Size):
                sides.setdefault(side, []).append(dimension)
                if len({k % 2 for k in side.over_options()}) > 1:
                    raise ValueError(
                        f"kernel {side!r} mixes odd and even sizes, which have no common centre"
                    )
        return list(sides.items())

    def reset_parameters(self) -> None:
        """Initialises as the `torch.nn` namesake does, with the fan of the largest weight."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """Channels and groups, then kernel and padding, of which there may be several."""
        yield "in_channels", self.in_channels
        yield "out_channels", self.out_channels
        yield "groups", self.groups
        for name, value in (("kernel_size", self.kernel_size), ("padding", self.padding)):
            if isinstance(value, int | Size):
                yield name, value
            elif isinstance(value, tuple):
                for i, size in enumerate(value):
                    yield f"{name}_{i}", size

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Weight and bias."""
        yield "weight", (*self._channels, *self._each("kernel_size"))
        if self.has("bias"):
            yield "bias", (self.out_channels,)

    def part(self, name: str, selection: Selection) -> Index:
        """The first channels and the centre of the kernel."""
        if name == "bias":
            return leading(selection, self._outputs, self.out_channels)
        index = leading(selection, self._stored, *self._channels)
        if not self._centres:
            return index
        kernel = [slice(None)] * self.dimensions
        for side, dimensions in self._centres:
            extent = selection.extent(side)
            start = (self._stored[2 + dimensions[0]] - extent) // 2
            if start:
                for dimension in dimensions:
                    kernel[dimension] = slice(start, start + extent)
        return (*index, *kernel)

    def numbers(self, selection: Selection) -> tuple[Any, int]:
        """Padding and groups."""
        padding = self.padding
        if self._elastic_padding:
            padding = _numbers(padding, selection.extent)
        return padding, selection.extent(self.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in, ...) to (B, out, ...), with as many dimensions more as the layer has."""
        if not self._elastic:
            return self._run(x, self.weight, self.bias, self.padding, self.groups)
        selection = current() or active(self)
        used = self.used(selection)
        weight, bias = self.tensors(used, selection)
        assert weight is not None
        if selection.policies is not None:
            weight = self._masked(weight, selection)
        padding, groups = used.numbers
        return self._run(x, weight, bias, padding, groups)

    def _run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, groups: Any
    ) -> Tensor:
        raise NotImplementedError

    def _masked(self, weight: Tensor, selection: Selection) -> Tensor:
        """The weight without the input channels and kernel positions that are not active."""
        self._check_maskable(selection)
        if not isinstance(self.groups, Size) and self.groups == 1:
            weight = mask_dimension(weight, self._input, selection.mixing(self.in_channels))
        for side, dimensions in self._centres:
            mask = selection.centre_mask(side, len(dimensions))
            if mask is not None:
                shape = [len(mask) if i in dimensions else 1 for i in range(self.dimensions)]
                weight = weight * mask.to(weight.dtype).view(shape)
        return weight

    def _check_maskable(self, selection: Selection) -> None:
        """Refuses what full masks cannot express."""
        where = f"{type(self).__name__} {self.path!r}"
        if not isinstance(self.groups, int) or self.groups > 1:
            check_groups_maskable(where, self.groups, self._grouped, selection)
        kernel: Any = self.kernel_size
        decisions = [decision for side, _ in self._centres for decision in side.decisions()]
        if len(decisions) > len(set(decisions)):
            raise ValueError(
                f"{where}: masking needs sides of the kernel {kernel!r} that are one size or "
                "depend on different decisions: give the same size twice, or train by option "
                "indices"
            )
        if self._centres and self.padding != "same":
            paddings = self._each("padding") if self.padding != "valid" else (0,) * self.dimensions
            sides = zip(self._each("kernel_size"), paddings, self._each("dilation"), strict=True)
            for side, padding, dilation in sides:
                more = selection.extent(side) - selection.count(side)
                wider = selection.extent(padding) - selection.count(padding)
                if 2 * wider != dilation * more:
                    raise ValueError(
                        f"{where}: masking its elastic kernel {kernel!r} needs a padding that "
                        f"grows with it, got {self.padding!r}: give padding=kernel // 2 (times "
                        "the dilation), or masks='active'"
                    )

    def _more(self) -> dict[str, Any]:
        """What else the `torch.nn` namesake is made with."""
        raise NotImplementedError

    def plain(self, selection: Selection, tie: Tie) -> nn.Module:
        """The convolution as its `torch.nn` namesake."""
        size = selection.count
        conv = to_be_given(
            self._plain,
            size(self.in_channels),
            size(self.out_channels),
            _numbers(self.kernel_size, size),
            self.stride,
            _numbers(self.padding, size),
            dilation=self.dilation,
            groups=size(self.groups),
            bias=self.has("bias"),
            **self._more(),
        )
        conv.weight = tie("weight")
        if self.has("bias"):
            conv.bias = tie("bias")
        return conv  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The sizes, for people."""
        usual = {"dilation": 1, "padding_mode": "zeros", "output_padding": 0}
        rest = {"dilation": self.dilation, **self._more()}
        more = "".join(f", {name}={v!r}" for name, v in rest.items() if v != usual[name])
        return (
            f"{self.in_channels!r}, {self.out_channels!r}, kernel_size={self.kernel_size!r}, "
            f"stride={self.stride}, padding={self.padding!r}, groups={self.groups!r}{more}"
        )


def _numbers(value: Any, number: Callable[[Number | Size], int]) -> Any:
    """A value whose sizes are numbers, whether it is one or a tuple of them."""
    if isinstance(value, tuple):
        return tuple(number(size) for size in value)
    return number(value) if isinstance(value, Size) else value


class Convolution(_Kernel):
    """A convolution whose channels, kernel and groups may be sizes.

    The weight is stored at its largest, (out, in / groups, ...) with the sides of the kernel; an
    architecture uses the first channels and the centre of the kernel. Give an elastic kernel its
    padding as a size (`padding=kernel // 2`). With elastic channels and a *fixed* number of groups,
    each group of the smaller convolution takes the leading rows, as the extracted layer does;
    `groups=width` is depthwise, and `groups=width // 8` keeps groups of 8 channels. Of concatenated
    channels (`ms.concat`) the first of every part are used, and groups are those of the parts:
    `groups=channels` is depthwise.
    """

    _input = 1

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels,
        kernel_size: Sides,
        stride: Whole = 1,
        padding: Sides | Literal["same", "valid"] = 0,
        dilation: Whole = 1,
        groups: Channels = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        """Makes a convolution; channels, kernel, padding and groups may be sizes.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: the side of the kernel, or a tuple of a side for each dimension; all
                options of a side are odd, or all even.
            stride: see the `torch.nn` namesake.
            padding: see the `torch.nn` namesake; give an elastic kernel `kernel // 2`.
            dilation: see the `torch.nn` namesake.
            groups: see the `torch.nn` namesake.
            bias: whether there is one.
            padding_mode: what is around the input: `zeros`, `reflect`, `replicate` or `circular`.

        Raises:
            ValueError: for kernels of mixed parity, channels that groups do not divide, a sum of
                sizes as channels (see `ms.concat`), groups across concatenated channels, a tuple
                of another length than the dimensions, or a padding of another name.
        """
        kind = type(self).__name__
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{kind}: padding must be 'same', 'valid' or sizes, got {padding!r}")
        if padding_mode not in _MODES:
            raise ValueError(
                f"{kind}: padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}"
            )
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.padding_mode = padding_mode

    def _run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, groups: Any
    ) -> Tensor:
        if self.padding_mode != "zeros":
            around = self._around(weight.shape[2:], padding)
            x, padding = F.pad(x, around, self.padding_mode), 0
        return self._function(x, weight, bias, self.stride, padding, self.dilation, groups)

    def _around(self, kernel: torch.Size, padding: Any) -> list[int]:
        """What `F.pad` takes: how much is put before and after, from the last dimension on."""
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(self._each("dilation"), kernel, strict=True)]
            pairs = [(total // 2, total - total // 2) for total in totals]
        else:
            each = padding if isinstance(padding, tuple) else (padding,) * self.dimensions
            pairs = [(0, 0) if padding == "valid" else (side, side) for side in each]
        return [side for pair in reversed(pairs) for side in pair]

    def _more(self) -> dict[str, Any]:
        return {"padding_mode": self.padding_mode}


@final
class Conv1d(Convolution):
    """1-D convolution, (B, in, L) to (B, out, L'); see `Convolution`."""

    dimensions = 1
    _plain, _function = nn.Conv1d, staticmethod(F.conv1d)


@final
class Conv2d(Convolution):
    """2-D convolution, (B, in, H, W) to (B, out, H', W'); see `Convolution`."""

    dimensions = 2
    _plain, _function = nn.Conv2d, staticmethod(conv2d)


@final
class Conv3d(Convolution):
    """3-D convolution, (B, in, D, H, W) to (B, out, D', H', W'); see `Convolution`."""

    dimensions = 3
    _plain, _function = nn.Conv3d, staticmethod(F.conv3d)


class TransposedConvolution(_Kernel):
    """A transposed convolution whose channels, kernel and groups may be sizes.

    The weight is stored at its largest, (in, out / groups, ...) with the sides of the kernel; an
    architecture uses the first channels and the centre of the kernel. All else is as for
    `Convolution`.
    """

    _input = 0

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels,
        kernel_size: Sides,
        stride: Whole = 1,
        padding: Sides = 0,
        output_padding: Whole = 0,
        groups: Channels = 1,
        bias: bool = True,
        dilation: Whole = 1,
    ) -> None:
        """Makes a transposed convolution; channels, kernel, padding and groups may be sizes.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: the side of the kernel, or a tuple of a side for each dimension; all
                options of a side are odd, or all even.
            stride: see the `torch.nn` namesake.
            padding: see the `torch.nn` namesake; an elastic kernel whose padding is `kernel // 2`
                keeps the shape of the output.
            output_padding: see the `torch.nn` namesake.
            groups: see the `torch.nn` namesake.
            bias: whether there is one.
            dilation: see the `torch.nn` namesake.

        Raises:
            ValueError: for kernels of mixed parity, channels that groups do not divide, a sum of
                sizes as channels (see `ms.concat`), groups across concatenated channels, or a
                tuple of another length than the dimensions.
        """
        if isinstance(padding, str):
            raise ValueError(f"{type(self).__name__}: padding must be sizes, got {padding!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.output_padding = output_padding
        self._each("output_padding")

    def _run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, groups: Any
    ) -> Tensor:
        more = (self.output_padding, groups, self.dilation)
        return self._function(x, weight, bias, self.stride, padding, *more)

    def _more(self) -> dict[str, Any]:
        return {"output_padding": self.output_padding}


@final
class ConvTranspose1d(TransposedConvolution):
    """1-D transposed convolution, (B, in, L) to (B, out, L'); see `TransposedConvolution`."""

    dimensions = 1
    _plain, _function = nn.ConvTranspose1d, staticmethod(F.conv_transpose1d)


@final
class ConvTranspose2d(TransposedConvolution):
    """2-D transposed convolution, (B, in, H, W) to (B, out, H', W').

    See `TransposedConvolution`.
    """

    dimensions = 2
    _plain, _function = nn.ConvTranspose2d, staticmethod(F.conv_transpose2d)


@final
class ConvTranspose3d(TransposedConvolution):
    """3-D transposed convolution, (B, in, D, H, W) to (B, out, D', H', W').

    See `TransposedConvolution`.
    """

    dimensions = 3
    _plain, _function = nn.ConvTranspose3d, staticmethod(F.conv_transpose3d)
