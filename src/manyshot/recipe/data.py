"""`[data]` and `[task]`: which images, or data of your own, and what is learnt from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from manyshot.recipe.section import GIVEN, AnyPath, NotNegative, Options, Positive, Section

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """How many bytes a text such as `"2GB"` or `"512MiB"` says.

    Raises:
        ValueError: for a text of another form.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError("give a number of bytes such as '2GB', '512MiB' or '0B'")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


class TaskSettings(Section):
    """What networks learn, and how well they do."""

    name: str = "classification"
    """classification, dense (a class per pixel), multi_label, regression, or
    `package.module:attribute`; `task = "dense"` is short for a section with the name alone."""
    options: Options = {}
    """Of the task: for example `output`, the key or index of its part of a network's outputs, or
    `ignore_index` of dense."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values


_AS_THEY_ARE: dict[str, Any] = {
    "root": None,
    "download": False,
    "image_size": None,
    "bad": "refuse",
    "pad": 0,
    "padding_mode": "constant",
    "flip": False,
    "crop_scale": None,
    "jitter": 0.0,
    "rand_augment": None,
    "random_erasing": 0.0,
    "repeats": 1,
    "memory": "2GB",
}
"""What says nothing to be done to data, of all settings that are of images alone."""


def _is_own(name: object) -> bool:
    """Whether data are of your own: a function's, or given in Python."""
    return isinstance(name, str) and (":" in name or name == GIVEN)


FILES = ("folder", "shards")
"""The data sets that are a user's own image files."""


class DataSettings(Section):
    """Which images, or which data of your own."""

    name: str = "digits"
    """digits, fashion_mnist, mnist, cifar10, cifar100; of image files folder
    (`train/CLASS/*`) or shards (`train/*.tar` in the layout of WebDataset); or of your own
    `package.module:function`, which gives `(train, test)` or `(train, validation, test)`."""
    options: Options = {}
    """Arguments of your own function."""
    root: AnyPath = None
    """Where the files are; by default the places that the error for missing data lists."""
    download: bool = False
    """Whether torchvision may download missing files."""
    validation: int | float = Field(default=0.2, gt=0)
    """Share (below 1) or number of training images held out to score on: class-balanced, but of
    every class the same share if the images are in files. Not used if your own data have a
    validation part."""
    train_size: Positive | None = None
    """Use so many class-balanced training images; by default all."""
    image_size: int | list[int] | None = None
    """Resize to so many pixels, or to [height, width]; by default images keep their size, and those
    in files become squares of the median shorter side, of 224 pixels at most."""
    bad: Literal["refuse", "skip"] = "refuse"
    """Image files: those that cannot be used are an error that lists them, or are left out."""
    pad: NotNegative = 1
    """Random shifts of up to so many pixels."""
    padding_mode: Literal["constant", "edge"] = "constant"
    """What comes in there: black, or more of the pixels at the edge."""
    flip: bool = False
    """Random horizontal flips."""
    crop_scale: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """Random crops keep between these shares of the area, and are resized."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Strength of random changes of brightness, contrast and saturation."""
    rand_augment: list[int] | None = Field(default=None, min_length=2, max_length=2)
    """RandAugment, as `[operations, strength]`: so many random operations per image, 1 to 14, each
    of the same strength, 0 to 30. `[2, 9]` is usual for ImageNet. It is done after all of the
    above, image by image, which takes some milliseconds for one of 224 pixels."""
    random_erasing: float = Field(default=0.0, ge=0, le=1)
    """Probability that a random rectangle, of 2 to 33 % of an image, becomes the mean colour."""
    repeats: int = Field(default=1, ge=1, le=64)
    """Repeated augmentation: an image comes so many times in a batch, each time changed otherwise.
    Batches and epochs are as long as without, so that an epoch shows only that part of the images.
    Every `batch_size` must be a multiple of it."""
    memory: str = "2GB"
    """Image files whose pixels, three bytes each or one if they are grey, take so much at most at
    `image_size` are decoded once, kept in memory, and on disk for the next start. It is a fixed
    size, not a share of this machine's, since random crops differ: they are of the pixels in
    memory, which are fewer than those in files. Others are decoded in every epoch, with `"0B"`
    all."""
    workers: NotNegative = 0
    """Threads that decode image files which are kept in memory (0: one per core, and 8 at most),
    or processes that read others, from the first epoch to the last."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_done_to_own(cls, values: Any) -> Any:
        """Data of your own are not shifted by default, as images are."""
        own = isinstance(values, Mapping) and _is_own(values.get("name"))
        return {"pad": 0, **values} if own else values

    @model_validator(mode="after")
    def _is_for_its_kind(self) -> Self:
        if not self.is_own:
            if self.options:
                raise ValueError(
                    f"options are arguments of a function of your own, and name = {self.name!r} is "
                    "none: leave them out"
                )
            return self
        for key, nothing in _AS_THEY_ARE.items():
            if getattr(self, key) != nothing:
                raise ValueError(
                    f"{key} = {getattr(self, key)!r} is for images; data of your own "
                    f"({self.name!r}) come as they are to be: leave {key} out"
                )
        return self

    @property
    def is_own(self) -> bool:
        """Whether these are data of your own."""
        return _is_own(self.name)

    @field_validator("memory")
    @classmethod
    def _is_a_number_of_bytes(cls, memory: str) -> str:
        bytes_of(memory)
        return memory

    @property
    def described(self) -> str:
        """The data set, and where its files are if that is given."""
        return self.name if self.root is None else f"{self.name} in {self.root}"

    @field_validator("rand_augment")
    @classmethod
    def _is_possible(cls, numbers: list[int] | None) -> list[int] | None:
        if numbers is not None and not (1 <= numbers[0] <= 14 and 0 <= numbers[1] <= 30):
            raise ValueError(
                "give [operations, strength] with 1 to 14 operations and a strength of 0 to 30, "
                "such as [2, 9]"
            )
        return numbers

    @field_validator("image_size")
    @classmethod
    def _is_a_size(cls, size: int | list[int] | None) -> int | list[int] | None:
        sides = [1, 1] if size is None else [size, size] if isinstance(size, int) else size
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError("give at least 1 pixel, or [height, width]")
        return size
