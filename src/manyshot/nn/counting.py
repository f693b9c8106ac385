"""Counts multiply-adds while a network runs, by torch's own formulas."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class MultiplyAdds(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts the multiply-adds of all operations that run inside.

    torch's `FlopCounterMode` hooks into gradients to name modules, and fails without gradients
    where a module's output is a view of its parameter, as a class token is.

    Attributes:
        total: the multiply-adds so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out, macs = self.run(func, args, kwargs or {})
        self.total += macs or 0
        return out

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, int | None]:
        """Runs one operation.

        Args:
            func: the operation.
            args: its arguments.
            kwargs: its arguments by name.

        Returns:
            Its result and its multiply-adds, which are None for an operation that is composed of
            others: these have been run, and counted, inside this context.
        """
        flops = flop_registry.get(func._overloadpacket)
        if flops is None:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out, None
        out = func(*args, **kwargs)
        return out, 0 if flops is None else flops(*args, **kwargs, out_val=out) // 2
