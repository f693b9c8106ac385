"""Checks of an exported file: its name, and its program against the module it came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot.nn.inputs import Inputs, as_call, batch_of, is_batched

CHECKED_BATCHES = (1, 3)
"""Batch sizes at which a program is compared: 1 is the size that exporters specialise on, and
neither is the 2 that programs are traced with."""


@final
class ExportMismatch(RuntimeError):
    """A reloaded program does not give the module's outputs.

    Attributes:
        difference: the largest absolute difference; nan if an output is nan, inf if shapes differ.
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


def different_rows(example: Inputs, batch: int) -> Inputs:
    """`batch` different inputs like those of `example`, which has a batch in front.

    They are its samples in turn, in the i-th of which every tensor is rolled by i along the last
    dimension. That keeps the range of values, and suits integers too; tensors of one sample stay
    together.
    """
    rows = batch_of(example)

    def rolled(value: Any) -> Any:
        if not is_batched(value, rows):
            return value
        chosen = (value[i % rows] for i in range(batch))
        return torch.stack([v.roll(i, -1) if v.dim() else v for i, v in enumerate(chosen)])

    return pytree.tree_map(rolled, example)


def check_program(
    kind: str,
    program: Callable[..., Any],
    module: nn.Module,
    example: Inputs,
    tolerance: float | None,
) -> None:
    """Compares `program` with `module` at `CHECKED_BATCHES`.

    Args:
        kind: the kind of program, for the message.
        program: takes and gives what the module does; reloaded from its file.
        module: the original, in eval mode on the CPU.
        example: inputs with any batch in front.
        tolerance: the largest accepted |program - module| of a tensor of the output, relative to
            max |module|; None for a program that only rounds alike, whose outputs are to be finite
            and of the same shapes.

    Raises:
        ExportMismatch: if it differs by more, in shape, or any output is not finite.
    """
    for batch in CHECKED_BATCHES:
        args, kwargs = as_call(different_rows(example, batch))
        with torch.no_grad():
            expected, got = module(*args, **kwargs), program(*args, **kwargs)
        ours, theirs = (list(map(_number, pytree.tree_leaves(v))) for v in (got, expected))
        if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
            raise ExportMismatch(kind, float("inf"), 0.0, batch)
        for one, other in zip(ours, theirs, strict=True):
            if tolerance is None:
                if not bool(one.isfinite().all()):
                    raise ExportMismatch(kind, float("nan"), float("inf"), batch)
                continue
            allowed = tolerance * other.abs().max().item() if other.numel() else 0.0
            difference = (one - other).abs().max().item() if other.numel() else 0.0
            if not difference <= allowed < float("inf"):  # nan fails too
                raise ExportMismatch(kind, difference, allowed, batch)


def _number(leaf: Any) -> Tensor:
    """A part of an output as numbers that can be subtracted.

    None, such as of a head that is left out in eval mode, is as no numbers.
    """
    tensor = torch.empty(0) if leaf is None else torch.as_tensor(leaf)
    return tensor if tensor.is_floating_point() else tensor.double()
