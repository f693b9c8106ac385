"""Your own network and loop: train a supernet by hand, rank a few architectures, keep the best."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    """The best of ten random architectures under half the largest one's MACs, and its accuracy."""
    torch.manual_seed(seed)
    splits = ms.data.load("digits", seed=seed)
    look: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "seed": seed}
    net = ms.Supernet(Net(), input_shape=splits.image_shape)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    batches = ms.data.Batches(splits.train, 64, **look)
    for epoch in range(epochs):
        for images, labels in batches.epoch(epoch):
            loss = F.cross_entropy(net(images, net.space.sample(rng)), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()  # gradients become None: unused options do not move
    calibration = ms.data.fixed(splits.train, 512, 256, **look)
    validation = ms.data.fixed(splits.validation, None, 256, **look)
    half = ms.cost.macs(net, [net.space.largest], splits.image_shape)[0] / 2
    drawn = [net.space.canonical(net.space.sample(rng)) for _ in range(200)]
    fitting = [a for a in drawn if ms.cost.macs(net, [a], splits.image_shape)[0] <= half][:10]
    scores = {
        arch: ms.evaluate.score(net, arch, calibration=calibration, validation=validation).accuracy
        for arch in fitting
    }
    best = max(scores, key=lambda arch: scores[arch])
    subnet = net.extract(best, stats=ms.evaluate.calibrate(net, best, calibration))
    test = ms.evaluate.accuracy(subnet, ms.data.fixed(splits.test, None, 256, **look)).accuracy
    print(f"{net.space.to_text(best)} {net.space.choices(best)}: test accuracy {test:.1%}")
    return net.space.to_text(best), test


if __name__ == "__main__":
    main()
