"""What a network's `forward` takes: a tensor, a tuple of positional or a dict of keyword inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
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


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of a tree, and those in dataclasses, mappings and other objects within it."""
    seen: set[int] = set()  # objects may hold each other
    pending = [value]
    while pending:
        for leaf in pytree.tree_leaves(pending.pop(0)):
            if isinstance(leaf, Tensor):
                yield leaf
            elif id(leaf) not in seen and not isinstance(leaf, _PLAIN):
                seen.add(id(leaf))
                if isinstance(leaf, Mapping):
                    pending.append(list(leaf.values()))
                elif isinstance(leaf, Sequence):
                    pending.append(list(leaf))
                else:
                    pending.append(list(getattr(leaf, "__dict__", {}).values()))


_PLAIN = (int, float, complex, str, bytes, type(None), type, nn.Module)
"""What holds no tensor that a network gives."""


def without_values(inputs: Inputs) -> Inputs:
    """Inputs of the same shapes and types on the meta device."""
    return pytree.tree_map(_without_values, inputs)


def _without_values(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def images_of(shape: Sequence[int], dtype: torch.dtype = torch.float32, batch: int = 1) -> Tensor:
    """A batch of images of shape (C, H, W) without values."""
    return torch.empty((batch, *shape), device="meta", dtype=dtype)


def inputs_of(
    model: nn.Module, input_shape: Sequence[int] | None = None, example_inputs: Inputs = None
) -> Inputs:
    """What a model's `forward` takes, without values, by either of two ways to say it.

    Without both it is what the model, a supernet, was made with.

    Args:
        model: whose `forward` it is; images are of the type of its parameters.
        input_shape: (C, H, W) of one image.
        example_inputs: any inputs, with a batch in front.

    Raises:
        ValueError: for both, or for neither where the model does not know its inputs.
    """
    if input_shape is not None and example_inputs is not None:
        raise ValueError("input_shape and example_inputs both say what the network takes: give one")
    if example_inputs is not None:
        return without_values(example_inputs)
    if input_shape is None:
        input_shape = getattr(model, "input_shape", None)
    if input_shape is not None:
        return images_of(input_shape, model_dtype(model))
    remembered = getattr(model, "example_inputs", None)
    if remembered is None:
        raise ValueError(
            "what the network takes is not known: give input_shape=(C, H, W) of an image, or "
            "example_inputs, or make the supernet with either"
        )
    return remembered


def batch_of(inputs: Inputs) -> int:
    """How many samples inputs are: the length of the first dimension of their first tensor.

    Raises:
        ValueError: if there is no tensor with a dimension.
    """
    for leaf in (inputs,) if isinstance(inputs, Tensor) else pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.dim():
            return leaf.shape[0]
    raise ValueError("inputs must hold a tensor with a batch as its first dimension, and have none")


def is_batched(value: Any, batch: int) -> bool:
    """Whether a part of inputs has a row per sample: a tensor whose first dimension is the batch.

    What else there is, such as a mask that all samples share, is for the whole batch. One whose
    first dimension is as long as the batch by chance is taken for a row per sample.
    """
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch


def with_samples(inputs: Inputs, count: int) -> Inputs:
    """`count` samples of inputs: theirs, again from the first where there are fewer."""
    batch = batch_of(inputs)
    if batch < 1:
        raise ValueError(f"inputs must hold a sample, got {shapes_in_words(inputs)}")

    def chosen(value: Any) -> Any:
        if not is_batched(value, batch):
            return value
        return value[torch.arange(count, device=value.device) % batch]

    return inputs if count == batch else pytree.tree_map(chosen, inputs)


def in_chunks(inputs: Inputs, chunks: int) -> list[Inputs]:
    """The samples of inputs in so many parts of nearly equal size, or fewer, as `Tensor.chunk`."""
    return [inputs] if chunks == 1 else in_parts(inputs, -(-batch_of(inputs) // chunks))


def in_parts(inputs: Inputs, size: int) -> list[Inputs]:
    """The samples of inputs in parts of so many; the last may have fewer."""
    batch = batch_of(inputs)
    leaves, structure = pytree.tree_flatten(inputs)
    return [
        pytree.tree_unflatten(
            [leaf[at : at + size] if is_batched(leaf, batch) else leaf for leaf in leaves],
            structure,
        )
        for at in range(0, batch, size)
    ]


def chosen(inputs: Inputs, rows: Tensor) -> Inputs:
    """The samples with the indices `rows`, (R,), of inputs whose tensors all have a row each."""
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[rows.to(leaf.device)], inputs)


def all_batched(inputs: Inputs, batch: int) -> bool:
    """Whether all tensors of inputs have a row per sample."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return all(is_batched(tensor, batch) for tensor in tensors)


def device_of(inputs: Inputs) -> torch.device:
    """Where the first tensor of inputs is; the CPU if there is none."""
    tensors = (leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def to_device(inputs: Inputs, device: torch.device, *, non_blocking: bool = False) -> Inputs:
    """Inputs with all tensors on a device."""

    def moved(value: Any) -> Any:
        return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value

    return pytree.tree_map(moved, inputs)


def together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors on a device; those of one type that come from another go there in one transfer.

    Towards a GPU nobody waits for it. From there the host waits, once for all of them.
    """
    moved = list(tensors)
    by_kind: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.device != device:
            by_kind.setdefault((tensor.dtype, tensor.device), []).append(i)
    for members in by_kind.values():
        flat = torch.cat([moved[i].flatten() for i in members])
        flat = flat.to(device, non_blocking=device.type != "cpu")
        parts = torch.split(flat, [moved[i].numel() for i in members])
        for i, part in zip(members, parts, strict=True):
            moved[i] = part.view(moved[i].shape)
    return moved


def model_dtype(model: nn.Module) -> torch.dtype:
    """The floating-point type of the model's first parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


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


def described(inputs: Inputs) -> str:
    """The structure, the shapes and the types of inputs, as text that tells inputs apart."""

    def said(value: Any) -> Any:
        return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else value

    return repr(pytree.tree_map(said, inputs))
