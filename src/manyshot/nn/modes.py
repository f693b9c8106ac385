"""Modes that are kept or left for a while: of modules, training or not, and autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

_EVALUATED: ContextVar[tuple[nn.Module, ...]] = ContextVar("manyshot_evaluated", default=())


@contextlib.contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module is afterwards in the mode that it was in before."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; every module's mode is as before afterwards.

    Inside a block of the same network this does nothing but switch gradients off, so that whoever
    evaluates much can walk through the modules once.
    """
    around = _EVALUATED.get()
    if not net.training and any(outer is net for outer in around):
        with torch.no_grad():
            yield
        return
    token = _EVALUATED.set((*around, net))
    try:
        with modes_kept(net), torch.no_grad():
            if any(module.training for module in net.modules()):
                net.eval()
            yield
    finally:
        _EVALUATED.reset(token)


def without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Inside, operations on a kind of device keep the types that they are given."""
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
