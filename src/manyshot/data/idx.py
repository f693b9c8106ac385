"""IDX files, the format of MNIST and its relatives: a big-endian header, then the bytes.

Not torchvision's reader: it reads no gzip, names no file when one is damaged, and its import takes
two seconds beside the two and a half of `manyshot.data` with torch, and 176 MB.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from manyshot.data.decoding import regular
from manyshot.data.images import ImageSet

_UNSIGNED_BYTE = 8

_MOST_BYTES = 2**32
"""A header that promises more is refused."""


def read_idx(path: Path, ndim: int) -> Tensor:
    """The array in an IDX file of unsigned bytes, which is gzipped if its name ends in `.gz`.

    Only the content is checked, never a checksum of the file, because packagers compress anew.

    Args:
        path: the file.
        ndim: the number of dimensions it must have.

    Returns:
        The array as uint8, with the shape of the header.

    Raises:
        ValueError: if it is not such an array or is cut off; the message names the file.
    """
    header = 4 + 4 * ndim
    try:
        regular(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; fetch it anew") from error
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(path, file.read(header), ndim)
            promised = math.prod(shape)
            data = _at_most(cast(BinaryIO, file), promised + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: not a complete gzip file ({error}); it is cut off or damaged, fetch it anew"
        ) from error
    if len(data) != promised:
        raise ValueError(
            f"{path}: header promises {promised} bytes (shape {list(shape)}), "
            f"found {'more' if len(data) > promised else len(data)}; the file is cut off or "
            "damaged, fetch it anew"
        )
    if not promised:
        raise ValueError(f"{path}: holds no data (shape {list(shape)})")
    return torch.frombuffer(data, dtype=torch.uint8).reshape(shape)


def read_idx_pair(images: Path, labels: Path, classes: int) -> ImageSet:
    """The grey images [N, 1, H, W] and labels of two IDX files.

    Args:
        images: the file of the images.
        labels: the file of the labels.
        classes: the number of classes, which every label must be below.

    Raises:
        ValueError: if one is damaged, or the two do not belong together; the message names the
            file.
    """
    pixels, label = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(label):
        raise ValueError(
            f"{images} holds {len(pixels)} images but {labels} holds {len(label)} labels; "
            f"the two files do not belong together"
        )
    if int(label.max()) >= classes:
        raise ValueError(
            f"{labels}: label {int(label.max())} is not in 0..{classes - 1}; it is another file"
        )
    return ImageSet(images=pixels.unsqueeze(1), labels=label.to(torch.int64), classes=classes)


def _shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    """The shape in the first bytes of an IDX file, checked."""
    if len(header) < 4:
        raise ValueError(f"{path}: {len(header)} bytes are too few for an IDX file; fetch it anew")
    zero, kind, dimensions = struct.unpack_from(">HBB", header)
    if zero or kind != _UNSIGNED_BYTE or dimensions != ndim:
        raise ValueError(
            f"{path}: magic number is {header[:4].hex()}, expected "
            f"{struct.pack('>HBB', 0, _UNSIGNED_BYTE, ndim).hex()} "
            f"(unsigned bytes, {ndim} dimensions); it is another file, or a damaged one"
        )
    if len(header) < 4 + 4 * ndim:
        raise ValueError(f"{path}: cut off inside its header; fetch it anew")
    shape = struct.unpack_from(f">{ndim}I", header, 4)
    if math.prod(shape) > _MOST_BYTES:
        raise ValueError(
            f"{path}: header promises {math.prod(shape)} bytes (shape {list(shape)}), allowed are "
            f"{_MOST_BYTES:,}; it is another file, or a damaged one"
        )
    return shape


def _at_most(file: BinaryIO, most: int) -> bytearray:
    """The next bytes of a file; memory grows with what is there, not with what is promised.

    A bytearray, so that tensors on it are writable.
    """
    data = bytearray()
    while chunk := file.read(min(2**20, most - len(data))):
        data += chunk
    return data
