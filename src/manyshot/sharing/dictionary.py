"""Which parameters have K slices, and what the slices start from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList

from manyshot.nn.batch_norm import BatchNorm
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.convolution import TransposedConvolution
from manyshot.nn.elastic import Embedding
from manyshot.nn.elastic import Parameter as FreeParameter
from manyshot.nn.layer import Layer, elastic
from manyshot.nn.mixing import Channels, Stacked, is_weight_norm, stack_parameter
from manyshot.seeding import seeded, torch_generator
from manyshot.space import Decision, SearchSpace, Size

_BATCH_NORMS = (_NormBase, BatchNorm)
_TABLES = (nn.Embedding, nn.EmbeddingBag, Embedding)
_TRANSPOSED = (_ConvTransposeNd, TransposedConvolution)
_CHANNELS = {
    *("in_channels", "out_channels", "in_features", "out_features", "num_features"),
    *("num_channels", "embedding_dim"),
}


@dataclass(frozen=True)
class Entry:
    """A parameter that is stacked.

    Attributes:
        path: the path of the module that holds it.
        module: the module.
        name: the name of the parameter in the module.
        layer: the row of a code per layer that mixes it.
        channels: the rows of a code per channel that do.
    """

    path: str
    module: nn.Module
    name: str
    layer: int
    channels: Channels

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is stored."""
        stored = self.module._parameters[self.name]
        assert stored is not None
        return stored


def dictionary(model: nn.Module, *, batch_norms: bool, fixed_layers: bool) -> list[Entry]:
    """The parameters of an adopted model that are to be stacked.

    They are everything in a choice or an elastic depth, and of every elastic layer. A tensor that
    is held in several places is stacked everywhere if it is anywhere. The layers, for a code per
    layer, are all that hangs on one choice decision, each block of a depth, and every other module
    by itself. The channels, for a code per channel, are the outputs of each module: weight and bias
    share the code of a channel.

    Args:
        model: the adopted model.
        batch_norms: whether scales and shifts of batch norms are stacked too.
        fixed_layers: whether everything else is stacked too.

    Raises:
        ValueError: for a complex parameter, or a parametrisation that cannot be mixed.
    """
    searched = _searched(model)
    parameters = list(_parameters(model))
    chosen: dict[int, tuple[Hashable, tuple[Hashable, int, int | None]]] = {}
    for path, module, name, parameter in parameters:
        inside = module in searched or fixed_layers
        if inside and (batch_norms or not isinstance(module, _BATCH_NORMS)):
            _check_mixes(path, module, name, parameter)
            outputs = (module, *_outputs(module, name, parameter))
            chosen.setdefault(id(parameter), (searched.get(module, path), outputs))
    rows: dict[Hashable, int] = {}
    runs: dict[tuple[Hashable, int], int] = {}
    total, entries = 0, []
    for path, module, name, parameter in parameters:
        if id(parameter) not in chosen:
            continue
        layer, (owner, count, dim) = chosen[id(parameter)]
        first = runs.setdefault((owner, count), total)
        total = max(total, first + count)
        channels = Channels(first, count, dim)
        row = rows.setdefault(layer, len(rows))
        entries.append(Entry(path, module, name, row, channels))
    return entries


def _outputs(module: nn.Module, name: str, parameter: nn.Parameter) -> tuple[int, int | None]:
    """How many output channels a parameter has, and which of its dimensions they are.

    A tensor that has no dimension of them, such as a free one, counts as one channel.
    """
    shape, dim = parameter.shape, 0
    if is_weight_norm(module):  # magnitude and direction make one weight, which is mixed
        return len(cast(Tensor, module._parameters["original1"])), 0
    if not shape or isinstance(module, FreeParameter):
        return 1, None
    if isinstance(module, (*_TABLES, *_TRANSPOSED)) and len(shape) > 1:
        groups = getattr(module, "groups", 1)
        if isinstance(groups, Size) or groups != 1:
            return 1, None  # outputs of a group are in the second dimension, groups in the first
        dim = 1
    return shape[dim], dim


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and (parameter.is_floating_point() or parameter.is_complex()):
                yield path, module, name, parameter


def _check_mixes(path: str, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Refuses what a sum of slices would be wrong of."""
    where = f"{path}.{name}" if path else name
    if parameter.is_complex():
        raise ValueError(
            f"KShot: {where} is a complex parameter ({parameter.dtype}), which codes do not mix: "
            "hold its real and imaginary parts as real parameters (torch.view_as_complex in the "
            "forward), or use ms.sharing.OneShot()"
        )
    if (
        isinstance(module, ParametrizationList)
        and not module.is_tensor
        and not is_weight_norm(module)
    ):
        kind = type(module[0]).__name__
        raise ValueError(
            f"KShot: {where} is one of several tensors that the parametrisation {kind} makes one "
            "weight of, which mixed apart would make another: only weight_norm of "
            "torch.nn.utils.parametrizations is mixed as a whole. Remove the parametrisation "
            "(torch.nn.utils.parametrize.remove_parametrizations), or use ms.sharing.OneShot()"
        )


def _searched(model: nn.Module) -> dict[nn.Module, Hashable]:
    """Modules whose weights paths share, with the layer they belong to, outermost first."""
    layers: dict[nn.Module, Hashable] = {}
    for path, module in model.named_modules():
        if isinstance(module, Choice):
            parts: list[tuple[Hashable, nn.Module]] = [(module.decision, module)]
        elif isinstance(module, Depth):
            parts = [((path, i), block) for i, block in enumerate(module.blocks)]
        elif isinstance(module, Layer) and elastic(*(size for _, size in module.sizes())):
            parts = [(path, module)]
        else:
            continue
        for layer, part in parts:
            for inner in part.modules():
                layers.setdefault(inner, layer)
    return layers


def width_decisions(model: nn.Module, space: SearchSpace) -> list[Decision]:
    """The decisions that numbers of channels depend on, in the order of the space."""
    widths = {
        decision
        for module in model.modules()
        if isinstance(module, Layer)
        for name, size in module.sizes()
        if name in _CHANNELS and isinstance(size, Size)
        for decision in size.decisions()
    }
    return [decision for decision in space.decisions if decision in widths]


Initial = Callable[[Entry, Tensor], Tensor]
"""Makes a further slice of an entry from the first."""


def fill(entries: list[Entry], copies: int, initial: Callable[[int], Initial]) -> None:
    """Stacks the entries, in place: the first slice is what is there.

    Args:
        entries: what `dictionary` gives.
        copies: K.
        initial: gives, for each further slice k, the function that makes it.
    """
    makers = [initial(k) for k in range(1, copies)]
    slices: dict[int, list[Tensor]] = {}
    for entry in entries:  # all of them before any module changes
        if id(entry.parameter) not in slices:
            first = entry.parameter.detach()
            slices[id(entry.parameter)] = [first, *(make(entry, first) for make in makers)]
    for entry in entries:
        own = slices.pop(id(entry.parameter), [])
        where: Any = {"layer": entry.layer, "channels": entry.channels, "path": entry.path}
        stack_parameter(entry.module, entry.name, own, **where)


def equal(copy_number: int) -> Initial:
    """Slices that are the first, whatever their number."""
    return lambda entry, first: first.clone()


def redrawn(seed: int, copy_number: int) -> Initial:
    """Slices that a module's own `reset_parameters` draws, with torch seeded for each module.

    Parameters of a module that has no such method, as of a parametrisation, are `rearranged`.

    Args:
        seed: the seed of the scheme.
        copy_number: the number of the slice.
    """
    rearrange = rearranged(seed, copy_number)
    twins: dict[nn.Module, nn.Module] = {}

    def make(entry: Entry, first: Tensor) -> Tensor:
        if not callable(getattr(entry.module, "reset_parameters", None)):
            return rearrange(entry, first)
        if entry.module not in twins:
            twin: Any = copy.deepcopy(entry.module)
            with torch.no_grad(), seeded(seed, "copies", copy_number, len(twins)):
                twin.reset_parameters()
            twins[entry.module] = twin
        return cast(Tensor, twins[entry.module]._parameters[entry.name]).detach()

    return make


def rearranged(seed: int, copy_number: int) -> Initial:
    """Slices whose values are those of the first, in an order drawn from (`seed`, `copy_number`).

    They have the distribution that the network's own initialisation gave the first, fan included,
    and constants stay. They do not suit tensors whose
    *arrangement* means something, such as identity kernels or sinusoidal positions.
    """
    generator = torch_generator(seed, "copies", copy_number)

    def make(entry: Entry, first: Tensor) -> Tensor:
        order = torch.randperm(first.numel(), generator=generator).to(first.device)
        return first.flatten()[order].view(first.shape)

    return make


def constructed(factory: Callable[[], nn.Module], seed: int, copy_number: int) -> Initial:
    """Slices of a network that is made afresh, with torch seeded by (`seed`, `copy_number`).

    Args:
        factory: makes the network.
        seed: the seed of the scheme.
        copy_number: the number of the slice.

    Raises:
        ValueError: when that network has no parameter of the same path, name and shape.
    """
    with seeded(seed, "copies", copy_number):
        other = factory()
    fresh = {(path, name): p for path, _, name, p in _parameters(other)}

    def make(entry: Entry, first: Tensor) -> Tensor:
        parameter = fresh.get((entry.path, entry.name))
        if parameter is None or parameter.shape != first.shape:
            shape = "nothing" if parameter is None else f"shape {tuple(parameter.shape)}"
            raise ValueError(
                f"KShot: the network that init() makes has {shape} at {entry.path}.{entry.name}, "
                f"where the supernet's has shape {tuple(first.shape)}; init must make the same one"
            )
        return parameter.detach().to(first.device, first.dtype)

    return make


def rows(model: nn.Module) -> dict[nn.Parameter, int]:
    """The stacked parameters of a network, with the rows of their layers in a code per layer."""
    layers: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for name, row in module._stacks.items() if isinstance(module, Stacked) else ():
            parameter = module._parameters[name]
            if parameter is not None:
                layers.setdefault(parameter, row)
    return layers
