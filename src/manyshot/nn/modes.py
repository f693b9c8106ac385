"""Modes that are kept or left for a while: training or not, autocast, products on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import nn

_EVALUATED: ContextVar[tuple[nn.Module, ...]] = ContextVar("manyshot_evaluated", default=())
_PRODUCTS: ContextVar[Literal["ieee", "tf32"] | None] = ContextVar(
    "manyshot_products", default=None
)


@contextlib.contextmanager
def gpu_products(kind: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Inside, how a GPU multiplies matrices and convolves in single precision.

    By `tf32` its tensor cores take 10 of the 23 bits of a fraction, and sum up in single precision.
    By itself torch convolves so, and multiplies by `ieee`, with all bits. A process that has not
    used a GPU is left alone.
    """
    token = _PRODUCTS.set(kind)
    try:
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            yield
            return
        places: tuple[Any, ...] = (
            torch.backends.cuda.matmul,
            torch.backends.cudnn.conv,  # type: ignore[attr-defined]
            torch.backends.cudnn.rnn,
        )
        before = [place.fp32_precision for place in places]
        try:
            for place in places:
                place.fp32_precision = kind
            yield
        finally:
            for place, own in zip(places, before, strict=True):
                place.fp32_precision = own
    finally:
        _PRODUCTS.reset(token)


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

    A GPU multiplies with all bits there, unless `gpu_products` says otherwise around it.
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
        with modes_kept(net), torch.no_grad(), gpu_products(_PRODUCTS.get() or "ieee"):
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
