"""Random changes to training images, as functions of (seed, epoch, sample).

Shape letters: N images of a set, B of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, final

import numpy.typing as npt
import torch
from torch import Tensor

from manyshot.data.decoding import Shrink, covering
from manyshot.seeding import cpu_seeded, torch_generator

_LOG_RATIO = math.log(4 / 3)
"""Random crops have a width to height ratio in 3/4..4/3, log-uniform."""

_ERASED = (0.02, 0.33)
"""The smallest and the largest share of the area that is erased."""

_LOG_RATIO_ERASED = math.log(10 / 3)
"""What is erased has a width to height ratio in 3/10..10/3, log-uniform."""

_MOST_SEED = 2**63 - 1
"""Generators are seeded by numbers below."""

_GREY = (0.2989, 0.587, 0.114)
"""What red, green and blue give to the brightness of a pixel."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """What may happen to a training image; everything is off by default.

    Attributes:
        pad: images are shifted by up to so many pixels in each direction.
        padding_mode: what comes in there: black ("constant"), or more of the pixels at the edge
            ("edge"), as torchvision calls them.
        flip: whether images are mirrored left and right with probability 1/2.
        crop_scale: the (smallest, largest) share of the area that a random crop keeps, which is
            then resized.
        jitter: brightness, contrast and saturation are each multiplied by a factor in
            1-jitter..1+jitter.
        rand_augment: the number of random operations and their strength of 0..30, of torchvision's
            RandAugment; they come after all of the above.
        random_erasing: the probability that a rectangle of an image becomes the mean colour of all
            images. That is done to normalised batches, by `erase`.
        repeats: how many times an image comes in a batch, each time changed in another way.

    Raises:
        ValueError: if an option is not allowed; the message names it and what it allows.
    """

    pad: int = 0
    padding_mode: Literal["constant", "edge"] = "constant"
    flip: bool = False
    crop_scale: tuple[float, float] | None = None
    jitter: float = 0.0
    rand_augment: tuple[int, int] | None = None
    random_erasing: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ValueError(f"pad must be a number of pixels, 0 or more, got {self.pad!r}")
        if self.padding_mode not in ("constant", "edge"):
            raise ValueError(
                f"padding_mode must be 'constant' or 'edge', got {self.padding_mode!r}"
            )
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
        if self.rand_augment is not None:
            are_numbers = [type(number) for number in self.rand_augment] == [int, int]
            if not are_numbers or self.rand_augment[0] < 1 or not 0 <= self.rand_augment[1] <= 30:
                raise ValueError(
                    "rand_augment must be (operations, strength) with 1 operation or more and a "
                    f"strength of 0..30, got {self.rand_augment!r}"
                )
        if not 0 <= self.random_erasing <= 1:
            raise ValueError(f"random_erasing must be in [0, 1], got {self.random_erasing!r}")
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            raise ValueError(f"repeats must be a number, 1 or more, got {self.repeats!r}")
        if self.repeats > 1 and replace(self, padding_mode="constant", repeats=1) == Augment():
            raise ValueError(
                f"repeats = {self.repeats} shows every image again as it was, since nothing else "
                "changes it: add flip, pad, crop_scale, jitter, rand_augment or random_erasing, or "
                "leave repeats out"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What happens to each image of a set in one epoch, or to those of a batch; None is nothing.

    With `repeats`, the changes of all images come first, then those of all first copies, and so on.

    Attributes:
        crop_N4: numbers in [0, 1) for the area, ratio, top and left of a crop, float64.
        top_N: first row of an image's window in the padded image, 0..2*pad, int64.
        left_N: its first column, likewise.
        flip_N: whether it is mirrored left and right.
        factors_N3: of brightness, contrast and saturation, float32.
        seed_N: where the draws of RandAugment begin, int64.
        erase_N5: numbers in [0, 1), float64: whether a rectangle is erased, and for its area,
            ratio, top and left.
    """

    crop_N4: Tensor | None = None
    top_N: Tensor | None = None
    left_N: Tensor | None = None
    flip_N: Tensor | None = None
    factors_N3: Tensor | None = None
    seed_N: Tensor | None = None
    erase_N5: Tensor | None = None

    def of(self, index: Tensor) -> Changes:
        """Those of the images at `index`, which is on the same device."""
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Changes:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The same as arrays, on the CPU."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value.numpy() for name, value in values if value is not None}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Changes:
        """What `arrays` gave."""
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def _each(self, function: Callable[[Tensor], Tensor]) -> Changes:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Changes(**{k: None if v is None else function(v) for k, v in values.items()})


def draw_changes(n: int, augment: Augment, seed: int, epoch: int) -> Changes | None:
    """The changes of every image of a set in one epoch; None if the images stay as they are.

    Every option has a random stream of its own, so that none changes what another draws.

    Args:
        n: the number of images in the set.
        augment: what may happen.
        seed: the seed of the run.
        epoch: the number of the epoch.

    Returns:
        The changes, on the CPU.
    """
    if augment == Augment():
        return None
    n *= augment.repeats
    changes = Changes()
    if augment.crop_scale is not None:
        crops = torch_generator(seed, "crop", epoch)
        drawn = torch.rand(n, 4, generator=crops, dtype=torch.float64)
        changes = replace(changes, crop_N4=drawn)
    if augment.pad or augment.flip:
        shifts, flips = (torch_generator(seed, what, epoch) for what in ("shift", "flip"))
        top, left = torch.randint(0, 2 * augment.pad + 1, (2, n), generator=shifts).unbind()
        flip = torch.rand(n, generator=flips) < 0.5
        flip = flip if augment.flip else torch.zeros_like(flip)
        changes = replace(changes, top_N=top, left_N=left, flip_N=flip)
    if augment.jitter:
        jitters = torch_generator(seed, "jitter", epoch)
        factors = 1 + augment.jitter * (2 * torch.rand(n, 3, generator=jitters) - 1)
        changes = replace(changes, factors_N3=factors)
    if augment.rand_augment is not None:
        seeds = torch_generator(seed, "rand_augment", epoch)
        changes = replace(changes, seed_N=torch.randint(_MOST_SEED, (n,), generator=seeds))
    if augment.random_erasing:
        erasures = torch_generator(seed, "random_erasing", epoch)
        drawn = torch.rand(n, 5, generator=erasures, dtype=torch.float64)
        changes = replace(changes, erase_N5=drawn)
    return changes


def change(
    images_BCHW: Tensor, changes_B: Changes | None, augment: Augment, side: int | None = None
) -> Tensor:
    """A batch of images of one size after its changes; uint8 as before.

    Args:
        images_BCHW: the batch, uint8.
        changes_B: the changes of each image, on the same device, or seeds on the CPU; None for
            none.
        augment: that they were drawn for.
        side: of the squares that images are resized to after random crops, before all else; None if
            they keep their size.
    """
    images = images_BCHW
    if changes_B is not None and changes_B.crop_N4 is not None and augment.crop_scale is not None:
        size = (images.shape[2], images.shape[3])
        images = crop(images, crop_boxes(*size, augment.crop_scale, changes_B.crop_N4))
    if side is not None and images.shape[2:] != (side, side):
        # Imported here: torchvision costs a second, and images of one size do without it.
        from torchvision.transforms.v2 import functional

        images = functional.resize(images, [side, side], antialias=True)
    if changes_B is None:
        return images
    if changes_B.flip_N is not None:
        images = move(images, changes_B, augment)
    if changes_B.factors_N3 is not None:
        images = jitter(images, changes_B.factors_N3)
    if changes_B.seed_N is not None and augment.rand_augment is not None:
        images = rand_augment(images, changes_B.seed_N, *augment.rand_augment)
    return images


def move(images_BCHW: Tensor, changes_B: Changes, augment: Augment) -> Tensor:
    """The images shifted and mirrored by one gather for the whole batch.

    Args:
        images_BCHW: the batch.
        changes_B: with where each image goes, and whether it is mirrored.
        augment: that they were drawn for.
    """
    batch, channels, height, width = images_BCHW.shape
    top_B, left_B, flip_B = changes_B.top_N, changes_B.left_N, changes_B.flip_N
    assert top_B is not None and left_B is not None and flip_B is not None  # drawn together
    pad, device = augment.pad, images_BCHW.device
    rows_BH = top_B[:, None] + torch.arange(height, device=device)
    columns_BW = left_B[:, None] + torch.arange(width, device=device)
    columns_BW = torch.where(flip_B[:, None], columns_BW.flip(1), columns_BW)
    if augment.padding_mode == "edge":
        rows_BH = (rows_BH - pad).clamp(0, height - 1)
        columns_BW = (columns_BW - pad).clamp(0, width - 1)
    elif pad:
        images_BCHW = torch.nn.functional.pad(images_BCHW, (pad, pad, pad, pad))
    pixels = rows_BH[:, :, None] * images_BCHW.shape[3] + columns_BW[:, None, :]
    pixels = pixels.flatten(1)[:, None, :].expand(-1, channels, -1)
    return images_BCHW.flatten(2).gather(2, pixels).view(batch, channels, height, width)


def crop(images_BCHW: Tensor, boxes_B4: Tensor) -> Tensor:
    """A box of each image, stretched to the size of the image, bilinear.

    Nothing is ever made smaller, so that there is nothing to smooth before.

    Args:
        images_BCHW: the batch, uint8.
        boxes_B4: top, left, height and width of each box, int64.
    """
    top_B, left_B, height_B, width_B = boxes_B4.unbind(1)
    stretched = _stretched(images_BCHW.float(), top_B, height_B)
    return _stretched(stretched.mT, left_B, width_B).mT.round().to(torch.uint8)


def _stretched(pixels_BCHW: Tensor, start_B: Tensor, length_B: Tensor) -> Tensor:
    """Some rows of each image, stretched to as many as it has."""
    batch, channels, height, width = pixels_BCHW.shape
    centre_H = torch.arange(height, device=pixels_BCHW.device) + 0.5
    place_BH = centre_H * (length_B / height)[:, None] - 0.5
    last_B1 = length_B[:, None] - 1
    place_BH = torch.minimum(place_BH.clamp(min=0), last_B1.float())
    low_BH = place_BH.long()
    rows = [start_B[:, None] + at for at in (low_BH, torch.minimum(low_BH + 1, last_B1))]
    low, high = (
        pixels_BCHW.gather(2, at[:, None, :, None].expand(batch, channels, height, width))
        for at in rows
    )
    return torch.lerp(low, high, (place_BH - low_BH)[:, None, :, None])


def jitter(images_BCHW: Tensor, factors_B3: Tensor) -> Tensor:
    """The images with brightness, contrast and saturation multiplied, one after the other.

    Contrast is the distance from the mean of the grey image, saturation that of each pixel from
    its grey. Grey images have no saturation. After each of the three, values are cut to 0..255 and
    rounded down, as torchvision does.

    Args:
        images_BCHW: the batch, uint8, of 1 or 3 channels.
        factors_B3: the factor of each.
    """
    brightness, contrast, saturation = factors_B3[:, :, None, None, None].unbind(1)
    pixels = _whole(images_BCHW * brightness)
    mean = _grey(pixels).mean((1, 2, 3), keepdim=True)
    pixels = _whole(torch.lerp(mean, pixels, contrast))
    if pixels.shape[1] == 3:
        pixels = _whole(torch.lerp(_grey(pixels), pixels, saturation))
    return pixels.to(torch.uint8)


def _whole(pixels: Tensor) -> Tensor:
    return pixels.clamp_(0, 255).floor_()


def _grey(pixels_BCHW: Tensor) -> Tensor:
    """The brightness of whole pixels, rounded down."""
    if pixels_BCHW.shape[1] == 1:
        return pixels_BCHW
    shares = torch.tensor(_GREY).to(pixels_BCHW.device, non_blocking=True).view(1, 3, 1, 1)
    return (pixels_BCHW * shares).sum(1, keepdim=True).floor_()


def rand_augment(images_BCHW: Tensor, seed_B: Tensor, operations: int, strength: int) -> Tensor:
    """The images after torchvision's RandAugment, each by itself (Cubuk et al. 2019).

    What comes in from outside is black, and images that are turned or sheared are bilinear.

    Args:
        images_BCHW: the batch, uint8, of 1 or 3 channels.
        seed_B: where the draws of each image begin, on the CPU.
        operations: how many are drawn for an image, one after the other.
        strength: of all of them, 0..30.
    """
    # Imported here: torchvision costs a second, and sets in memory do without it.
    from torchvision.transforms.v2 import InterpolationMode, RandAugment

    augment = RandAugment(operations, strength, interpolation=InterpolationMode.BILINEAR)
    augmented_images = []
    for image, seed in zip(images_BCHW, seed_B.tolist(), strict=True):
        with cpu_seeded(seed):
            augmented_images.append(augment(image))
    return torch.stack(augmented_images)


def erase(images_BCHW: Tensor, draws_B5: Tensor, probability: float) -> Tensor:
    """The images, in place, some of them with a rectangle of zeros (Zhong et al. 2017).

    Args:
        images_BCHW: the batch, normalised, so that zero is the mean colour.
        draws_B5: whether it happens to an image, and for the area, ratio, top and left of the
            rectangle: numbers in [0, 1) on the same device, float64.
        probability: that it happens.
    """
    height, width = images_BCHW.shape[2:]
    boxes = crop_boxes(height, width, _ERASED, draws_B5[:, 1:], _LOG_RATIO_ERASED)
    top_B1, left_B1, height_B1, width_B1 = boxes[:, :, None].unbind(1)
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    in_rows_BH = (rows >= top_B1) & (rows < top_B1 + height_B1)
    in_columns_BW = (columns >= left_B1) & (columns < left_B1 + width_B1)
    erased_BHW = in_rows_BH[:, :, None] & in_columns_BW[:, None, :]
    erased_BHW &= (draws_B5[:, 0] < probability)[:, None, None]
    return images_BCHW.masked_fill_(erased_BHW[:, None], 0)


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
    image_CHW: Tensor, height: int, width: int, augment: Augment, changes_1: Changes | None
) -> Tensor:
    """One image of any size, augmented and brought to height x width.

    It is what `change` makes of the image at that size, but that a random crop is taken from the
    image as it is, which may have been decoded as small as `needed` says.

    Args:
        image_CHW: the image, uint8.
        height: the height of the result, in pixels.
        width: the width of the result, in pixels.
        augment: what may happen.
        changes_1: what does.
    """
    if changes_1 is None:
        return fit(image_CHW, height, width)
    if augment.crop_scale is None or changes_1.crop_N4 is None:
        image = fit(image_CHW, height, width)
    else:
        # Imported here: torchvision costs a second, and sets in memory do without it.
        from torchvision.transforms.v2 import functional

        old_height, old_width = image_CHW.shape[1:]
        boxes = crop_boxes(old_height, old_width, augment.crop_scale, changes_1.crop_N4)
        [box] = boxes.tolist()
        image = functional.resized_crop(image_CHW, *box, size=[height, width], antialias=True)
    return change(image[None], replace(changes_1, crop_N4=None), augment)[0]


def needed(height: int, width: int, augment: Augment, changes_1: Changes | None) -> Shrink:
    """How much smaller an image may be decoded of which `augmented` makes height x width.

    What is cut out of it has still to cover that.

    Args:
        height: of the result, in pixels.
        width: likewise.
        augment: what may happen.
        changes_1: what does.
    """
    draws = None if changes_1 is None else changes_1.crop_N4
    scale = augment.crop_scale
    if scale is None or draws is None:
        return covering(height, width)

    def of_box(tall: int, wide: int) -> int:
        [[_, _, high, broad]] = crop_boxes(tall, wide, scale, draws).tolist()
        return covering(height, width)(high, broad)

    return of_box


def crop_boxes(
    height: int,
    width: int,
    scale: tuple[float, float],
    draws_B4: Tensor,
    log_ratio: float = _LOG_RATIO,
) -> Tensor:
    """The top, left, height and width of random boxes in images of one size, int64 [B, 4].

    A box that would be longer than a side is cut to that side (torchvision draws again), so that
    every image uses up the same four numbers.

    Args:
        height: the height of the images.
        width: the width of the images.
        scale: the smallest and the largest share of the area that a box has.
        draws_B4: numbers in [0, 1) for area, ratio, top and left, float64.
        log_ratio: the logarithm of the largest ratio of width to height, and of height to width.
    """
    low, high = scale
    area_B = height * width * (low + (high - low) * draws_B4[:, 0])
    ratio_B = torch.exp(log_ratio * (2 * draws_B4[:, 1] - 1))
    height_B = (area_B / ratio_B).sqrt().round().clamp(1, height)
    width_B = (area_B * ratio_B).sqrt().round().clamp(1, width)
    top_B = (draws_B4[:, 2] * (height - height_B + 1)).floor()
    left_B = (draws_B4[:, 3] * (width - width_B + 1)).floor()
    return torch.stack([top_B, left_B, height_B, width_B], dim=1).long()
