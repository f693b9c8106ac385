"""Keeps the modes of modules, training or not, whatever is done with a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module is afterwards in the mode that it was in before."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module's mode is as before afterwards."""
    with modes_kept(net), torch.no_grad():
        net.eval()
        yield
