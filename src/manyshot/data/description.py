"""What must be known of data to make networks for them, without the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataDescription:
    """What networks take, and how an image from elsewhere becomes one of these.

    Attributes:
        classes: the number of classes; of your own data 0 if targets are no class indices.
        image_shape: (C, H, W) of the images in a batch; of your own data, like mean and std, empty.
        mean: the mean per channel of the train part's pixels divided by 255.
        std: the standard deviation per channel of these pixels, as of a population.
        class_names: the names of the classes in the order of their labels, if they have names.
        keeps_aspect: whether images of other proportions are cut to the shape, not stretched to it.
        example: of your own data, the inputs of the first samples.
    """

    classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None
    keeps_aspect: bool = False
    example: Any = None

    @property
    def takes(self) -> dict[str, Any]:
        """What a network takes, as arguments of `ms.Supernet`."""
        if self.example is None:
            return {"input_shape": self.image_shape}
        return {"example_inputs": self.example}

    @property
    def defaults(self) -> dict[str, int]:
        """Arguments of a network that come from the data, as far as these have them."""
        channels = {"channels": self.image_shape[0]} if self.image_shape else {}
        return channels | ({"classes": self.classes} if self.classes else {})
