"""Which blocks of a network can be left out: those that add to their input."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import nn

from manyshot.conversion.groups import Layout, resolved
from manyshot.conversion.tracing import Call, Trace

_ALONG = {
    *("add", "relu", "gelu", "silu", "hardswish", "leaky_relu", "elu", "mish", "relu6", "hardtanh"),
    *("native_layer_norm", "dropout", "clone", "alias", "detach"),
}
"""The operations that may lie between the input of a block and its output on the way around it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Blocks of one container that follow each other and can be left out from the end.

    Attributes:
        container: the path of the module that holds them.
        blocks: their paths, in order; the block before them always runs.
    """

    container: str
    blocks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the decision: how many of the blocks run, with the one before them."""
        return f"{self.container}.depth" if self.container else "depth"


def runs(trace: Trace, model: nn.Module) -> list[Run]:
    """The runs of blocks in the containers of a network that can be dropped from the end.

    A block counts if it is called once, with a tensor that becomes one of the same shape and the
    same channels, and if its input reaches its output by additions and activations alone. The first
    block of every container stays. Of stages and the blocks in them, the blocks can be left out.
    """
    paths = {module: path for path, module in model.named_modules()}
    calls: dict[nn.Module, list[Call]] = {}
    for call in trace.calls:
        calls.setdefault(call.module, []).append(call)
    found = [
        Run(paths[container], tuple(paths[block] for block in blocks))
        for container in paths
        if isinstance(container, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        for blocks in _in(container, trace, calls)
    ]
    stages = {run.container for run in found}
    found = [run for run in found if not stages.intersection(run.blocks)]
    several = {run.name for run in found if sum(other.name == run.name for other in found) > 1}
    return [
        dataclasses.replace(run, container=run.blocks[0]) if run.name in several else run
        for run in found
    ]


def _in(
    container: nn.Module, trace: Trace, calls: dict[nn.Module, list[Call]]
) -> Iterator[list[nn.Module]]:
    children = list(container.children())
    current: list[nn.Module] = []
    for before, block in zip(children, children[1:], strict=False):
        follows = _follows(calls.get(before, []), calls.get(block, []))
        if follows and _adds(trace, calls[block][0]):
            current.append(block)
            continue
        if current:
            yield current
        current = []
    if current:
        yield current


def _follows(before: list[Call], block: list[Call]) -> bool:
    """Whether a block is called once, with what the one before it gave."""
    return (
        len(before) == 1
        and len(block) == 1
        and before[0].gives_tensor
        and block[0].gives_tensor
        and block[0].inputs[:1] == before[0].outputs
    )


def _adds(trace: Trace, call: Call) -> bool:
    source, target = call.inputs[0], call.outputs[0]
    if source == target or trace.shapes[source] != trace.shapes[target]:
        return False
    if _same(trace, source) != _same(trace, target):
        return False
    pending, seen = [(target, False)], {(target, False)}
    while pending:
        value, added = pending.pop()
        producer = trace.producers.get(value)
        if producer is None or producer.operation not in _ALONG:
            continue
        added = added or (producer.operation == "add" and len(producer.inputs) > 1)
        for state in ((value, added) for value in producer.inputs):
            if state == (source, True):
                return True
            if state not in seen and state[0] > source:
                seen.add(state)
                pending.append(state)
    return False


def _same(trace: Trace, value: int) -> tuple[Layout | None, ...]:
    dims = trace.value_dims[value]
    return tuple(None if layout is None else resolved(layout) for layout in dims)
