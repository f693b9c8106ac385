"""`ms.convert`: any network as a supernet, by what its own forward does with its channels."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot.conversion.converter import ConversionError, Converter, run_real
from manyshot.conversion.ordering import IMPORTANCES, Importance, orders, reorder
from manyshot.conversion.rewriting import Plan, prepare, rewrite, tensors_of, uncompiled
from manyshot.conversion.rules import Dims
from manyshot.nn.batch_norm import BatchNorm, BatchNormStats
from manyshot.nn.converted import Conversion
from manyshot.nn.inputs import Inputs, as_call, shapes_in_words, tensors_in, without_values
from manyshot.nn.layer import Layer
from manyshot.nn.modes import evaluating
from manyshot.nn.shapes import described
from manyshot.nn.structure import check_hooks
from manyshot.plugins import nearest
from manyshot.seeding import numpy_rng
from manyshot.sharing import Sharing
from manyshot.supernet import Supernet

TOLERANCE = 1e-5
"""The largest accepted difference of original and largest, relative to the largest output."""
ROUNDED = 16
"""The same in steps of a type's precision, which is more for types of 16 bits."""
FLIPPED = 0.01
"""The part of the outputs that may differ where they are truths or indices, as of near ties."""


def convert(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ratios: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    divisor: int | None = None,
    depth: bool = True,
    kernel: bool = False,
    heads: bool = True,
    importance: Importance | None = "l1",
    keep: Sequence[str] = (),
    sharing: Sharing | None = None,
) -> Supernet:
    """Makes a supernet of any network: its widths, depths and heads become decisions.

    The network runs once on tensors without values, and every operation is followed: channels that
    meet in an addition vary together, those of a concatenation by parts, those of a depthwise or
    grouped convolution with its groups. Everything that cannot be decided in this way (what the
    network returns, channels that are split, mixed, or reduced over) stays as it is, and
    `net.conversion` says why. What is to vary is then tried on small architectures; what does not
    run stays fixed too.

    Compiled modules are taken as what they were compiled from. Hooks run with the network, on
    tensors without values too.

    The classes of the network and their `forward` stay; `net.extract(arch)` gives them with plain
    layers. With weights of a trained network, channels are ordered by importance first, which does
    not change what the network computes, so that narrow slices keep the best. The largest
    architecture is the original: `net(inputs, stats=net.conversion.stats)`.

    Args:
        model: any network; it is copied, and stays as it is.
        example_inputs: what its `forward` takes: a tensor, a tuple of positional or a dict of
            keyword arguments. Give a batch of two or more.
        ratios: the widths, as parts of the original's channels, above 0 and at most 1. 1 is always
            among them.
        divisor: channels are multiples of it, rounded as in MobileNetV2. By default of 8, and
            where a width has no other multiple of 8, of 4, of 2 or of 1.
        depth: whether residual blocks can be left out, from the end of what holds them; the first
            always stays.
        kernel: whether convolutions with kernels of 5 and more can have smaller ones, the centre.
        heads: whether attention can have fewer heads (see `ms.conversion.register`).
        importance: by what channels are ordered: `l1` or `l2` norms of their weights, `scale` of
            their norms, a function `importance(tensor, dim)` that gives a number per entry, or None
            to leave them in their order.
        keep: patterns of paths of modules, such as `"fc"` or `"layer1.*"`, whose channels stay.
        sharing: which weights a path gets; by default one copy. Further copies begin as the scheme
            says; `ms.sharing.widen` lets all begin as the network's weights.

    Returns:
        A supernet, with what was done as `net.conversion`.

    Raises:
        ConversionError: if nothing can vary, the network has decisions already, or it computes
            something else in the end.
        ValueError: for inputs, ratios, divisor, importance or patterns that are not allowed.
        TypeError: for what is no module, or has weights that no path can cut.
    """
    _check_network(model)
    _check_inputs(example_inputs)
    _check_arguments(model, ratios, divisor, importance, keep)
    model = uncompiled(copy.deepcopy(model))
    original = _original(model, example_inputs)
    prepare(model, heads=heads)
    converter = Converter(model, example_inputs, keep, depth=depth, heads=heads)
    converter.decide(ratios, divisor, kernel=kernel)
    plan = converter.plan
    if not plan.decisions():
        raise ConversionError(converter.nothing())
    if importance is not None:
        _order(model, plan, importance)
    running = {id(m): held for m in model.modules() if (held := _running(m)) is not None}
    share = _share(model, plan)
    net = Supernet(rewrite(model, plan))
    tensors = {
        norm.path: running[id(norm)]
        for norm in net.model.modules()
        if isinstance(norm, BatchNorm) and id(norm) in running
    }
    stats = BatchNormStats(net.space.largest, tensors)
    difference = _check(net, example_inputs, original, stats)
    if sharing is not None:
        net = Supernet(net.model, sharing=sharing)
    net.example_inputs = without_values(example_inputs)
    net.conversion = Conversion(
        decisions=tuple(converter.converted()),
        fixed=tuple(converter.kept()),
        attributes=converter.attributes(),
        opaque=converter.opaque,
        stats=stats,
        share=share,
        difference=difference,
        importance=getattr(importance, "__name__", str(importance or "none")),
    )
    return net


def _check_network(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        called = f"{model.__name__}(...)" if isinstance(model, type) else "an nn.Module"
        raise TypeError(f"convert: model must be a network, got {model!r}: give {called}")
    for path, module in model.named_modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = f"model.{path}.module" if path else "model.module"
            raise ValueError(
                f"convert: {path or 'the model'} is wrapped by {type(module).__name__}: convert "
                f"what it holds, {inner}, and wrap what trains afterwards"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"convert: {path or 'the model'} is scripted by torch.jit, whose code and numbers "
                "nothing can change: give the module that it was scripted from"
            )
        check_hooks(path or "the model", module)


def _check_inputs(inputs: Inputs) -> None:
    entries = inputs if isinstance(inputs, list | tuple) else ()
    if entries and all(isinstance(entry, int) for entry in entries):
        shape = ", ".join(map(str, entries))
        raise ValueError(
            f"convert: example_inputs is a shape, ({shape}): give a tensor, such as "
            f"torch.zeros({shape})"
        )
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(inputs)):
        raise ValueError(
            f"convert: example_inputs must hold a tensor, got {type(inputs).__name__}: give what "
            "the network's forward takes, such as torch.zeros(2, 3, 32, 32), a batch of your data, "
            "or torch.from_numpy(array)"
        )


def _check_arguments(
    model: nn.Module,
    ratios: Sequence[float],
    divisor: int | None,
    importance: Importance | None,
    keep: Sequence[str],
) -> None:
    if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
        raise ValueError(
            f"convert: ratios must be numbers above 0 and at most 1, got {tuple(ratios)}; 0.5 is "
            "half of the original's channels"
        )
    if divisor is not None and (not isinstance(divisor, int) or divisor < 1):
        raise ValueError(f"convert: divisor must be a whole number of at least 1, got {divisor!r}")
    if not (importance is None or callable(importance) or importance in IMPORTANCES):
        raise ValueError(
            f"convert: importance must be one of {', '.join(IMPORTANCES)}, a function of a tensor "
            f"and a dimension, or None, got {importance!r}"
        )
    if isinstance(keep, str):
        raise ValueError(f"convert: keep must be a sequence of patterns, got {keep!r}: ({keep!r},)")
    held = next((path for path, m in model.named_modules() if isinstance(m, Layer)), None)
    if held is not None:
        raise ConversionError(
            f"convert: {held or 'the model'} is a layer of ms.nn already: make it a supernet by "
            "ms.Supernet(model)"
        )
    paths = [path for path, _ in model.named_modules()]
    for pattern in keep:
        if not fnmatch.filter(paths, pattern):
            raise ValueError(
                f"convert: keep has {pattern!r}, but no module has such a path; "
                f"{nearest(pattern, paths)}paths are like {', '.join(paths[1:4])}"
            )


def _original(model: nn.Module, inputs: Inputs) -> Any:
    try:
        return run_real(model, inputs)
    except Exception as error:
        raise ConversionError(
            f"convert: the network does not run on example_inputs, of shape "
            f"{shapes_in_words(inputs)}: {described(error, model)}"
        ) from error


def _running(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Copies of the running mean and variance of a batch norm; None if it has none."""
    mean, variance = (module._buffers.get(f"running_{name}") for name in ("mean", "var"))
    return None if mean is None or variance is None else (mean.clone(), variance.clone())


def _order(model: nn.Module, plan: Plan, importance: Importance) -> None:
    """Orders the channels of a real network, in place."""
    dims: dict[int, tuple[Tensor, Dims]] = {}
    counted: dict[int, tuple[Tensor, Dims]] = {}
    for path, name, tensor in tensors_of(model):
        held = plan.dims.get(path, {}).get(name)
        if held is not None:
            dims[id(tensor)] = (tensor.data, held)
            if isinstance(tensor, nn.Parameter) and not name.endswith("bias"):
                counted[id(tensor)] = (tensor.data, held)
    reorder(dims.values(), orders(counted.values(), plan.widths, importance))


def _share(model: nn.Module, plan: Plan) -> float:
    """The part of the parameters that is in tensors which vary."""
    sizes: dict[int, tuple[int, bool]] = {}
    for path, name, tensor in tensors_of(model):
        if isinstance(tensor, nn.Parameter):
            varies = any(map(plan.varies, plan.dims.get(path, {}).get(name, ())))
            sizes[id(tensor)] = (tensor.numel(), varies)
    total = sum(n for n, _ in sizes.values())
    return sum(n for n, varies in sizes.values() if varies) / total if total else 0.0


def _check(net: Supernet, inputs: Inputs, original: Any, stats: BatchNormStats) -> float:
    """Compares the largest with the original, and small architectures with what is extracted.

    Returns:
        The difference of the largest and the original, see `_difference`.

    Raises:
        ConversionError: if the largest computes something else, or an extracted network does.
    """
    with evaluating(net):
        largest = _alike(net, inputs, stats=stats)
        difference = _difference(largest, original, "the largest architecture")
        rng = numpy_rng("conversion", "checks")
        for arch in dict.fromkeys((net.space.smallest, net.space.sample(rng))):
            unit = _unit_statistics(net, arch)
            plain = net.extract(arch, stats=unit).eval()
            args, kwargs = as_call(inputs)
            what = f"architecture {net.space.to_text(arch)}, extracted,"
            cut = _alike(net, inputs, arch, stats=unit)
            _difference(_alike(plain, *args, **kwargs), cut, what)
    return difference


def _alike(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What a forward gives with the same random numbers as others that are run by this."""
    with torch.random.fork_rng(devices=[]):
        return module(*args, **kwargs)


def _unit_statistics(net: Supernet, arch: Any) -> BatchNormStats:
    """Statistics of mean 0 and variance 1 for all norms that an architecture has."""
    tensors = {}
    with net.selecting(arch) as selection:
        for norm in net.model.modules():
            if isinstance(norm, BatchNorm):
                like: Any = norm._like if norm.weight is None else norm.weight
                n = selection.count(norm.num_features)
                tensors[norm.path] = (like.new_zeros(n).detach(), like.new_ones(n).detach())
    return BatchNormStats(tuple(arch), tensors)


def _difference(output: Any, expected: Any, what: str) -> float:
    """The largest difference of two outputs, relative to the largest entry (1 if that is smaller).

    Raises:
        ConversionError: if it is too large, and says that `what` gives something else.
    """
    ours, theirs = list(tensors_in(output)), list(tensors_in(expected))
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ConversionError(
            f"convert: {what} gives tensors of shapes {shapes[0]}, and should of {shapes[1]}: "
            "leave the modules that make them as they are by keep=(...)"
        )
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        far = _far(one, other)
        if not far <= _tolerance(one.dtype):
            raise ConversionError(
                f"convert: {what} gives another output than it should, by {far:.2e} of its "
                "largest: the network depends on the order of channels in a way that its "
                "operations do not show. Give importance=None, or leave modules as they are by "
                "keep=(...)"
            )
        worst = max(worst, far)
    return worst


def _far(one: Tensor, other: Tensor) -> float:
    """How far two tensors are apart: of truths and whole numbers, the part of them that differs."""
    if not one.numel():
        return 0.0
    same = (one == other) | (one.isnan() & other.isnan())
    if not (one.is_floating_point() or one.is_complex()):
        return 1.0 - float(same.double().mean())
    largest = torch.where(other.isfinite(), other, torch.zeros_like(other)).abs().max()
    return float((one - other).masked_fill(same, 0.0).abs().max()) / max(1.0, float(largest))


def _tolerance(dtype: torch.dtype) -> float:
    """The largest accepted difference: types of fewer bits round more, and near ties may flip."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return FLIPPED
    return max(TOLERANCE, ROUNDED * torch.finfo(dtype).eps)
