"""Runs on meta tensors: what shapes a network has, and whether the options of choices agree."""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from manyshot.nn.batch_norm import UnitStatistics
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.counting import UncountedOperation
from manyshot.nn.inputs import Inputs, as_call, shapes_in_words
from manyshot.nn.layer import Layer
from manyshot.nn.mixing import FirstSlice
from manyshot.nn.modes import evaluating
from manyshot.nn.policy import Policies
from manyshot.nn.selection import Selection, activate, active
from manyshot.nn.structure import sizes_of
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace, Size

RANDOM_ARCHITECTURES = 3
WIDTH = 200
"""How much of an error of torch a message has, in characters."""

_REMEDIES = (
    (
        r"numpy",
        "it mixes tensors and arrays of numpy: compute by torch alone, and hold constants as "
        "tensors, by self.register_buffer(name, torch.from_numpy(array))",
    ),
    (
        r"item\(\)|data-dependent|nonzero|masked_select|_unique|cannot be called on meta|"
        r"out of meta tensor|output_size",
        "it reads values of tensors, of which a dry run knows the shapes alone: let its forward "
        "depend on shapes and decisions (no .item(), .tolist(), `if` on a tensor, mask that "
        "selects)",
    ),
    (
        r"fake impl|[Mm]eta kernel|Meta tensors",
        "torch does not know the shape that this operation gives: register one by "
        "torch.library.register_fake, or use another operation",
    ),
    (
        r"device",
        "it meets a tensor that did not move with the network: hold tensors by "
        "self.register_buffer(name, tensor) or as nn.Parameter, and make others on x.device",
    ),
)
"""What the errors of torch on tensors without values say, and what to do about it."""


class DryRunError(ValueError):
    """A network cannot run on tensors without values; the message names module and way out."""


def shapes_of(output: Any) -> Any:
    """The shapes of all tensors in an output, in the structure of the output."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, list | tuple):
        return tuple(map(shapes_of, output))
    if isinstance(output, dict):
        return {key: shapes_of(item) for key, item in output.items()}
    return output


@contextlib.contextmanager
def dry(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients and a forked random stream inside; all is as before afterwards."""
    with evaluating(model), torch.random.fork_rng(devices=[]):
        yield


def meta_twin(model: nn.Module) -> dict[int, Any]:
    """Copies `model` to meta tensors; returns the memo of the copy, by `id` of what was copied.

    The copy shares the decisions, so the same selections run it. Nothing of `model` is touched.
    """
    memo: dict[int, Any] = {}
    for path, module in model.named_modules():
        for tensor in pytree.tree_leaves(vars(module)):
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                memo[id(tensor)] = _without_values(tensor, f"module {path!r}")
    for module in model.modules():
        for _, size in sizes_of(module, ""):
            memo.update((id(part), part) for part in (size, *size.decisions()))
    copy.deepcopy(model, memo)
    return memo


def _without_values(tensor: Tensor, where: str) -> Tensor:
    if is_lazy(tensor):
        raise DryRunError(
            f"{where} has a lazy parameter, which has no shape yet: run the network once before "
            "making a supernet, or give the layer its sizes"
        )
    fresh = torch.empty_like(tensor, device="meta")
    return nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh


@contextlib.contextmanager
def on_meta(space: SearchSpace, arch: Arch, policies: Policies | None = None) -> Iterator[None]:
    """A context in which a `meta_twin` runs `arch`: what comes out has a shape and no numbers."""
    selection = Selection(space.decisions, arch, UnitStatistics(), FirstSlice(), policies)
    quiet = torch.random.fork_rng(devices=[])
    with torch.no_grad(), quiet, torch.device("meta"), activate(selection):
        yield


def named(paths: Mapping[nn.Module, str], module: nn.Module) -> str:
    """A module as messages name it, by its path and its class."""
    kind = type(module).__name__
    return f"module {paths[module]!r} ({kind})" if paths.get(module) else f"the network ({kind})"


def innermost(error: BaseException, model: nn.Module) -> tuple[nn.Module, Any]:
    """The innermost module of `model` that ran when an error was raised, and its arguments."""
    modules = set(model.modules())
    inner, args = model, None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        running = frame.f_locals.get("self")
        if isinstance(running, nn.Module) and running in modules:
            inner = running
            args = frame.f_locals.get("args", args)  # torch's frame around the forward
    return inner, args


def described(error: Exception, model: nn.Module) -> str:
    """An error of a dry run in words: the innermost module of `model`, and what to do."""
    if isinstance(error, DryRunError | UncountedOperation):
        return str(error)
    paths = {module: path for path, module in model.named_modules()}
    inner, args = innermost(error, model)
    shapes = "" if args is None else f" on inputs of shapes {shapes_of(args)}"
    words = textwrap.shorten(str(error).strip(), WIDTH, placeholder=" ...").rstrip(".")
    remedies = (f"; {what}" for pattern, what in _REMEDIES if re.search(pattern, str(error)))
    failure = f"{named(paths, inner)} failed{shapes} with {type(error).__name__}: {words}"
    return failure + next(remedies, "")


@contextlib.contextmanager
def explained(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """A context for a dry run of `model`, whose errors name the module and what to do.

    Raises:
        DryRunError: for any error inside but an `UncountedOperation`.
    """
    try:
        yield
    except UncountedOperation:
        raise
    except Exception as error:
        raise DryRunError(
            f"{described(error, model)}. This was a dry run without values, on inputs of shape "
            f"{shapes_in_words(inputs)}"
        ) from error


def check_channels(twin: nn.Module) -> None:
    """Lets every layer of `twin` compare its channels with those of its input when it is called.

    torch does so itself for most layers, but not on meta tensors for all: a transposed or a
    deformable convolution of the wrong channels would run.
    """
    paths = {module: path for path, module in twin.named_modules()}
    kinds = _ConvNd | nn.Linear | _BatchNorm | nn.GroupNorm | Layer
    for module in paths:
        if isinstance(module, kinds) or type(module).__module__.startswith("torchvision.ops."):
            kernel = getattr(module, "kernel_size", None)
            usual = len(kernel) if isinstance(kernel, tuple) else None
            spatial = getattr(module, "dimensions", usual)
            channels = 1 if spatial is None else -1 - spatial
            dimensions = {
                "in_channels": channels,
                "in_features": -1,
                "num_features": channels,
                "num_channels": 1,
            }
            for name, dimension in dimensions.items():
                if isinstance(getattr(module, name, None), int | Size):
                    hook = functools.partial(_compare_channels, paths, name, dimension)
                    module.register_forward_pre_hook(hook)


def _compare_channels(
    paths: Mapping[nn.Module, str], name: str, dimension: int, layer: nn.Module, args: Any
) -> None:
    shape = args[0].shape if args and isinstance(args[0], Tensor) else ()
    if len(shape) < max(-dimension, dimension + 1):
        return
    size = getattr(layer, name)
    takes = active(layer).count(size) if isinstance(size, Size) else size
    if shape[dimension] != takes:
        raise DryRunError(
            f"{named(paths, layer)} takes {takes} channels ({name}), its input of shape "
            f"{tuple(shape)} has {shape[dimension]}: change {name}, what comes before this layer, "
            "or the channels of the images"
        )


def check_options(model: nn.Module, space: SearchSpace, inputs: Inputs) -> None:
    """Runs all options of every choice met by a few architectures and compares their shapes.

    The architectures are the smallest, the largest and a few random ones; the options of an elastic
    depth are its depths.

    Args:
        model: the network.
        space: its search space.
        inputs: what its `forward` takes, without values.

    Raises:
        DryRunError: if they disagree, and then the message names the block, its options and their
            shapes; or if a module cannot run, or has other channels than its input.
    """
    rng = numpy_rng("shapes", "checks")
    random = (space.sample(rng) for _ in range(RANDOM_ARCHITECTURES))
    archs = [space.smallest, space.largest, *random]
    twin = meta_twin(model)[id(model)].eval()
    check_channels(twin)
    for module in twin.modules():
        if isinstance(module, Choice | Depth):
            hook = functools.partial(_compare, twin)
            module.register_forward_pre_hook(hook, with_kwargs=True)
    args, kwargs = as_call(inputs)
    for arch in dict.fromkeys(archs):
        with explained(twin, inputs), on_meta(space, arch):
            twin(*args, **kwargs)


def _options(block: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    if isinstance(block, Choice):
        once = {option: repr(name) for name, option in block.options.items()}
        yield from ((name, option) for option, name in once.items())  # several may be one module
    elif isinstance(block, Depth):
        yield from ((f"depth {d}", block.first(int(d))) for d in block.decision.values)


def _compare(twin: nn.Module, block: nn.Module, args: Any, kwargs: Any) -> None:
    assert isinstance(block, Choice | Depth)
    where = f"{type(block).__name__.lower()} {block.path!r}"
    shapes = {}
    for name, option in _options(block):
        try:
            shapes[name] = shapes_of(option(*args, **kwargs))
        except Exception as error:
            raise DryRunError(
                f"{where}: option {name} cannot run on an input of shape {shapes_of(args)}: "
                f"{described(error, twin)}"
            ) from error
    if len(set(map(str, shapes.values()))) > 1:
        listed = ", ".join(f"{name} gives {shape}" for name, shape in shapes.items())
        raise DryRunError(
            f"{where}: its options disagree in shape for an input of shape {shapes_of(args)}: "
            f"{listed}; all options must agree"
        )
