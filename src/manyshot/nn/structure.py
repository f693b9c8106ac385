"""Reads a network: which decisions it holds, where they matter, and what its options weigh."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as TorchNorm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from manyshot.nn.adapted import Adapted
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.kept import Kept, searchable
from manyshot.nn.layer import Layer, Shape
from manyshot.nn.mixing import Stacked, dry_selection
from manyshot.nn.pointwise import unsafe_layers
from manyshot.space import Commutation, Decision, SearchSpace, Size, Use

_HOOKS: dict[type, str] = {WeightNorm: "weight_norm", SpectralNorm: "spectral_norm"}
"""Hooks that compute a weight, and the name of each, which torch's parametrisations have too."""


@runtime_checkable
class DeclaresCommutations(Protocol):
    """A network that declares which of its encodings are one stand-alone network."""

    def commutations(self) -> Sequence[Commutation]:
        """The options that commute (see `manyshot.space.Commutation`)."""
        ...


@runtime_checkable
class DeclaresUses(Protocol):
    """A network that declares when decisions matter, besides that what holds them is chosen."""

    def uses(self) -> Mapping[Decision, Sequence[Use]]:
        """For some decisions, the only places where they matter (see `manyshot.space.Use`).

        The conditions are over the whole network. What several modules declare of one decision adds
        up: it matters where any of them says so.
        """
        ...


def adopt(model: nn.Module) -> None:
    """Makes `model` ready: plain batch norms become ours, in place; every layer learns its path.

    Of a subclass of a batch norm its own forward is kept (see `manyshot.nn.kept`). Norms made with
    `track_running_stats=False` stay as they are: they have nothing to blend.

    Raises:
        TypeError: for a norm that keeps running statistics and is no batch norm of torch, or has
            names that layers of ours have too; or for a module whose weight is computed by a hook
            before its forward.
    """
    for path, module in model.named_modules():
        check_hooks(path or "the model", module)
    norms = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, TorchNorm)
        and module.track_running_stats
        and not isinstance(module, Layer)
    ]
    layers = []
    for path, norm in norms:
        layer = searchable(norm, path)
        if layer is None:
            raise TypeError(
                f"{path or 'the model'}: {type(norm).__name__} keeps running statistics, which a "
                "supernet cannot share between paths; use torch.nn.BatchNorm1d/2d/3d, "
                "ms.nn.BatchNorm2d, or track_running_stats=False"
            )
        layers.append((norm, layer))
    for norm, layer in layers:
        layer.adopt(norm)
    for path, module in model.named_modules():
        if isinstance(module, Layer):
            module.path = path


def check_hooks(path: str, module: nn.Module) -> None:
    """Refuses hooks that compute a weight before a forward: what reads it otherwise is stale.

    Raises:
        TypeError: naming the module, the tensor and the way out.
    """
    for hook in module._forward_pre_hooks.values():
        name = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "weight")
        if isinstance(hook, BasePruningMethod):
            raise TypeError(
                f"{path}: {name} of {type(module).__name__} is pruned by torch.nn.utils.prune, "
                "whose hook computes it before every forward, where no path can mix or cut it: "
                f"make the pruning permanent by torch.nn.utils.prune.remove(module, {name!r})"
            )
        kind = _HOOKS.get(type(hook))
        if kind is not None:
            raise TypeError(
                f"{path}: {name} of {type(module).__name__} has the old torch.nn.utils.{kind}, "
                "whose hook computes it before every forward, where no path can mix or cut it: "
                f"use torch.nn.utils.parametrizations.{kind}, or undo it by "
                f"torch.nn.utils.remove_{kind}(module)"
            )


def walk(module: nn.Module, path: str = "", use: Use = ()) -> Iterator[tuple[str, nn.Module, Use]]:
    """Every module with its path and the option indices under which it is in the network.

    A module that is held in two places comes twice.

    Args:
        module: where to begin.
        path: the path of `module`.
        use: the options under which `module` is in the network.
    """
    yield path, module, use
    prefix = f"{path}." if path else ""
    if isinstance(module, Choice):
        for i, name in enumerate(module.options):
            inner = (*use, (module.decision, frozenset({i})))
            yield from walk(module.option(i), f"{prefix}options.{name}", inner)
    elif isinstance(module, Depth):
        for i, block in enumerate(module.blocks):
            at = i + module.start
            allowed = frozenset(j for j, d in enumerate(module.decision.values) if d > at)
            everywhere = len(allowed) == len(module.decision.options)
            inner = use if everywhere else (*use, (module.decision, allowed))
            yield from walk(block, f"{prefix}blocks.{i}", inner)
    elif not isinstance(module, Layer) or isinstance(module, Kept):
        # What other layers hold besides, parametrises their tensors.
        for name, child in module._modules.items():
            if child is not None and not (name == "parametrizations" and isinstance(module, Kept)):
                yield from walk(child, f"{prefix}{name}", use)


def _held_sizes(held: Any, path: str) -> Iterator[tuple[str, Size]]:
    if isinstance(held, Size):
        yield path, held
    elif isinstance(held, list | tuple):
        for i, item in enumerate(held):
            yield from _held_sizes(item, f"{path}.{i}")
    elif isinstance(held, Mapping):
        for key, item in held.items():
            yield from _held_sizes(item, f"{path}.{key}")
    elif dataclasses.is_dataclass(held) and not isinstance(held, type):
        fields = {field.name: getattr(held, field.name) for field in dataclasses.fields(held)}
        yield from _held_sizes(fields, path)


def sizes_of(module: nn.Module, path: str) -> Iterator[tuple[str, Size]]:
    """The sizes that one module holds itself, with the path that names them."""
    prefix = f"{path}." if path else ""
    if isinstance(module, Choice | Depth):
        yield path or "decision", module.decision
    elif isinstance(module, Layer):
        for name, size in module.sizes():
            if isinstance(size, Size):
                yield f"{prefix}{name}", size
    else:
        for name, held in vars(module).items():
            if name not in ("_modules", "_parameters", "_buffers"):
                yield from _held_sizes(held, f"{prefix}{name}")


def _with_declared(
    model: nn.Module, nested: Mapping[Decision, Mapping[Use, None]]
) -> dict[Decision, tuple[Use, ...]]:
    """The uses that nesting gives and those that modules declare; one of each kind must hold."""
    declared: dict[Decision, dict[Use, None]] = {}
    for module in model.modules():
        if isinstance(module, DeclaresUses) and callable(module.uses):
            for decision, uses in module.uses().items():
                declared.setdefault(decision, {}).update(dict.fromkeys(uses))
    always: Mapping[Use, None] = {(): None}
    combined = {decision: tuple(uses) for decision, uses in declared.items()}
    for decision, places in nested.items():
        inner = declared.get(decision, always)
        combined[decision] = tuple((*o, *i) for o in places for i in inner)
    return {d: uses for d, uses in combined.items() if () not in uses}


def has_decisions(model: nn.Module) -> bool:
    """Whether a network holds decisions of its own, and need not be converted."""
    return any(isinstance(module, Layer) for module in model.modules()) or any(
        True for path, module in model.named_modules() for _ in sizes_of(module, path)
    )


def search_space(model: nn.Module) -> SearchSpace:
    """The space of an adopted network: decisions in order of definition, with their uses.

    Raises:
        ValueError: if there is no decision, two share one name, or uses are declared of a decision
            that the network does not hold.
    """
    uses: dict[Decision, dict[Use, None]] = {}
    paths: dict[Decision, str] = {}
    weights: dict[Decision, list[float]] = {}
    for path, module, use in walk(model):
        for held_at, size in sizes_of(module, path):
            for decision in size.decisions():
                uses.setdefault(decision, {})[use] = None
                paths.setdefault(decision, held_at)
        if isinstance(module, Choice):
            counts = [
                float(sum(p.numel() for p in module.option(i).parameters()))
                for i in range(len(module.decision.options))
            ]
            so_far = weights.get(module.decision, [0.0] * len(counts))
            weights[module.decision] = [a + b for a, b in zip(so_far, counts, strict=True)]
    if not uses:
        raise ValueError(
            f"{type(model).__name__} has no decisions: give it an ms.nn.Choice, an ms.nn.Depth, "
            "or a layer of ms.nn with a size from ms.choose(...); or let ms.convert(model, "
            "example_inputs) find what can vary, in a recipe by a section [network.convert]"
        )
    for decision, path in paths.items():
        if not decision.named:
            decision.name = path
    declared = [
        commutation
        for module in model.modules()
        if isinstance(module, DeclaresCommutations)
        for commutation in module.commutations()
    ]
    return SearchSpace(
        sorted(uses, key=lambda d: d.order),
        uses=_with_declared(model, uses),
        commutations=declared,
        ranks={d: w for d, w in weights.items() if not d.is_number},
    )


def parameter_uses(model: nn.Module) -> list[tuple[Tensor, list[tuple[Use, Shape]]]]:
    """Every distinct parameter with all places that hold it: when each is in, and in what shape."""
    entries: dict[int, tuple[Tensor, list[tuple[Use, Shape]]]] = {}
    alive: list[Tensor] = []  # so that no other tensor gets the id of one of them
    for _, module, use in walk(model):
        parameters = {name: p for name, p in module._parameters.items() if p is not None}
        held: list[tuple[Tensor, Shape]]
        if isinstance(module, Layer):
            with dry_selection():  # a parametrisation may read a stack
                held = [
                    (parameters[name] if name in parameters else getattr(module, name), shape)
                    for name, shape in module.shapes()
                ]
            alive += [tensor for tensor, _ in held]
        else:
            stacks = module._stacks if isinstance(module, Stacked) else ()
            varying = module._shapes if isinstance(module, Adapted) else {}
            held = [
                (p, varying.get(name, tuple(p.shape)[name in stacks :]))
                for name, p in parameters.items()
            ]
        for tensor, shape in held:
            entry = entries.setdefault(id(tensor), (tensor, []))
            if (use, shape) not in entry[1]:
                entry[1].append((use, shape))
    return list(entries.values())


def compiles_options() -> bool:
    """Whether this version of torch can give every option graphs of its own."""
    return "isolate_recompiles" in inspect.signature(torch.compile).parameters


def compilable(model: nn.Module) -> list[tuple[Choice, str]]:
    """The options that may be compiled, by the choice blocks that hold them (see `Supernet`)."""
    return [
        (choice, name)
        for choice in model.modules()
        if isinstance(choice, Choice)
        for name, option in choice.options.items()
        if any(True for _ in option.parameters())
        and not any(True for path, module, _ in walk(option) for _ in sizes_of(module, path))
        and not unsafe_layers(option)
    ]
