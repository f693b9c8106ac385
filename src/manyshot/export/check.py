"""Checks of an exported file: its name, and its program against the module it came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

CHECKED_BATCHES = (1, 3)
"""Batch sizes at which a program is compared: 1 is the size that exporters specialise on, and
neither is the 2 that programs are traced with."""


@final
class ExportMismatch(RuntimeError):
    """A reloaded program does not give the module's logits.

    Attributes:
        difference: the largest absolute difference; nan if a logit is nan, inf if shapes differ.
        allowed: the largest difference that would have been accepted.
        batch: the batch size of the comparison.
    """

    def __init__(self, kind: str, difference: float, allowed: float, batch: int) -> None:
        super().__init__(
            f"the {kind} program differs from the module by {difference:.3g} at batch size {batch} "
            f"(allowed {allowed:.3g}); no file was written"
        )
        self.difference, self.allowed, self.batch = difference, allowed, batch


def with_suffix(path: str | os.PathLike[str], suffix: str) -> Path:
    """`path`, after a check that it ends with `suffix`.

    Raises:
        ValueError: if it does not; the readers of these formats go by the suffix.
    """
    checked = Path(path)
    if checked.suffix != suffix:
        raise ValueError(f"{checked.name!r} must end with {suffix!r}")
    return checked


def different_rows(example: Tensor, batch: int) -> Tensor:
    """`batch` different inputs like those of `example` (B, ...).

    They are its rows in turn, the i-th rolled by i along the last dimension, which keeps the range
    of values (and suits integers too).
    """
    rows = [example[i % len(example)].roll(i, -1) for i in range(batch)]
    return torch.stack(rows)


def check_program(
    kind: str,
    program: Callable[[Tensor], Tensor],
    module: nn.Module,
    example: Tensor,
    tolerance: float,
) -> None:
    """Compares `program` with `module` at `CHECKED_BATCHES`.

    Args:
        kind: the kind of program, for the message.
        program: maps inputs (B, ...) to logits (B, ...); reloaded from its file.
        module: the original, in eval mode on the CPU.
        example: inputs (any batch, ...).
        tolerance: the largest accepted |program - module| relative to max |module|.

    Raises:
        ExportMismatch: if it differs by more, in shape, or any logit is not finite.
    """
    for batch in CHECKED_BATCHES:
        inputs = different_rows(example, batch)
        with torch.no_grad():
            expected, logits = module(inputs), program(inputs)
        allowed = tolerance * expected.abs().max().item()
        if logits.shape != expected.shape:
            raise ExportMismatch(kind, float("inf"), allowed, batch)
        difference = (logits - expected).abs().max().item()
        if not difference <= allowed < float("inf"):  # nan fails too
            raise ExportMismatch(kind, difference, allowed, batch)
