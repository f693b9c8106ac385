"""Random changes to training images, as functions of (seed, epoch, sample).

Shape letters: N images of a set, B of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from manyshot.data.seeding import torch_generator

_LOG_RATIO = math.log(4 / 3)
"""Random crops have a width to height ratio in 3/4..4/3, log-uniform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """What may happen to a training image; everything is off by default.

    Attributes:
        pad: images are shifted by up to so many pixels in each direction; what comes in is black.
        flip: whether images are mirrored left and right with probability 1/2.
        crop_scale: the (smallest, largest) share of the area that a random crop keeps, which is
            then resized; only for images in files.
        jitter: brightness, contrast and saturation are each multiplied by a factor in
            1-jitter..1+jitter; only for images in files.

    Raises:
        ValueError: if an option is not allowed; the message names it and what it allows.
    """

    pad: int = 0
    flip: bool = False
    crop_scale: tuple[float, float] | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ValueError(f"pad must be a number of pixels, 0 or more, got {self.pad!r}")
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip must be True or False, got {self.flip!r}")
        if self.crop_scale is not None:
            low, high = self.crop_scale
            if not 0 < low <= high <= 1:
                raise ValueError(
                    f"crop_scale must be (smallest, largest) with 0 < smallest <= largest <= 1, "
                    f"got {self.crop_scale!r}"
                )
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be in [0, 1), got {self.jitter!r}")


class Moves(NamedTuple):
    """Where the pixels of each image come from: its window in the padded image, and mirroring."""

    top_N: Tensor
    left_N: Tensor
    flip_N: Tensor


def draw_moves(n: int, augment: Augment, seed: int, epoch: int) -> Moves | None:
    """The moves of every image of a set in one epoch; None if the images stay as they are.

    Args:
        n: the number of images in the set.
        augment: what may happen; `pad` and `flip` are used.
        seed: the seed of the run.
        epoch: the number of the epoch.

    Returns:
        int64 [n] tops and lefts in 0..2*pad, and bool [n]; on the CPU.
    """
    if not (augment.pad or augment.flip):
        return None
    shifts, flips = (torch_generator(seed, epoch, what) for what in ("shift", "flip"))
    top, left = torch.randint(0, 2 * augment.pad + 1, (2, n), generator=shifts).unbind()
    flip = torch.rand(n, generator=flips) < 0.5
    return Moves(top, left, flip if augment.flip else torch.zeros_like(flip))


def move(images_BCHW: Tensor, moves_B: Moves, pad: int) -> Tensor:
    """The images shifted and mirrored by one gather for the whole batch; black comes in.

    Args:
        images_BCHW: the batch.
        moves_B: the move of each image.
        pad: the largest shift.
    """
    batch, channels, height, width = images_BCHW.shape
    padded = torch.nn.functional.pad(images_BCHW, (pad, pad, pad, pad)) if pad else images_BCHW
    device = images_BCHW.device
    rows_BH = moves_B.top_N[:, None] + torch.arange(height, device=device)
    columns_BW = moves_B.left_N[:, None] + torch.arange(width, device=device)
    columns_BW = torch.where(moves_B.flip_N[:, None], columns_BW.flip(1), columns_BW)
    pixels = (rows_BH[:, :, None] * (width + 2 * pad) + columns_BW[:, None, :]).flatten(1)
    moved = padded.flatten(2).gather(2, pixels[:, None, :].expand(-1, channels, -1))
    return moved.view(batch, channels, height, width)


def fit(image_CHW: Tensor, height: int, width: int) -> Tensor:
    """The image resized to just cover a rectangle, then cropped in the centre.

    Args:
        image_CHW: the image.
        height: the height of the rectangle, in pixels.
        width: its width, in pixels.
    """
    old_height, old_width = image_CHW.shape[1:]
    if (old_height, old_width) == (height, width):
        return image_CHW
    # Imported here: torchvision costs a second, and sets in memory do without it.
    from torchvision.transforms.v2 import functional

    scale = max(height / old_height, width / old_width)
    size = [max(height, round(old_height * scale)), max(width, round(old_width * scale))]
    covering = functional.resize(image_CHW, size, antialias=True)
    return cast(Tensor, functional.center_crop(covering, [height, width]))


def augmented(
    image_CHW: Tensor, height: int, width: int, augment: Augment, generator: torch.Generator
) -> Tensor:
    """One image of any size, augmented and brought to height x width.

    Every call draws the same amount of numbers, so that an option does not change what another
    draws.

    Args:
        image_CHW: the image, uint8.
        height: the height of the result, in pixels.
        width: the width of the result, in pixels.
        augment: what may happen.
        generator: all the randomness.
    """
    # Imported here: torchvision costs a second, and sets in memory do without it.
    from torchvision.transforms.v2 import functional

    draws = torch.rand(10, generator=generator, dtype=torch.float64).tolist()
    if augment.crop_scale is None:
        image = fit(image_CHW, height, width)
    else:
        box = crop_box(image_CHW.shape[1], image_CHW.shape[2], augment.crop_scale, draws[:4])
        image = functional.resized_crop(image_CHW, *box, size=[height, width], antialias=True)
    top, left = (int(draw * (2 * augment.pad + 1)) for draw in draws[4:6])
    flip = augment.flip and draws[6] < 0.5
    if augment.pad or flip:
        moves = Moves(torch.tensor([top]), torch.tensor([left]), torch.tensor([flip]))
        image = move(image[None], moves, augment.pad)[0]
    if augment.jitter:
        brightness, contrast, saturation = (
            1 + augment.jitter * (2 * draw - 1) for draw in draws[7:]
        )
        image = functional.adjust_brightness(image, brightness)
        image = functional.adjust_contrast(image, contrast)
        image = functional.adjust_saturation(image, saturation)
    return image


def crop_box(
    height: int, width: int, scale: tuple[float, float], draws: list[float]
) -> tuple[int, int, int, int]:
    """The (top, left, height, width) of a random crop.

    A crop that would be longer than a side is cut to that side (torchvision draws again), so that
    every image uses up the same four numbers.

    Args:
        height: the height of the image.
        width: the width of the image.
        scale: the smallest and the largest share of the area that is kept.
        draws: four numbers in [0, 1) for area, ratio, top and left.
    """
    low, high = scale
    area = height * width * (low + (high - low) * draws[0])
    ratio = math.exp(_LOG_RATIO * (2 * draws[1] - 1))
    crop_height = min(height, max(1, round(math.sqrt(area / ratio))))
    crop_width = min(width, max(1, round(math.sqrt(area * ratio))))
    top = int(draws[2] * (height - crop_height + 1))
    left = int(draws[3] * (width - crop_width + 1))
    return top, left, crop_height, crop_width
