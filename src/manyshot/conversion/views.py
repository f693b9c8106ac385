"""Whether a narrower network still means what the original does where its code views channels.

`x.unflatten(1, (self.heads, -1))` runs with any number of channels, but with half of them every
head has half the features, and there are not half the heads. So the shapes that views give are
compared with those that the layouts of the original ask for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manyshot.conversion.groups import Layout
from manyshot.conversion.tracing import VIEWS, View
from manyshot.nn.inputs import tensors_in
from manyshot.nn.layer import Layer
from manyshot.nn.shapes import DryRunError, named


class OtherMeaning(DryRunError):
    """A forward runs with another number of channels, but means something else by them.

    Attributes:
        module: whose forward it is.
    """

    def __init__(self, message: str, module: nn.Module) -> None:
        super().__init__(message)
        self.module = module


@final
class Views(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that notes the shapes that views give in every module which is no layer."""

    def __init__(self, twin: nn.Module) -> None:
        """Puts hooks on all of `twin`, a copy that is made to be tried."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._twin = twin
        self._stack: list[nn.Module] = []
        self._shapes: defaultdict[nn.Module, list[tuple[int, ...]]] = defaultdict(list)
        for module in twin.modules():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._stack.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._stack.pop()

    def clear(self) -> None:
        """Forgets what was seen."""
        self._stack.clear()
        self._shapes.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._stack and func._schema.name.split("::")[-1].rstrip("_") in VIEWS:
            self._shapes[self._stack[-1]].extend(tuple(t.shape) for t in tensors_in(out))
        return out

    def compare(
        self,
        expected: Mapping[str, Sequence[View]],
        path_of: Callable[[nn.Module], str],
        size: Callable[[Layout], int],
    ) -> None:
        """Compares what was seen with what the original's views ask for.

        A module that did not do as many views as the original, as where torch multiplies
        matrices in another way, is not compared.

        Args:
            expected: what views gave in the original, by the path of the module.
            path_of: the path that a module of the twin has in the original.
            size: the entries that a dimension of some layout has.

        Raises:
            OtherMeaning: if a shape is another one.
        """
        for module, shapes in self._shapes.items():
            views = expected.get(path_of(module), ())
            if isinstance(module, Layer) or len(views) != len(shapes):
                continue
            for shape, (original, dims) in zip(shapes, views, strict=True):
                asked = tuple(
                    n if layout is None else size(layout)
                    for n, layout in zip(original, dims, strict=True)
                )
                if shape != asked:
                    paths = {m: path for path, m in self._twin.named_modules()}
                    raise OtherMeaning(
                        f"{named(paths, module)} makes a tensor of shape {shape} where fewer of "
                        f"the same channels are one of {asked}: it counts them by a number of its "
                        "own",
                        module,
                    )
