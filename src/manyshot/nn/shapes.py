"""Runs on meta tensors: what shapes a network has, and whether the options of choices agree."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyshot.nn.batch_norm import UnitStatistics
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.mixing import FirstSlice
from manyshot.nn.modes import evaluating
from manyshot.nn.selection import Selection, activate
from manyshot.nn.structure import sizes_of
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace

RANDOM_ARCHITECTURES = 3


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
    held = (v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor))
    for tensor in itertools.chain(model.parameters(), model.buffers(), held):
        fresh = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(fresh, tensor.requires_grad) if is_parameter else fresh
    for module in model.modules():
        for _, size in sizes_of(module, ""):
            memo.update((id(part), part) for part in (size, *size.decisions()))
    copy.deepcopy(model, memo)
    return memo


@contextlib.contextmanager
def on_meta(space: SearchSpace, arch: Arch) -> Iterator[None]:
    """A context in which a `meta_twin` runs `arch`: what comes out has a shape and no numbers."""
    selection = Selection(space.decisions, arch, UnitStatistics(), FirstSlice())
    quiet = torch.random.fork_rng(devices=[])
    with torch.no_grad(), quiet, torch.device("meta"), activate(selection):
        yield


def check_options(model: nn.Module, space: SearchSpace, input_shape: Sequence[int]) -> None:
    """Runs all options of every choice met by a few architectures and compares their shapes.

    The architectures are the smallest, the largest and a few random ones; the options of an elastic
    depth are its depths.

    Args:
        model: the network.
        space: its search space.
        input_shape: (C, H, W) of one image.

    Raises:
        ValueError: if they disagree; the message names the block, its options and their shapes.
    """
    rng = numpy_rng("shapes", "checks")
    random = (space.sample(rng) for _ in range(RANDOM_ARCHITECTURES))
    archs = [space.smallest, space.largest, *random]
    twin = meta_twin(model)[id(model)].eval()
    for module in twin.modules():
        if isinstance(module, Choice | Depth):
            module.register_forward_pre_hook(_compare, with_kwargs=True)
    images = torch.empty((1, *input_shape), device="meta", dtype=model_dtype(model))
    for arch in dict.fromkeys(archs):
        with on_meta(space, arch):
            twin(images)


def model_dtype(model: nn.Module) -> torch.dtype:
    """The floating-point type of the model's first parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _options(block: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    if isinstance(block, Choice):
        yield from ((repr(name), option) for name, option in block.options.items())
    elif isinstance(block, Depth):
        yield from ((f"depth {d}", block.first(int(d))) for d in block.decision.values)


def _compare(block: nn.Module, args: Any, kwargs: Any) -> None:
    assert isinstance(block, Choice | Depth)
    where = f"{type(block).__name__.lower()} {block.path!r}"
    shapes = {}
    for name, option in _options(block):
        try:
            shapes[name] = shapes_of(option(*args, **kwargs))
        except Exception as error:
            raise ValueError(
                f"{where}: option {name} cannot run on an input of shape {shapes_of(args)}: {error}"
            ) from error
    if len(set(map(str, shapes.values()))) > 1:
        listed = ", ".join(f"{name} gives {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{where}: its options disagree in shape for an input of shape {shapes_of(args)}: "
            f"{listed}; all options must agree"
        )
