"""Tasks of classes: one per image, one per pixel."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from manyshot.plugins import checked
from manyshot.tasks.counts import Accuracy, BalancedAccuracy, MeanIoU
from manyshot.tasks.task import Metric, OneLoss, Output, exact, fitting, picked, placed

NEVER = -(2**31)
"""The target that losses leave out if none is to be, in place of torch's -100."""
INDICES = (torch.int64, torch.uint8)
"""The types of class indices."""


class _Classes(OneLoss):
    """What tasks of one class have in common, whether it is per image or per pixel.

    The second axis of outputs is that of the classes. In-place distillation is that of Yu & Huang
    2019, arXiv:1903.05134, at temperature one: the mean cross-entropy to the probabilities that the
    teacher predicts, which is their KL divergence but for a constant.
    """

    def __init__(self, output: Output, ignore: int | None) -> None:
        self.output, self.ignore = output, ignore
        self._left_out = NEVER if ignore is None else ignore

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean cross-entropy over the targets that count; 0 if there are none."""
        return self.smoothed_loss(outputs, targets, 0.0)

    def smoothed_loss(self, outputs: Any, targets: Tensor, smoothing: float) -> Tensor:
        """The mean cross-entropy, where the target is (1 - s) one-hot + s / classes.

        Targets may be probabilities of all classes too, in place of one-hot ones.
        """
        reduction = "mean" if self.ignore is None else "sum"
        loss = F.cross_entropy(
            exact(picked(outputs, self.output)),
            targets if targets.is_floating_point() else targets.long(),
            label_smoothing=smoothing,
            ignore_index=self._left_out,
            reduction=reduction,
        )
        if self.ignore is None:
            return loss
        return loss / (targets != self.ignore).sum().clamp(min=1)

    def compared(self, outputs: Any, targets: Tensor) -> Sequence[Tensor]:
        """The likeliest classes, and the targets."""
        return picked(outputs, self.output).argmax(1), targets

    def distillation(self, outputs: Any, teacher: Any) -> Tensor:
        """The mean cross-entropy to the teacher's probabilities."""
        probabilities = picked(teacher, self.output).softmax(1)
        return F.cross_entropy(picked(outputs, self.output), probabilities)

    def vote(self, outputs: Sequence[Any]) -> Any:
        """Log-probabilities: those of the mean of the probabilities."""
        logs = [exact(picked(each, self.output)).log_softmax(1) for each in outputs]
        return placed(torch.stack(logs).logsumexp(0) - math.log(len(logs)), self.output)

    def softened(self, outputs: Any, temperature: float) -> Any:
        """The logits, divided by the temperature."""
        return placed(picked(outputs, self.output) / temperature, self.output)

    def _classes(self, outputs: Any) -> int:
        return int(picked(outputs, self.output).shape[1])

    def _check_range(self, logits: Tensor, targets: Tensor, allowed: str) -> None:
        """Refuses targets that are no class, on the CPU alone.

        Elsewhere that would wait for the device, whose losses stop at such targets by themselves.
        """
        if targets.device.type != "cpu":
            return
        if self.ignore is not None:
            targets = targets[targets != self.ignore]
        if not targets.numel():
            return
        least, most, classes = int(targets.min()), int(targets.max()), logits.shape[1]
        if least < 0 or most >= classes:
            raise ValueError(
                f"the targets are in {least}..{most}, the network's outputs of shape "
                f"{tuple(logits.shape)} have {classes} classes, 0..{classes - 1}. {allowed}"
            )


def _are_classes(logits: Tensor, targets: Tensor) -> bool:
    """Whether targets are class indices of the shape that logits have without their classes."""
    has_shape = targets.shape == logits.shape[:1] + logits.shape[2:]
    return has_shape and logits.shape[1] > 1 and targets.dtype in INDICES


@final
class Classification(_Classes):
    """One class per image: cross-entropy, accuracy, and balanced accuracy besides."""

    shares: Collection[str] = ("accuracy", "balanced accuracy")

    @checked
    def __init__(self, *, output: Output = None) -> None:
        """Makes the task.

        Args:
            output: the key or index of the logits in outputs that are a dictionary or a tuple.
        """
        super().__init__(output, None)

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks that outputs are (B, classes) and targets class indices (B,) in range.

        Raises:
            ValueError: if they are not.
        """
        allowed = (
            "Allowed in task 'classification' are outputs (B, classes) of a floating-point type, "
            "of two classes or more, and targets (B,) of type torch.int64 or torch.uint8, class "
            "indices in 0..classes-1 (labels.long() makes them of other integers). A class per "
            "pixel is task 'dense', several labels per image, or one that is there or not, are "
            "'multi_label', numbers 'regression', and anything else "
            "a task of your own, 'package.module:attribute'"
        )

        def fits(logits: Tensor, targets: Tensor) -> bool:
            return logits.dim() == 2 and _are_classes(logits, targets)

        logits = fitting(outputs, targets, self.output, fits, allowed)
        self._check_range(logits, targets, allowed)

    def mixed_targets(
        self, outputs: Any, targets: Tensor, others: Tensor, share_B: Tensor
    ) -> Tensor:
        """The probabilities of all classes: shares of two one-hot targets."""
        logits = exact(picked(outputs, self.output))
        own, other = (
            F.one_hot(labels.long(), self._classes(outputs)).to(logits)
            for labels in (targets, others)
        )
        return torch.lerp(other, own, share_B[:, None].to(logits))

    def chance(self, counts: Sequence[int]) -> float:
        """The share of the most frequent class."""
        return max(counts) / sum(counts)

    def metrics(self, outputs: Any) -> Mapping[str, Metric]:
        """Accuracy, and balanced accuracy."""
        classes = self._classes(outputs)
        return {"accuracy": Accuracy(classes), "balanced accuracy": BalancedAccuracy(classes)}


@final
class Dense(_Classes):
    """One class per pixel (segmentation): cross-entropy, mean IoU, and pixel accuracy besides.

    Pixels may be those of images, of volumes, or the steps of a sequence: whatever the axes behind
    that of the classes are.
    """

    shares: Collection[str] = ("mean IoU", "pixel accuracy")

    @checked
    def __init__(self, *, output: Output = None, ignore_index: int | None = None) -> None:
        """Makes the task.

        Args:
            output: the key or index of the logits in outputs that are a dictionary or a tuple.
            ignore_index: the target of pixels that count in no loss and no metric.
        """
        super().__init__(output, ignore_index)

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks that outputs are (B, classes, ...) and targets class indices (B, ...) in range.

        Raises:
            ValueError: if they are not.
        """
        besides = "" if self.ignore is None else f", or ignore_index = {self.ignore}"
        allowed = (
            "Allowed in task 'dense' are outputs (B, classes, ...) of a floating-point type, of "
            "two classes or more, such as (B, classes, H, W), and targets (B, ...) of the same "
            "size, such as (B, H, W), of type torch.int64 or torch.uint8, class indices in "
            f"0..classes-1{besides}"
        )

        def fits(logits: Tensor, targets: Tensor) -> bool:
            return logits.dim() > 2 and _are_classes(logits, targets)

        logits = fitting(outputs, targets, self.output, fits, allowed)
        self._check_range(logits, targets, allowed)

    def weight(self, targets: Tensor) -> Tensor | int:
        """The number of pixels that count."""
        return targets.numel() if self.ignore is None else (targets != self.ignore).sum()

    def metrics(self, outputs: Any) -> Mapping[str, Metric]:
        """Mean IoU, and pixel accuracy."""
        classes = self._classes(outputs)
        return {
            "mean IoU": MeanIoU(classes, self.ignore),
            "pixel accuracy": Accuracy(classes, self.ignore),
        }
