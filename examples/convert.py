"""A MobileNet of torchvision, trained, then halved without training a supernet."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models import MobileNetV2

import manyshot as ms


def main(epochs: int = 12, candidates: int = 60, seed: int = 0) -> tuple[float, float]:
    """Returns the test accuracy of the whole network and of the smaller one."""
    torch.manual_seed(seed)
    splits = ms.data.load("digits", seed=seed)
    look: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "seed": seed}
    test = ms.data.fixed(splits.test, None, 256, **look)

    stages = [[1, 16, 1, 1], [4, 24, 2, 1], [4, 32, 3, 2]]  # expansion, channels, blocks, stride
    model = MobileNetV2(splits.classes, inverted_residual_setting=stages)
    model.features[0].register_module("0", nn.Conv2d(1, 32, 3, padding=1, bias=False))  # grey
    ms.fit(model, splits, settings=ms.TrainingSettings(epochs=epochs, lr=0.05), seed=seed)
    whole = ms.evaluate.score_module(model.eval(), test).value

    net = ms.convert(model, torch.randn(2, *splits.image_shape), ratios=(0.5, 0.75, 1.0))
    print(net.conversion)

    how: dict[str, Any] = {"searcher": "random", "candidates": candidates}
    arch = ms.find(net, budgets=["macs<=50%"], score=splits, **how).winner("macs<=50%").arch
    calibration = ms.data.fixed(splits.train, 512, 256, **look)
    small = net.extract(arch, stats=ms.evaluate.calibrate(net, arch, calibration))
    ms.fit(small, splits, settings=ms.TrainingSettings(epochs=epochs, lr=0.02), seed=seed)
    half = ms.evaluate.score_module(small.eval(), test).value

    for name, network, accuracy in (("whole", model, whole), ("half", small, half)):
        macs = ms.cost.subnet_macs(network, splits.image_shape)
        print(f"{name}: {macs / 1e6:.1f} M multiply-adds, test accuracy {accuracy:.1%}")
    return whole, half


if __name__ == "__main__":
    main()
