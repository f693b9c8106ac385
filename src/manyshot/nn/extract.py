"""Turns one selection of a searchable network into plain modules with copied weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from manyshot.nn.adapted import Adapted, restore, settle
from manyshot.nn.batch_norm import BatchNormStats
from manyshot.nn.layer import Extraction, Layer
from manyshot.nn.mixing import Stacked, unstack
from manyshot.nn.multihead import MultiheadAttention
from manyshot.nn.selection import Selection, Statistics, activate
from manyshot.nn.structure import sizes_of, walk
from manyshot.space import Decision, Size


def extract(model: nn.Module, selection: Selection) -> nn.Module:
    """The network of `selection` as an independent plain module.

    It is one `deepcopy`. The user's classes stay themselves, sizes they hold become numbers, a
    choice becomes its option, an elastic depth a `Sequential`, a layer its `torch.nn` namesake, and
    a compiled module its original. Tied weights stay tied; memory format, dtype, device and mode
    are kept.

    Raises:
        LookupError: if the selection has statistics of batch norms that are not in `model`.
    """
    _check_statistics(model, selection.statistics)
    extraction = Extraction(selection)
    with torch.no_grad(), activate(selection):
        compiled: list[nn.Module] = []
        met: set[int] = set()
        for path, module, use in walk(model):
            for _, size in () if id(module) in met else sizes_of(module, path):
                _settle(size, extraction)
            met.add(id(module))  # a module held in several places is met in each
            if "_orig_mod" in module._modules and selection.holds(use):
                compiled.append(module)
            if selection.holds(use) and isinstance(module, Adapted):
                settle(module, extraction)
            if selection.holds(use) and isinstance(module, Stacked):
                _merge(module, extraction)
        for module in reversed(compiled):  # innermost first
            extraction[id(module)] = copy.deepcopy(module._modules["_orig_mod"], extraction)
        plain: nn.Module = copy.deepcopy(model, extraction)
    for module in plain.modules():
        unstack(module)
        restore(module)
        if isinstance(module, MultiheadAttention):
            module.release()
    return plain


def _merge(module: Stacked, extraction: Extraction) -> None:
    """Lets the copies of a plain module's stacks be mixtures; layers see to their own."""
    for name in () if isinstance(module, Layer) else module._stacks:
        stack = module._parameters[name]
        assert stack is not None
        if id(stack) not in extraction:
            mixture = getattr(module, name).detach().clone()
            extraction[id(stack)] = nn.Parameter(mixture, stack.requires_grad)


def _check_statistics(model: nn.Module, statistics: Statistics | None) -> None:
    if isinstance(statistics, BatchNormStats):
        layer_paths = {module.path for module in model.modules() if isinstance(module, Layer)}
        unknown = sorted(statistics.tensors.keys() - layer_paths)
        if unknown:
            raise LookupError(
                f"the statistics of {statistics.arch} are of another network: this one has no "
                f"{unknown[0]!r}; calibrate this one: ms.evaluate.calibrate(net, arch, batches)"
            )


def _settle(size: Size, extraction: Extraction) -> None:
    for part in (size, *size.decisions()):
        if isinstance(part, Decision):
            extraction[id(part)] = part.options[extraction.selection.option(part)]
        else:
            extraction[id(part)] = extraction.selection.size(part)
