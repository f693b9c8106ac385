"""Images from anywhere, as those of a data set are in a batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

from manyshot.data.augment import fit
from manyshot.data.decoding import Shrink, as_eight_bits, contents, covering
from manyshot.data.decoding import pixels as decoded
from manyshot.data.description import DataDescription

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = Union[str, "os.PathLike[str]", "Image", Tensor]
"""The path of an image file, an image of Pillow, or pixels [C, H, W], uint8 or from 0 to 1."""


def prepared(image: Picture, data: DataDescription) -> Tensor:
    """One image as those of a data set are in a batch before they are normalised.

    These are [C, H, W], 0..255.

    It is turned upright, put on white where it is transparent, and resized, as these are.

    Args:
        image: a path, an image of Pillow, or pixels.
        data: says what they are, such as `Splits`; not data of your own.

    Raises:
        ValueError: if it is a folder or cannot be read, or has other channels; the message names
            it.
    """
    channels, height, width = data.image_shape
    if isinstance(image, Tensor):
        pixels = _checked(image, channels)
    else:
        pixels = _read(image, channels, covering(height, width))
    if data.keeps_aspect:
        return fit(pixels, height, width)
    # Imported here: torchvision costs a second, and images of the right size do without it.
    from torchvision.transforms.v2 import functional

    if pixels.shape[1:] == (height, width):
        return pixels
    resized: Tensor = functional.resize(pixels, [height, width], antialias=True)
    return resized


def _read(image: str | os.PathLike[str] | Image, channels: int, shrink: Shrink) -> Tensor:
    """The pixels of a file or of an image of Pillow, uint8."""
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder: give image files, such as those that the shell makes of "
                f"{path}/*"
            )
        try:
            return decoded(contents(path), channels, shrink)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error
    if not hasattr(image, "getexif"):
        raise ValueError(
            f"an image is a path, an image of Pillow or a tensor, got {type(image).__name__}"
        )
    image = as_eight_bits(image)
    pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _checked(pixels: Tensor, channels: int) -> Tensor:
    """Pixels on the CPU, 0..255."""
    if pixels.ndim != 3 or pixels.shape[0] != channels:
        raise ValueError(
            f"pixels of an image must be [{channels}, height, width], got {list(pixels.shape)}"
        )
    if pixels.dtype == torch.uint8:
        return pixels.cpu()
    if not pixels.is_floating_point() or not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise ValueError(
            "pixels must be uint8, or floating-point numbers from 0 to 1 that are not normalised, "
            f"got {pixels.dtype} from {pixels.min().item():g} to {pixels.max().item():g}"
        )
    return pixels.cpu().float() * 255
