"""Watches forwards on meta tensors: the multiply-adds and the inputs of every module."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, final

from torch import nn

from manyshot.nn.counting import MultiplyAdds
from manyshot.nn.outcomes import Outcomes
from manyshot.nn.shapes import named, shapes_of


@final
class Watch(MultiplyAdds):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of every operation, by the innermost module that runs it.

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
        self._outcomes = Outcomes(self.run)
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
        out, macs = self._outcomes.of(func, args, kwargs or {})
        if macs and self._stack:
            self.counts[self._stack[-1]] += macs
        return out
