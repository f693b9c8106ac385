"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from manyshot.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from manyshot.recipe import Training

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d)


def decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups by role: biases and norms do not decay, all else does."""
    decayed: dict[nn.Parameter, None] = {}
    free: dict[nn.Parameter, None] = {}
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            group = free if isinstance(module, _NORMS) or name == "bias" else decayed
            group.setdefault(parameter)
    kept = [p for p in decayed if p not in free]
    groups = [
        {"params": kept, "weight_decay": weight_decay},
        {"params": list(free), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(net: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over all parameters."""
    groups = decay_groups(net, settings.weight_decay)
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, settings.lr, settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, settings.lr)


def learning_rate(settings: Training, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up, then the schedule to near 0.

    A function of the step, with no state to restore.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / (math.floor(warmup) + 1)
    share = (step - warmup) / max(1.0, steps - warmup)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * share))
    if settings.schedule == "linear":
        return settings.lr * (1 - share)
    return settings.lr
