"""Losses of one path."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with label smoothing: target (1 - s) one-hot + s / classes."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean cross-entropy to the teacher's (detached) predicted probabilities.

    In-place distillation of Yu & Huang 2019, arXiv:1903.05134; temperature one.
    """
    return F.cross_entropy(logits, teacher.detach().softmax(1))
