"""Modules of anybody's class whose parameters and numbers vary, though their code knows of none.

The class of an adapted module gets a half that answers what its `forward` reads: `self.gamma` is
the part of the parameter that is active, `self.num_heads` the number that the architecture has.
Nothing else of the module changes, and in an extracted network it is what it was.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast, final

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from manyshot.nn.layer import Extraction, Shape, crop, elastic, largest, leading, mask_dimension
from manyshot.nn.layer_norm import masked_layer_norm
from manyshot.nn.selection import Index, Selection, current
from manyshot.space import Number, Size

Numbers = Mapping[str, "Size | tuple[Number | Size, ...]"]
"""Attributes that vary, by name."""


class _AdaptedClass(type):
    """The class of classes that `adapted_class` makes, by which they are pickled."""

    adapted: type[nn.Module]


class Adapted(nn.Module):
    """The half of a module's class that makes its parameters and numbers read as active ones."""

    adapted: ClassVar[type[nn.Module]]
    """The class that the module was of."""
    _shapes: dict[str, Shape]
    """Names of the parameters and buffers that vary, and their active shapes."""
    _summed: dict[str, tuple[int, ...]]
    """The dimensions of them that the forward sums over, which is where masks go."""
    _numbers: dict[str, Size | tuple[Number | Size, ...]]

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__
        if name in held.get("_shapes", ()):
            stored: Any = super().__getattr__(name)
            selection = selected()
            if selection is None or stored is None:
                return stored
            return self.masked(name, crop(stored, self.part(name, selection)), selection)
        if name in held.get("_numbers", ()):
            return _number(held["_numbers"][name], selected())
        return super().__getattr__(name)

    def part(self, name: str, selection: Selection) -> Index:
        """The part of a parameter or buffer, as it is stored, that `selection` uses."""
        shape = self._shapes[name]
        return leading(selection, tuple(map(largest, shape)), *shape)

    def masked(self, name: str, tensor: Tensor, selection: Selection) -> Tensor:
        """A parameter that was cut, masked along the dimensions that are summed over."""
        for dim in self._summed.get(name, ()):
            tensor = mask_dimension(tensor, dim, selection.mask(self._shapes[name][dim]))
        return tensor

    def cut(self, name: str, selection: Selection) -> Tensor:
        """The part of a parameter that is active, of what a path mixes (see `Layer.cut`)."""
        return cast(Tensor, getattr(self, name))


class _AdaptedLayerNorm(Adapted):
    """The half of a class of layer norms: with masks they are over the active features."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward of the other half, in which `layer_norm` knows of the mask."""
        selection, shape = selected(), self._numbers.get("normalized_shape")
        mask = None
        if selection is not None and isinstance(shape, tuple):
            mask = selection.mask(shape[0])
        forward = super().forward
        if mask is None:
            return forward(*args, **kwargs)
        with _Masking(mask):
            return forward(*args, **kwargs)


@final
class _Masking(TorchFunctionMode):
    """A context in which layer norms are over the features of a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        return self._norm(*args, **kwargs) if func is F.layer_norm else func(*args, **kwargs)

    def _norm(
        self,
        input: Tensor,  # noqa: A002 - the names of torch's arguments
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        return masked_layer_norm(input, self.mask, weight, bias, eps)


def selected() -> Selection | None:
    """The active selection; None outside of a forward, and where only names matter."""
    selection = current()
    return selection if selection is not None and selection.indices else None


def _number(size: Any, selection: Selection | None) -> Any:
    if isinstance(size, tuple):
        return tuple(_number(part, selection) for part in size)
    if not isinstance(size, Size):
        return size
    return largest(size) if selection is None else selection.extent(size)


_CLASSES: dict[type[nn.Module], type[Adapted]] = {}


def adapted_class(base: type[nn.Module]) -> type[Adapted]:
    """The subclass of `base` whose parameters and numbers may vary."""
    if base not in _CLASSES:
        half = _AdaptedLayerNorm if issubclass(base, nn.LayerNorm) else Adapted
        meta: Any = _AdaptedClass if type(base) is type else type(base)
        held = {"adapted": base, "__doc__": base.__doc__, "__module__": base.__module__}
        _CLASSES[base] = meta(base.__name__, (half, base), held)
    return _CLASSES[base]


def _pickled(cls: _AdaptedClass) -> Any:
    return adapted_class, (cls.adapted,)


copyreg.pickle(cast(Any, _AdaptedClass), _pickled)


def adapt(
    module: nn.Module,
    shapes: Mapping[str, Shape],
    numbers: Numbers,
    summed: Mapping[str, Sequence[int]],
) -> None:
    """Lets parameters and numbers of `module` vary, in place.

    Args:
        module: it becomes an instance of a subclass of its class.
        shapes: the active shapes of those of its parameters and buffers that vary.
        numbers: the sizes of those of its attributes that vary, numbers or tuples of them.
        summed: the dimensions of parameters that its forward sums over.
    """
    if not isinstance(module, Adapted):
        object.__setattr__(module, "__class__", adapted_class(type(module)))
        module.__dict__.update(_shapes={}, _summed={}, _numbers={})
    assert isinstance(module, Adapted)
    module._shapes.update({name: s for name, s in shapes.items() if elastic(*s)})
    module._summed.update({name: tuple(dims) for name, dims in summed.items()})
    for name, size in numbers.items():
        module._numbers[name] = size
        module.__dict__.pop(name, None)


def settle(module: Adapted, extraction: Extraction) -> None:
    """Lets the copies of what varies be cut: the memo of a `deepcopy` that extracts gets them."""
    for name in module._shapes:
        stored = module._parameters.get(name)
        if stored is not None:
            extraction[id(stored)] = extraction.tie(cast(Any, module), name)
        elif (buffer := module._buffers.get(name)) is not None:
            cut = crop(buffer, module.part(name, extraction.selection))
            extraction[id(buffer)] = cut.detach().clone()


def restore(module: nn.Module) -> None:
    """Makes a copy in an extracted network what it was, in place, with the numbers it has now."""
    if isinstance(module, Adapted):
        numbers = module.__dict__.pop("_numbers")
        del module.__dict__["_shapes"], module.__dict__["_summed"]
        object.__setattr__(module, "__class__", module.adapted)
        module.__dict__.update(numbers)
