"""Which attributes of modules say how many channels, groups or heads they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from manyshot.conversion.groups import Layout, resolved

_HEADS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Module: ("num_heads", "n_heads", "heads", "n_head", "nhead", "num_attention_heads"),
}


def register(cls: type[nn.Module], *, heads: str | Sequence[str]) -> None:
    """Says which attributes of a class of attention hold its number of heads.

    `ms.convert` lets heads vary where a `forward` splits features by such a number, and where
    everything that it computes from there runs with fewer. Known without this are `num_heads`,
    `n_heads`, `heads`, `n_head`, `nhead` and `num_attention_heads`, of any class.

    Args:
        cls: a class of modules; its subclasses are meant too.
        heads: the name of the attribute, or names.

    Raises:
        TypeError: if `cls` is no class of modules, or a name is no text.
    """
    names = (heads,) if isinstance(heads, str) else tuple(heads)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"register: cls must be a class of nn.Module, got {cls!r}")
    if not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise TypeError(f"register: heads must be names of attributes, got {heads!r}")
    _HEADS[cls] = names


def heads_of(module: nn.Module) -> set[int]:
    """The numbers of heads that a module says it has."""
    names = (name for cls in type(module).__mro__ for name in _HEADS.get(cls, ()))
    numbers = (vars(module).get(name) for name in names)
    return {n for n in numbers if isinstance(n, int) and not isinstance(n, bool)}


_Sizes = Callable[[Layout], Any]


def numbers(
    module: nn.Module, dims: Mapping[str, Sequence[Layout | None]], size: _Sizes
) -> dict[str, Any]:
    """The attributes of torch's layers, and of their subclasses, that follow from their parameters.

    Args:
        module: the module.
        dims: the layouts of its parameters and buffers, by name.
        size: the size of a layout.
    """
    weight = dims.get("weight", ())
    bare = weight[0] if weight else None
    if isinstance(module, _ConvNd) and len(weight) > 1:
        return _of_convolution(module, weight, size)
    if isinstance(module, nn.Linear) and len(weight) == 2:
        return _varying({"out_features": weight[0], "in_features": weight[1]}, size)
    if isinstance(module, _NormBase):
        held = (dims.get(name, (None,))[0] for name in ("weight", "running_mean"))
        return _varying({"num_features": next((d for d in held if d), None)}, size)
    if isinstance(module, nn.GroupNorm) and bare is not None:
        per_group = module.num_channels // module.num_groups
        groups = _divided(bare, per_group)
        return _varying({"num_channels": bare, "num_groups": groups}, size)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(weight) == 1 and bare is not None:
        return {"normalized_shape": (size(bare),)}
    if isinstance(module, nn.RNNCellBase):
        into, hidden = (dims.get(name, (None, None))[1] for name in ("weight_ih", "weight_hh"))
        return _varying({"input_size": into, "hidden_size": hidden}, size)
    if isinstance(module, nn.Embedding) and len(weight) == 2:
        return _varying({"embedding_dim": weight[1]}, size)
    if isinstance(module, nn.PReLU) and bare is not None:
        return _varying({"num_parameters": bare}, size)
    if isinstance(module, nn.MultiheadAttention) and "in_proj_weight" in dims:
        rows, width = dims["in_proj_weight"]
        whole = resolved(rows or ())
        heads = _divided(whole[: len(whole) // 3], module.head_dim)  # of queries, keys and values
        of_width = {"embed_dim": width, "kdim": width, "vdim": width}
        return _varying({**of_width, "num_heads": heads}, size)
    return {}


def _of_convolution(
    module: _ConvNd, weight: Sequence[Layout | None], size: _Sizes
) -> dict[str, Any]:
    transposed = isinstance(module, _ConvTransposeNd)
    if module.groups == 1:
        out, into = (weight[1], weight[0]) if transposed else (weight[0], weight[1])
        return _varying({"out_channels": out, "in_channels": into}, size)
    inside = module.in_channels // module.groups
    outside = module.out_channels // module.groups
    groups = _divided(weight[0], inside if transposed else outside)
    if groups is None:
        return {}
    return {
        "groups": size(groups),
        "in_channels": size(tuple((g, n * inside) for g, n in groups)),
        "out_channels": size(tuple((g, n * outside) for g, n in groups)),
    }


def _divided(layout: Layout | None, by: int) -> Layout | None:
    """A layout with `by` times fewer entries per unit; None if units would be split."""
    whole = resolved(layout or ())
    if not whole or any(entries % by for _, entries in whole):
        return None
    return tuple((group, entries // by) for group, entries in whole)


def _varying(layouts: Mapping[str, Layout | None], size: _Sizes) -> dict[str, Any]:
    return {name: size(layout) for name, layout in layouts.items() if layout is not None}
