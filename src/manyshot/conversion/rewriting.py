"""Writes decisions into a network: layers of `ms.nn` and adapted modules take its modules' places.

The classes of the user, their `forward` and the names of their modules stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as BatchNorm

from manyshot.conversion.attributes import numbers
from manyshot.conversion.blocks import Run
from manyshot.conversion.groups import Group, Layout, resolved
from manyshot.conversion.rules import Dims
from manyshot.nn.adapted import adapt
from manyshot.nn.choice import Depth
from manyshot.nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from manyshot.nn.elastic import Embedding, Linear, PReLU
from manyshot.nn.group_norm import GroupNorm
from manyshot.nn.kept import searchable
from manyshot.nn.layer_norm import LayerNorm, RMSNorm
from manyshot.nn.multihead import MultiheadAttention
from manyshot.space import Decision, Size, concat

Within: TypeAlias = tuple[tuple[Any, ...], tuple[Any, ...]] | None
"""What is before and after a number in a tuple; None for a number by itself."""


@dataclasses.dataclass
class Plan:
    """What is to vary in a network, by the paths of its modules.

    Attributes:
        dims: the layouts of the dimensions of every parameter and buffer, by module and name.
        summed: the dimensions of them that operations sum over.
        given: the dimensions of them that are the channels of what operations give.
        read: modules whose tensors others read too, which therefore stay what they are.
        widths: the decision of every group that varies: how many of its units are active.
        bound: attributes that follow from layouts, by module and name, with where they are if they
            are part of a tuple.
        depths: runs of blocks that can be left out, with their decisions.
        kernels: the kernels that vary, by module.
    """

    dims: dict[str, dict[str, Dims]]
    summed: dict[str, dict[str, tuple[int, ...]]]
    given: dict[str, dict[str, tuple[int, ...]]]
    read: set[str]
    widths: dict[Group, Decision] = dataclasses.field(default_factory=dict)
    bound: dict[tuple[str, str], tuple[Layout, Within]] = dataclasses.field(default_factory=dict)
    depths: dict[Run, Decision] = dataclasses.field(default_factory=dict)
    kernels: dict[str, Decision] = dataclasses.field(default_factory=dict)

    def decisions(self) -> list[Decision]:
        """All decisions of the plan."""
        return [*self.widths.values(), *self.depths.values(), *self.kernels.values()]

    def varies(self, layout: Layout | None) -> bool:
        """Whether a dimension of this layout varies."""
        return any(group in self.widths for group, _ in resolved(layout or ()))

    def size(self, layout: Layout) -> Any:
        """The entries of a dimension of this layout, as a size."""
        parts: list[int | Size] = []
        for group, entries in resolved(layout):
            decision = self.widths.get(group)
            part: int | Size = group.units * entries
            if decision is not None:
                part = decision if entries == 1 else decision * entries
            if parts and isinstance(part, int) and isinstance(parts[-1], int):
                parts[-1] += part
            else:
                parts.append(part)
        return parts[0] if len(parts) == 1 else concat(*parts)


def rewrite(model: nn.Module, plan: Plan) -> nn.Module:
    """Writes a plan into `model`, in place.

    Args:
        model: a network of the classes that the plan was made for.
        plan: what varies.

    Returns:
        The network, which is another object only if it is a single layer.
    """
    instead: dict[int, nn.Module] = {}
    for path, module in list(model.named_modules()):
        new = _rewritten(path, module, plan)
        if new is not module:
            instead[id(module)] = new.train(module.training)
    _replace(model, instead)
    wrapped = {
        id(block): Depth([block], decision, start=i)
        for run, decision in plan.depths.items()
        for i, block in enumerate(map(model.get_submodule, run.blocks), 1)
    }
    _replace(model, wrapped)
    return instead.get(id(model), model)


def _replace(model: nn.Module, instead: Mapping[int, nn.Module]) -> None:
    if instead:
        for parent in list(model.modules()):
            for name, child in parent._modules.items():
                if child is not None and id(child) in instead:
                    parent._modules[name] = instead[id(child)]


def _rewritten(path: str, module: nn.Module, plan: Plan) -> nn.Module:
    dims = plan.dims.get(path, {})
    bound = {name: held for (owner, name), held in plan.bound.items() if owner == path}
    varying = {n: d for n, d in dims.items() if any(map(plan.varies, d))}
    if not (varying or bound or path in plan.kernels):
        return module
    sizes = numbers(module, dims, plan.size)
    plain = not bound and path not in plan.read and not has_hooks(module)
    norm = searchable(module, path) if isinstance(module, BatchNorm) else None
    if plain and norm is not None:
        norm.adopt(module, sizes["num_features"])
        return module
    if plain:
        with torch.device("meta"):
            layer = _layer(module, sizes, plan.kernels.get(path))
        if layer is not None:
            return _with_tensors(layer, module)
    for name, (layout, within) in bound.items():
        size = plan.size(layout)
        sizes[name] = size if within is None else (*within[0], size, *within[1])
    adapt(
        module,
        {name: tuple(_shape(module, name, d, plan)) for name, d in varying.items()},
        {name: size for name, size in sizes.items() if _is_size(size)},
        plan.summed.get(path, {}),
    )
    return module


def _shape(module: nn.Module, name: str, dims: Dims, plan: Plan) -> Iterator[Any]:
    held: Any = module._parameters.get(name)
    held = module._buffers[name] if held is None else held
    for length, layout in zip(held.shape, dims, strict=True):
        yield plan.size(layout) if layout is not None and plan.varies(layout) else length


def _is_size(size: Any) -> bool:
    return isinstance(size, Size) or (isinstance(size, tuple) and any(map(_is_size, size)))


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks or parametrisations, which a layer in its place would lose."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds) or "parametrizations" in module._modules


_CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
}


def _layer(old: Any, sizes: Mapping[str, Any], kernel: Decision | None) -> nn.Module | None:
    """The layer of `ms.nn` that takes the place of one of torch; None if there is none.

    Args:
        old: a module.
        sizes: those of its numbers that vary, by the names that torch has for them.
        kernel: the side of its kernel, if that varies.
    """

    def size(name: str) -> Any:
        return sizes.get(name, getattr(old, name))

    kind, bias = type(old), getattr(old, "bias", None) is not None
    if kind in _CONVOLUTIONS:
        how = {name: getattr(old, name) for name in ("stride", "padding", "dilation")}
        if "Transpose" in kind.__name__:
            how["output_padding"] = old.output_padding
        else:
            how["padding_mode"] = old.padding_mode
        if kernel is not None:
            how["padding"] = kernel // 2 * old.dilation[0]
        side = old.kernel_size if kernel is None else kernel
        into, out, groups = map(size, ("in_channels", "out_channels", "groups"))
        layer: nn.Module = _CONVOLUTIONS[kind](into, out, side, groups=groups, bias=bias, **how)
        return layer
    if kind is nn.Linear:
        return Linear(size("in_features"), size("out_features"), bias)
    if kind is nn.LayerNorm and old.weight is not None and len(old.normalized_shape) == 1:
        return LayerNorm(size("normalized_shape")[0], old.eps, bias=bias)
    if kind is nn.RMSNorm and old.weight is not None and len(old.normalized_shape) == 1:
        return RMSNorm(size("normalized_shape")[0], old.eps)
    if kind is nn.GroupNorm and old.weight is not None:
        return GroupNorm(size("num_groups"), size("num_channels"), old.eps)
    if kind is nn.PReLU:
        return PReLU(size("num_parameters"))
    if kind is nn.Embedding and old.max_norm is None and not (old.sparse or old.scale_grad_by_freq):
        return Embedding(old.num_embeddings, size("embedding_dim"), old.padding_idx)
    return None


def _with_tensors(new: nn.Module, old: nn.Module) -> nn.Module:
    """`new` with the parameter objects of `old`, so that what was tied stays tied."""
    for name, parameter in old._parameters.items():
        new._parameters[name] = parameter
    return new


def prepare(model: nn.Module, *, heads: bool) -> None:
    """Lets modules whose own forward allows no decision become ones that do, in place."""
    for module in model.modules():
        if heads and MultiheadAttention.takes(module):
            MultiheadAttention.adopt(module)


def uncompiled(model: nn.Module) -> nn.Module:
    """`model` with what compiled modules in it were compiled from in their places, in place."""
    while "_orig_mod" in model._modules:
        model = model.get_submodule("_orig_mod")
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and "_orig_mod" in child._modules:
                parent._modules[name] = uncompiled(child)
    return model


def tensors_of(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """All parameters and buffers with the path of each module that holds them, and their names."""
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield path, name, tensor
