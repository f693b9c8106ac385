"""The contract of weight-sharing schemes, and the simplest: one copy of every weight."""

from __future__ import annotations

from typing import Literal, Protocol, final

from torch import nn

Phase = Literal["weights", "code"]


class Sharing(Protocol):
    """Decides the weights of a path *before* a layer runs, never inside model code.

    A supernet calls `attach` once, when it is made. `phase(step)` is for schemes that alternate
    between weights and the code that mixes them; the loop of this version trains weights in every
    step, so `OneShot` is all that it can train.
    """

    copies: int

    def attach(self, model: nn.Module) -> None:
        """Prepares an adopted model, for example by parametrising its weights."""
        ...

    def phase(self, step: int) -> Phase:
        """What the optimiser step `step` (from 0) moves."""
        ...


@final
class OneShot:
    """Every architecture that uses an operation uses the same tensor (SPOS, arXiv:1904.00420)."""

    copies = 1

    def attach(self, model: nn.Module) -> None:
        """Nothing to prepare."""

    def phase(self, step: int) -> Phase:
        """Always the weights."""
        return "weights"
