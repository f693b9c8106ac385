"""Multiply-adds of architectures, recorded once and checked against torch's own counter."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from manyshot.cost.recording import MacCounter, Recording, covering_cells
from manyshot.cost.tables import CostTable
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.shapes import dry
from manyshot.space import Arch
from manyshot.supernet import Supernet

CHECKED = 4
"""Random architectures, beside the smallest and the largest, that every recording is checked on."""


class CostMismatch(RuntimeError):
    """Recorded multiply-adds are not those of the extracted subnet; it names the module."""


def macs_table(net: Supernet, input_shape: Sequence[int]) -> CostTable:
    """Multiply-adds of one image of shape (C, H, W), for any architecture, exact.

    Convolutions and matrix products of any module are counted (biases, norms and activations are
    not), as `torch.utils.flop_counter` does, divided by two. Each numeric decision is varied to see
    what depends on it; the result is checked on extracted subnets.

    Raises:
        CostMismatch: if the check fails, which a hidden dependence between decisions can cause.
    """
    recording = Recording(net.model, net.space, input_shape)
    by_module = _module_tables(recording)
    counts = tuple(net.space.counts.tolist())
    tables: dict[tuple[int, ...], np.ndarray] = {}
    for positions, table in by_module.values():
        tables[positions] = tables[positions] + table if positions in tables else table
    constant = int(tables.pop((), np.zeros((), np.int64)).item())
    cost = CostTable("macs", counts, constant, tables)
    _check(net, cost, recording, by_module)
    return cost


ModuleTables = dict[nn.Module, tuple[tuple[int, ...], np.ndarray]]


def _module_tables(recording: Recording) -> ModuleTables:
    space, positions = recording.space, recording.positions()
    tables: ModuleTables = {
        module: (own, np.full([int(space.counts[p]) for p in own], -1, np.int64))
        for module, own in positions.items()
    }
    cells: defaultdict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
    for module, (own, table) in tables.items():
        for cell in itertools.product(*(range(n) for n in table.shape)):
            arch = [0] * len(space)
            for position, option in zip(own, cell, strict=True):
                arch[position] = option
            if recording.active(module, tuple(arch)):
                cells[own].add(cell)
            else:
                table[cell] = 0

    def visit(arch: Arch) -> None:
        counted = recording.count(arch)
        for module, (own, table) in tables.items():
            cell = tuple(arch[p] for p in own)
            macs = counted.get(module, 0)
            if table[cell] not in (-1, macs):
                names = ", ".join(str(space.decisions[p].name) for p in own) or "no decision"
                raise CostMismatch(
                    f"module {recording.paths[module]!r}: its multiply-adds depend on more than "
                    f"{names} ({table[cell]:,} and {macs:,} at the same options)"
                )
            table[cell] = macs

    covering_cells(space, cells, visit)
    return tables


def _check(
    net: Supernet, cost: CostTable, recording: Recording, by_module: ModuleTables
) -> None:
    rng = np.random.default_rng(0)
    space = net.space
    archs = [space.smallest, space.largest, *(space.sample(rng) for _ in range(CHECKED))]
    for arch in dict.fromkeys(archs):
        subnet = net.extract(arch).to("meta")
        with dry(subnet), FlopCounterMode(display=False) as counter:
            subnet(recording.images)
        expected, got = counter.get_total_flops() // 2, int(cost([arch])[0])
        if expected != got:
            raise CostMismatch(
                f"architecture {space.to_text(arch)}: recorded {got:,} multiply-adds, its "
                f"extracted subnet has {expected:,}; first difference in "
                f"{_first_difference(recording, by_module, arch, subnet)}"
            )


def _first_difference(
    recording: Recording, by_module: ModuleTables, arch: Arch, subnet: nn.Module
) -> str:
    counter = MacCounter()
    with dry(subnet), counter.watching(subnet):
        subnet(recording.images)
    plain = {path: counter.counts.get(module, 0) for path, module in subnet.named_modules()}
    for module, (own, table) in by_module.items():
        recorded = int(table[tuple(arch[p] for p in own)])
        if recording.active(module, arch):
            path = plain_path(recording.model, recording.paths[module])
            if plain.get(path, 0) != recorded:
                return f"module {path!r}: recorded {recorded:,}, extracted {plain.get(path, 0):,}"
    return "a module that the recording never met"


def plain_path(model: nn.Module, path: str) -> str:
    """Where the module at `path` of a searchable network is in an extracted one."""
    kept, module, names = [], model, path.split(".") if path else []
    while names:
        if isinstance(module, Choice):
            module, names = module.options[names[1]], names[2:]
            continue
        if isinstance(module, Depth):
            module, names = module.blocks, names[1:]
            continue
        kept.append(names[0])
        module, names = module._modules[names[0]] or module, names[1:]
    return ".".join(kept)


def subnet_macs(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-adds of a plain module for one image of shape (C, H, W), by torch's counter."""
    state = {n: torch.empty_like(t, device="meta") for n, t in module.state_dict().items()}
    images = torch.empty((1, *input_shape), device="meta")
    with dry(module), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(module, state, (images,))
    return int(counter.get_total_flops()) // 2
