"""The active selection: which architecture the layers run, for the duration of one forward.

`Supernet.forward` sets it and resets it, in a `ContextVar`, so that threads do not see each other's
and no module ever holds a "current architecture". Layers read it; a layer without one raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils import checkpoint as torch_checkpoint

from manyshot.space import Arch, Decision, Number, Size, Use

if TYPE_CHECKING:
    from manyshot.nn.batch_norm import Statistics
    from manyshot.nn.mixing import Mixture

_ACTIVE: ContextVar[Selection | None] = ContextVar("manyshot_selection", default=None)


class Selection:
    """One architecture while it runs: option indices, the sizes they give, statistics, mixture.

    This is the form by option indices, with which layers slice. The other form, straight-through
    one-hot policies with which layers mask, extends this object: layers ask it, never the arch.
    """

    __slots__ = ("_sizes", "_values", "arch", "indices", "mixture", "statistics")

    def __init__(
        self,
        decisions: Sequence[Decision],
        arch: Arch,
        statistics: Statistics | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        self.arch, self.mixture = arch, mixture
        self.indices = dict(zip(decisions, arch, strict=True))
        self.statistics = statistics
        self._values: dict[Decision, Number] = {
            d: d.values[i] for d, i in self.indices.items() if d.is_number
        }
        self._sizes: dict[Size, Number] = {}

    def option(self, decision: Decision) -> int:
        """The chosen option's index.

        Raises:
            LookupError: if `decision` is not one of this network's.
        """
        try:
            return self.indices[decision]
        except KeyError:
            raise LookupError(_foreign(decision)) from None

    def holds(self, use: Use) -> bool:
        """Whether all (decision, option indices) of `use` hold."""
        return all(self.option(decision) in allowed for decision, allowed in use)

    def size(self, size: Number | Size) -> Number:
        """The number that `size` is in this architecture."""
        if not isinstance(size, Size):
            return size
        known = self._sizes.get(size)
        if known is None:
            try:
                known = self._sizes[size] = size.evaluate(self._values)
            except KeyError as error:
                raise LookupError(_foreign(error.args[0])) from None
        return known

    def count(self, size: Number | Size) -> int:
        """`size` as a whole number.

        Raises:
            ValueError: if it is not whole, with the way out.
        """
        number = self.size(size)
        if number != int(number):
            raise ValueError(
                f"{size!r} is {number}, not a whole number; wrap it in ms.round_to(size, 1)"
            )
        return int(number)


def _foreign(decision: object) -> str:
    return (
        f"{decision!r} is not part of this network: hold it in a module (as a layer's size or an "
        "attribute) before ms.Supernet(model) is made; a copy made by deepcopy is a new decision"
    )


def active(layer: nn.Module) -> Selection:
    """The active selection, for `layer`.

    Raises:
        RuntimeError: if there is none; it names the layer and the ways to get one.
    """
    selection = _ACTIVE.get()
    if selection is None:
        path = getattr(layer, "path", "")
        raise RuntimeError(
            f"{type(layer).__name__} {path or '(not in a Supernet yet)'} has no active selection: "
            "call the network as net(images, arch) with net = ms.Supernet(model). Recomputation "
            "and other threads start without one: use ms.nn.checkpoint for activation "
            "checkpointing"
        )
    return selection


def current() -> Selection | None:
    """The active selection, if there is one."""
    return _ACTIVE.get()


@contextlib.contextmanager
def activate(selection: Selection | None) -> Iterator[None]:
    """Makes `selection` the active one inside the block, whatever happens in it."""
    token = _ACTIVE.set(selection)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def value(size: Any) -> Any:
    """The active number of a size inside a `forward`; of a choice between names, the chosen name.

    Plain numbers pass through. After `extract`, sizes held by modules are plain numbers, so the
    same `forward` still works.

    Raises:
        RuntimeError: outside a forward of a supernet.
    """
    if not isinstance(size, Size):
        return size
    if not size.decisions():
        return size.evaluate({})
    selection = _ACTIVE.get()
    if selection is None:
        raise RuntimeError(
            f"ms.value({size!r}) outside a forward: no architecture is active; call "
            "net(images, arch)"
        )
    if isinstance(size, Decision):
        return size.options[selection.option(size)]
    return selection.size(size)


def checkpoint(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Activation checkpointing that carries the active selection into the recomputation.

    `torch.utils.checkpoint.checkpoint(fn, *args, use_reentrant=False)`, which alone would recompute
    without a selection (and so raise).
    """
    selection = _ACTIVE.get()

    def run(*inner: Any) -> Any:
        with activate(selection):
            return fn(*inner, **kwargs)

    return torch_checkpoint.checkpoint(run, *args, use_reentrant=False)
