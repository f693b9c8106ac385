"""A task of one's own, as a user's module has it: how large the digit on an image is."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch.nn import functional as F

from manyshot.plugins import checked
from manyshot.tasks import OneLoss


class Size(OneLoss):
    """Regression of the label as a share of the largest; networks rank by the mean error."""

    @checked
    def __init__(self, *, largest: Annotated[int, Field(ge=1)] = 9) -> None:
        self.largest = largest

    def check(self, outputs: Any, targets: Any) -> None:
        if outputs.shape != (len(targets), 1):
            raise ValueError(f"outputs {tuple(outputs.shape)} are not ({len(targets)}, 1)")

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        values, sizes = self.compared(outputs, targets)
        return F.mse_loss(values, sizes)

    def compared(self, outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return outputs[:, 0], targets.to(outputs.dtype) / self.largest

    def metrics(self, outputs: Any) -> dict[str, Any]:
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

        return {"mean error": MeanAbsoluteError(), "squared error": MeanSquaredError()}

    def distillation(self, outputs: Any, teacher: Any) -> torch.Tensor:
        return F.mse_loss(outputs, teacher)
