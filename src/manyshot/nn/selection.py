"""The active selection: which architecture the layers run, for the duration of one forward.

`Supernet.forward` sets it and resets it, in a `ContextVar`, so that threads do not see each other's
and no module ever holds a "current architecture". Layers read it; a layer without one raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint

from manyshot.nn.partial import parts_now, slicing
from manyshot.nn.placement import LEFT, Placement
from manyshot.nn.policy import MaskKind, Policies
from manyshot.space import Arch, Concat, Decision, Number, Size, Use

Part: TypeAlias = slice | tuple[slice, ...]
"""What is used of one dimension; of concatenated channels, a run of each segment."""
Index: TypeAlias = tuple[Part, ...]

_ACTIVE: ContextVar[Selection | None] = ContextVar("manyshot_selection", default=None)


class Statistics(Protocol):
    """Where an eval-mode batch norm gets its mean and variance."""

    def normalise(
        self, path: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """`x` normalised over all dimensions but the second.

        Args:
            path: where the layer is in the network.
            x: (B, C, ...).
            weight: the scale, (C,), or None.
            bias: the shift, (C,), or None.
            eps: what is added to the variance.
        """
        ...


class Mixture(Protocol):
    """How the slices of a stack (see `manyshot.nn.mixing`) make the tensor of a path."""

    def merge(self, module: Any, name: str, index: Index) -> Tensor:
        """Mixes the slices of one stacked parameter.

        Args:
            module: the module that holds the stack.
            name: the name of the parameter in the module.
            index: the part of every slice that is wanted; an empty one is all of it.

        Returns:
            The mixture of that part, without the axis of slices.
        """
        ...


class Selection:
    """One architecture while it runs: option indices, sizes, statistics, mixture, placement.

    It has two forms. By option indices alone, layers slice. With `policies`, straight-through
    one-hot vectors, layers mask (see `manyshot.nn.policy`). Layers ask this object, never the arch.

    Attributes:
        values: the numbers of the decisions that have any. Layers remember by them what they use.
        placement: which channels widths use.
    """

    __slots__ = (
        "_sizes",
        "arch",
        "indices",
        "mixture",
        "placement",
        "policies",
        "statistics",
        "values",
    )

    def __init__(
        self,
        decisions: Sequence[Decision],
        arch: Arch,
        statistics: Statistics | None = None,
        mixture: Mixture | None = None,
        policies: Policies | None = None,
        placement: Placement = LEFT,
    ) -> None:
        self.arch, self.mixture, self.policies = arch, mixture, policies
        self.placement = placement
        self.indices = dict(zip(decisions, arch, strict=True))
        self.statistics = statistics
        self.values: dict[Decision, Number] = {
            decision: option
            for decision, i in self.indices.items()
            if not isinstance(option := decision.options[i], str)
        }
        self._sizes: dict[Size, Number] = {}

    def option(self, decision: Decision) -> int:
        """The index of the chosen option.

        Raises:
            LookupError: if `decision` is not one of this network's.
        """
        try:
            return self.indices[decision]
        except KeyError:
            raise LookupError(_foreign(decision)) from None

    def holds(self, use: Use) -> bool:
        """Whether all the conditions of `use`, each a decision and option indices, hold."""
        return all(self.option(decision) in allowed for decision, allowed in use)

    def size(self, size: Number | Size) -> Number:
        """The number that `size` is in this architecture."""
        if not isinstance(size, Size):
            return size
        number = self._sizes.get(size)
        if number is None:
            try:
                number = self._sizes[size] = size.evaluate(self.values)
            except KeyError as error:
                raise LookupError(_foreign(error.args[0])) from None
        return number

    def count(self, size: Number | Size) -> int:
        """`size` as a whole number.

        Raises:
            ValueError: if it is not whole; the message has the way out.
        """
        return _whole(size, self.size(size))

    def bound(self, size: Number | Size) -> Number:
        """The number that tensors have in place of `size`: with full masks it is the largest."""
        number, policies = self.size(size), self.policies
        if not isinstance(size, Size) or policies is None or policies.mode == "active":
            return number
        if isinstance(size, Concat):
            return sum(map(self.bound, size.operands))
        return policies.largest(size, self.values) if policies.among(size) else number

    def extent(self, size: Number | Size) -> int:
        """`bound` as a whole number: how many entries a layer takes of `size`."""
        return _whole(size, self.bound(size))

    def mask(self, size: Number | Size) -> Tensor | None:
        """A mask (extent,) of channels that is one below `size`; None where no policy decides.

        Of concatenated channels it is the masks of the parts, one after the other.

        Raises:
            ValueError: if widths are interpolated.
        """
        if self._interpolates(size):
            raise ValueError(
                f"masks='interpolated' mixes the widths {size!r} in the product that takes their "
                "channels, and here something else takes them, such as a layer norm, a group norm "
                "or attention: take masks='mixed' (sampler.options.widths = 'masked')"
            )
        if isinstance(size, Concat):
            masks = [self.mask(part) for part in size.operands]
            like = next((mask for mask in masks if mask is not None), None)
            if like is None:
                return None
            pairs = zip(size.operands, masks, strict=True)
            return torch.cat([like.new_ones(self.extent(p)) if m is None else m for p, m in pairs])
        return self.prefix_mask(size)

    def prefix_mask(self, size: Number | Size) -> Tensor | None:
        """A mask (extent,) that is one below `size`, whatever it counts; None without policy."""
        mask = self._largest_mask("prefix", size)
        return None if mask is None else mask[: self.extent(size)]

    def mixing(self, size: Number | Size) -> Tensor | None:
        """What the weight of a product over the channels `size` is multiplied by along these.

        It is a factor for each, (extent,), or, where widths are interpolated, a matrix (extent,
        extent); None where no policy decides.
        """
        if not self._interpolates(size):
            return self.mask(size)
        if isinstance(size, Concat):
            parts = [(part, self.mixing(part)) for part in size.operands]
            like = next(mixing for _, mixing in parts if mixing is not None)
            each = [like.new_ones(self.extent(p)).diag() if m is None else m for p, m in parts]
            matrix: Tensor = torch.block_diag(*each)  # type: ignore[no-untyped-call]
            return matrix
        assert self.policies is not None and isinstance(size, Size)  # else nothing is interpolated
        return self.policies.interpolation(size, self.values, self.extent(size))

    def _interpolates(self, size: Number | Size) -> bool:
        """Whether a policy decides on these channels, and they are interpolated."""
        policies = self.policies
        if policies is None or policies.mode != "interpolated" or not isinstance(size, Size):
            return False
        return bool(policies.among(size))

    def centre_mask(self, size: Number | Size, dimensions: int = 2) -> Tensor | None:
        """A mask (extent, ...), one in the central cube of `size`; None without a policy."""
        mask = self._largest_mask(dimensions, size)
        if mask is None:
            return None
        extent = self.extent(size)
        start = (len(mask) - extent) // 2
        return mask[(slice(start, start + extent),) * dimensions]

    def _largest_mask(self, kind: MaskKind, size: Number | Size) -> Tensor | None:
        policies = self.policies
        if policies is None or not isinstance(size, Size) or not policies.among(size):
            return None
        length = _whole(size, policies.largest(size, self.values))
        return policies.mask(kind, size, self.values, length)

    def policy(self, decision: Decision) -> Tensor | None:
        """The policy of a decision; None if it has none."""
        return None if self.policies is None else self.policies.by_decision.get(decision)


def _whole(size: Number | Size, number: Number) -> int:
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
        RuntimeError: if there is none; the message names the layer and the ways to get one.
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


current: Callable[[], Selection | None] = _ACTIVE.get
"""The active selection; None if there is none."""


@contextlib.contextmanager
def activate(selection: Selection | None) -> Iterator[None]:
    """Makes `selection` the active one inside the block; it is reset whatever happens there."""
    token = _ACTIVE.set(selection)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def value(size: Any) -> Any:
    """The active number of a size inside a `forward`; of a choice between names, the chosen name.

    Plain numbers pass through. After `extract`, sizes held by modules are plain numbers, so the
    same `forward` still works. With full masks (`net(images, arch, policy=...)`) it is the number
    that tensors have in its place, the largest.

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
    if isinstance(size, Decision) and not size.is_number:
        return size.options[selection.option(size)]
    return selection.bound(size)


def checkpoint(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Activation checkpointing that carries the active selection into the recomputation.

    It calls `torch.utils.checkpoint.checkpoint(fn, *args, use_reentrant=False)`, which alone would
    recompute without a selection (and so raise).
    """
    selection, parts = _ACTIVE.get(), parts_now()

    def run(*inner: Any) -> Any:
        with activate(selection), slicing(parts):
            return fn(*inner, **kwargs)

    return torch_checkpoint.checkpoint(run, *args, use_reentrant=False)
