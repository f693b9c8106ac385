"""The baseline: the same family made narrower everywhere, from new weights."""

from __future__ import annotations

import bisect

from torch import nn

import manyshot as ms
from benchmarks.studies.convert.network import PLANES, SHAPE, SmallResNet, Task
from manyshot.seeding import seeded

STEPS = 200
"""Between no channels and all of them."""


def scaled(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """The widest network within each cost; the original is not used."""

    def narrowed(step: int) -> nn.Module:
        with seeded(task.seed, "weights"):
            return SmallResNet([max(1, round(step / STEPS * width)) for width in PLANES])

    def macs_of(step: int) -> int:
        return ms.cost.subnet_macs(narrowed(step), SHAPE)

    steps = range(1, STEPS + 1)
    return {
        share: narrowed(bisect.bisect_right(steps, macs, key=macs_of))
        for share, macs in task.macs.items()
    }
