"""Orders the channels of a trained network by importance: slices keep the first ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from manyshot.conversion.groups import Group, Layout, resolved
from manyshot.conversion.rules import Dims

IMPORTANCES = ("l1", "l2", "scale")
Importance: TypeAlias = Literal["l1", "l2", "scale"] | Callable[[Tensor, int], Tensor]
"""How important the entries of a tensor are along a dimension: `importance(tensor, dim)`, (n,)."""


def of_entries(importance: Importance, tensor: Tensor, dim: int) -> Tensor | None:
    """The importance of every entry of one dimension of a parameter, (n,); None for none.

    `l1` and `l2` are norms of the weights of a channel (Li et al. 2017, arXiv:1608.08710), of
    filters and of scales of norms alike; `scale` is that of norms alone (Liu et al. 2017,
    arXiv:1708.06519).
    """
    weights = tensor.detach()
    weights = weights.abs().double() if weights.is_complex() else weights.double()
    if callable(importance):
        return importance(weights, dim).double()
    if importance == "scale" and weights.dim() > 1:
        return None
    others = [i for i in range(weights.dim()) if i != dim]
    if importance == "l2":
        squares = weights.square()
        return (squares.sum(others) if others else squares).sqrt()
    return weights.abs().sum(others) if others else weights.abs()


def orders(
    tensors: Iterable[tuple[Tensor, Dims]], free: Iterable[Group], importance: Importance
) -> dict[Group, Tensor]:
    """The order of the units of every free group, the most important ones first.

    Importance is summed over all parameters that hold the group; each is divided by its mean
    before, so that none decides by its scale. Equal units keep their order.

    Args:
        tensors: parameters that count, with the layouts of their dimensions.
        free: the groups to order.
        importance: see `of_entries`.
    """
    scores = {group: torch.zeros(group.units, dtype=torch.float64) for group in free}
    for tensor, dims in tensors:
        for dim, layout in enumerate(dims):
            entries = None if layout is None else of_entries(importance, tensor, dim)
            if layout is None or entries is None:
                continue
            mean = entries.mean()
            if not (torch.isfinite(mean) and mean > 0):
                continue
            start = 0
            for group, each in resolved(layout):
                stop = start + group.units * each
                if group in scores:
                    part = entries[start:stop].view(group.units, each).mean(1) / mean
                    scores[group] += part.cpu()
                start = stop
    return {group: score.argsort(descending=True, stable=True) for group, score in scores.items()}


@torch.no_grad()
def reorder(tensors: Iterable[tuple[Tensor, Dims]], order: Mapping[Group, Tensor]) -> None:
    """Permutes every dimension of every tensor by the orders of its groups, in place."""
    for tensor, dims in tensors:
        for dim, layout in enumerate(dims):
            index = None if layout is None else _index(layout, order)
            if index is not None:
                tensor.copy_(tensor.index_select(dim, index.to(tensor.device)))


def _index(layout: Layout, order: Mapping[Group, Tensor]) -> Tensor | None:
    """Where each entry of a dimension comes from; None if all stay."""
    if not any(group in order for group, _ in resolved(layout)):
        return None
    starts = itertools.accumulate((g.units * n for g, n in resolved(layout)), initial=0)
    parts: list[Any] = []
    for (group, entries), start in zip(resolved(layout), starts, strict=False):
        units = order.get(group, torch.arange(group.units))
        parts.append((start + units[:, None] * entries + torch.arange(entries)).flatten())
    return torch.cat(parts)
