"""Further losses of codes: distinct codes for distinct widths, and a floor under their entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyshot.seeding import numpy_rng
from manyshot.space import Arch, Decision, SearchSpace

WidthSettings = Literal["together", "independent"]


def settings_together(
    space: SearchSpace, widths: Sequence[Decision], arch: Arch
) -> tuple[list[Arch], Tensor]:
    """Settings of all width decisions of a path from their narrowest to their widest together.

    The rest of the path is as it is; where one decision has fewer options than another, some
    repeat.

    Args:
        space: the search space.
        widths: its width decisions.
        arch: the path.

    Returns:
        The architectures, and their `relative_widths`.
    """
    count = max(len(decision.options) for decision in widths)
    settings = []
    for i in range(count):
        setting = list(arch)
        for decision in widths:
            order = np.argsort(decision.values, kind="stable")
            rank = round(i * (len(order) - 1) / max(1, count - 1))
            setting[space.index[decision]] = int(order[rank])
        settings.append(tuple(setting))
    return settings, relative_widths(space, widths, settings)


def settings_independent(
    space: SearchSpace, widths: Sequence[Decision], arch: Arch, seed: int
) -> tuple[list[Arch], Tensor]:
    """As many settings of the width decisions of a path as the longest has options, each drawn.

    Every decision is drawn by itself, and settings are canonical, so that widths which change
    nothing are no difference. What is drawn depends on the path and the seed alone.

    Args:
        space: the search space.
        widths: its width decisions.
        arch: the path.
        seed: of what is drawn.

    Returns:
        The architectures, and their `relative_widths`.
    """
    rng = numpy_rng(seed, "width_settings", *arch)
    count = max(2, *(len(decision.options) for decision in widths))
    settings = []
    for _ in range(count):
        setting = list(arch)
        for decision in widths:
            setting[space.index[decision]] = int(rng.integers(len(decision.options)))
        settings.append(space.canonical(tuple(setting)))
    return settings, relative_widths(space, widths, settings)


def relative_widths(
    space: SearchSpace, widths: Sequence[Decision], archs: Sequence[Arch]
) -> Tensor:
    """The widths (B, decisions) of architectures, each as a share of the largest of its decision.

    Args:
        space: the search space.
        widths: its width decisions.
        archs: the architectures.
    """
    rows = [[d.values[arch[space.index[d]]] / max(d.values) for d in widths] for arch in archs]
    return torch.tensor(rows)


def below_floor(codes: Tensor, floor: float) -> Tensor:
    """By how much the entropy of codes (..., K) is below a floor, on average; zero above it.

    Args:
        codes: the codes.
        floor: the floor, as a share of the largest entropy, log K.
    """
    shares: Tensor = torch.special.entr(codes).sum(-1) / math.log(codes.shape[-1])
    lacking = torch.relu(floor - shares)
    return lacking.mean()
