"""Options that train compiled by `torch.compile`, for as long as a training lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from manyshot.nn.choice import Choice
from manyshot.nn.structure import compilable
from manyshot.supernet import Supernet

BACKEND = "inductor"
"""What makes code of graphs, as torch names it."""
GRAPHS = 10_000
"""Of all options of one class together; torch would run what comes after 256 uncompiled."""


def check_compiling(net: nn.Module, processes: int) -> Supernet:
    """Refuses to compile where there is nothing to compile, or where it was not tried.

    Args:
        net: what is to train.
        processes: how many train together.

    Returns:
        The supernet.

    Raises:
        ValueError: then, with the way out.
    """
    out = "set compile = false"
    if not isinstance(net, Supernet):
        raise ValueError(
            f"compile = true is for the options of a ms.Supernet, and this module is none: {out}, "
            "and compile it yourself"
        )
    if processes > 1:
        raise ValueError(
            f"compile = true is for one process, and {processes} train together, which would wait "
            f"for one another's compilers: {out}"
        )
    if any(isinstance(module, Choice) and module.is_compiled for module in net.modules()):
        raise ValueError(
            "compile = true, and net.compile_options() was called already: leave one of them out"
        )
    try:
        with compiled(net):
            pass
    except RuntimeError as error:
        raise ValueError(f"compile = true: {error}; or {out}") from error
    if not compilable(net.model):
        raise ValueError(
            "compile = true compiles options of fixed size, and no choice block of this network "
            f"has one that holds weights and may be compiled: {out}. Elastic sizes would be "
            "compiled once for every architecture"
        )
    return net


@contextlib.contextmanager
def compiled(net: Supernet) -> Iterator[None]:
    """Lets the options of `net` run compiled in train mode inside the block.

    Each is compiled when it first runs, for its shapes as they are, so that a training that goes on
    from a checkpoint computes the same as one that was never broken off.

    Raises:
        RuntimeError: if they cannot be (see `Supernet.compile_options`).
    """
    with torch._dynamo.config.patch(accumulated_recompile_limit=GRAPHS):
        net.compile_options(backend=BACKEND)
        try:
            yield
        finally:
            net.uncompile_options()


def try_compiler(device: torch.device) -> None:
    """Compiles a small network and its gradient for a device: some seconds, and then it is known.

    Raises:
        ValueError: if that fails, as it does without a C++ compiler or, on a GPU, without Triton.
    """
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(device)
    run = torch.compile(net, backend=BACKEND, dynamic=False)
    try:
        run(torch.ones(2, 4, device=device)).sum().backward()
    except RuntimeError as error:
        said = " ".join(str(error).partition("Set TORCHDYNAMO")[0].split()) or type(error).__name__
        raise ValueError(
            f"compile = true, and torch.compile fails on {device.type} here: {said}. Install what "
            "it asks for (on the CPU a C++ compiler such as g++, which the variable CXX may name; "
            "on a GPU Triton), or set compile = false"
        ) from error
