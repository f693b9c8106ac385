"""What a network's `forward` takes: a tensor, a tuple of positional or a dict of keyword inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Inputs: TypeAlias = Any
"""A tensor, a tuple of positional or a dict of keyword arguments; each may be a tree of tensors."""


def as_call(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments of a `forward` that `inputs` are."""
    if isinstance(inputs, tuple):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs,), {}


def without_values(inputs: Inputs) -> Inputs:
    """Inputs of the same shapes and types on the meta device."""
    return pytree.tree_map(_without_values, inputs)


def _without_values(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def images_of(shape: Sequence[int], dtype: torch.dtype = torch.float32, batch: int = 1) -> Tensor:
    """A batch of images of shape (C, H, W) without values."""
    return torch.empty((batch, *shape), device="meta", dtype=dtype)


def shapes_in_words(inputs: Inputs) -> str:
    """The shapes of inputs, for messages."""
    args, kwargs = as_call(inputs)
    said = [_shape(arg) for arg in args] + [f"{k}={_shape(v)}" for k, v in kwargs.items()]
    return ", ".join(said)


def _shape(value: Any) -> str:
    leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return f"{type(value).__name__} of {', '.join(str(tuple(t.shape)) for t in leaves) or value!r}"
