"""Writes decisions into a network: layers of `ms.nn` and adapted modules take its modules' places.

The classes of the user, their `forward` and the names of their modules stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manyshot.conversion.attributes import numbers
from manyshot.conversion.blocks import Run
from manyshot.conversion.groups import Group, Layout, resolved
from manyshot.conversion.rules import Dims
from manyshot.nn.adapted import adapt
from manyshot.nn.batch_norm import ADOPTED
from manyshot.nn.choice import Depth
from manyshot.nn.elastic import Conv2d, Linear
from manyshot.nn.layer_norm import LayerNorm
from manyshot.nn.multihead import MultiheadAttention
from manyshot.space import Decision, Size, concat


@dataclasses.dataclass
class Plan:
    """What is to vary in a network, by the paths of its modules.

    Attributes:
        dims: the layouts of the dimensions of every parameter and buffer, by module and name.
        summed: the dimensions of them that operations sum over.
        given: the dimensions of them that are the channels of what operations give.
        read: modules whose tensors others read too, which therefore stay what they are.
        widths: the decision of every group that varies: how many of its units are active.
        bound: attributes that follow from layouts, by module and name; in a tuple if they are one.
        depths: runs of blocks that can be left out, with their decisions.
        kernels: the kernels that vary, by module.
    """

    dims: dict[str, dict[str, Dims]]
    summed: dict[str, dict[str, tuple[int, ...]]]
    given: dict[str, dict[str, tuple[int, ...]]]
    read: set[str]
    widths: dict[Group, Decision] = dataclasses.field(default_factory=dict)
    bound: dict[tuple[str, str], tuple[Layout, bool]] = dataclasses.field(default_factory=dict)
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
    plain = not bound and path not in plan.read and not _has_hooks(module)
    if plain and type(module) in _LAYERS:
        layer: nn.Module | None = _LAYERS[type(module)](module, sizes, plan.kernels.get(path))
        if layer is not None:
            return layer
    if plain and type(module) in ADOPTED:
        ADOPTED[type(module)].adopt(module, sizes["num_features"])
        return module
    for name, (layout, in_tuple) in bound.items():
        sizes[name] = (plan.size(layout),) if in_tuple else plan.size(layout)
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


def _has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks or parametrisations, which a layer in its place would lose."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds) or "parametrizations" in module._modules


def _convolution(old: nn.Module, sizes: Mapping[str, Any], kernel: Decision | None) -> Any:
    assert isinstance(old, nn.Conv2d)
    if old.padding_mode != "zeros":
        return None
    side: Any = old.kernel_size if kernel is None else kernel
    padding: Any = old.padding
    if kernel is not None:
        padding = kernel // 2 if old.dilation[0] == 1 else kernel // 2 * old.dilation[0]
    with torch.device("meta"):
        new = Conv2d(
            sizes.get("in_channels", old.in_channels),
            sizes.get("out_channels", old.out_channels),
            side,
            old.stride,  # type: ignore[arg-type]
            padding,
            old.dilation,  # type: ignore[arg-type]
            sizes.get("groups", old.groups),
            bias=old.bias is not None,
        )
    return _with_tensors(new, old)


def _linear(old: nn.Module, sizes: Mapping[str, Any], kernel: Decision | None) -> Any:
    assert isinstance(old, nn.Linear)
    with torch.device("meta"):
        new = Linear(
            sizes.get("in_features", old.in_features),
            sizes.get("out_features", old.out_features),
            bias=old.bias is not None,
        )
    return _with_tensors(new, old)


def _layer_norm(old: nn.Module, sizes: Mapping[str, Any], kernel: Decision | None) -> Any:
    assert isinstance(old, nn.LayerNorm)
    if old.weight is None or len(old.normalized_shape) > 1:
        return None
    with torch.device("meta"):
        features = sizes["normalized_shape"][0]
        new = LayerNorm(features, old.eps, bias=old.bias is not None)
    return _with_tensors(new, old)


_LAYERS = {nn.Conv2d: _convolution, nn.Linear: _linear, nn.LayerNorm: _layer_norm}


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


def tensors_of(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """All parameters and buffers with the path of each module that holds them, and their names."""
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield path, name, tensor
