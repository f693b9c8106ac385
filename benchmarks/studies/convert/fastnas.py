"""FastNAS of nvidia-modelopt: the loss of accuracy of every layer alone, then a threshold."""

from __future__ import annotations

import copy

import modelopt.torch.prune as mtp
from torch import nn

from benchmarks.studies.convert.network import Task, example
from manyshot import evaluate

DIVISOR = 8
BATCHES, BATCH = 50, 20
"""For statistics of batch norms; with fewer than 50 batches it leaves these uncalibrated."""
OPERATIONS = 2
"""It counts two for a multiply-add."""


def pruned(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """Prunes to each cost; what every layer's accuracy loses is measured once."""
    config = mtp.fastnas.FastNASConfig()
    config["nn.Conv2d"]["*"]["channel_divisor"] = DIVISOR
    config["nn.BatchNorm2d"]["*"]["feature_divisor"] = DIVISOR
    validation = task.validation()
    search = {
        "data_loader": task.calibration(BATCHES * BATCH, BATCH),
        "score_func": lambda network: evaluate.score_module(network, validation).value,
        "checkpoint": str(task.work / f"fastnas-{task.seed}.pt"),
    }
    networks: dict[float, nn.Module] = {}
    for share, macs in task.macs.items():
        networks[share], _ = mtp.prune(
            copy.deepcopy(model),
            mode=[("fastnas", config)],
            constraints={"flops": float(OPERATIONS * macs)},
            dummy_input=example()[:1],
            config=search,
        )
    return networks
