"""Checks that all options of every choice agree in shape, on meta tensors."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.nn.batch_norm import UnitStatistics
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.mixing import FirstSlice
from manyshot.nn.modes import modes_kept
from manyshot.nn.selection import Selection, activate
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
    with modes_kept(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model.eval()
        yield


def meta_state(model: nn.Module) -> dict[str, Tensor]:
    """Meta copies of all parameters and buffers, for `meta_forward`.

    A module that is held twice is named once: `functional_call` would not restore it otherwise.
    """
    state: dict[str, Tensor] = {}
    copies: dict[Tensor, Tensor] = {}  # tied tensors have one copy
    for path, module in model.named_modules():
        for name, tensor in itertools.chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                fresh = copies.setdefault(tensor, torch.empty_like(tensor, device="meta"))
                state[f"{path}.{name}" if path else name] = fresh
    return state


def meta_forward(
    model: nn.Module, space: SearchSpace, arch: Arch, images: Tensor, state: dict[str, Tensor]
) -> Any:
    """One forward of an architecture on meta tensors; the model's own tensors are not touched.

    Args:
        model: the network.
        space: its search space.
        arch: the architecture.
        images: the input, on the meta device.
        state: what `meta_state` gives.
    """
    selection = Selection(space.decisions, arch, UnitStatistics(), FirstSlice())
    with activate(selection), torch.device("meta"):
        return torch.func.functional_call(model, dict(state), (images,), tie_weights=False)


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
    rng = np.random.default_rng(0)
    random = (space.sample(rng) for _ in range(RANDOM_ARCHITECTURES))
    archs = [space.smallest, space.largest, *random]
    images = torch.empty((1, *input_shape), device="meta", dtype=model_dtype(model))
    handles = [
        module.register_forward_pre_hook(_compare, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, Choice | Depth)
    ]
    try:
        state = meta_state(model)
        with dry(model):
            for arch in dict.fromkeys(archs):
                meta_forward(model, space, arch, images, state)
    finally:
        for handle in handles:
            handle.remove()


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
