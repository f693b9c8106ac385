"""The baseline: the same family made narrower everywhere, from new weights."""

from __future__ import annotations

from torch import nn

import manyshot as ms
from benchmarks.studies.convert.network import PLANES, SHAPE, SmallResNet, Task
from manyshot.seeding import seeded

STEPS = 200
"""Between no channels and all of them."""


def scaled(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """The widest network within each cost; the original is not used."""
    networks: dict[float, nn.Module] = {}
    for share, macs in task.macs.items():
        for step in range(STEPS, 0, -1):
            with seeded(task.seed, "weights"):
                network = SmallResNet([max(1, round(step / STEPS * width)) for width in PLANES])
            if ms.cost.subnet_macs(network, SHAPE) <= macs:
                break
        networks[share] = network
    return networks
