"""Operations on tensors without values, each run once per distinct input.

They give nothing but shapes, and most of torch's shape functions are slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


@final
class Remembering(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which operations on meta tensors are run once per distinct input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outcomes = Outcomes(lambda func, args, kwargs: (func(*args, **kwargs), 0))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self._outcomes.of(func, args, kwargs or {})[0]


@final
class Outcomes:
    """What operations on meta tensors give, and their multiply-adds, by distinct input."""

    def __init__(self, run: Callable[[Any, Any, Any], tuple[Any, int | None]]) -> None:
        """Knows nothing yet.

        Args:
            run: runs an operation and counts its multiply-adds; None of what is not to be
                remembered.
        """
        self._run = run
        self._known: dict[Any, Outcome] = {}

    def of(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, int]:
        """What an operation gives, and its multiply-adds; it is run if it is new."""
        key = key_of(func, args, kwargs)
        outcome = self._known.get(key)
        if outcome is not None:
            return outcome.output(args), outcome.macs
        out, macs = self._run(func, args, kwargs)
        if macs is not None:
            outcome = Outcome.of(func, args, key, out, macs)
            if outcome is not None:
                self._known[key] = outcome
        return out, macs or 0


@final
class Outcome:
    """What an operation does to meta tensors of given shapes."""

    __slots__ = ("macs", "single", "tensors")

    def __init__(self, macs: int, tensors: list[Any] | None, single: bool) -> None:
        self.macs, self.tensors, self.single = macs, tensors, single

    def output(self, args: tuple[Any, ...]) -> Any:
        """What the operation gives, of arguments like those that it was run on."""
        if self.tensors is None:
            return args[0]
        outputs = [
            torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            for shape, stride, dtype in self.tensors
        ]
        return outputs[0] if self.single else tuple(outputs)

    @classmethod
    def of(cls, func: Any, args: Any, key: Any, out: Any, macs: int) -> Outcome | None:
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


def key_of(func: Any, args: Any, kwargs: Any) -> Any:
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
