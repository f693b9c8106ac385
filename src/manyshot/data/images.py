"""Labelled images: in memory as one tensor, or as files decoded when they are asked for.

Shape letters: N images of a set, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, final

import numpy as np
import torch
from torch import Tensor

Indices = Tensor | Sequence[int]


class LabelledImages(Protocol):
    """What every set of images offers; a set of your own with these members works everywhere."""

    @property
    def labels(self) -> Tensor:
        """Classes, int64 [N] on the CPU, each in 0..classes-1."""
        ...

    @property
    def classes(self) -> int:
        """The number of classes."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images in a batch."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...

    def read(self, index: int) -> Tensor:
        """One image as it is stored, uint8 [C, any height, any width]."""
        ...

    def subset(self, indices: Indices) -> Self:
        """The images at `indices`, in that order."""
        ...

    def digest(self) -> str:
        """A sha256 over what the set holds, in its order; no path of this machine goes into it."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images in memory.

    Attributes:
        images: uint8 [N, C, H, W]; 0 is black.
        labels: int64 [N], each in 0..classes-1.
        classes: the number of classes; a set may hold no image of some.

    Raises:
        ValueError: if a type, a shape or a label does not fit.
    """

    images: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 [N, C, H, W], got {self.images.dtype} "
                f"{list(self.images.shape)}; scale to 0..255 and add the channel axis first"
            )
        check_labels(self.labels, len(self.images), self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def read(self, index: int) -> Tensor:
        """Image `index`, uint8 [C, H, W]."""
        return self.images[index]

    def subset(self, indices: Indices) -> ImageSet:
        """The images at `indices`, copied, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return ImageSet(
            images=self.images[chosen], labels=self.labels[chosen], classes=self.classes
        )

    def digest(self) -> str:
        """A sha256 over the number of classes, the shape, the labels and the pixels."""
        digest = hashlib.sha256(f"{self.classes} {list(self.images.shape)}".encode())
        for tensor in (self.labels, self.images):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolderSet:
    """Images in files, decoded to RGB each time they are asked for.

    Attributes:
        root: the folder that `paths` start from.
        paths: one file per image, relative to `root`, with forward slashes.
        labels: int64 [N], indices into `class_names`.
        class_names: the names of the classes, sorted.
        size: the side in pixels of the square images in a batch.

    Raises:
        ValueError: if the lengths disagree, a label does not fit or `size` is below 1.
    """

    root: Path
    paths: tuple[str, ...]
    labels: Tensor
    class_names: tuple[str, ...]
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        check_labels(self.labels, len(self.paths), self.classes)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(3, size, size) of the images in a batch."""
        return 3, self.size, self.size

    def __len__(self) -> int:
        """The number of files."""
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        """Image `index` at its size on disk, uint8 [3, height, width]; transparency is dropped.

        Raises:
            FileNotFoundError: if the file is gone.
            ValueError: if it cannot be decoded; the message names the file.
        """
        # Imported here: only images in files need Pillow, which torchvision brings along.
        from PIL import Image

        path = self.root / self.paths[index]
        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":  # conversion would clip their values to 0..255
                    raise ValueError(f"has pixels of mode {image.mode}, convert it to 8 bits")
                # Through RGBA, because a palette with transparency does not convert directly.
                colours = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
        except FileNotFoundError:
            raise
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
            raise ValueError(f"{path} cannot be decoded as an image: {error}") from error
        return torch.from_numpy(np.array(colours)).permute(2, 0, 1)

    def subset(self, indices: Indices) -> ImageFolderSet:
        """The files at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        paths = tuple(self.paths[i] for i in chosen.tolist())
        return replace(self, paths=paths, labels=self.labels[chosen])

    def digest(self) -> str:
        """A sha256 over class names, size, and the relative path, label and length of each file."""
        digest = hashlib.sha256(f"{self.class_names} {self.size}".encode())
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            length = (self.root / path).stat().st_size
            digest.update(f"\n{path}\t{label}\t{length}".encode())
        return digest.hexdigest()


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Checks that labels are int64 [count] with values in 0..classes-1.

    Args:
        labels: the labels.
        count: how many there must be.
        classes: the number of classes.

    Raises:
        ValueError: if they are not; the message names what does not fit.
    """
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"labels must be int64 [N], got {labels.dtype} {list(labels.shape)}")
    if len(labels) != count:
        raise ValueError(f"{count} images but {len(labels)} labels; give one label per image")
    if count and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(
            f"labels must be in 0..{classes - 1} ({classes} classes), "
            f"got {int(labels.min())}..{int(labels.max())}"
        )
