"""Cuts a network into units whose latency is measured option by option."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import nn
from torch.utils import _pytree as pytree

from manyshot.cost.recording import Cells, Positions, Recording
from manyshot.cost.runtimes import Call, Job
from manyshot.cost.timing import copied, prepared
from manyshot.nn.batch_norm import BatchNormStats, Collector
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.extract import extract
from manyshot.nn.inputs import Inputs as Example
from manyshot.nn.inputs import batch_of, is_batched
from manyshot.nn.mixing import FirstSlice
from manyshot.nn.selection import Selection
from manyshot.nn.shapes import dry
from manyshot.nn.structure import sizes_of, walk
from manyshot.space import Arch
from manyshot.supernet import Supernet

Inputs: TypeAlias = tuple[str, ...]
"""The shapes of the inputs of a unit's calls, as text."""

TimedUnit: TypeAlias = tuple[nn.Module, frozenset[tuple[int, int]], Inputs]
"""What is timed once: a unit, the options that matter in it, and its inputs."""


@final
@dataclass(frozen=True)
class UnitPlan:
    """What to time: one architecture to take each distinct unit from, and who uses the time.

    Attributes:
        jobs: for each thing to time, an architecture that has it.
        seen: for each unit and shapes of its inputs, an architecture in which it sees them.
        cells: for each unit the decisions it depends on, and what to look up at their options.
    """

    jobs: dict[TimedUnit, Arch]
    seen: dict[tuple[nn.Module, Inputs], Arch]
    cells: dict[nn.Module, tuple[Positions, Cells[TimedUnit]]]


def plan(recording: Recording, limit: int, way_out: str) -> UnitPlan:
    """Plans the measurement of every unit at all options that it depends on.

    Units are choice blocks, blocks of an elastic depth, and the largest other modules that taking
    apart would not make cheaper to measure; and modules without decisions whose inputs vary.

    Args:
        recording: what modules depend on.
        limit: the most things to time.
        way_out: what to do if there are more, for the message.

    Raises:
        ValueError: if there is more than `limit` to time.
    """
    depends = recording.dependences(recording.inputs)
    units = dict(_units(recording, depends, recording.model, limit, top=True))
    total = sum(units.values())
    if total > limit:
        largest = sorted(units, key=lambda u: -units[u])[:3]
        listed = ", ".join(f"{recording.paths[u]!r} ({units[u]:,})" for u in largest)
        raise ValueError(
            f"latency: {total:,} cells to time, at most {limit:,}; most are in {listed}: {way_out}"
        )
    nothing: Inputs = ()
    seen_inputs = recording.tabulate(recording.inputs, {u: depends[u] for u in units}, nothing)
    result = UnitPlan({}, {}, {})
    for unit in units:
        _plan_unit(recording, unit, depends[unit], seen_inputs[unit], result)
    return result


def _inside(recording: Recording, module: nn.Module) -> set[int]:
    index = recording.space.index
    return {
        index[decision]
        for path, held, _ in walk(module)
        for _, size in sizes_of(held, path)
        for decision in size.decisions()
    }


def _units(
    recording: Recording,
    depends: Mapping[nn.Module, Positions],
    module: nn.Module,
    limit: int,
    *,
    top: bool = False,
    block: bool = False,
) -> Iterator[tuple[nn.Module, int]]:
    """The units below and including `module`, each with the number of its cells."""
    inside, called = _inside(recording, module), module in depends
    axes = inside.union(depends.get(module, ()))
    cells = math.prod(int(recording.space.counts[p]) for p in axes)
    if called and not inside:
        if axes or recording.gates(module):
            yield module, cells
        return
    parts = [
        unit
        for child in _children(module)
        for unit in _units(recording, depends, child, limit, block=isinstance(module, Depth))
    ]
    whole = block or isinstance(module, Choice) or any(True for _ in sizes_of(module, ""))
    whole = whole or cells <= sum(count for _, count in parts)
    whole = whole and called and not top and not isinstance(module, Depth)
    if whole and (cells <= limit or not parts):
        yield module, cells
    else:
        yield from parts


def _children(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, Choice):
        yield from module.options.values()
    else:
        yield from module.blocks if isinstance(module, Depth) else module.children()


def _plan_unit(
    recording: Recording,
    unit: nn.Module,
    depends: Positions,
    seen: Cells[tuple[Inputs, Arch]],
    result: UnitPlan,
) -> None:
    space = recording.space
    axes = tuple(sorted(_inside(recording, unit).union(depends)))
    cells: Cells[TimedUnit] = {}
    for cell in itertools.product(*(range(int(space.counts[p])) for p in axes)):
        options = dict(zip(axes, cell, strict=True))
        sight = seen.get(tuple(options[p] for p in depends))
        if sight is None:
            continue
        inputs, example = sight
        arch = tuple(options.get(i, option) for i, option in enumerate(example))
        if recording.active(unit, arch):
            key = (unit, _options(recording, unit, arch), inputs)
            result.jobs.setdefault(key, arch)
            result.seen.setdefault((unit, inputs), example)
            cells[cell] = key
    result.cells[unit] = (axes, cells)


def _options(recording: Recording, unit: nn.Module, arch: Arch) -> frozenset[tuple[int, int]]:
    """The options in `arch` of the decisions that matter inside `unit`."""
    index = recording.space.index
    return frozenset(
        (index[decision], arch[index[decision]])
        for path, held, use in walk(unit)
        if all(arch[index[d]] in allowed for d, allowed in use)
        for _, size in sizes_of(held, path)
        for decision in size.decisions()
    )


def make_jobs(
    net: Supernet, recording: Recording, planned: UnitPlan, example: Example, device: torch.device
) -> list[Job]:
    """Every unit of a plan, extracted, with the activations that it sees.

    Args:
        net: the supernet.
        recording: what its modules depend on.
        planned: the plan.
        example: what the supernet is run on.
        device: where it is.
    """
    calls = _activations(net, recording, planned, example, device)
    jobs: list[Job] = []
    for (unit, options, inputs), arch in planned.jobs.items():
        selection = Selection(net.space.decisions, arch, mixture=FirstSlice())
        plain = extract(recording.original[unit], selection)
        chosen = (net.space.decisions[i] for i, _ in sorted(options))
        named = ", ".join(f"{d.name}={d.options[arch[net.space.index[d]]]!r}" for d in chosen)
        name = f"module {recording.paths[unit]!r}{f' at {named}' if named else ''}"
        jobs.append(Job(name, prepared(plain, device), calls[unit, inputs]))
    return jobs


def _activations(
    net: Supernet, recording: Recording, planned: UnitPlan, example: Example, device: torch.device
) -> dict[tuple[nn.Module, Inputs], list[Call]]:
    wanted: defaultdict[Arch, list[tuple[nn.Module, Inputs]]] = defaultdict(list)
    for unit, arch in planned.seen.items():
        wanted[arch].append(unit)
    calls: dict[tuple[nn.Module, Inputs], list[Call]] = {}
    for arch, units in wanted.items():
        handles = []
        for unit in units:
            calls[unit] = []
            hook = _keeper(calls[unit], device)
            handles.append(
                recording.original[unit[0]].register_forward_pre_hook(hook, with_kwargs=True)
            )
        try:
            stats = statistics(net, arch, example)
            for unit in units:
                calls[unit].clear()
            with dry(net):
                net(example, arch, stats=stats)
        finally:
            for handle in handles:
                handle.remove()
    return calls


def _keeper(kept: list[Call], device: torch.device) -> Any:
    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        kept.extend(copied([(args, kwargs)], device))

    return keep


def statistics(net: Supernet, arch: Arch, example: Example) -> BatchNormStats:
    """Batch-norm statistics of an architecture on few samples, so that activations keep a scale.

    Args:
        net: the supernet.
        arch: the architecture.
        example: what it is run on; of a single sample, it and its mirror image.
    """
    collector = Collector()
    if batch_of(example) == 1:
        example = pytree.tree_map(_with_its_mirror, example)
    with dry(net):
        net(example, arch, stats=collector)
    return collector.stats(arch)


def _with_its_mirror(value: Any) -> Any:
    return torch.cat((value, value.flip(-1))) if is_batched(value, 1) else value
