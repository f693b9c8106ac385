"""Watches forwards on meta tensors: the multiply-adds and the inputs of every module."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from manyshot.nn.counting import MultiplyAdds
from manyshot.nn.shapes import named, shapes_of


@final
class Watch(MultiplyAdds):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of every operation, by the innermost module that runs it.

    Operations on meta tensors give nothing but shapes, and most of torch's shape functions are
    slow, so each is run once per distinct input.

    Attributes:
        counts: multiply-adds by module.
        inputs: by module, the shapes of the inputs of each call, as text, if they were asked for.
    """

    def __init__(self, model: nn.Module, *, inputs: bool = False) -> None:
        """Puts hooks on all of `model`, which is a copy made to be watched."""
        super().__init__()
        self.counts: defaultdict[nn.Module, int] = defaultdict(int)
        self.inputs: defaultdict[nn.Module, tuple[str, ...]] = defaultdict(tuple)
        self._describes = inputs
        self._stack: list[nn.Module] = []
        self._outcomes: dict[Any, _Outcome] = {}
        self._paths = {module: path for path, module in model.named_modules()}
        for module in self._paths:
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            module.register_forward_hook(self._leave, always_call=True)

    def where(self) -> str:
        """The innermost module that is running."""
        return named(self._paths, self._stack[-1]) if self._stack else super().where()

    def clear(self) -> None:
        """Forgets what was counted so far."""
        self.counts.clear()
        self.inputs.clear()
        self._stack.clear()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._stack.append(module)
        if self._describes:
            self.inputs[module] += (str(shapes_of((args, kwargs))),)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        key = _key(func, args, kwargs)
        outcome = self._outcomes.get(key)
        if outcome is None:
            out, macs = self.run(func, args, kwargs)
            if macs is not None:
                self._add(macs)
                outcome = _Outcome.of(func, args, key, out, macs)
                if outcome is not None:
                    self._outcomes[key] = outcome
            return out
        self._add(outcome.macs)
        if outcome.tensors is None:
            return args[0]
        outputs = [
            torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            for shape, stride, dtype in outcome.tensors
        ]
        return outputs[0] if outcome.single else tuple(outputs)

    def _add(self, macs: int) -> None:
        if macs and self._stack:
            self.counts[self._stack[-1]] += macs


@final
class _Outcome:
    """What an operation does to meta tensors of given shapes."""

    __slots__ = ("macs", "single", "tensors")

    def __init__(self, macs: int, tensors: list[Any] | None, single: bool) -> None:
        self.macs, self.tensors, self.single = macs, tensors, single

    @classmethod
    def of(cls, func: Any, args: Any, key: Any, out: Any, macs: int) -> _Outcome | None:
        """The outcome to remember; None for views, and for whatever is not only shapes."""
        if key is None or not isinstance(func, OpOverload):
            return None
        aliases = [a for a in func._schema.arguments if a.alias_info is not None]
        if aliases:
            in_place = (
                len(aliases) == 1
                and func._schema.arguments[0] is not None
                and func._schema.arguments[0].is_write
                and out is args[0]
                and _mark(out) == key[1][0]  # not one that changes the shape
            )
            return cls(macs, None, True) if in_place else None
        outputs = [out] if isinstance(out, Tensor) else out
        if not isinstance(outputs, list | tuple) or not outputs or not all(map(_is_meta, outputs)):
            return None
        if isinstance(out, list):
            return None
        return cls(macs, [_mark(tensor) for tensor in outputs], isinstance(out, Tensor))


def _is_meta(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.is_meta


def _key(func: Any, args: Any, kwargs: Any) -> Any:
    """Whatever decides the outcome of an operation; None if that cannot be said."""
    try:
        key = (func, tuple(map(_mark, args)), tuple((k, _mark(v)) for k, v in kwargs.items()))
        hash(key)
    except TypeError:
        return None
    return key


def _mark(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not _is_meta(value):
            raise TypeError
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_mark, value))
    return type(value), value  # 1, 1.0 and True are equal, but give other types
