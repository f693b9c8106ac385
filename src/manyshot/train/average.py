"""A moving average of weights over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manyshot.train.exchange import take_from_first
from manyshot.train.sharding import sharded_as


class Average:
    """The exponential moving average of a network's parameters and buffers.

    After step n the average keeps min(decay, n / (9 + n)) of what it was, as TensorFlow's
    `ExponentialMovingAverage` does with its number of updates, so that the first steps do not hold
    it at the initial weights. Whole numbers, such as counts of batches, are those of the last step.

    Attributes:
        decay: what the average keeps in the long run.
        steps: how many steps it has seen.
        tensors: the average, by the names of the network's `state_dict`.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.tensors = {name: tensor.clone() for name, tensor in _tensors_of(net).items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Takes in the network after a step."""
        self.steps += 1
        new = 1 - min(self.decay, self.steps / (9 + self.steps))
        for name, tensor in _tensors_of(net).items():
            if tensor.is_floating_point() or tensor.is_complex():
                self.tensors[name].lerp_(tensor, new)
            else:
                self.tensors[name].copy_(tensor)

    def put_into(self, net: nn.Module, accelerator: Accelerator) -> None:
        """Puts the average in place of a network's weights; that of the first process in all."""
        take_from_first(list(self.tensors.values()), accelerator)
        net.load_state_dict(self.tensors, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """The average, and how many steps it has seen."""
        return {"steps": self.steps, "tensors": self.tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.steps = state["steps"]
        for name, tensor in self.tensors.items():
            tensor.copy_(sharded_as(state["tensors"][name], tensor))


def _tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """A network's state without what is no tensor."""
    return {n: t for n, t in net.state_dict().items() if isinstance(t, Tensor)}
