"""Initial weights that are drawn from a generator, not from torch's global random stream."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


def initialised(module: _Module, inputs: int, generator: torch.Generator) -> _Module:
    """A linear layer or an LSTM cell off the meta device, initialised as torch initialises it.

    Args:
        module: made with `device="meta"`.
        inputs: the number that torch takes for its fan: inputs of a linear layer, units of a cell.
        generator: all the randomness, on the CPU.
    """
    module = module.to_empty(device="cpu")
    bound = inputs**-0.5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return module
