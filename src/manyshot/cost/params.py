"""Parameters of architectures: what `extract(arch)` would hold, as tables."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
from torch import Tensor, nn

from manyshot.cost.axes import extents, holds
from manyshot.cost.macs import check_archs
from manyshot.cost.recording import CostMismatch
from manyshot.cost.tables import MAX_CELLS, CostTable, Table
from manyshot.nn.extract import extract
from manyshot.nn.inputs import model_dtype
from manyshot.nn.layer import Shape
from manyshot.nn.mixing import FirstSlice
from manyshot.nn.selection import Selection
from manyshot.nn.shapes import meta_twin
from manyshot.nn.structure import parameter_uses
from manyshot.space import SearchSpace, Size, Use
from manyshot.space.decision import Concat
from manyshot.supernet import Supernet


def params_table(net: Supernet) -> CostTable:
    """The number of parameters of any architecture, exact; tied weights count once.

    The table is checked on extracted subnets.

    Raises:
        CostMismatch: if the check fails.
        ValueError: if one tensor is shared by so many choices that no table can hold it.
    """
    space = net.space
    tables: dict[tuple[int, ...], np.ndarray] = {}
    parts: defaultdict[tuple[int, ...], list[Places]] = defaultdict(list)
    for tensor, places in parameter_uses(net.model):
        for part in _parts(places):
            parts[_positions(space, tensor, part)].append(part)
    for positions, tensors in parts.items():
        table = np.zeros([int(space.counts[p]) for p in positions], np.int64)
        for places in tensors:
            table += _numels(space, positions, places)
        tables[positions] = table
    cost = CostTable.of("params", tuple(space.counts.tolist()), tables.items())
    _check(net, cost)
    return cost


def size_table(net: Supernet, params: CostTable | None = None) -> CostTable:
    """The bytes that the parameters of any architecture take, in the type that they have.

    Exported files are that large, but for what surrounds the weights: a few hundred kilobytes.

    Args:
        net: the supernet.
        params: the table of its parameters, if that is there.
    """
    counted = params_table(net) if params is None else params
    each = model_dtype(net.model).itemsize
    tables = {positions: table * each for positions, table in counted.tables.items()}
    return CostTable("size", counted.counts, counted.constant * each, tables)


def _check(net: Supernet, cost: CostTable) -> None:
    twin: nn.Module = meta_twin(net.model)[id(net.model)]
    for arch in check_archs(net.space):
        subnet = extract(twin, Selection(net.space.decisions, arch, mixture=FirstSlice()))
        expected, got = sum(p.numel() for p in subnet.parameters()), int(cost([arch])[0])
        if expected != got:
            raise CostMismatch(
                f"architecture {net.space.to_text(arch)}: {got:,} parameters by the tables, its "
                f"extracted subnet has {expected:,}"
            )


Places = list[tuple[Use, Shape]]
"""Where a tensor is in the network: when, and in what shape."""


def _parts(places: Places) -> list[Places]:
    """Places whose numbers add up to that of `places`: concatenations are taken apart.

    A tensor that has several shapes is left whole: extraction keeps one for each of them.
    """
    (_, shape), *others = places
    if not all(_is(shape, other) for _, other in others):
        return [places]
    sizes = (size.operands if isinstance(size, Concat) else (size,) for size in shape)
    return [[(use, part) for use, _ in places] for part in itertools.product(*sizes)]


def _is(one: Shape, other: Shape) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(
        a is b or (isinstance(a, int) and isinstance(b, int) and a == b) for a, b in pairs
    )


def _positions(space: SearchSpace, tensor: Tensor, places: Places) -> tuple[int, ...]:
    decisions = {d for use, _ in places for d, _ in use}
    for _, shape in places:
        for size in shape:
            if isinstance(size, Size):
                decisions.update(size.decisions())
    positions = tuple(sorted(space.index[d] for d in decisions))
    cells = math.prod(int(space.counts[p]) for p in positions)
    if cells > MAX_CELLS:
        raise ValueError(
            f"params: a tensor of shape {tuple(tensor.shape)} depends on {len(positions)} "
            f"decisions ({cells:,} combinations; at most {MAX_CELLS:,}): share it by fewer choices"
        )
    return positions


def _numels(space: SearchSpace, positions: tuple[int, ...], places: Places) -> Table:
    """The parameters at all options of some decisions, as a table that broadcasts over them."""
    (_, shape), *others = places
    if all(_is(shape, other) for _, other in others):
        sizes = (extents(space, positions, size) for size in shape)
        return math.prod(sizes, start=holds(space, positions, [use for use, _ in places]))
    decisions = [space.decisions[p] for p in positions]
    table = np.zeros([int(space.counts[p]) for p in positions], np.int64)
    for cell in np.ndindex(table.shape):
        table[cell] = _numel(places, Selection(decisions, cell))
    return table


def _numel(places: Places, selection: Selection) -> int:
    """The parameters in `selection`: extraction keeps one tensor per distinct active part."""
    shapes = {tuple(map(selection.count, shape)) for use, shape in places if selection.holds(use)}
    return sum(map(math.prod, shapes))
