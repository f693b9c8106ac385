"""Runs a network once on tensors without values and notes which channels meet where.

Every operation of ATen is seen as it runs, with the module that runs it, so that nothing has to be
exported or compiled and any `forward` that runs can be read.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from manyshot.conversion.groups import Group, Layout, fix
from manyshot.conversion.rules import RULES, Dims, elementwise, unknown
from manyshot.nn.inputs import tensors_in

View: TypeAlias = tuple[tuple[int, ...], Dims]
"""The shape of what an operation gave, and the layouts of its dimensions."""

VIEWS = {
    *("view", "_unsafe_view", "_reshape_alias", "repeat", "chunk", "split", "split_with_sizes"),
    *("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"),
}
"""Operations that run with other numbers of channels too, but may mean something else there."""
PRODUCTS = {
    *("convolution", "addmm", "mm", "bmm", "baddbmm", "addmv", "mv", "embedding"),
}
"""Operations that give channels of their own, also where no input of the network has a part."""
NORMS = {
    *("native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"),
    *("cudnn_batch_norm", "miopen_batch_norm"),
}


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
        views: what the operations of a module in `VIEWS` gave in eval mode, in order, by module.
        stored: the layouts of tensors that forwards left in attributes of modules.
        returned: the shapes of what the network returned in eval mode.
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
        self.views: defaultdict[nn.Module, list[View]] = defaultdict(list)
        self.stored: list[Dims] = []
        self.returned: list[tuple[int, ...]] = []
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
        self._origin: dict[int, tuple[str, int]] = {}  # of layouts, by their ids
        self._weights: set[int] = set()  # the ids of tensors that no input has a part in
        self._operation = ""
        self._storages: dict[int, str] = {}
        self._kept: Set[int] | None = None  # in a second forward, the ids of what was made before
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names[id(tensor)] = name
            dims: Dims = tuple(None if n == 1 else ((Group(n), 1),) for n in tensor.shape)
            self._keep(tensor, dims)
            self.parameters[name] = dims
            self._weights.add(id(tensor))
            self._storages[tensor.untyped_storage()._cdata] = name
            for dim, layout in enumerate(dims):
                self._origin[id(layout)] = (name, dim)
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

    @property
    def normalises_by_means(self) -> bool:
        """Whether an RMS norm of torch runs, over channels alone."""
        norm = self.innermost
        return type(norm) is nn.RMSNorm and norm.weight is not None and norm.weight.dim() == 1

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

    def contracts(self, tensor: Tensor, dim: int) -> bool:
        """Notes that an operation sums over a dimension of what may be of parameters alone."""
        self._note(self.summed, tensor, dim)
        return id(tensor) in self._weights

    def gives(self, tensor: Tensor, dim: int) -> None:
        """Notes that a dimension of what may be a parameter is that of an operation's output."""
        self._note(self.given, tensor, dim)

    def _note(self, held: set[tuple[str, int]], tensor: Tensor, dim: int) -> None:
        layout = self.dims(tensor)[dim]
        origin = self._origin.get(id(layout))
        if origin is not None and layout is not None and id(tensor) in self._weights:
            held.add(origin)

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
        if self._kept is None:
            self._open.append(tuple(map(self.of, tensors_in((args, kwargs)))))

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._stack.pop()
        if self._kept is not None:
            return
        inputs = self._open.pop()
        outputs = tuple(map(self.of, tensors_in(output)))
        if self._model.training:
            self.trained.add(module)
            return
        is_block = isinstance(output, Tensor) and bool(args) and isinstance(args[0], Tensor)
        self.calls.append(Call(module, inputs, outputs, is_block))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._kept is not None:
            self._fix_kept((args, kwargs))
            return func(*args, **kwargs)
        arguments = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        tensors = list(tensors_in((args, kwargs)))
        before = [self.of(tensor) for tensor in tensors]
        for tensor in tensors:
            if id(tensor) in self._names:
                self.readers[self._names[id(tensor)]].add(self.innermost)
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[-1].rstrip("_")
        self._operation = name
        apply = RULES.get(name) if func.namespace == "aten" else None
        if apply is None:
            apply = elementwise if torch.Tag.pointwise in func.tags else unknown
        self._note_met(args, kwargs)
        dims = apply(self, arguments, out)
        of_weights = name not in PRODUCTS and all(id(t) in self._weights for t in tensors)
        outputs = list(out) if isinstance(out, list | tuple) else [out]
        by_output = list(dims or ()) if isinstance(out, list | tuple) else [dims]
        for tensor, each in zip(outputs, by_output, strict=False):
            if isinstance(tensor, Tensor):
                known: Dims = (None,) * tensor.dim() if each is None else each
                self._made(tensor, known, name, before)
                (self._weights.add if of_weights else self._weights.discard)(id(tensor))
        if of_weights and name in VIEWS and len(outputs) > 1:
            self._note_parts(tensors[0], outputs)
        self._fix_written(func, arguments)
        if torch.Tag.nondeterministic_seeded in func.tags and not self._model.training:
            for tensor in tensors_in(outputs):
                for layout in self.dims(tensor):
                    fix(layout, f"{self.where} draws random numbers for it")
        if name in VIEWS and not self._model.training:
            views = ((tuple(t.shape), self.dims(t)) for t in tensors_in(outputs))
            self.views[self.innermost].extend(views)
        return out

    def _note_parts(self, whole: Tensor, parts: list[Tensor]) -> None:
        """Notes that parts of a weight, as for queries and keys, are dimensions of it."""
        for part in parts:
            for layout, of in zip(self.dims(part), self.dims(whole), strict=True):
                if layout is not None and id(of) in self._origin:
                    self._origin.setdefault(id(layout), self._origin[id(of)])

    def _fix_written(self, func: Any, arguments: Mapping[str, Any]) -> None:
        """Fixes parameters and buffers that are written to: a part of one that is cut is a copy."""
        if self._operation in NORMS:
            return  # of running statistics a supernet has none
        for argument in func._schema.arguments:
            written = arguments.get(argument.name)
            if argument.is_write and isinstance(written, Tensor):
                name = self._storages.get(written.untyped_storage()._cdata)
                for layout in self.parameters[name] if name is not None else ():
                    fix(layout, f"{self.where} writes to it")

    def _fix_kept(self, arguments: Any) -> None:
        """Fixes what an earlier forward left behind, and this one reads."""
        assert self._kept is not None
        for tensor in tensors_in(arguments):
            if id(tensor) in self._kept:
                for layout in self.dims(tensor):
                    kind = type(self.innermost).__name__
                    fix(layout, f"{kind} keeps a tensor of it from one call to the next")

    def note_stored(self, model: nn.Module) -> None:
        """Notes what a forward has left in attributes of modules, where others may read it."""
        for module in model.modules():
            held = [
                v for name, v in vars(module).items() if name not in ("_parameters", "_buffers")
            ]
            for tensor in pytree.tree_leaves(held):
                if isinstance(tensor, Tensor) and id(tensor) in self._dims:
                    self.stored.append(self.dims(tensor))

    def again(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Runs the network once more, and fixes what it keeps from one call to the next."""
        self._kept = self._dims.keys() - self._names.keys()
        try:
            with torch.no_grad(), torch.device("meta"), self:
                model(*args, **kwargs)
        finally:
            self._kept = None
        for name, buffer in model.named_buffers():
            if name in self.parameters and self._names.get(id(buffer)) != name:
                for layout in self.parameters[name]:
                    fix(layout, "a forward puts another tensor in its place")

    def _made(self, tensor: Tensor, dims: Dims, operation: str, before: list[int]) -> None:
        self._keep(tensor, dims)
        number = self._values[id(tensor)] = self._number(tensor)
        self.producers[number] = Producer(operation, tuple(before))
        self._note_met(tensor)

    def _note_met(self, *arguments: Any) -> None:
        """Notes the layouts of tensors, but for the first dimension of those with a batch."""
        for tensor in tensors_in(arguments):
            has_batch = id(tensor) not in self._weights
            for layout in self.dims(tensor)[has_batch and tensor.dim() > 1 :]:
                if layout is not None:
                    self.met[self.innermost][layout] = None


def run(trace: Trace, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Runs `model` under a trace, in its mode, and fixes the channels of what it returns.

    A second run shows what it keeps from one call to the next.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("meta"), trace:
        output = model(*args, **kwargs)
    if not model.training:
        trace.returned = [tuple(tensor.shape) for tensor in tensors_in(output)]
    for tensor in tensors_in(output):
        for layout in trace.dims(tensor):
            fix(layout, "it is what the network returns")
    trace.note_stored(model)
    trace.again(model, args, kwargs)
