"""Batch norms of classes of one's own: their normalisation is replaced, the rest of it is kept.

A subclass of a batch norm of torch may do more than normalise, as an activation behind it. It
becomes a layer that is of both classes: its own `forward` runs, and the one call of
`torch.nn.functional.batch_norm` in it, whether its own or that of torch's `forward`, is answered by
ours. While it runs, what it reads of itself is that of the active selection: scale, shift and
number of features. Its running statistics are stand-ins, with which nothing may be computed.
"""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, ClassVar, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from manyshot.nn.batch_norm import ADOPTED, BatchNorm
from manyshot.nn.layer import Extraction, Layer, Norm, Shape
from manyshot.nn.selection import Index, Selection, active
from manyshot.space import Number

_RUNNING: ContextVar[_Call | None] = ContextVar("manyshot_kept_forward", default=None)
_ROUTED = ("num_features", "weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_OURS = (
    *("path", "_elastic", "_stored", "_known", "_stacks", "_code_channels", "_stacked_at"),
    "_compiled_call_impl",
)
_DEFERRED = (
    *("forward", "extra_repr", "reset_parameters", "reset_running_stats"),
    "_load_from_state_dict",
)
"""Methods of ours that run those of the user's class, or that no class has for something else."""
_HARMLESS = ("__get__", "size", "dim", "numel", "__len__")
"""Names of functions that read of a stand-in what is right: its shape, type and device."""


class _Call(TorchFunctionMode):
    """One call of a kept forward: what it reads of its layer, and what it may do with that."""

    def __init__(self, layer: Kept, x: Tensor) -> None:
        super().__init__()
        self.layer, self.x, self.calls = layer, x, 0
        self.weight, self.bias = layer.operands()
        features = layer.num_features
        count = features if isinstance(features, int) else active(layer).extent(features)
        self.num_features = count
        self.running_mean = x.new_full((count,), float("nan"))
        self.running_var = x.new_full((count,), float("nan"))
        self.num_batches_tracked = torch.ones((), dtype=torch.long, device="cpu")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._normalise(*args, **kwargs)
        for value in (*args, *kwargs.values()):
            if value is self.running_mean or value is self.running_var:
                name = getattr(func, "__name__", "another function")
                if name not in _HARMLESS:
                    self.refuse(f"gives its running statistics to {name}")
        return func(*args, **kwargs)

    def _normalise(
        self,
        input: Tensor,  # noqa: A002 - the names of torch's arguments
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Does what `torch.nn.functional.batch_norm` is called for, if it may."""
        self.calls += 1
        if self.calls > 1:
            self.refuse("calls torch.nn.functional.batch_norm more than once")
        if input is not self.x:
            self.refuse("normalises something else than its input")
        for name, value in (("running_mean", running_mean), ("running_var", running_var)):
            if value is not getattr(self, name):
                self.refuse(f"normalises with another {name} than its own")
        for name, value in (("weight", weight), ("bias", bias)):
            if value is not getattr(self, name):
                self.refuse(f"normalises with another {name} than its own")
        if training != self.layer.training:
            mode = "train" if self.layer.training else "eval"
            self.refuse(f"normalises in {mode} mode with training={training!r}")
        return self.layer.normalise(input, weight, bias, eps)

    def refuse(self, what: str) -> NoReturn:
        """Raises a `TypeError` that says what a forward may not do."""
        raise TypeError(
            f"{self.layer.path or 'the model'}: the forward of {self.layer.kept.__name__} {what}; "
            "a supernet keeps no running statistics, and replaces one call of "
            "torch.nn.functional.batch_norm of the layer's input, with the layer's own tensors and "
            "training=self.training. Use torch.nn.BatchNorm1d/2d/3d and do the rest in modules of "
            "their own, or give track_running_stats=False"
        )


class _Routed:
    """An attribute of a kept norm that reads as the running call has it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, layer: Kept | None, owner: Any = None) -> Any:
        if layer is None:
            return self
        call = _RUNNING.get()
        if call is not None and call.layer is layer:
            return getattr(call, self.name)
        if self.name in layer.__dict__:
            return layer.__dict__[self.name]
        return cast(Any, type(layer)).__getattr__(layer, self.name)

    def __set__(self, layer: Kept, value: Any) -> None:
        layer.__dict__[self.name] = value


class _KeptClass(type):
    """The class of classes that `kept_class` makes, by which they are pickled."""

    kept: type[nn.Module]


class Kept(BatchNorm):
    """The half of a class that keeps the forward of the other half, a user's class."""

    kept: ClassVar[type[nn.Module]]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward of the user's class, in which the batch norm is ours.

        Raises:
            TypeError: if it does not normalise its input once by its own tensors.
        """
        call = _Call(self, x)
        token = _RUNNING.set(call)
        try:
            with call:
                out = cast(Any, self.kept).forward(self, x, *args, **kwargs)
        finally:
            _RUNNING.reset(token)
        if not call.calls:
            call.refuse("does not call torch.nn.functional.batch_norm")
        return out

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Scale and shift, and what else the user's class has, which is used as a whole."""
        yield from super().shapes()
        for name in self._parameters:
            if name not in ("weight", "bias") and self.has(name):
                yield name, tuple(getattr(self, name).shape)

    def part(self, name: str, selection: Selection) -> Index:
        """The first features of scale and shift, all of anything else."""
        return super().part(name, selection) if name in ("weight", "bias") else ()

    def become(self, extraction: Extraction) -> nn.Module:
        """One of the user's class, whatever it is made with: a copy of what it holds, made plain.

        Its running statistics are those of the selection, or fresh.
        """
        norm = extraction[id(self)] = self.kept.__new__(self.kept)
        skipped = (*_OURS, "_parameters", "_buffers", "_non_persistent_buffers_set", "num_features")
        held = {name: value for name, value in self.__dict__.items() if name not in skipped}
        norm.__dict__.update(copy.deepcopy(held, extraction))
        features: Number = extraction.selection.count(self.num_features)
        norm.__dict__["num_features"] = features
        norm.__dict__["_parameters"] = {
            name: extraction.tie(self, name) if self.has(name) else None
            for name in self._parameters
        }
        buffers = {name: buffer for name, buffer in self._buffers.items() if name != "_like"}
        norm.__dict__["_buffers"] = {
            **self.statistics(extraction.selection),
            **copy.deepcopy(buffers, extraction),
        }
        norm.__dict__["_non_persistent_buffers_set"] = self._non_persistent_buffers_set - {"_like"}
        return norm

    def reset_parameters(self) -> None:
        """What the user's class does."""
        cast(Any, self.kept).reset_parameters(self)

    def reset_running_stats(self) -> None:
        """Nothing: a supernet has no running statistics."""

    def extra_repr(self) -> str:
        """The text of the user's class."""
        return cast(str, cast(Any, self.kept).extra_repr(self))

    def _load_from_state_dict(self, *args: Any) -> None:
        # torch's own adds a number of batches to states that say no version.
        nn.Module._load_from_state_dict(self, *args)


_CLASSES: dict[type[nn.Module], type[Kept]] = {}


def kept_class(kind: type[nn.Module]) -> type[Kept]:
    """The subclass of `kind`, a batch norm of torch, whose normalisation is ours."""
    if kind not in _CLASSES:
        ours = next(ADOPTED[base] for base in kind.__mro__ if base in ADOPTED)
        meta: Any = _KeptClass if type(kind) is type else type(kind)
        routed = {name: _Routed(name) for name in _ROUTED}
        held = {"kept": kind, "__doc__": kind.__doc__, "__module__": kind.__module__, **routed}
        _CLASSES[kind] = meta(kind.__name__, (Kept, ours, kind), held)
    return _CLASSES[kind]


def _pickled(cls: _KeptClass) -> Any:
    return kept_class, (cls.kept,)


copyreg.pickle(cast(Any, _KeptClass), _pickled)


def searchable(norm: nn.Module, path: str = "") -> type[BatchNorm] | None:
    """The class of ours that a norm may be of; None if paths cannot share it.

    Raises:
        TypeError: for a class that has names which layers of ours have too, for something else.
    """
    kind = type(norm)
    if kind in ADOPTED:
        return ADOPTED[kind]
    lazy = isinstance(norm, LazyModuleMixin)
    if isinstance(norm, tuple(ADOPTED)) and not lazy and not is_parametrized(norm):
        clashes = _clashes(norm)
        if clashes:
            raise TypeError(
                f"{path or 'the model'}: {kind.__name__}, a batch norm of its own class, has "
                f"{', '.join(clashes)}, which a supernet gives its layers too: rename what is "
                "yours, or use torch.nn.BatchNorm1d/2d/3d and do the rest in modules of their own"
            )
        return kept_class(kind)
    return None


def _clashes(norm: nn.Module) -> list[str]:
    """The names of a norm and of its class that would be hidden by ours."""
    held = set(vars(norm))
    for cls in type(norm).__mro__:
        if not cls.__module__.startswith("torch.nn.modules"):
            held |= set(vars(cls))
    ours = {name for cls in (Kept, BatchNorm, Norm, Layer) for name in vars(cls)} | set(_OURS)
    theirs = (*_DEFERRED, "_compiled_call_impl")
    return sorted(n for n in held & ours if not n.startswith("__") and n not in theirs)
