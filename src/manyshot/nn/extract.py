"""Turns one selection of a searchable network into plain modules with copied weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from manyshot.nn.choice import Choice, Depth
from manyshot.nn.layer import Index, Layer, crop, memory_format
from manyshot.nn.selection import Selection
from manyshot.nn.structure import sizes_of, walk
from manyshot.space import Decision, Size


def extract(model: nn.Module, selection: Selection) -> nn.Module:
    """The network of `selection` as an independent plain module.

    User classes stay themselves (their objects are copied, sizes they hold become numbers), a
    choice becomes its option, an elastic depth a `Sequential`, and a layer its `torch.nn` namesake.
    Tied weights stay tied; memory format, dtype, device and mode are kept.
    """
    return _Extraction(model, selection).module(model)


class _Extraction:
    """One `deepcopy` whose memo already knows what every searchable thing becomes."""

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self.selection = selection
        self.memo: dict[int, Any] = {}
        self._tied: dict[tuple[int, str], nn.Parameter] = {}
        for path, module, use in walk(model):
            for _, size in sizes_of(module, path):
                self._settle(size)
            if isinstance(module, Layer) and not isinstance(module, Choice | Depth):
                active = all(selection.indices[d] in allowed for d, allowed in use)
                if active and id(module) not in self.memo:
                    self._remember(module, self._plain(module))

    def _settle(self, size: Size) -> None:
        for part in (size, *size.decisions()):
            number = self.selection.size(part) if _is_number(part) else None
            self.memo[id(part)] = self._option(part) if number is None else number

    def _option(self, size: Size) -> Any:
        assert isinstance(size, Decision)
        return size.options[self.selection.option(size)]

    def _remember(self, module: nn.Module, plain: nn.Module) -> None:
        self.memo[id(module)] = plain.train(module.training)

    def _plain(self, layer: Layer) -> nn.Module:
        return layer.plain(self.selection, self._tie)

    def _tie(self, tensor: Tensor, index: Index) -> nn.Parameter:
        # One new parameter per (tensor, part of it): whatever was tied before is tied after.
        whole = all(part == slice(None) for part in index)
        if whole and id(tensor) in self.memo:
            return self.memo[id(tensor)]  # type: ignore[no-any-return]
        key = (id(tensor), "" if whole else str(index))
        if key not in self._tied:
            part = crop(tensor.detach(), index)
            fresh = part.clone(memory_format=memory_format(tensor))
            self._tied[key] = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
        if whole:
            self.memo[id(tensor)] = self._tied[key]
        return self._tied[key]

    def module(self, module: nn.Module) -> Any:
        """The plain counterpart of `module` and all it holds."""
        self._blocks(module)
        return copy.deepcopy(module, self.memo)

    def _blocks(self, module: nn.Module) -> None:
        """Settles every choice, depth and compiled module below, innermost first."""
        if id(module) in self.memo:
            return
        if isinstance(module, Choice):
            chosen = module.option(self.selection.option(module.decision))
            self.memo[id(module)] = self.module(chosen)
        elif isinstance(module, Depth):
            kept = module.blocks[: self.selection.count(module.decision)]
            self._remember(module, nn.Sequential(*map(self.module, kept)))
        elif isinstance(module, torch._dynamo.OptimizedModule):
            self.memo[id(module)] = self.module(module._orig_mod)
        else:
            for child in module.children():
                self._blocks(child)


def _is_number(size: Size) -> bool:
    return not isinstance(size, Decision) or size.is_number
