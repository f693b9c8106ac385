"""Options that are mixed on a part of the channels, while the others pass them by.

Xu et al. 2020, PC-DARTS (arXiv:1907.05737), section 3.2 and their public code: the first of K equal
parts of the channels goes through the mixed options, the others stay as they are, halved by a max
pool where options halve the resolution, and the channels are shuffled, so that the next block takes
others. Options have 1/K of the channels, and so 1/K of the activations; of a weight that mixes
channels it is 1/K^2.

Here options are modules of anybody's class, made for all of the channels. While they run, every
convolution in them takes the first 1/K of its weight in both dimensions (of a grouped one, the
first 1/K of the groups), and every batch norm of its scale and shift: slices of the shared weights,
which are not copied. What lies beyond the slices does not learn then, so that networks with all
channels are to be trained anew. What passes by is multiplied by the sum of the weights, which is
one for a softmax, so that a weight of the whole block, as that of an edge, is of all channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PARTS: ContextVar[int] = ContextVar("manyshot_parts", default=1)
parts_now: Callable[[], int] = _PARTS.get
"""In how many parts the channels are cut of which one runs; 1 outside of partial options."""
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class _Slices(TorchFunctionMode):
    """Convolutions and batch norms take the first of so many parts of their weights."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _CONVOLUTIONS:
            return self._convolution(func, *args, **named)
        if func is F.batch_norm:
            return self._batch_norm(*args, **named)
        return func(*args, **named)

    def _convolution(
        self,
        func: Callable[..., Tensor],
        input: Tensor,  # noqa: A002 - the names of torch's arguments
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        out = self._first(len(weight), "output channels of a convolution")
        if groups == 1:
            weight = weight[:out, : self._first(weight.shape[1], "input channels of a convolution")]
        else:
            weight, groups = weight[:out], self._first(groups, "groups of a convolution")
        bias = None if bias is None else bias[:out]
        return func(input, weight.contiguous(), bias, stride, padding, dilation, groups)

    def _batch_norm(
        self,
        input: Tensor,  # noqa: A002
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        mean, variance, scale, shift = (
            t if t is None else t[: self._first(len(t), "features of a batch norm")]
            for t in (running_mean, running_var, weight, bias)
        )
        return F.batch_norm(input, mean, variance, scale, shift, *rest, **named)

    def _first(self, count: int, what: str) -> int:
        if count % self.parts:
            raise ValueError(f"{count} {what} are not {self.parts} equal parts")
        return count // self.parts


@contextlib.contextmanager
def slicing(parts: int) -> Iterator[None]:
    """Lets convolutions and batch norms inside take the first of so many parts of their weights."""
    if parts == parts_now():
        yield
        return
    token = _PARTS.set(parts)
    try:
        with _Slices(parts):
            yield
    finally:
        _PARTS.reset(token)


def partly(
    parts: int,
    run: Callable[..., Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    weight: Tensor,
    where: str,
) -> Tensor:
    """What leaves a block whose options are mixed on the first of so many parts of the channels.

    Args:
        parts: the number of parts.
        run: the mixed options.
        args: what the block takes: one tensor (B, C, ...), whose second dimension is cut.
        kwargs: nothing.
        weight: what the other parts are multiplied by.
        where: the block, for messages.

    Raises:
        ValueError: if the block takes something else, channels are no equal parts, options do not
            run on one of them, or change the number of channels or the resolution otherwise than by
            a whole factor.
    """
    if parts_now() > 1:
        raise ValueError(
            f"{where} is in an option that runs on a part of the channels, and is to mix a part of "
            "them itself: leave one of the two out of partial"
        )
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or args[0].dim() < 3:
        raise ValueError(
            f"{where} takes something else than one tensor (B, C, ...) of images or signals, of "
            "whose channels a part could be mixed: leave it out of partial"
        )
    x, channels = args[0], args[0].shape[1]
    if channels % parts:
        raise ValueError(
            f"{where}: {channels} channels are not {parts} equal parts: take a divisor of "
            f"{channels}, or a network with a multiple of {parts} channels"
        )
    first = channels // parts
    try:
        with slicing(parts):
            mixed = run(x[:, :first])
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{where}: an option cannot run on {first} of {channels} channels ({error}). "
            "Convolutions and batch norms can be cut, other layers with weights cannot: leave it "
            "out of partial, or take fewer parts"
        ) from error
    if mixed.dim() != x.dim() or mixed.shape[:2] != (len(x), first):
        raise ValueError(
            f"{where}: of {first} of {channels} channels options make {tuple(mixed.shape)}, which "
            "those that pass by do not fit: leave it out of partial"
        )
    rest = weight.to(x) * _pooled(x[:, first:], mixed.shape[2:], where)
    return _shuffled(torch.cat([mixed, rest], 1), parts)


def _pooled(x: Tensor, sides: Sequence[int], where: str) -> Tensor:
    """By a max pool as small as the mixed options leave their part."""
    factors = {before // after for before, after in zip(x.shape[2:], sides, strict=True)}
    factor = factors.pop()
    if factors or not factor or [side * factor for side in sides] != list(x.shape[2:]):
        raise ValueError(
            f"{where}: options make {tuple(x.shape[2:])} into {tuple(sides)}, which no max pool of "
            "a whole factor does to the channels that pass by: leave it out of partial"
        )
    return x if factor == 1 else _POOLS[len(sides)](x, factor, factor)


def _shuffled(x: Tensor, parts: int) -> Tensor:
    """The first channel of every part, then the second of every part, and so on."""
    apart = x.view(len(x), parts, x.shape[1] // parts, *x.shape[2:])
    return apart.transpose(1, 2).reshape(x.shape)
