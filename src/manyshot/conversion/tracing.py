"""Runs a network once on tensors without values and notes which channels meet where.

Every operation of ATen is seen as it runs, with the module that runs it, so that nothing has to be
exported or compiled and any `forward` that runs can be read.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from manyshot.conversion.groups import Group, Layout, fix
from manyshot.conversion.rules import RULES, Dims, elementwise, unknown


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a module: the values of the tensors that went in and came out."""

    module: nn.Module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    gives_tensor: bool
    """Whether a tensor is its first argument, and all that it returns."""


@dataclasses.dataclass(frozen=True)
class Producer:
    """The operation that made a value, and the values that it read."""

    operation: str
    inputs: tuple[int, ...]


@final
class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The layouts of all tensors of a network in one forward.

    Attributes:
        parameters: the layouts of parameters and buffers, by name.
        readers: the innermost modules that read a parameter or buffer, by its name.
        summed: dimensions of parameters that operations sum over, as (name, dimension).
        given: dimensions of parameters that are the channels of what an operation gives.
        met: the layouts that the operations of a module met, by module.
        calls: all calls of modules in eval mode, in the order in which they ended.
        trained: modules that ran in train mode.
        producers: what made a value, by its number.
        shapes: the shape of every value.
        value_dims: the layouts of every value's dimensions.
    """

    def __init__(self, model: nn.Module, heads: Callable[[nn.Module], set[int]]) -> None:
        """Puts hooks on all of `model`, a copy without values that is made to be traced.

        Args:
            model: the network.
            heads: the numbers of heads that a module says it has.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters: dict[str, Dims] = {}
        self.readers: defaultdict[str, set[nn.Module]] = defaultdict(set)
        self.summed: set[tuple[str, int]] = set()
        self.given: set[tuple[str, int]] = set()
        self.met: defaultdict[nn.Module, dict[Layout, None]] = defaultdict(dict)
        self.calls: list[Call] = []
        self.trained: set[nn.Module] = set()
        self.producers: dict[int, Producer] = {}
        self.shapes: list[tuple[int, ...]] = []
        self.value_dims: list[Dims] = []
        self._model, self._heads = model, heads
        self._stack: list[nn.Module] = []
        self._open: list[tuple[int, ...]] = []
        self._dims: dict[int, Dims] = {}
        self._values: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._names: dict[int, str] = {}
        self._origin: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._operation = ""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names[id(tensor)] = name
            dims: Dims = tuple(None if n == 1 else ((Group(n), 1),) for n in tensor.shape)
            self._keep(tensor, dims)
            self.parameters[name] = dims
            self._origin[id(tensor)] = (name, tuple(range(tensor.dim())))
        for module in model.modules():
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)

    @property
    def where(self) -> str:
        """The operation that runs, for messages."""
        return f"{self._operation.lstrip('_')} in {type(self.innermost).__name__}"

    @property
    def innermost(self) -> nn.Module:
        """The innermost module that runs."""
        return self._stack[-1] if self._stack else self._model

    @property
    def normalises(self) -> bool:
        """Whether a layer norm runs."""
        return isinstance(self.innermost, nn.LayerNorm)

    def heads_axis(self, shape: Sequence[int]) -> int | None:
        """The dimension before the last of `shape` that counts the heads of a running module."""
        for module in reversed(self._stack[-2:]):
            numbers = self._heads(module)
            for i in range(len(shape) - 2, -1, -1):
                if shape[i] in numbers and shape[i] > 1:
                    return i
        return None

    def dims(self, tensor: Tensor) -> Dims:
        """The layouts of a tensor's dimensions."""
        dims = self._dims.get(id(tensor))
        return (None,) * tensor.dim() if dims is None else dims

    def contracts(self, tensor: Tensor, dim: int) -> None:
        """Notes that an operation sums over a dimension of what may be a parameter."""
        self._note(self.summed, tensor, dim)

    def gives(self, tensor: Tensor, dim: int) -> None:
        """Notes that a dimension of what may be a parameter is that of an operation's output."""
        self._note(self.given, tensor, dim)

    def _note(self, held: set[tuple[str, int]], tensor: Tensor, dim: int) -> None:
        origin = self._origin.get(id(tensor))
        if origin is not None:
            held.add((origin[0], origin[1][dim]))

    def of(self, tensor: Tensor) -> int:
        """The number of the value that a tensor has now."""
        if id(tensor) not in self._values:
            self._alive.append(tensor)
            self._values[id(tensor)] = self._number(tensor)
        return self._values[id(tensor)]

    def _number(self, tensor: Tensor) -> int:
        number = len(self.shapes)
        self.shapes.append(tuple(tensor.shape))
        self.value_dims.append(self.dims(tensor))
        return number

    def _keep(self, tensor: Tensor, dims: Dims) -> None:
        self._alive.append(tensor)
        self._dims[id(tensor)] = dims

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._stack.append(module)
        self._open.append(tuple(map(self.of, _tensors((args, kwargs)))))

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._stack.pop()
        inputs = self._open.pop()
        outputs = tuple(map(self.of, _tensors(output)))
        if self._model.training:
            self.trained.add(module)
            return
        is_block = isinstance(output, Tensor) and bool(args) and isinstance(args[0], Tensor)
        self.calls.append(Call(module, inputs, outputs, is_block))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        arguments = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        before = [self.of(t) for t in _tensors((args, kwargs))]
        self._note_readers((args, kwargs))
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[-1].rstrip("_")
        self._operation = name
        apply = RULES.get(name)
        if apply is None:
            apply = elementwise if torch.Tag.pointwise in func.tags else unknown
        self._note_met(args, kwargs)
        dims = apply(self, arguments, out)
        if isinstance(out, Tensor):
            self._made(out, dims, self._operation, before)
            self._trace_origin(name, arguments, out)
        elif isinstance(out, list | tuple):
            for tensor, each in zip(out, dims, strict=True):
                if isinstance(tensor, Tensor):
                    self._made(tensor, (None,) * tensor.dim() if each is None else each,
                               self._operation, before)  # fmt: skip
        return out

    def _made(self, tensor: Tensor, dims: Dims, operation: str, before: Sequence[int]) -> None:
        self._keep(tensor, dims)
        number = self._values[id(tensor)] = self._number(tensor)
        self.producers[number] = Producer(operation, tuple(before))
        self._note_met(tensor)

    def _note_met(self, *arguments: Any) -> None:
        """Notes the layouts of tensors, but for the first dimension of those with a batch."""
        for tensor in _tensors(arguments):
            has_batch = id(tensor) not in self._origin
            for layout in self.dims(tensor)[has_batch and tensor.dim() > 1 :]:
                if layout is not None:
                    self.met[self.innermost][layout] = None

    def _note_readers(self, arguments: Any) -> None:
        for tensor in _tensors(arguments):
            origin = self._origin.get(id(tensor))
            if origin is not None:
                self.readers[origin[0]].add(self.innermost)

    def _trace_origin(self, name: str, arguments: Mapping[str, Any], out: Tensor) -> None:
        """Follows a parameter through transpositions, so that sums over it are seen."""
        source = arguments.get("self")
        origin = self._origin.get(id(source))
        if origin is None or out is source:
            return
        at = list(origin[1])
        if name == "t" and len(at) == 2:
            at.reverse()
        elif name == "transpose":
            i, j = arguments["dim0"], arguments["dim1"]
            at[i], at[j] = at[j], at[i]
        elif name == "permute":
            at = [at[i] for i in arguments["dims"]]
        elif name not in ("detach", "alias", "clone", "contiguous", "_to_copy"):
            return
        self._origin[id(out)] = (origin[0], tuple(at))


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def run(trace: Trace, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Runs `model` under a trace, in its mode, and fixes the channels of what it returns."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("meta"), trace:
        output = model(*args, **kwargs)
    for tensor in _tensors(output):
        for layout in trace.dims(tensor):
            fix(layout, "it is what the network returns")
