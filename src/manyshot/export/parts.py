"""Many modules as ONNX models by one export, since most of what an export takes is fixed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot.export.programs import ONNX_OPSET, onnx_runtime
from manyshot.nn.inputs import tensors_in

Part: TypeAlias = tuple[nn.Module, Sequence[tuple[tuple[Any, ...], dict[str, Any]]]]
"""A module in eval mode, and calls of it: the positional and the keyword arguments of each."""


def parts_to_onnx(parts: Sequence[Part]) -> list[bytes]:
    """Modules as ONNX models, each of which makes the calls of its part, one after the other.

    They are exported side by side in one program, which is then cut. Batch sizes are those of the
    calls. The inputs of a model are the tensors of its calls, in order, under the names of
    `names_of`, but for those that it does not use; its outputs are the tensors that the calls give.

    Args:
        parts: the modules, on the CPU.

    Raises:
        ImportError: without the optional packages.
        Exception: what torch or onnx raise for a module that they cannot export.
    """
    onnx_runtime()
    beside = _Beside(parts)
    tensors = [tensor.clone() for _, calls in parts for tensor in _tensors(calls)]
    with torch.no_grad():
        counts = [len(outputs) for outputs in beside.run(tensor.clone() for tensor in tensors)]
        program = torch.export.export(beside, tuple(tensors))
    inputs = [names_of(i, len(_tensors(calls))) for i, (_, calls) in enumerate(parts)]
    outputs = [[f"out{i}_{k}" for k in range(count)] for i, count in enumerate(counts)]
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=ONNX_OPSET,
        input_names=[name for names in inputs for name in names],
        output_names=[name for names in outputs for name in names],
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    if len(parts) == 1:
        return [model.SerializeToString()]
    cutter = importlib.import_module("onnx.utils").Extractor(model)
    taken = {value.name for value in model.graph.input}
    return [
        cutter.extract_model([name for name in names if name in taken], gives).SerializeToString()
        for names, gives in zip(inputs, outputs, strict=True)
    ]


def names_of(part: int, count: int) -> list[str]:
    """The names of the inputs of a part, of which there are so many."""
    return [f"in{part}_{k}" for k in range(count)]


def _tensors(calls: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(calls) if isinstance(leaf, Tensor)]


@final
class _Beside(nn.Module):
    """Modules that run beside each other, as a function of the tensors of all their calls."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.held = nn.ModuleList(module for module, _ in parts)
        self._calls = [
            pytree.tree_map(lambda v: _Blank() if isinstance(v, Tensor) else v, list(calls))
            for _, calls in parts
        ]

    def run(self, tensors: Iterator[Tensor]) -> Iterator[list[Tensor]]:
        """The tensors that the calls of each module give."""
        for module, blanks in zip(self.held, self._calls, strict=True):
            calls = pytree.tree_map(lambda v: next(tensors) if isinstance(v, _Blank) else v, blanks)
            yield [t for args, kwargs in calls for t in tensors_in(module(*args, **kwargs))]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for outputs in self.run(iter(tensors)) for output in outputs)


class _Blank:
    """Stands where a tensor goes."""
