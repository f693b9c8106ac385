"""Metrics of classes, from whole counts in double precision.

They are metrics as torchmetrics' are, but for two things: those divide in single precision, in
which the shares of a few hundred million pixels are not told apart, and importing them takes
longer than scoring a small network.
"""

from __future__ import annotations

import copy
from typing import Any, Self, final

import torch
from torch import Tensor

from manyshot.nn.inputs import together


class ClassCounts:
    """Of every class, how many targets are met, how many there are, and how many are predicted."""

    higher_is_better = True

    def __init__(self, classes: int, ignore: int | None = None) -> None:
        """Begins with nothing counted.

        Args:
            classes: how many there are.
            ignore: the target that does not count.
        """
        self.ignore = ignore
        self.right = torch.zeros(classes, dtype=torch.int64)
        self.present, self.predicted = torch.zeros_like(self.right), torch.zeros_like(self.right)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Shares the counts with the copy: they are replaced by others, and never written to."""
        return copy.copy(self)

    def to(self, device: torch.device) -> None:
        """Moves the counts."""
        self.right, self.present, self.predicted = together(
            [self.right, self.present, self.predicted], device
        )

    def update(self, predicted: Tensor, targets: Tensor) -> None:
        """Counts class indices of any shape, the same for both."""
        predicted, targets = predicted.flatten(), targets.flatten().long()
        counts = torch.ones_like(targets)
        if self.ignore is not None:  # what does not count adds nothing, to the first class
            is_counted = targets != self.ignore
            counts, targets = is_counted.long(), targets.where(is_counted, 0)
        right = (predicted == targets).long() * counts
        self.right = self.right.index_add(0, targets, right)
        self.present = self.present.index_add(0, targets, counts)
        self.predicted = self.predicted.index_add(0, predicted, counts)


class Accuracy(ClassCounts):
    """The share of targets that are met."""

    def compute(self) -> Tensor:
        """The share."""
        return self.right.sum().double() / self.present.sum()


@final
class BalancedAccuracy(ClassCounts):
    """The mean over the classes that there are of the share of their targets that are met.

    Where one class is most of the images, always naming it gets a high accuracy, and here 1 over
    the number of classes.
    """

    def compute(self) -> Tensor:
        """The mean."""
        right, present = together([self.right, self.present], torch.device("cpu"))
        return (right.double() / present)[present > 0].mean()


@final
class MeanIoU(ClassCounts):
    """The mean of intersection over union, over the classes that are there or predicted.

    Intersections and unions are those of all images together.
    """

    def compute(self) -> Tensor:
        """The mean."""
        union = self.present + self.predicted - self.right
        right, union = together([self.right, union], torch.device("cpu"))
        return (right.double() / union)[union > 0].mean()
