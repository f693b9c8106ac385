"""Checks that all options of every choice agree in shape, on meta tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.nn.batch_norm import UnitStatistics
from manyshot.nn.choice import Choice
from manyshot.nn.selection import Selection, activate
from manyshot.space import Arch, SearchSpace

RANDOM_ARCHITECTURES = 3


def shapes_of(output: Any) -> Any:
    """The shapes of all tensors in an output, in its own structure."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, list | tuple):
        return tuple(map(shapes_of, output))
    if isinstance(output, dict):
        return {key: shapes_of(item) for key, item in output.items()}
    return output


@contextlib.contextmanager
def dry(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients and a forked random stream inside; all as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training


def meta_state(model: nn.Module) -> dict[str, Tensor]:
    """Meta copies of all parameters and buffers, for `torch.func.functional_call`."""
    named = [*model.named_parameters(remove_duplicate=False)]
    named += [*model.named_buffers(remove_duplicate=False)]
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in named}


def meta_forward(
    model: nn.Module, space: SearchSpace, arch: Arch, images: Tensor, state: dict[str, Tensor]
) -> Any:
    """One forward of `arch` on `meta_state`; the model's own tensors are not touched."""
    selection = Selection(space.decisions, arch, UnitStatistics())
    with activate(selection):
        return torch.func.functional_call(model, state, (images,))


def check_options(model: nn.Module, space: SearchSpace, input_shape: Sequence[int]) -> None:
    """Runs all options of every choice met by a few architectures and compares their shapes.

    The architectures are the smallest, the largest and a few random ones.

    Raises:
        ValueError: naming the choice, its options and their shapes.
    """
    rng = np.random.default_rng(0)
    archs = [space.smallest, space.largest, *(space.sample(rng) for _ in range(RANDOM_ARCHITECTURES))]
    images = torch.empty((1, *input_shape), device="meta", dtype=model_dtype(model))
    handles = [
        module.register_forward_hook(_compare, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, Choice)
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
    """The floating-point type of its first parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _compare(choice: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    assert isinstance(choice, Choice)
    shapes = {}
    for i, name in enumerate(choice.options):
        try:
            shapes[name] = shapes_of(choice.option(i)(*args, **kwargs))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(
                f"choice {choice.path!r}: option {name!r} cannot run on an input of shape "
                f"{shapes_of(args)}: {error}"
            ) from error
    if len(set(map(str, shapes.values()))) > 1:
        listed = ", ".join(f"{name!r} gives {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"choice {choice.path!r}: its options disagree in shape for an input of shape "
            f"{shapes_of(args)}: {listed}; all options of a choice must agree"
        )
