"""Labelled images: in memory as one tensor, or as files decoded when they are asked for.

Shape letters: N images of a set, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, final

import torch
from torch import Tensor

from manyshot.data.decoding import Shrink, content_of, contents, pixels
from manyshot.data.shards import Pieces

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
        class_names: their names in the order of their labels; None if they have none.

    Raises:
        ValueError: if a type, a shape, a label or the number of names does not fit.
    """

    images: Tensor
    labels: Tensor
    classes: int
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 [N, C, H, W], got {self.images.dtype} "
                f"{list(self.images.shape)}; scale to 0..255 and add the channel axis first"
            )
        check_labels(self.labels, len(self.images), self.classes)
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(
                f"{self.classes} classes but {len(self.class_names)} class_names; give one per "
                "class, in the order of their labels"
            )

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
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def digest(self) -> str:
        """A sha256 over the number of classes, the shape, the labels and the pixels."""
        digest = hashlib.sha256(f"{self.classes} {list(self.images.shape)}".encode())
        for tensor in (self.labels, self.images):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolderSet:
    """Images in files, in memory too or decoded each time they are asked for.

    Attributes:
        root: the folder that `paths` start from.
        paths: one file per image, relative to `root`, with forward slashes; of images in shards
            the shard and the name in it.
        contents: what identifies the bytes of each file, such as `Look.content`.
        labels: int64 [N], indices into `class_names`.
        class_names: the names of the classes, sorted.
        image_shape: (C, H, W) of the images in a batch; C is 1 for grey images and 3 for colours.
        notes: what is worth knowing of the files, such as how many were left out.
        images: the pixels of all at `image_shape`, uint8 [N, C, H, W], if they are in memory.
        pieces: where the images are in shards; None if each has a file of its own.

    Raises:
        ValueError: if the lengths disagree, or a label or the shape does not fit.
    """

    root: Path
    paths: tuple[str, ...]
    contents: tuple[str, ...]
    labels: Tensor
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    notes: tuple[str, ...] = ()
    images: Tensor | None = None
    pieces: Pieces | None = None

    def __post_init__(self) -> None:
        if self.image_shape[0] not in (1, 3) or min(self.image_shape[1:]) < 1:
            raise ValueError(
                "image_shape must be 1 or 3 channels, and at least 1 pixel high and wide, "
                f"got {self.image_shape}"
            )
        if len(self.contents) != len(self.paths):
            raise ValueError(
                f"{len(self.paths)} paths but {len(self.contents)} contents; give one per file"
            )
        if self.pieces is not None and len(self.pieces) != len(self.paths):
            raise ValueError(f"{len(self.paths)} paths but {len(self.pieces)} pieces of shards")
        check_labels(self.labels, len(self.paths), self.classes)
        if self.images is None:
            return
        shape = (len(self.paths), *self.image_shape)
        if self.images.dtype != torch.uint8 or self.images.shape != shape:
            raise ValueError(
                f"images must be uint8 {list(shape)}, got {self.images.dtype} "
                f"{list(self.images.shape)}"
            )

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        """The number of files."""
        return len(self.paths)

    def read(self, index: int, shrink: Shrink | None = None) -> Tensor:
        """Image `index` as it is in memory, else as it is on disk, uint8 [C, height, width].

        It is upright. Of 16 bits a pixel has the 8 that are nearest, and what is transparent is on
        white. In a shard it is checked, since one that was written anew may hold another image at
        the same place.

        Args:
            index: of the image.
            shrink: how small an image on disk may be decoded; by default it has its own size.

        Raises:
            FileNotFoundError: if the file is gone.
            ValueError: if it cannot be decoded, or its shard has changed; the message names it.
        """
        if self.images is not None:
            return self.images[index]
        if self.pieces is not None:
            return self.read_checked(index, shrink)
        with self._named(index):
            return pixels(self.encoded(index), self.image_shape[0], shrink)

    def read_checked(self, index: int, shrink: Shrink | None = None) -> Tensor:
        """Image `index` as it is on disk, if its file is the one that `contents` identifies.

        Args:
            index: of the image.
            shrink: how small it may be decoded; by default it has its own size.

        Raises:
            FileNotFoundError: if the file is gone.
            ValueError: if it is another file, or cannot be decoded; the message names it.
        """
        with self._named(index):
            encoded = self.encoded(index)
            if content_of(encoded) != self.contents[index]:
                raise ValueError("has changed since it was looked at: start again")
            return pixels(encoded, self.image_shape[0], shrink)

    def encoded(self, index: int) -> bytes:
        """The bytes of image `index`, as they are in its file or shard.

        Raises:
            FileNotFoundError: if the file is gone.
            ValueError: if it cannot be read; the message does not name it.
        """
        if self.pieces is None:
            return contents(self.root / self.paths[index])
        shard, offset, length = self.pieces.of(index)
        return contents(self.root / shard, offset, length)

    @contextlib.contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """Errors in it name the file of an image, and in a shard the member."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.root / self.paths[index]} {error}") from error

    def subset(self, indices: Indices) -> ImageFolderSet:
        """The files at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        places = chosen.tolist()
        return replace(
            self,
            paths=tuple(self.paths[i] for i in places),
            contents=tuple(self.contents[i] for i in places),
            pieces=None if self.pieces is None else self.pieces.subset(chosen),
            labels=self.labels[chosen],
            images=None if self.images is None else self.images[chosen],
        )

    def digest(self) -> str:
        """A sha256 over class names, shape, and relative path, label and content of each file."""
        digest = hashlib.sha256(f"{self.class_names} {self.image_shape}".encode())
        files = zip(self.paths, self.labels.tolist(), self.contents, strict=True)
        lines = "".join(f"\n{path}\t{label}\t{content}" for path, label, content in files)
        digest.update(lines.encode(errors="surrogateescape"))
        return digest.hexdigest()


def pixels_of(images: LabelledImages) -> Tensor | None:
    """The pixels of all images of a set, uint8 [N, C, H, W]; None if they are not in memory."""
    return images.images if isinstance(images, ImageSet | ImageFolderSet) else None


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
