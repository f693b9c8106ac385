"""Multiply-adds of architectures, recorded once and checked on extracted subnets."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import nn

from manyshot.cost.concatenated import Concatenated, concatenated_tables
from manyshot.cost.products import Product
from manyshot.cost.recording import CostMismatch, Positions, Recording
from manyshot.cost.tables import CostTable, Table
from manyshot.cost.watch import Watch
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.extract import extract
from manyshot.nn.inputs import Inputs, as_call, inputs_of, with_samples
from manyshot.nn.mixing import FirstSlice
from manyshot.nn.selection import Selection
from manyshot.nn.shapes import check_channels, dry, explained, meta_twin
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace
from manyshot.supernet import Supernet

CHECKED = 4
"""The least number of random architectures that every recording is checked on.

The smallest and the largest are checked besides. Together they contain every option of every
decision.
"""

ModuleTables = dict[nn.Module, list[tuple[Positions, Table]]]


def macs_table(
    net: Supernet, input_shape: Sequence[int] | None = None, *, example_inputs: Inputs = None
) -> CostTable:
    """The multiply-adds of any architecture for one sample, exact.

    Convolutions and matrix products of any module are counted; biases, norms, activations and all
    else in `manyshot.nn.counting.FREE` are not. Each decision that is held as a size is varied to
    see what depends on it; of layers of many channels to choose from see `manyshot.cost.products`,
    of modules that take many concatenated sizes `manyshot.cost.concatenated`. The result is checked
    on extracted subnets.

    Args:
        net: the supernet.
        input_shape: (C, H, W) of one image.
        example_inputs: other inputs, of which the first sample is counted: the first row of every
            tensor whose first dimension is the batch (see `manyshot.nn.inputs`). Without both, the
            inputs that the supernet was made with.

    Raises:
        CostMismatch: if the check fails, which a hidden dependence between decisions can cause.
        UncountedOperation: if an operation may multiply and has no formula (see `register`).
        DryRunError: if a module cannot run on tensors without values; the message names it.
        ValueError: if one module depends on so many decisions that no table can hold it.
    """
    inputs = with_samples(inputs_of(net, input_shape, example_inputs), 1)
    recording = Recording(net.model, net.space, inputs)
    if recording.is_large:
        with contextlib.suppress(CostMismatch):
            return _checked(net, recording, recording.held(recording.macs))
    return _checked(net, recording, recording.dependences(recording.macs))


def _checked(
    net: Supernet, recording: Recording, depends: Mapping[nn.Module, Positions]
) -> CostTable:
    """The table by what modules depend on, after its check."""
    pairs = ((module, Product.of(recording, module, p)) for module, p in depends.items())
    products = {module: product for module, product in pairs if product is not None}
    if products:
        with contextlib.suppress(CostMismatch):
            return _recorded(net, recording, depends, products)
    return _recorded(net, recording, depends, {})


def _recorded(
    net: Supernet,
    recording: Recording,
    depends: Mapping[nn.Module, Positions],
    products: Mapping[nn.Module, Product],
) -> CostTable:
    """The table, after its check; of some layers by their channels multiplied."""

    def observe(arch: Arch) -> dict[nn.Module, int | Fraction]:
        selection = Selection(net.space.decisions, arch)
        return {
            module: products[module].factor(selection, count) if module in products else count
            for module, count in recording.macs(arch).items()
        }

    others = {module: p for module, p in depends.items() if module not in products}
    forms = {module: Concatenated.of(recording, module, p) for module, p in others.items()}
    listed = {module: others[module] for module, form in forms.items() if form is None}
    listed |= {module: product.rest for module, product in products.items()}
    by_module: ModuleTables = {}
    nothing: int | Fraction = 0
    for module, cells in recording.tabulate(observe, listed, nothing).items():
        values = {cell: value for cell, (value, _) in cells.items()}
        if module in products:
            factors = {cell: Fraction(value) for cell, value in values.items()}
            by_module[module] = [products[module].table(recording, factors)]
        else:
            by_module[module] = [recording.expand(module, others[module], values)]
    held = [form for form in forms.values() if form is not None]
    by_module |= concatenated_tables(recording, recording.macs, held)
    parts = itertools.chain.from_iterable(by_module.values())
    cost = CostTable.of("macs", tuple(net.space.counts.tolist()), parts)
    _check(cost, net, recording, by_module)
    return cost


def check_archs(space: SearchSpace) -> list[Arch]:
    """The smallest, the largest, and random architectures that contain every option."""
    random = space.cover(numpy_rng("macs", "checks"), CHECKED)
    return list(dict.fromkeys([space.smallest, space.largest, *random]))


def _check(cost: CostTable, net: Supernet, recording: Recording, by_module: ModuleTables) -> None:
    space = net.space
    twin: nn.Module = meta_twin(net.model)[id(net.model)]  # without the recording's hooks
    for arch in check_archs(space):
        subnet = extract(twin, Selection(space.decisions, arch, mixture=FirstSlice()))
        counts = _counts(subnet, recording.example)
        expected, got = sum(counts.values()), int(cost([arch])[0])
        if expected != got:
            raise CostMismatch(
                f"architecture {space.to_text(arch)}: recorded {got:,} multiply-adds, its "
                f"extracted subnet has {expected:,}; first difference in "
                f"{_first_difference(recording, by_module, arch, counts)}"
            )


def _counts(plain: nn.Module, inputs: Inputs) -> dict[str, int]:
    """The multiply-adds of a module on meta tensors, by the path of what is in it."""
    watch = Watch(plain)
    check_channels(plain)
    args, kwargs = as_call(inputs)
    with explained(plain, inputs), dry(plain), torch.device("meta"), watch:
        plain(*args, **kwargs)
    return {path: watch.counts.get(module, 0) for path, module in plain.named_modules()}


def _first_difference(
    recording: Recording, by_module: ModuleTables, arch: Arch, plain: dict[str, int]
) -> str:
    for module, tables in by_module.items():
        recorded = sum(int(table[tuple(arch[p] for p in at)]) for at, table in tables)
        if recording.active(module, arch):
            path = plain_path(recording.model, recording.paths[module])
            has = plain.get(path, 0)
            if has != recorded:
                return (
                    f"module {path!r}: recorded {recorded:,}, extracted {has:,}. Let it hold every "
                    "decision that its forward reads (self.width = width, then "
                    "ms.value(self.width)), not carry it in attributes"
                )
    return "a module that the recording never met"


def plain_path(model: nn.Module, path: str) -> str:
    """Where the module at `path` of a searchable network is in an extracted one."""
    kept, module, names = [], model, path.split(".") if path else []
    while names:
        if isinstance(module, Choice):
            module, names = module.options[names[1]], names[2:]
            continue
        if isinstance(module, Depth):
            piece = module.is_piece
            module, names = (module.blocks[0], names[2:]) if piece else (module.blocks, names[1:])
            continue
        kept.append(names[0])
        module, names = module._modules[names[0]] or module, names[1:]
    return ".".join(kept)


def subnet_macs(
    module: nn.Module, input_shape: Sequence[int] | None = None, *, example_inputs: Inputs = None
) -> int:
    """The multiply-adds of a plain module for one sample, as `macs_table` counts.

    Args:
        module: the module, which is not touched.
        input_shape: (C, H, W) of one image.
        example_inputs: other inputs, of which the first sample is counted.

    Raises:
        UncountedOperation: if an operation may multiply and has no formula (see `register`).
        DryRunError: if a module cannot run on tensors without values; the message names it.
    """
    inputs = with_samples(inputs_of(module, input_shape, example_inputs), 1)
    return sum(_counts(meta_twin(module)[id(module)], inputs).values())
