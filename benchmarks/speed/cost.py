"""Time to record the cost tables of every zoo network, and architectures per second after that.

    python -m benchmarks.speed.cost [--archs 10000] [--json]

Seconds are CPU time of this process with one thread; the bar is 10,000 architectures in a second.
"""

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import manyshot as ms
from manyshot import cost, zoo

SHAPES = {
    "tiny": (1, 8, 8),
    "tiny_vit": (1, 8, 8),
    **dict.fromkeys(
        ("autoformer", "bignas", "attentivenas", "mbv2_se", "shufflenet"), (3, 224, 224)
    ),
}


class Block(nn.Module):
    """An inverted residual with elastic width, ratio and kernel."""

    def __init__(
        self,
        into: ms.space.Size,
        out: ms.space.Size,
        kernel: ms.space.Size,
        ratio: ms.space.Size,
        stride: int,
    ) -> None:
        super().__init__()
        hidden = into * ratio
        self.body = nn.Sequential(
            ms.nn.Conv2d(into, hidden, 1, bias=False),
            ms.nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            ms.nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            ms.nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            ms.nn.Conv2d(hidden, out, 1, bias=False),
            ms.nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and into is out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def elastic() -> nn.Module:
    """20 blocks in 5 stages: width and depth per stage, ratio and kernel per block."""
    width = ms.choose((16, 24), "stem")
    layers: list[nn.Module] = [ms.nn.Conv2d(3, width, 3, 2, 1)]
    for stage in range(5):
        wider = ms.choose(tuple(16 * (stage + 1) + 8 * i for i in range(3)), f"width{stage}")
        blocks = []
        for i in range(4):
            with ms.scope(f"stage{stage}.block{i}"):
                ratio, kernel = ms.choose((3, 4, 6), "ratio"), ms.choose((3, 5, 7), "kernel")
            blocks.append(Block(width, wider, kernel, ratio, 2 if i == 0 and stage else 1))
            width = wider
        layers.append(ms.nn.Depth(blocks, (2, 3, 4), f"depth{stage}"))
    head = [ms.nn.Conv2d(width, 256, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)]
    return nn.Sequential(*layers, *head)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def row(name: str, model: nn.Module, shape: tuple[int, ...], archs: int) -> dict[str, Any]:
    net = ms.Supernet(model)
    record: dict[str, Any] = {"network": name, "input_shape": shape, "decisions": len(net.space)}
    rng = np.random.default_rng(0)
    drawn = [net.space.sample(rng) for _ in range(archs)]
    makers = {"macs": lambda: cost.macs_table(net, shape), "params": lambda: cost.params_table(net)}
    for metric, make in makers.items():
        record[f"{metric}_record_s"], table = seconds(make)
        spent = [seconds(functools.partial(table, drawn))[0] for _ in range(5)]
        record[f"{metric}_archs_per_s"] = archs / float(np.median(spent))
        record[f"{metric}_range"] = list(map(int, table.range()))
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archs", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="one JSON row per network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = {
        name: (make(), SHAPES.get(name, (3, 32, 32))) for name, make in zoo.NETWORKS.items()
    }
    networks["elastic, 20 blocks"] = (elastic(), (3, 64, 64))
    cost.subnet_macs(nn.Linear(1, 1), (1,))  # loads what torch loads on first use
    for name, (model, shape) in networks.items():
        record = row(name, model, shape, options.archs)
        record |= {"torch": torch.__version__, "machine": platform.machine()}
        if options.json:
            print(json.dumps(record))
        else:
            print(
                f"{name:20} record {record['macs_record_s']:6.2f} s MACs, "
                f"{record['params_record_s']:5.2f} s params; "
                f"{record['macs_archs_per_s']:10,.0f} and {record['params_archs_per_s']:10,.0f} "
                f"architectures per second"
            )


if __name__ == "__main__":
    main()
