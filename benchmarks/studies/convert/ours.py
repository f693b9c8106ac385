"""Ours: the original as a supernet, with and without training it; searched, extracted."""

from __future__ import annotations

from torch import nn

import manyshot as ms
from benchmarks.studies.convert.network import AUGMENT, SHAPE, SUPERNET, Task, example
from manyshot.train import Sandwich

CANDIDATES = 120


def untrained(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """With the original's weights, channels in the order of their importance."""
    return searched(ms.convert(model, example(), importance="l1"), task)


def trained(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """The supernet trains first: the sandwich rule, the others taught by the largest."""
    net = ms.convert(model, example(), importance="l1")
    sampler = Sandwich(net.space, random=2, distil=True)
    ms.fit(net, task.splits, sampler=sampler, settings=SUPERNET, seed=task.seed, augment=AUGMENT)
    return searched(net, task)


def searched(net: ms.Supernet, task: Task) -> dict[float, nn.Module]:
    """The best network found within each cost, with calibrated batch norms."""
    budgets = {share: f"macs<={macs}" for share, macs in task.macs.items()}
    found = ms.find(
        net,
        budgets=list(budgets.values()),
        score=task.splits,
        candidates=CANDIDATES,
        costs={"macs": ms.cost.macs_table(net, SHAPE)},
        seed=task.seed,
    )
    networks = {}
    for share, budget in budgets.items():
        arch = found.winner(budget).arch
        stats = ms.evaluate.calibrate(net, arch, task.calibration())
        networks[share] = net.extract(arch, stats=stats)
    return networks
