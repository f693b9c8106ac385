"""One-hot draws with a gradient: the straight-through Gumbel softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor | None, tau: float) -> Tensor:
        scores = (logits if noise is None else logits + noise) / tau
        ctx.save_for_backward(scores.softmax(-1))
        ctx.tau = tau
        return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (soft,) = ctx.saved_tensors
        return soft * (grad - (grad * soft).sum(-1, keepdim=True)) / ctx.tau, None, None


def straight_through(logits: Tensor, noise: Tensor | None = None, *, tau: float = 1.0) -> Tensor:
    """The one-hot of the arg-max of (logits + noise) / tau, with the gradient of their softmax.

    With noise by `gumbel` it is option i with probability softmax(logits)_i, whatever the
    temperature (Jang et al. 2017, arXiv:1611.01144). Entries are exactly 0 and 1, so that sums and
    products with them are exact; the usual `(hard - soft).detach() + soft` is off by rounding.

    Args:
        logits: (..., options).
        noise: of the same shape; by default none, which takes the likeliest option.
        tau: temperature of the gradient.

    Raises:
        ValueError: unless the temperature is positive and finite.
    """
    check_temperature(tau)
    hard: Tensor = _StraightThrough.apply(logits, noise, tau)
    return hard


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, -log(Exp(1)), in float32 on the generator's device."""
    exponential = torch.empty(tuple(shape), device=generator.device, dtype=torch.float32)
    return exponential.exponential_(generator=generator).log_().neg_()


def check_temperature(tau: float) -> None:
    """Raises ValueError unless `tau` is positive and finite."""
    if not (math.isfinite(tau) and tau > 0):
        raise ValueError(
            f"temperature tau must be positive and finite, got {tau}; 1 is usual, and a small one "
            "makes gradients large and rare"
        )
