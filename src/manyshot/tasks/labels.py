"""The task of several labels per image."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from manyshot.plugins import checked
from manyshot.tasks.counts import Accuracy
from manyshot.tasks.task import Metric, OneLoss, Output, exact, fitting, picked, placed

LABELS = (torch.int64, torch.uint8, torch.bool)
"""The types of labels, beside those of floating-point numbers."""


class AveragePrecision:
    """The mean average precision over the labels that some image has."""

    higher_is_better = True

    def __init__(self, labels: int) -> None:
        from torchmetrics.classification import MultilabelAveragePrecision  # slow to import

        self._by_label = MultilabelAveragePrecision(
            labels, average=None, validate_args=False, sync_on_compute=False
        )
        self._images = torch.zeros(labels, dtype=torch.int64)

    def to(self, device: torch.device) -> None:
        """Moves what it holds."""
        self._by_label.to(device)
        self._images = self._images.to(device)

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Takes in a batch."""
        self._by_label.update(probabilities, targets)
        self._images = self._images + targets.sum(0)

    def compute(self) -> Tensor:
        """The mean; not a number if no image has a label."""
        with warnings.catch_warnings():  # of labels that no image has, which are left out here
            warnings.simplefilter("ignore")
            by_label = torch.as_tensor(self._by_label.compute()).view(-1)  # of one label a number
        return by_label[self._images > 0].double().mean()


class LabelAccuracy(Accuracy):
    """The share of labels, over all images, whose probability is on the right side of 0.5."""

    def __init__(self) -> None:
        super().__init__(2)

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Takes in a batch."""
        super().update((probabilities > 0.5).long(), targets)


@final
class MultiLabel(OneLoss):
    """Any number of labels per image: binary cross-entropy, mean average precision.

    Average precision is taken of each label over all images, and the mean over the labels that some
    image has. The share of all labels that are right, at a probability of 0.5, is shown besides.
    Labels are distilled by the binary cross-entropy to the teacher's probabilities.
    """

    shares: Collection[str] = ("mean average precision", "label accuracy")

    @checked
    def __init__(self, *, output: Output = None) -> None:
        """Makes the task.

        Args:
            output: the key or index of the logits in outputs that are a dictionary or a tuple.
        """
        self.output = output

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks that outputs are (B, labels), and targets likewise of 0 and 1.

        Raises:
            ValueError: if they are not.
        """
        allowed = (
            "Allowed in task 'multi_label' are outputs (B, labels) of a floating-point type and "
            "targets (B, labels) of 0 and 1, of a floating-point type, torch.int64, torch.uint8 or "
            "torch.bool"
        )

        def fits(logits: Tensor, targets: Tensor) -> bool:
            has_type = targets.is_floating_point() or targets.dtype in LABELS
            return logits.dim() == 2 and targets.shape == logits.shape and has_type

        fitting(outputs, targets, self.output, fits, allowed)
        if targets.device.type == "cpu" and not ((targets == 0) | (targets == 1)).all():
            low, high = float(targets.min()), float(targets.max())
            raise ValueError(f"the targets are in {low:g}..{high:g}, and not all 0 or 1. {allowed}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean binary cross-entropy over images and labels."""
        logits = exact(picked(outputs, self.output))
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits))

    def mixed_targets(
        self, outputs: Any, targets: Tensor, others: Tensor, share_B: Tensor
    ) -> Tensor:
        """The probabilities of all labels: shares of those of two images."""
        logits = exact(picked(outputs, self.output))
        return torch.lerp(others.to(logits), targets.to(logits), share_B[:, None].to(logits))

    def metrics(self, outputs: Any) -> Mapping[str, Metric]:
        """Mean average precision, and the share of labels that are right."""
        return {
            "mean average precision": AveragePrecision(picked(outputs, self.output).shape[1]),
            "label accuracy": LabelAccuracy(),
        }

    def compared(self, outputs: Any, targets: Tensor) -> Sequence[Tensor]:
        """Probabilities, and the targets as integers."""
        return exact(picked(outputs, self.output)).sigmoid(), targets.long()

    def distillation(self, outputs: Any, teacher: Any) -> Tensor:
        """The mean binary cross-entropy to the teacher's probabilities."""
        logits = exact(picked(outputs, self.output))
        return F.binary_cross_entropy_with_logits(
            logits, exact(picked(teacher, self.output)).sigmoid()
        )

    def vote(self, outputs: Sequence[Any]) -> Any:
        """The logits of the mean of the probabilities."""
        logits = [exact(picked(each, self.output)) for each in outputs]
        there, not_there = (
            torch.stack([F.logsigmoid(sign * each) for each in logits]).logsumexp(0)
            for sign in (1, -1)
        )
        return placed(there - not_there, self.output)

    def softened(self, outputs: Any, temperature: float) -> Any:
        """The logits, divided by the temperature."""
        return placed(picked(outputs, self.output) / temperature, self.output)
