"""What all methods share: the network, the images, and how long everything trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

import manyshot as ms
from manyshot.data import Augment, Batch

SHAPE = (1, 28, 28)
PLANES = (16, 32, 64, 128)
SHARES = (0.5, 0.25)
"""Of the multiply-adds of the original that the smaller networks may have."""
TRAIN, VALIDATION, CALIBRATION = 15_000, 2_000, 512
AUGMENT = Augment(pad=2, flip=True)
PRETRAINING = ms.TrainingSettings(epochs=10, batch_size=128, lr=0.1)
FINISHING = ms.TrainingSettings(epochs=3, batch_size=128, lr=0.05)
SUPERNET = ms.TrainingSettings(epochs=3, batch_size=128, lr=0.05)
SCRATCH = PRETRAINING.model_copy(update={"epochs": PRETRAINING.epochs + FINISHING.epochs})
SHORT = PRETRAINING.model_copy(update={"epochs": FINISHING.epochs})
LONGER = FINISHING.model_copy(update={"epochs": 3 * FINISHING.epochs})


class SmallResNet(ResNet):  # type: ignore[misc]
    """torchvision's ResNet-18 for small images: narrower, without the early pooling."""

    def __init__(self, planes: Sequence[int] = PLANES) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=10)
        self.inplanes = planes[0]
        self.conv1 = nn.Conv2d(1, planes[0], 3, stride=2, padding=1, bias=False)
        self.bn1, self.maxpool = nn.BatchNorm2d(planes[0]), nn.Identity()
        for i, width in enumerate(planes):
            layer = self._make_layer(BasicBlock, width, 2, stride=1 if i == 0 else 2)
            setattr(self, f"layer{i + 1}", layer)
        self.fc = nn.Linear(planes[-1], 10)


@dataclass(frozen=True)
class Task:
    """What a method is given: the images of the original, and the costs to reach.

    Attributes:
        splits: training, validation and test images.
        macs: the multiply-adds that each of the wanted networks may have, by share.
        seed: of everything that the method draws.
        work: a folder for files of the method.
    """

    splits: ms.data.Splits
    macs: dict[float, int]
    seed: int
    work: Path

    def calibration(self, images: int = CALIBRATION, batch: int = 256) -> list[Batch]:
        """A few training images, for statistics of batch norms."""
        return self._fixed(self.splits.train, min(images, len(self.splits.train)), batch)

    def validation(self) -> list[Batch]:
        """Images to choose by."""
        return self._fixed(self.splits.validation, None, 256)

    def _fixed(self, images: Any, count: int | None, batch: int) -> list[Batch]:
        looks: dict[str, Any] = {"mean": self.splits.mean, "std": self.splits.std}
        return list(ms.data.fixed(images, count, batch, seed=self.seed, **looks))


Method = Callable[[nn.Module, Task], dict[float, nn.Module]]
"""Makes of the original a network for every share of its cost, which is not finished yet."""


def example() -> Tensor:
    """A batch of the network's inputs."""
    return torch.zeros(2, *SHAPE)
