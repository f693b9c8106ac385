"""Your own network: train its supernet, search it, keep the best as a plain module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms


class Block(nn.Module):
    """A residual block whose kernel is a decision of its own."""

    def __init__(self, width: ms.space.Size, name: str) -> None:
        super().__init__()
        kernel = ms.choose((1, 3, 5), name)
        self.conv = ms.nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        self.norm = ms.nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """A stem, one to three blocks of a common width, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        width = ms.choose((8, 16), "width")
        self.stem = ms.nn.Conv2d(1, width, 3, padding=1)
        self.body = ms.nn.Depth([Block(width, f"kernel{i}") for i in range(3)], (1, 2, 3), "depth")
        self.head = ms.nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(F.relu(self.stem(x))).mean((2, 3)))


def main(epochs: int = 30, seed: int = 0) -> tuple[str, float]:
    """The best network under half of the largest one's MACs, and its test accuracy."""
    torch.manual_seed(seed)
    splits = ms.data.load("digits", seed=seed)
    net = ms.Supernet(Net(), input_shape=splits.image_shape)
    settings = ms.TrainingSettings(epochs=epochs, optimizer="adamw", lr=3e-3, weight_decay=0.01)
    ms.fit(net, splits, settings=settings, seed=seed)
    budget = "macs<=50%"
    searched = ms.find(net, budgets=[budget], score=splits, searcher="random", candidates=10)
    winner = searched.winner(budget)

    looks: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "seed": seed}
    calibration = ms.data.fixed(splits.train, 512, 256, **looks)
    subnet = net.extract(winner.arch, stats=ms.evaluate.calibrate(net, winner.arch, calibration))
    test = ms.evaluate.score_module(subnet, ms.data.fixed(splits.test, None, 256, **looks)).value
    print(f"{net.space.to_text(winner.arch)} {winner.choices}: test accuracy {test:.1%}")
    return net.space.to_text(winner.arch), test


if __name__ == "__main__":
    main()
