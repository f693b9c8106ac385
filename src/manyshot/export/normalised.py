"""A network that normalises its images itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from manyshot.nn.inputs import model_dtype


@final
class Normalised(nn.Module):
    """A network of images that takes pixels in [0, 1] and computes `(pixels - mean) / std` itself.

    Attributes:
        network: what takes the normalised images.
        scale_1C11: multiplies the pixels, one number per channel.
        offset_1C11: is added then.
    """

    scale_1C11: Tensor
    offset_1C11: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Puts the normalisation in front of a network.

        Args:
            network: what takes normalised images (B, C, H, W); it is not changed.
            mean: per channel, of pixels divided by 255.
            std: per channel, above 0.

        Raises:
            ValueError: if their lengths differ, or a std is not above 0.
        """
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ValueError(
                f"normalise needs one mean and one std per channel, got {len(mean)} and {len(std)}"
            )
        if not all(value > 0 for value in std):
            raise ValueError(
                f"std must be above 0 in every channel, got {list(std)}; for a channel that never "
                "changes give 1.0"
            )
        self.network = network
        pairs, dtype = list(zip(mean, std, strict=True)), model_dtype(network)
        scale = torch.tensor([1 / s for _, s in pairs], dtype=dtype)
        offset = torch.tensor([-m / s for m, s in pairs], dtype=dtype)
        self.register_buffer("scale_1C11", scale.view(1, -1, 1, 1))
        self.register_buffer("offset_1C11", offset.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Any:
        """What the network gives for images of pixels in [0, 1]."""
        return self.network(images * self.scale_1C11 + self.offset_1C11)

    def pixels(self, normalised: Tensor) -> Tensor:
        """The pixels in [0, 1] that normalised images were made of, on the CPU."""
        return ((normalised.cpu() - self.offset_1C11) / self.scale_1C11).clamp(0, 1)
