"""Batches on their way from the host to a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def moving(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Batches, trees of tensors, on a device; to a GPU the next is under way while one is used.

    There they go from pinned memory on a stream of their own, one ahead of the batch that is used,
    so that neither reading nor copying waits for what is computed, nor that for them. Whoever uses
    a batch uses it on the stream that is the current one when it comes. An error of reading comes
    one batch earlier than on the CPU.

    Args:
        batches: on the host.
        device: where they are to be.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _sent(batch, device)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    before: tuple[Any, torch.cuda.Event] | None = None
    for batch in batches:
        pinned = pytree.tree_map_only(Tensor, _pinned, batch)
        with torch.cuda.stream(stream):
            sent = _sent(pinned, device)
            arrives = stream.record_event()
        if before is not None:
            yield _arrived(*before, device)
        before = sent, arrives
    if before is not None:
        yield _arrived(*before, device)


def _sent(batch: Any, device: torch.device) -> Any:
    """A batch on its way: the host does not wait for it."""
    return pytree.tree_map_only(Tensor, lambda leaf: leaf.to(device, non_blocking=True), batch)


def _arrived(batch: Any, arrives: torch.cuda.Event, device: torch.device) -> Any:
    """A batch that the current stream waits for; its memory is kept until that has used it."""
    current = torch.cuda.current_stream(device)
    current.wait_event(arrives)
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor):
            leaf.record_stream(current)
    return batch


def _pinned(tensor: Tensor) -> Tensor:
    """A tensor in memory that a GPU reads by itself, if it is one of the host's."""
    is_plain = tensor.device.type == "cpu" and tensor.layout == torch.strided
    return tensor.pin_memory() if is_plain else tensor
