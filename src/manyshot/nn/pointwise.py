"""Strided 1x1 convolutions of few channels, whose gradient torch computes unsafely on x86 CPUs.

In channels last and float32, the gradient of their weight writes past its workspace: there is a
crash, an endless loop or wrong numbers (https://github.com/uxlfoundation/oneDNN/issues/6035). It
happens for 2 to 7 input channels with AVX2 and for 2 to 15 with AVX-512. Strides of 1, other
kernels, padding, groups, contiguous tensors, bfloat16, float64 and forwards are safe. torch 2.13.0
to 2.15.0 do it; `constraints.txt` says which versions were tried.

Layers of `ms.nn` take the gradient in contiguous format. For plain layers, which run torch's own
code, `training_format` says which memory format a network must have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAFE_CHANNELS = 16
"""From so many input channels on, the gradient is safe on every CPU."""


def _is_unsafe(
    in_channels: int, kernel: Sequence[int], stride: Any, padding: Any, groups: Any
) -> bool:
    return (
        in_channels < SAFE_CHANNELS
        and groups == 1
        and tuple(kernel) == (1, 1)
        and stride not in (1, (1, 1))
        and padding in (0, (0, 0), "valid")
    )


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> Tensor:
    """`torch.nn.functional.conv2d`, with a gradient that is safe in every memory format.

    The output is torch's bit for bit. The gradient of an unsafe convolution is that of contiguous
    tensors.

    Args:
        x: the input, (B, in, H, W).
        weight: (out, in / groups, k, k).
        bias: (out,), or None.
        stride: see torch's function.
        padding: see torch's function.
        dilation: see torch's function.
        groups: see torch's function.
    """
    if (
        weight.shape[1] < SAFE_CHANNELS
        and _is_unsafe(weight.shape[1], weight.shape[2:], stride, padding, groups)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    ):
        strides = stride if isinstance(stride, tuple) else (stride, stride)
        out: Tensor = _ContiguousGradient.apply(x, weight, bias, strides)
        return out
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


class _ContiguousGradient(torch.autograd.Function):
    """A strided 1x1 convolution whose gradient is computed on contiguous tensors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # `Tensor.contiguous` keeps the strides of a 1x1 weight, which torch reads the format from.
        safe = [t.to(memory_format=torch.contiguous_format) for t in (grad, *ctx.saved_tensors)]
        needed = list(ctx.needs_input_grad[:3])
        grads = torch.ops.aten.convolution_backward(
            *safe, [grad.shape[1]], ctx.stride, [0, 0], [1, 1], False, [0, 0], 1, needed
        )
        return *grads, None


def unsafe_layers(module: nn.Module) -> list[str]:
    """Paths of the plain convolutions in `module` whose gradient is unsafe in channels last.

    A convolution that a `forward` calls by `torch.nn.functional` is not seen.
    """
    return [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d)
        and _is_unsafe(
            layer.in_channels, layer.kernel_size, layer.stride, layer.padding, layer.groups
        )
    ]


@dataclass(frozen=True)
class TrainingFormat:
    """The memory format that a network trains in, and why.

    Attributes:
        name: `channels_last` or `contiguous`.
        why: the reason, for records.
    """

    name: str
    why: str

    @property
    def is_channels_last(self) -> bool:
        """Whether the format is channels last."""
        return self.name == "channels_last"

    @property
    def torch_format(self) -> torch.memory_format:
        """The format as torch names it."""
        return torch.channels_last if self.is_channels_last else torch.contiguous_format

    def to_dict(self) -> dict[str, str]:
        """The format as a record."""
        return {"name": self.name, "why": self.why}


def _five_dimensional(module: nn.Module) -> str | None:
    """The path of a module that holds a tensor of five dimensions, as a 3-D convolution does."""
    path: str
    for path, layer in module.named_modules():
        stacks = getattr(layer, "_stacks", ())  # of slices, which have a dimension less
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            if tensor is not None and tensor.dim() - (name in stacks) == 5:
                return path
    return None


def training_format(module: nn.Module, device: torch.device) -> TrainingFormat:
    """Channels last, unless `module` holds a layer that cannot take it.

    That is a plain layer whose gradient is unsafe in it, or one that holds a tensor of five
    dimensions, where torch's channels last is for four. It does not depend on the processor, so
    that a run is the same on all of them.
    """
    deep = _five_dimensional(module)
    if deep is not None:
        return TrainingFormat(
            "contiguous",
            f"{deep or 'the network'!r} holds a tensor of five dimensions, and channels last is a "
            "format of four",
        )
    if device.type != "cpu":
        return TrainingFormat("channels_last", "the fastest for convolutions")
    unsafe = unsafe_layers(module)
    if not unsafe:
        return TrainingFormat(
            "channels_last", "the fastest for convolutions, and safe for every layer of the network"
        )
    plural = "" if len(unsafe) == 1 else "s"
    return TrainingFormat(
        "contiguous",
        f"{len(unsafe)} strided 1x1 convolution{plural} of fewer than {SAFE_CHANNELS} input "
        f"channels, the first {unsafe[0]!r}: torch corrupts memory when it takes such a gradient "
        "in channels last on x86 (https://github.com/uxlfoundation/oneDNN/issues/6035)",
    )
