"""A plain module in the training loop."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from manyshot.sharing import OneShot, Phase
from manyshot.space import Arch


class Standalone(nn.Module):
    """A plain module as a network that takes, and ignores, an architecture."""

    sharing = OneShot()

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor, arch: Arch, *, phase: Phase | None = None) -> Any:
        """The module's output."""
        return self.module(images)
