"""torch-pruning: groups of channels with the least L1 norms are cut."""

from __future__ import annotations

import copy

import torch_pruning as tp
from torch import nn

import manyshot as ms
from benchmarks.studies.convert.network import SHAPE, Task, example

STEPS = 200


def globally(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """The least groups of all layers, so that layers keep unequal shares."""
    return pruned(model, task, everywhere=True)


def layerwise(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """The same share of every layer."""
    return pruned(model, task, everywhere=False)


def pruned(model: nn.Module, task: Task, everywhere: bool) -> dict[float, nn.Module]:
    """Prunes in small steps until each cost is reached."""
    networks: dict[float, nn.Module] = {}
    for share, macs in task.macs.items():
        network = copy.deepcopy(model)
        pruner = tp.pruner.MagnitudePruner(
            network,
            example(),
            importance=tp.importance.GroupMagnitudeImportance(p=1),
            global_pruning=everywhere,
            pruning_ratio=1.0,
            iterative_steps=STEPS,
            ignored_layers=[network.fc],
        )
        while ms.cost.subnet_macs(network, SHAPE) > macs:
            pruner.step()
        networks[share] = network
    return networks
