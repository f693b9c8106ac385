"""The accelerator that training runs on: one process, or several."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available

from manyshot.recipe import TrainingSettings


def engine(
    device: torch.device, settings: TrainingSettings, folder: Path | None = None
) -> Accelerator:
    """The accelerator: one process, or as many as torchrun or `accelerate launch` started.

    Args:
        device: the CPU, or whatever else there is.
        settings: say which tracker there is, if any.
        folder: where the tracker writes.

    Raises:
        ImportError: if the settings' tracker is not installed.
    """
    if settings.tracker is not None and not is_tensorboard_available():
        raise ImportError(
            "train.tracker = 'tensorboard' needs: pip install 'manyshot[tensorboard]'"
        )
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # `train.precision` says, whatever `accelerate launch` was told
        log_with=settings.tracker,
        project_dir=None if folder is None else str(folder),
    )
    if settings.tracker is not None:
        accelerator.init_trackers("manyshot")
    return accelerator
