"""From stored pixels to what a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Normalise:
    """Turns uint8 batches into (x / 255 - mean) / std, by one multiplication and one addition."""

    scale_1C11: Tensor
    offset_1C11: Tensor
    dtype: torch.dtype
    memory_format: torch.memory_format

    @classmethod
    def build(
        cls,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> Normalise:
        """Checks the numbers and puts them on the device.

        Args:
            mean: per channel, subtracted from pixels divided by 255.
            std: per channel, above 0; divides what is left.
            channels: how many channels the images have.
            device: where the batches are.
            dtype: the type of the result.
            channels_last: whether the result is in channels last.

        Raises:
            ValueError: if an argument does not fit; the message names it.
        """
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"mean and std need one number for each of {channels} channels, "
                f"got {len(mean)} and {len(std)}"
            )
        if not all(value > 0 for value in std):
            raise ValueError(
                f"std must be above 0 in every channel, got {list(std)}; "
                f"for a channel that never changes give 1.0"
            )
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        pairs = list(zip(mean, std, strict=True))
        scale, offset = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            for values in ([1 / (255 * s) for _, s in pairs], [-m / s for m, s in pairs])
        )
        memory = torch.channels_last if channels_last else torch.contiguous_format
        return cls(scale, offset, dtype, memory)

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """The normalised copy of a uint8 batch."""
        pixels = images_BCHW.to(torch.float32, memory_format=self.memory_format)
        return pixels.mul_(self.scale_1C11).add_(self.offset_1C11).to(self.dtype)
