"""The task of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from manyshot.plugins import checked
from manyshot.tasks.task import Metric, OneLoss, Output, exact, fitting, picked, placed

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}


@final
class R2:
    """The share of the variance of targets that is explained, a mean over all numbers of a target.

    It is counted in double precision, and a number that is the same for all images has no part.
    Torchmetrics' own takes sums of squares below 1e-4 for 0, and is 1 for all small targets.
    """

    higher_is_better = True

    def __init__(self) -> None:
        self._images = 0
        self._sums: Tensor | None = None

    def to(self, device: torch.device) -> None:
        """Nothing: sums are made where the first outputs are."""

    def update(self, values: Tensor, targets: Tensor) -> None:
        """Takes in a batch of (B, numbers)."""
        if self._sums is None:
            self._first = targets[0]  # sums of squares of what is off it lose no digits
            self._sums = targets.new_zeros(3, targets.shape[1])
        off = targets - self._first
        sums = torch.stack([off.sum(0), off.square().sum(0), (targets - values).square().sum(0)])
        self._sums, self._images = self._sums + sums, self._images + len(targets)

    def compute(self) -> Tensor:
        """The share; not a number if all targets are the same."""
        assert self._sums is not None
        total, squares, residual = self._sums
        variation = squares - total.square() / self._images
        varies = variation > 0
        left: Tensor = (residual[varies] / variation[varies]).mean()
        return 1 - left


@final
class Regression(OneLoss):
    """Numbers per image, of any shape: R2, mean squared and mean absolute error.

    In-place distillation is the loss, with what the teacher gave as targets.
    """

    @checked
    def __init__(
        self,
        *,
        output: Output = None,
        loss: Literal["mse", "mae", "huber"] = "mse",
        metric: Literal["R2", "MSE", "MAE"] = "R2",
    ) -> None:
        """Makes the task.

        Args:
            output: the key or index of the numbers in outputs that are a dictionary or a tuple.
            loss: the mean squared error, the mean absolute error, or Huber's loss with delta 1.
            metric: which networks rank by: R2, where higher is better, or an error. The others are
                shown besides.
        """
        self.output, self.metric = output, metric
        self._loss = LOSSES[loss]

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks that outputs are floating-point numbers, and targets numbers of the same shape.

        Raises:
            ValueError: if they are not.
        """

        def fits(values: Tensor, targets: Tensor) -> bool:
            are_numbers = not targets.is_complex() and targets.dtype != torch.bool
            return values.dim() > 0 and targets.shape == values.shape and are_numbers

        fitting(
            outputs,
            targets,
            self.output,
            fits,
            "Allowed in task 'regression' are outputs (B, ...) of a floating-point type and "
            "targets of the same shape, real numbers or integers (targets[:, None] makes (B, 1) "
            "of (B,))",
        )

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean loss over all numbers."""
        values = exact(picked(outputs, self.output))
        return self._loss(values, targets.to(values))

    def metrics(self, outputs: Any) -> Mapping[str, Metric]:
        """R2, MSE and MAE, the one to rank by first."""
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError  # slow to import

        all_of_them: dict[str, Metric] = {
            "R2": R2(),
            "MSE": MeanSquaredError(sync_on_compute=False).set_dtype(torch.float64),
            "MAE": MeanAbsoluteError(sync_on_compute=False).set_dtype(torch.float64),
        }
        return {self.metric: all_of_them[self.metric], **all_of_them}

    def compared(self, outputs: Any, targets: Tensor) -> Sequence[Tensor]:
        """Both in double precision, a row per image."""
        values = picked(outputs, self.output)
        return tuple(x.double().reshape(len(x), -1) for x in (values, targets))

    def distillation(self, outputs: Any, teacher: Any) -> Tensor:
        """The loss, with the teacher's numbers as targets."""
        return self.loss(outputs, picked(teacher, self.output))

    def vote(self, outputs: Sequence[Any]) -> Any:
        """The mean of the numbers."""
        values = [exact(picked(each, self.output)) for each in outputs]
        return placed(torch.stack(values).mean(0), self.output)
