"""What all searchable layers share: a path for messages, sizes, and how they become plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from manyshot.nn.selection import Selection
from manyshot.space import Number, Size

Index: TypeAlias = tuple[slice, ...]
Tie: TypeAlias = Callable[[Tensor, Index], nn.Parameter]
"""`tie(tensor, index)`: the parameter that holds a copy of `tensor[index]`, one per such pair."""


class Layer(nn.Module):
    """A layer of `ms.nn`: it reads the active selection, and can become its plain counterpart."""

    path: str = ""

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """Its sizes by name, elastic or fixed."""
        return iter(())

    def tensors(self) -> Iterator[tuple[str, Tensor, tuple[Number | Size, ...]]]:
        """Its parameters: name, the full tensor, and the active shape as sizes."""
        return iter(())

    def plain(self, selection: Selection, tie: Tie) -> nn.Module:
        """The `torch.nn` layer that computes the same in `selection`, weights copied."""
        raise NotImplementedError


def largest(size: Number | Size) -> int:
    """The largest value of a size over all options of its decisions.

    Raises:
        ValueError: if a value is not whole or below zero.
    """
    numbers = list(size.over_options()) if isinstance(size, Size) else [size]
    for number in numbers:
        if number != int(number) or number < 0:
            raise ValueError(
                f"size {size!r} takes the value {number}; a layer needs whole numbers of at least "
                "0: wrap it in ms.round_to(size, 1)"
            )
    return int(max(numbers))


def elastic(*sizes: Number | Size) -> bool:
    """Whether any size depends on the architecture."""
    return any(isinstance(size, Size) for size in sizes)


def leading(tensor: Tensor, *lengths: int) -> Index:
    """The index of the first `lengths` entries of the leading dimensions."""
    return tuple(
        slice(None) if n == full else slice(n)
        for n, full in zip(lengths, tensor.shape, strict=False)
    )


def crop(tensor: Tensor, index: Index) -> Tensor:
    """`tensor[index]`, dense and in the memory format of `tensor`.

    Products take other kernels for strided slices than for small dense tensors; dense ones are
    bit-equal to the extracted layer's. Nothing is copied when the index takes everything.
    """
    if all(part == slice(None) for part in index):
        return tensor
    return tensor[index].contiguous(memory_format=memory_format(tensor))


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Channels last for a 4-D tensor that is stored so, else contiguous."""
    if tensor.dim() == 4 and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
