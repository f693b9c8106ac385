"""A new classifier for a trained supernet, to carry it over to other classes.

Supernet Shifting (Zhang et al., CVPR 2024, arXiv:2403.11380) transfers a supernet in this way: the
last classifier layer is unset, and learns while the search runs on the new images. Its initial
values are those of the authors' public code, and of Single Path One-Shot's. Finding the layer is
ours.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from manyshot.nn.elastic import Linear
from manyshot.nn.inputs import as_call, inputs_of
from manyshot.nn.mixing import Stacked, plain_class
from manyshot.nn.shapes import explained, meta_twin, on_meta
from manyshot.nn.structure import walk
from manyshot.plugins import nearest
from manyshot.seeding import torch_generator
from manyshot.space import Size
from manyshot.supernet import Supernet

__all__ = ["classifier", "head_parameters", "new_head"]

Classifier: TypeAlias = nn.Linear | Linear

DEVIATION = 0.01
"""The standard deviation of a new classifier's weights."""


def classifier(net: Supernet, name: str | None = None) -> tuple[str, Classifier]:
    """The linear layer that makes the logits: its path in `net.model`, and the layer.

    Without `name` it is found by dry runs of the smallest and the largest architecture on the
    inputs that it was made with: it is the layer whose output the network returns, as it is, in
    both.

    Args:
        net: the supernet.
        name: the path, one of `net.model.named_modules()`, as in "head.2".

    Raises:
        ValueError: if the layer is not found, is not linear, or cannot be replaced, because it is
            inside a choice, has elastic outputs, or has tensors that are computed or shared with
            another module.
    """
    path, layer = _by_dry_run(net) if name is None else _by_name(net.model, name)
    _check(net.model, path, layer)
    return path, layer


def head_parameters(net: Supernet, name: str | None = None) -> list[nn.Parameter]:
    """The weight of the classifier and, if it has one, its bias: what an optimiser holds.

    Under K-shot sharing these are the stacks of K slices.

    Args:
        net: the supernet.
        name: the path of the classifier; by default it is found (see `classifier`).

    Raises:
        ValueError: for the reasons that `classifier` has.
    """
    _, layer = classifier(net, name)
    return list(layer.parameters())


def new_head(net: Supernet, classes: int, *, name: str | None = None, seed: int = 0) -> str:
    """Gives the classifier another number of outputs, in place; all else stays as it is.

    Weights (classes, in) are normal with standard deviation 0.01, a bias (classes,) is zero. Under
    K-shot sharing each of the K slices is drawn by itself. Device, type and `requires_grad` are
    kept.

    The parameters are new objects, so make a new optimiser afterwards: an old one would go on to
    move what is no longer in the network. Cost tables recorded before count the old classifier, and
    so do `ms.cost.macs(net, ...)` and `ms.cost.params(net, ...)` if they were called before: record
    anew by `ms.cost.macs_table` and `ms.cost.params_table`.

    Args:
        net: the supernet.
        classes: the new number, which may be the old one.
        name: the path of the classifier; by default it is found (see `classifier`).
        seed: decides the weights, the same on all devices; global random streams are left alone.

    Returns:
        The path of the classifier in `net.model`.

    Raises:
        ValueError: if `classes` is no whole number from 1, or for the reasons that `classifier`
            has.
    """
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise ValueError(f"new_head: classes must be an int of at least 1, got {classes!r}")
    path, layer = classifier(net, name)
    generator = torch_generator(seed, "classifier")
    stacks = layer._stacks if isinstance(layer, Stacked) else {}
    for key, old in list(layer.named_parameters()):
        slices = old.detach() if key in stacks else old.detach().unsqueeze(0)
        fresh = torch.stack([_drawn(key, (classes, *part.shape[1:]), generator) for part in slices])
        values = (fresh if key in stacks else fresh.squeeze(0)).to(old.device, old.dtype)
        layer.register_parameter(key, nn.Parameter(values, old.requires_grad))
    layer.out_features = classes
    if isinstance(layer, Linear):
        layer._stored = (classes, layer._stored[1])
    return path


def _drawn(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.zeros(shape, dtype=torch.float32, device="cpu")
    return values if key == "bias" else values.normal_(0, DEVIATION, generator=generator)


def _by_name(model: nn.Module, name: str) -> tuple[str, Classifier]:
    modules = dict(model.named_modules(remove_duplicate=False))
    linears = [path for path, module in modules.items() if isinstance(module, Classifier)]
    if name not in modules:
        raise ValueError(
            f"classifier {name!r}: the network has no such module; {nearest(name, linears)}"
            f"its linear layers are {_listed(linears)}"
        )
    layer = modules[name]
    if not isinstance(layer, Classifier):
        raise ValueError(
            f"classifier {name!r} is a {_kind(layer)}, not a linear layer; those of the network "
            f"are {_listed(linears)}"
        )
    return name, layer


def _by_dry_run(net: Supernet) -> tuple[str, Classifier]:
    if net.input_shape is None and net.example_inputs is None:
        raise ValueError(
            "the classifier is found by a dry run, for which the shape of its inputs is not known: "
            "give the path of the linear layer that makes the logits (name= in Python, "
            "transfer.classifier in a recipe), or make the network "
            "by ms.Supernet(model, input_shape=(C, H, W)) or example_inputs="
        )
    smallest, largest = _last(net)
    paths = {layer: p for p, layer in net.model.named_modules() if isinstance(layer, Classifier)}
    if len(smallest) != 1 or smallest != largest:
        raise ValueError(
            "the classifier was not found: a linear layer whose output is what the network "
            f"returns. In the smallest architecture that is {_listed(map(paths.get, smallest))}, "
            f"in the largest {_listed(map(paths.get, largest))}. Give the path of the "
            "layer that makes the logits (name= in Python, transfer.classifier in a recipe), one "
            f"of {_listed(paths.values())}"
        )
    [layer] = smallest
    return paths[layer], layer


def _last(net: Supernet) -> list[list[Classifier]]:
    """The linear layers whose output the network returns, in the smallest and in the largest."""
    model, space = net.model, net.space
    memo = meta_twin(model)
    outputs: list[tuple[Classifier, Any]] = []  # held, so that `is` tells them apart
    for layer in (module for module in model.modules() if isinstance(module, Classifier)):
        note = functools.partial(_note, outputs, layer)
        memo[id(layer)].register_forward_hook(note)
    twin = memo[id(model)].eval()
    inputs = inputs_of(net)
    args, kwargs = as_call(inputs)
    last = []
    for arch in (space.smallest, space.largest):
        with explained(twin, inputs), on_meta(space, arch):
            logits = twin(*args, **kwargs)
        last.append([layer for layer, output in outputs if output is logits])
    return last


def _note(
    outputs: list[tuple[Classifier, Any]], layer: Classifier, twin: nn.Module, args: Any, out: Any
) -> None:
    outputs.append((layer, out))


def _check(model: nn.Module, path: str, layer: Classifier) -> None:
    """Refuses a classifier that cannot be replaced."""
    where = f"classifier {path!r}"
    if any(use for _, module, use in walk(model) if module is layer):
        raise ValueError(
            f"{where} is part of a choice or an elastic depth, of which other options may hold "
            "classifiers too: put it after the choice"
        )
    if isinstance(layer.out_features, Size):
        raise ValueError(
            f"{where} has elastic outputs, {layer.out_features!r}: a classifier has a fixed number "
            "of them; give the path of the layer after it, or make it so"
        )
    parameters = dict(layer.named_parameters())
    if set(parameters) not in ({"weight"}, {"weight", "bias"}):
        raise ValueError(
            f"{where} has the parameters {', '.join(parameters) or 'none'} in place of weight and "
            "bias: remove its parametrisation first "
            "(torch.nn.utils.parametrize.remove_parametrizations)"
        )
    for other_path, other in model.named_modules():
        held = itertools.chain(other._parameters.values(), other._buffers.values())
        if other is not layer and any(
            tensor is mine for tensor in held for mine in parameters.values()
        ):
            raise ValueError(
                f"{where} shares a tensor with {other_path or 'the network itself'}, which would "
                "keep the old one: give it a copy of its own first"
            )


def _kind(module: nn.Module) -> str:
    cls = type(module)
    return (plain_class(cls) if isinstance(module, Stacked) else cls).__name__


def _listed(paths: Iterable[str | None]) -> str:
    """The last three paths, quoted; the logits are made near the end of a network."""
    quoted = [repr(path) for path in paths]
    return ", ".join([*["..."][: len(quoted) > 3], *quoted[-3:]]) or "none"
