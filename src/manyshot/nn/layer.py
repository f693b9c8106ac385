"""What all searchable layers share: a path for messages, sizes, and how they become plain."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, final

import torch
from torch import Tensor, nn

from manyshot.nn.placement import LEFT
from manyshot.nn.selection import Index, Part, Selection
from manyshot.space import Concat, Decision, Number, Size, concat, is_plain_sum

Channels: TypeAlias = int | Size | tuple[int | Size, ...]
"""A number of channels; a tuple is short for `ms.concat` of its entries."""
Shape: TypeAlias = tuple[Number | Size, ...]
Tie: TypeAlias = Callable[[str], nn.Parameter]
"""`tie(name)`: the parameter of an extracted layer that holds a copy of what is used of `name`."""


KNOWN = 256
"""Of how many combinations of options a layer remembers what is used of it."""
_CUT = ("weight", "bias")
"""What is cut in every forward."""


@final
class Cut:
    """How a tensor is cut to a part of it.

    Attributes:
        index: the part.
        pads: what `torch.constant_pad_nd` takes to cut it, where that does the same in one step;
            else None.
        shape: of the tensors that `pads` are for.
    """

    __slots__ = ("_has_runs", "index", "is_whole", "pads", "shape")

    def __init__(self, index: Index, shape: torch.Size | None) -> None:
        """Works out how to cut.

        Args:
            index: the part, of as many leading dimensions.
            shape: of the tensors that are cut; None if that is not known.
        """
        self.index, self.shape = index, shape
        self.is_whole = all(part == slice(None) for part in index)
        self._has_runs = any(isinstance(part, tuple) for part in index)
        self.pads = None if shape is None else _pads(index, shape)

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor (see `crop`)."""
        if self.is_whole:
            return tensor
        if self.pads is not None and tensor.shape == self.shape:
            return torch.constant_pad_nd(tensor, self.pads)
        part = take(tensor, self.index) if self._has_runs else tensor[self.index]
        if tensor.dim() != 4:  # only four dimensions have two formats, and to ask takes time
            return part.contiguous()
        return part.contiguous(memory_format=memory_format(tensor))


def _pads(index: Index, shape: torch.Size) -> list[int] | None:
    """How much is cut off at both ends of each dimension, as pads below zero, the last one first.

    One step forward and backward then does what a slice of each dimension and a copy do. None where
    dimensions have several runs, and where only rows are cut, which takes no copy. Rows of a tensor
    of four dimensions are cut in one step too: the gradient of a slice is never channels last.
    """
    ends: list[tuple[int, int]] = []
    for part, length in zip(index, shape, strict=False):
        if isinstance(part, tuple):
            return None
        start, stop, _ = part.indices(length)
        ends.append((-start, stop - length))
    ends += [(0, 0)] * (len(shape) - len(ends))
    if len(shape) != 4 and not any(map(any, ends[1:])):
        return None
    return [cut for pair in reversed(ends) for cut in pair]


@final
@dataclass(frozen=True, slots=True)
class Used:
    """What one architecture uses of a layer, apart from the values.

    Attributes:
        cuts: how weight and bias are cut, by name.
        numbers: what else depends on the architecture; the layer says what that is.
    """

    cuts: Mapping[str, Cut]
    numbers: Any


@final
class _Known:
    """What architectures use of a layer, by the numbers of its decisions and their placement.

    Copies know nothing.
    """

    __slots__ = ("key", "used")

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.key: Callable[[Mapping[Decision, Number]], Any]
        self.key = operator.itemgetter(*decisions) if decisions else _nothing
        self.used: dict[Any, Used] = {}

    def of(self, selection: Selection) -> Any:
        """What is remembered by: the numbers of the decisions, and where channels are placed."""
        key, placement = self.key(selection.values), selection.placement
        return key if placement is LEFT else (placement, key)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def _nothing(values: Mapping[Decision, Number]) -> tuple[()]:
    return ()


@final
class Extraction(dict[int, Any]):
    """The memo of a `deepcopy` that extracts: every `Layer` it meets becomes plain.

    So whatever the copied objects hold, and in whichever way they hold it, becomes one thing.
    """

    def __init__(self, selection: Selection) -> None:
        super().__init__()
        self.selection = selection
        self._parts: dict[tuple[int, str], nn.Parameter] = {}
        self._held: list[Tensor] = []  # alive, so that no other tensor gets the id of one of them

    def tie(self, layer: Layer, name: str) -> nn.Parameter:
        """Makes one new parameter per (tensor, part of it): whatever was tied before is tied after.

        A tensor that a parametrisation computes is new each time: those are never tied.
        """
        stored = layer._parameters.get(name)
        owner: Tensor = getattr(layer, name) if stored is None else stored
        index = layer.part(name, self.selection)
        whole = all(part == slice(None) for part in index)
        if whole and id(owner) in self:
            return self[id(owner)]  # type: ignore[no-any-return]
        key = (id(owner), "" if whole else str(index))
        if key not in self._parts:
            used = layer.cut(name, self.selection)
            assert used is not None
            fresh = used.detach().clone()  # with the strides that a forward uses
            self._parts[key] = nn.Parameter(fresh, requires_grad=owner.requires_grad)
            self._held.append(owner)
        if whole:
            self[id(owner)] = self._parts[key]
        return self._parts[key]


class Layer(nn.Module):
    """A layer of `ms.nn`: it reads the active selection, and can become its plain counterpart."""

    path: str = ""
    stands_in: ClassVar[bool] = False
    """Whether it computes something else than what it becomes when it is extracted."""
    _known: _Known | None = None

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The sizes of the layer by name, elastic or fixed."""
        return iter(())

    def has(self, name: str) -> bool:
        """Whether the layer has a parameter `name`, stored or computed by a parametrisation."""
        holders = (self._parameters, self.__dict__)
        return all(holder.get(name, self) is not None for holder in holders)

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """The parameters of the layer: the name of each, and its active shape as sizes."""
        return iter(())

    def part(self, name: str, selection: Selection) -> Index:
        """The part of parameter `name`, as it is stored, that `selection` uses."""
        raise NotImplementedError

    def cut(self, name: str, selection: Selection) -> Tensor | None:
        """Parameter `name`, cut to what `selection` uses; None if there is none of that name."""
        if not self.has(name):
            return None
        cut = self.used(selection).cuts.get(name)
        tensor: Tensor = getattr(self, name)
        return crop(tensor, self.part(name, selection)) if cut is None else cut.of(tensor)

    def numbers(self, selection: Selection) -> Any:
        """What a forward needs besides tensors, and which depends on the architecture alone."""
        return None

    def used(self, selection: Selection) -> Used:
        """What `selection` uses of the layer, worked out once per combination of its options.

        With full masks it is worked out every time, since it depends on what has a policy.
        """
        known, policies = self._known, selection.policies
        if known is not None and (policies is None or policies.mode == "active"):
            try:
                return known.used[known.of(selection)]
            except KeyError:
                pass
        return self._work_out(selection)

    def _work_out(self, selection: Selection) -> Used:
        cuts = {}
        for name in _CUT:
            stored = self._parameters.get(name)
            shape = None if stored is None else stored.shape
            cuts[name] = Cut(self.part(name, selection), shape)
        used = Used(cuts, self.numbers(selection))
        if selection.policies is None or selection.policies.mode == "active":
            if self._known is None:
                sizes = (size for _, size in self.sizes() if isinstance(size, Size))
                decisions = dict.fromkeys(d for size in sizes for d in size.decisions())
                self.__dict__["_known"] = _Known(list(decisions))
            known = self._known
            assert known is not None
            if len(known.used) >= KNOWN:
                known.used.clear()
            known.used[known.of(selection)] = used
        return used

    def tensors(self, used: Used, selection: Selection) -> list[Tensor | None]:
        """Weight and bias, each cut to what `selection` uses (see `cut`); None for what is not."""
        found: list[Tensor | None] = []
        for name, cut in used.cuts.items():
            tensor: Any = self._parameters.get(name, self)
            if tensor is self:
                tensor = getattr(self, name)  # which a parametrisation computes
            found.append(tensor if tensor is None or cut.is_whole else cut.of(tensor))
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "training":
            self.__dict__.pop("_known", None)
        super().__setattr__(name, value)

    def plain(self, selection: Selection, tie: Tie) -> nn.Module:
        """The `torch.nn` layer that computes the same in `selection`, with copied weights."""
        raise NotImplementedError

    def become(self, extraction: Extraction) -> nn.Module:
        """What this layer is in an extracted network, together with what it holds."""
        tie = functools.partial(extraction.tie, self)
        return self.plain(extraction.selection, tie).train(self.training)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        if isinstance(memo, Extraction):
            memo[id(self)] = self.become(memo)
            return memo[id(self)]  # type: ignore[no-any-return]
        duplicate = memo[id(self)] = type(self).__new__(type(self))
        state = {k: v for k, v in self.__dict__.items() if k != "_compiled_call_impl"}
        duplicate.__dict__.update(copy.deepcopy(state, memo))
        return duplicate


class Norm(Layer):
    """What normalising layers have in common: a scale and a shift per feature, if there are any.

    Their number may be a size, which the layer holds under the name `_size_name`.
    """

    _size_name: ClassVar[str]

    def _make_parameters(self, scale: bool, shift: bool) -> None:
        self._elastic = elastic(self._features)
        self._stored = (largest(self._features),)
        self.weight = nn.Parameter(torch.ones(self._stored)) if scale else None
        self.bias = nn.Parameter(torch.zeros(self._stored)) if shift else None

    @property
    def _features(self) -> Number | Size:
        return getattr(self, self._size_name)  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Sets the scale to one and the shift to zero."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The number of features."""
        yield self._size_name, self._features

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Scale and shift, where there are any."""
        for name in ("weight", "bias"):
            if self.has(name):
                yield name, (self._features,)

    def part(self, name: str, selection: Selection) -> Index:
        """The first features."""
        return leading(selection, self._stored, self._features)

    def numbers(self, selection: Selection) -> int:
        """The number of features."""
        return selection.extent(self._features)

    def _give_parameters(self, plain: nn.Module, tie: Tie) -> None:
        """Gives the plain layer copies of scale and shift, or none."""
        for name in ("weight", "bias"):
            plain.register_parameter(name, tie(name) if self.has(name) else None)

    def extra_repr(self) -> str:
        """The number of features, for people."""
        return f"{self._features!r}, eps={self.eps}, affine={self.has('weight')}"


@functools.cache
def _without_start(kind: Any) -> Any:
    return type(kind.__name__, (kind,), {"reset_parameters": lambda self: None})


def to_be_given(kind: Any, *args: Any, **kwargs: Any) -> Any:
    """A layer of torch on the meta device, whose parameters are then given to it.

    Elsewhere torch fills them first, which takes two thirds of the time of making the layer.

    Args:
        kind: its class.
        *args: what it is made with.
        **kwargs: likewise.
    """
    layer = _without_start(kind)(*args, **kwargs, device="meta")
    layer.__class__ = kind
    return layer


def values_of(size: Number | Size) -> list[Number]:
    """All values of a size over the options of its decisions; of a number, itself."""
    return list(size.over_options()) if isinstance(size, Size) else [size]


def largest(size: Number | Size) -> int:
    """The largest value of a size over all options of its decisions; of a concatenation, the sum
    of the largest parts.

    Raises:
        ValueError: if a value is not whole or below zero.
    """
    if isinstance(size, Concat):
        return sum(map(largest, size.operands))  # checks the parts, as `rooms` does not
    numbers = values_of(size)
    for number in numbers:
        if number != int(number) or number < 0:
            raise ValueError(
                f"size {size!r} takes the value {number}; a layer needs whole numbers of at least "
                "0: wrap it in ms.round_to(size, 1)"
            )
    return int(max(numbers))


def channels(size: Any, what: str) -> Any:
    """A number of channels as a layer holds it: a tuple becomes the `ms.concat` of its entries.

    Args:
        size: a number, a size or a tuple of them.
        what: the layer and the name of its argument, for the message.

    Raises:
        ValueError: for a sum of sizes, whose channels would meet other weights in every width.
    """
    if isinstance(size, tuple | list):
        size = concat(*size)
    if is_plain_sum(size):
        raise ValueError(
            f"{what} {size!r} is a sum of sizes: concatenated channels would meet other weights "
            "wherever one of the sizes before them changes. Say what is concatenated, in order, "
            "by ms.concat(a, b) in place of a + b"
        )
    return size


def elastic(*sizes: object) -> bool:
    """Whether any of these is a size, which depends on the architecture."""
    return any(isinstance(size, Size) for size in sizes)


def leading(selection: Selection, stored: Sequence[int], *sizes: Number | Size) -> Index:
    """The index of what a selection uses of the leading dimensions of a stored tensor.

    Args:
        selection: what is active.
        stored: the shape of the tensor, which has room for the largest of all sizes.
        sizes: the sizes of its dimensions: the first entries of each are used, of a concatenation
            the first ones of each part, or others where the selection places them so.
    """
    return tuple(
        joined(size.rooms, map(functools.partial(_placed, selection), size.operands, size.rooms))
        if isinstance(size, Concat)
        else _placed(selection, size, full)
        for size, full in zip(sizes, stored, strict=False)
    )


def _placed(selection: Selection, size: Number | Size, room: int) -> Part:
    """The entries that a selection uses of a size that is no concatenation."""
    count = selection.extent(size)
    if selection.placement is LEFT or not isinstance(size, Size):
        return slice(None) if count == room else slice(count)
    part = selection.placement.part(size, count, room)
    return slice(None) if count == room else part


def active_part(selection: Selection, size: Number | Size) -> Part:
    """Which entries are active, of those that tensors have for `size`: all but with full masks."""
    if not isinstance(size, Concat):
        return slice(selection.count(size))
    rooms = tuple(map(selection.extent, size.operands))
    return joined(rooms, map(slice, map(selection.count, size.operands)))


def joined(rooms: Sequence[int], parts: Iterable[Part]) -> Part:
    """What is used of a dimension that has entries for several segments; adjacent runs are one.

    Args:
        rooms: how many entries it has for each segment, in order.
        parts: what is used of each.
    """
    runs: list[slice] = []
    first = 0
    for room, part in zip(rooms, parts, strict=True):
        for run in part if isinstance(part, tuple) else (part,):
            start, stop, _ = run.indices(room)
            if runs and runs[-1].stop == first + start:
                runs[-1] = slice(runs[-1].start, first + stop)
            elif stop > start:
                runs.append(slice(first + start, first + stop))
        first += room
    if not runs:
        return slice(0)
    if len(runs) > 1:
        return tuple(runs)
    return slice(None) if runs == [slice(0, first)] else runs[0]


def crop(tensor: Tensor, index: Index) -> Tensor:
    """`take(tensor, index)`, dense and in the memory format of `tensor`.

    Products take other kernels for strided slices than for small dense tensors; dense ones are
    bit-equal to the extracted layer's. Nothing is copied when the index takes everything.
    """
    return Cut(index, tensor.shape).of(tensor)


def take(tensor: Tensor, index: Index) -> Tensor:
    """The part of a tensor that an index says, where several runs of a dimension are joined."""
    tensor = tensor[tuple(slice(None) if isinstance(part, tuple) else part for part in index)]
    for dim, part in enumerate(index):
        if isinstance(part, tuple):
            tensor = torch.cat([tensor.narrow(dim, s.start, s.stop - s.start) for s in part], dim)
    return tensor


def put(target: Tensor, part: Part, values: Tensor) -> None:
    """Writes `values` to the part of `target` (n,), run by run, in place."""
    for run in part if isinstance(part, tuple) else (part,):
        n = len(target[run])
        target[run], values = values[:n], values[n:]


def mask_dimension(tensor: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    """`tensor` times a mask along one dimension.

    Args:
        tensor: any tensor.
        dim: the dimension.
        mask: a factor for each of its n entries, (n,), or a matrix (n, n) of which entry j of the
            result takes column j; None leaves the tensor as it is.
    """
    if mask is None:
        return tensor
    if mask.dim() == 2:
        product = (tensor.movedim(dim, -1) @ mask.to(tensor.dtype)).movedim(-1, dim)
        return product.contiguous(memory_format=memory_format(tensor))
    shape = [1] * tensor.dim()
    shape[dim] = -1
    return tensor * mask.to(tensor.dtype).view(shape)


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The memory format of a tensor: channels last if it is 4-D and stored so, else contiguous."""
    if tensor.dim() == 4 and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
