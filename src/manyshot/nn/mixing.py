"""Stacked parameters: K slices of one tensor, of which every path uses its own combination.

A stacked module keeps its parameters under their names, with a leading axis K, so that state dicts,
optimisers and `Module.to` see them; reading one gives the mixture of the active selection. Models
need no change: what reads `self.weight` reads the mixture.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from manyshot.nn.adapted import Adapted
from manyshot.nn.layer import Layer, Used, crop, memory_format, take
from manyshot.nn.modes import without_autocast
from manyshot.nn.selection import Index, Mixture, Selection, activate, current
from manyshot.space import Arch


@final
@dataclass(frozen=True)
class Channels:
    """Which rows of a code per channel mix a stack.

    Attributes:
        first: the first of them.
        count: how many there are: one for each entry of a dimension, or one for the whole tensor.
        dim: the dimension of a slice whose entries have rows of their own; None if it has one row.
    """

    first: int = 0
    count: int = 1
    dim: int | None = None


@final
class FirstSlice:
    """A mixture that is the first slice alone: for dry runs, where only shapes matter."""

    def merge(self, module: Stacked, name: str, index: Index) -> Tensor:
        """The first slice (see `Mixture.merge`)."""
        return crop(cast(Tensor, module._parameters[name])[0], index)


@final
class Combination:
    """The weights of one path: sums of slices, weighted by its code (K-shot NAS, arXiv:2106.06442).

    Attributes:
        code: the weights of the slices, (K,), or (rows, K) with a row per layer of the network, or
            per channel of every layer.
        compensate: whether gradients of stacks are divided by the squared norm of the code.
        by_channel: whether rows are channels.
    """

    def __init__(self, code: Tensor, *, compensate: bool = False, by_channel: bool = False) -> None:
        self.code, self.compensate, self.by_channel = code, compensate, by_channel

    def merge(self, module: Stacked, name: str, index: Index) -> Tensor:
        """Mixes Σ_k code_k · slice_k of the stack, cut first (see `Mixture.merge`)."""
        stack = cast(Tensor, module._parameters[name])
        mix = functools.partial(self.mix, module, name)
        if len(stack) > 1 and is_weight_norm(module):
            return crop(_of_mixed_weights(module, mix)[name], index)
        return mix(stack, index)

    def mix(self, module: Stacked, name: str, stack: Tensor, index: Index = ()) -> Tensor:
        """Mixes a stack by the code of the parameter `name` of a module.

        Args:
            module: the module.
            name: the name of one of its stacked parameters.
            stack: the slices (K, ...), of that parameter or of what is made of it.
            index: the part of every slice that is wanted.
        """
        if self.code.dim() == 1 or not self.by_channel:
            code = self.code if self.code.dim() == 1 else self.code[module._stacks[name]]
            return combine(code, stack, index, compensate=self.compensate)
        run = module._code_channels[name]
        rows = self.code[run.first : run.first + run.count]
        if run.dim is None:
            return combine(rows[0], stack, index, compensate=self.compensate)
        rows = take(rows, index[run.dim : run.dim + 1])
        return combine_channels(rows, stack, index, dim=run.dim, compensate=self.compensate)


def is_weight_norm(module: nn.Module) -> bool:
    """Whether a module holds magnitude and direction of a weight, for `weight_norm` of torch."""
    return isinstance(module, ParametrizationList) and isinstance(module[0], _WeightNorm)


def _of_mixed_weights(module: Stacked, mix: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Magnitude and direction of the mixture of the weights that every slice's two make.

    Mixed apart they would make another weight: g v / |v| is not linear in them.

    Args:
        module: has them.
        mix: mixes a stack of weights.
    """
    names = ("original0", "original1")
    held = [(cast(Tensor, module._parameters[name]), name in module._stacks) for name in names]
    norm: Any = cast(ParametrizationList, module)[0]
    copies = next(len(tensor) for tensor, own in held if own)
    with without_autocast(held[0][0].device.type):
        slices = [norm(*(t[k] if own else t for t, own in held)) for k in range(copies)]
    mixed = norm.right_inverse(mix(restack(slices)))
    return dict(zip(names, mixed, strict=True))


@final
class Kept:
    """A mixture whose merged tensors are kept, for several forwards of one path.

    Attributes:
        arch: the architecture that it is the mixture of.
    """

    def __init__(self, arch: Arch, mixture: Mixture) -> None:
        self.arch, self._mixture = arch, mixture
        self._tensors: dict[tuple[int, str], tuple[Index, Tensor]] = {}

    def merge(self, module: Stacked, name: str, index: Index) -> Tensor:
        """Merges (see `Mixture.merge`); without gradients each tensor only once."""
        if torch.is_grad_enabled():
            return self._mixture.merge(module, name, index)
        key = (id(module), name)
        kept = self._tensors.get(key)
        if kept is None or kept[0] != index:
            kept = self._tensors[key] = (index, self._mixture.merge(module, name, index))
        return kept[1]


class _Compensated(torch.autograd.Function):
    """A sum of rows (K, n) by a code (K,), with gradients of rows divided by the code's norm².

    The code's gradient is as it is.
    """

    @staticmethod
    def forward(ctx: Any, code: Tensor, rows: Tensor) -> Tensor:
        """The sum, (1, n)."""
        ctx.save_for_backward(code, rows)
        return code.unsqueeze(0) @ rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of code and rows, those that are needed."""
        code, rows = ctx.saved_tensors
        of_code, of_rows = ctx.needs_input_grad
        return (
            (rows @ grad.mT).squeeze(1) if of_code else None,
            (code / code.square().sum()).unsqueeze(1) @ grad if of_rows else None,
        )


def combine(code: Tensor, stack: Tensor, index: Index = (), *, compensate: bool = False) -> Tensor:
    """The dense sum Σ_k code[k] · stack[k][index]; it is channels last if 4-D slices are.

    It is computed in the stack's floating-point type, whatever autocast is active, because batch
    norm and optimisers need it. Of a stack of one slice the result is that slice.

    A step of rate r on slices moves the sum by r ‖code‖² times the gradient in the sum, so that K
    equal slices under a uniform code train as one tensor would at r / K. Compensated they train as
    that tensor would at r.

    Args:
        code: the weights of the slices, (K,).
        stack: the slices, (K, ...).
        index: the part of every slice that is wanted.
        compensate: whether gradients of slices are divided by ‖code‖².
    """
    if len(stack) == 1:
        return crop(stack.squeeze(0), index)
    plain = not compensate or not torch.is_grad_enabled()
    last = memory_format(stack[0]) == torch.channels_last
    cut = take(stack, (slice(None), *index)) if index else stack
    ordered = cut.permute(0, 1, 3, 4, 2) if last else cut
    with without_autocast(stack.device.type):
        weights, rows = code.to(stack), ordered.reshape(len(stack), -1)
        flat = weights.unsqueeze(0) @ rows if plain else _Compensated.apply(weights, rows)
    merged = flat.view(ordered.shape[1:])
    return merged.permute(0, 3, 1, 2) if last else merged


class _ByChannel(torch.autograd.Function):
    """A sum of slices by weights that broadcast over them.

    Compensated, gradients of slices are divided by the squared norm of the weights, entry by entry.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, slices: Tensor, compensate: bool) -> Tensor:
        """The sum over the first dimension."""
        ctx.save_for_backward(weights, slices)
        ctx.compensate = compensate
        merged = weights[0] * slices[0]
        for weight, part in zip(weights[1:], slices[1:], strict=True):
            merged += weight * part
        return merged

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of weights and slices, those that are needed."""
        weights, slices = ctx.saved_tensors
        of_weights, of_slices, _ = ctx.needs_input_grad
        for_weights = for_slices = None
        if of_weights:
            parts = zip(weights, slices, strict=True)
            for_weights = torch.stack([(grad * s).sum_to_size(w.shape) for w, s in parts])
        if of_slices:
            scale = weights
            if ctx.compensate:
                scale = weights / weights.square().sum(0, keepdim=True)
            for_slices = scale * grad.unsqueeze(0)
        return for_weights, for_slices, None


def combine_channels(
    codes: Tensor, stack: Tensor, index: Index = (), *, dim: int, compensate: bool = False
) -> Tensor:
    """`combine` with a code for each entry of a dimension of the slices, such as output channels.

    Compensated, the gradient of an entry's slices is divided by its own ‖code‖².

    Args:
        codes: the weights of the slices (n, K), of the n entries that `index` leaves.
        stack: the slices, (K, ...).
        index: the part of every slice that is wanted.
        dim: the dimension of a slice.
        compensate: whether gradients of slices are divided by squared norms of codes.
    """
    if len(stack) == 1:
        return crop(stack.squeeze(0), index)
    cut = take(stack, (slice(None), *index)) if index else stack
    shape = [len(stack), *(1 for _ in cut.shape[1:])]
    shape[dim + 1] = len(codes)
    with without_autocast(stack.device.type):
        merged = _ByChannel.apply(codes.to(stack).mT.reshape(shape), cut, compensate)
    return cast(Tensor, merged.contiguous(memory_format=memory_format(stack[0])))


def restack(slices: Sequence[Tensor]) -> Tensor:
    """Slices of one shape as a dense stack (K, ...); 4-D slices stay channels last."""
    if memory_format(slices[0]) == torch.channels_last:
        ordered = torch.stack([part.permute(0, 2, 3, 1) for part in slices])
        return ordered.permute(0, 1, 4, 2, 3)
    return torch.stack([part.contiguous() for part in slices])


Method = TypeVar("Method", bound=Callable[..., Any])


def _dry(method: Method) -> Method:
    """Runs `method` so that reading a stack gives its first slice: for what does not compute."""

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), dry_selection():
            return method(*args, **kwargs)

    return cast(Method, run)


def dry_selection() -> contextlib.AbstractContextManager[None]:
    """A context in which reading a stack gives its first slice."""
    return activate(Selection((), (), mixture=FirstSlice()))


class Stacked(nn.Module):
    """The half of a module's class that makes its stacked parameters read as mixtures."""

    _stacks: dict[str, int]
    """Names of the stacked parameters, and the layer of each: its row in a code per layer."""
    _code_channels: dict[str, Channels]
    """Likewise, its rows in a code per channel."""
    _stacked_at: str
    """The module's path in the network."""

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_stacks", ()):
            selection = current()
            if selection is None or selection.mixture is None:
                raise RuntimeError(
                    f"{name} of {plain_class(type(self)).__name__} {self._stacked_at!r} is a stack "
                    "of slices, which only a path mixes: read it in a forward of net(images, arch) "
                    "or inside net.selecting(arch). Recomputation and other threads start without "
                    "a path: use ms.nn.checkpoint for activation checkpointing"
                )
            if not isinstance(self, Adapted) or name not in self._shapes or not selection.indices:
                return selection.mixture.merge(self, name, ())
            used = selection.mixture.merge(self, name, self.part(name, selection))
            return self.masked(name, used, selection)
        return super().__getattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Registers a parameter; a stack may be replaced by another, as `load_state_dict` does."""
        if name in self.__dict__.get("_stacks", ()):
            self._parameters[name] = param
        else:
            super().register_parameter(name, param)

    @_dry
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Applies `fn` slice by slice, since a memory format is one of the slices."""
        stacks = [cast(nn.Parameter, self._parameters[name]) for name in self._stacks]
        stacked = {id(t): t for stack in stacks for t in (stack, stack.grad) if t is not None}

        def apply(tensor: Tensor) -> Tensor:
            return _each_slice(fn, tensor) if id(tensor) in stacked else fn(tensor)

        return super()._apply(apply, recurse)  # type: ignore[no-untyped-call]

    @_dry
    def extra_repr(self) -> str:
        """The text of the module's own class, which may ask whether there is a bias."""
        return super().extra_repr()

    @_dry
    def __reduce_ex__(self, protocol: Any) -> Any:
        state = self.__getstate__()  # type: ignore[no-untyped-call]
        return _revive, (plain_class(type(self)),), state


class _StackedLayer(Stacked):
    """The half of a searchable layer's class: stacks are cut before they are mixed."""

    def cut(self, name: str, selection: Selection) -> Tensor | None:
        """The mixture of what `selection` uses of parameter `name` (see `Layer.cut`)."""
        if name not in self._stacks or selection.mixture is None:
            return super().cut(name, selection)  # type: ignore[misc,no-any-return]
        layer = cast(Layer, self)
        cut = layer.used(selection).cuts.get(name)
        index = layer.part(name, selection) if cut is None else cut.index
        return selection.mixture.merge(self, name, index)

    def tensors(self, used: Used, selection: Selection) -> list[Tensor | None]:
        """Weight and bias, cut and mixed (see `Layer.tensors`)."""
        mixture = selection.mixture
        return [
            self.cut(name, selection)
            if mixture is None or name not in self._stacks
            else mixture.merge(self, name, cut.index)
            for name, cut in used.cuts.items()
        ]


def _each_slice(fn: Callable[[Tensor], Tensor], stack: Tensor) -> Tensor:
    slices = stack.unbind(0)
    applied = [fn(part) for part in slices]
    if all(new is old for new, old in zip(applied, slices, strict=True)):
        return stack
    return restack(applied)


_CLASSES: dict[type[nn.Module], type[Stacked]] = {}


def stacked_class(base: type[nn.Module]) -> type[Stacked]:
    """The subclass of `base` whose parameters may be stacked."""
    if base not in _CLASSES:
        half = _StackedLayer if issubclass(base, Layer) else Stacked
        _CLASSES[base] = cast(type[Stacked], type(f"Stacked{base.__name__}", (half, base), {}))
    return _CLASSES[base]


def plain_class(stacked: type[nn.Module]) -> type[nn.Module]:
    """The class that `stacked_class` made `stacked` from."""
    return stacked.__bases__[1]


def _revive(base: type[nn.Module]) -> Stacked:
    cls = stacked_class(base)
    return cls.__new__(cls)


def stack_parameter(
    module: nn.Module,
    name: str,
    slices: Sequence[Tensor],
    *,
    layer: int = 0,
    channels: Channels | None = None,
    path: str = "",
) -> None:
    """Makes parameter `name` of `module` a stack, in place; the parameter object stays.

    A tensor that several modules hold is stacked at each of them, and gets its slices at the first.

    Args:
        module: it becomes an instance of a subclass of its class.
        name: the name of one of its parameters.
        slices: K tensors of the parameter's shape; none if it is stacked already.
        layer: the row of a code per layer that mixes this parameter.
        channels: the rows of a code per channel; by default the first one.
        path: where the module is in the network, for messages.
    """
    if not isinstance(module, Stacked):
        object.__setattr__(module, "__class__", stacked_class(type(module)))
        module.__dict__.update(_stacks={}, _code_channels={}, _stacked_at=path)
    assert isinstance(module, Stacked)
    parameter = cast(nn.Parameter, module._parameters[name])
    if slices:
        parameter.grad = None
        parameter.data = restack(slices)
    module._stacks[name] = layer
    module._code_channels[name] = channels or Channels()


def unstack(module: nn.Module) -> None:
    """Makes a module plain again, in place: a copy whose parameters were replaced by mixtures."""
    if isinstance(module, Stacked):
        for held in ("_stacks", "_code_channels", "_stacked_at"):
            del module.__dict__[held]
        object.__setattr__(module, "__class__", plain_class(type(module)))
