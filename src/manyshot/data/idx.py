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

import torch
from torch import Tensor

from manyshot.data.images import ImageSet

_UNSIGNED_BYTE = 8


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
    data = _content(path)
    header = 4 + 4 * ndim
    if len(data) < 4:
        raise ValueError(f"{path}: {len(data)} bytes are too few for an IDX file; fetch it anew")
    zero, kind, dimensions = struct.unpack_from(">HBB", data)
    if zero or kind != _UNSIGNED_BYTE or dimensions != ndim:
        raise ValueError(
            f"{path}: magic number is {bytes(data[:4]).hex()}, expected "
            f"{struct.pack('>HBB', 0, _UNSIGNED_BYTE, ndim).hex()} "
            f"(unsigned bytes, {ndim} dimensions); it is another file, or a damaged one"
        )
    if len(data) < header:
        raise ValueError(f"{path}: cut off inside its header; fetch it anew")
    shape = struct.unpack_from(f">{ndim}I", data, 4)
    if len(data) - header != math.prod(shape):
        raise ValueError(
            f"{path}: header promises {math.prod(shape)} bytes (shape {list(shape)}), "
            f"found {len(data) - header}; the file is cut off or damaged, fetch it anew"
        )
    if not math.prod(shape):
        raise ValueError(f"{path}: holds no data (shape {list(shape)})")
    return torch.frombuffer(data, dtype=torch.uint8, offset=header).reshape(shape)


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


def _content(path: Path) -> bytearray:
    """The bytes of the file, decompressed, as a bytearray, so that tensors on it are writable."""
    if path.suffix != ".gz":
        return bytearray(path.read_bytes())
    try:
        with gzip.open(path, "rb") as file:
            return bytearray(file.read())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: not a complete gzip file ({error}); it is cut off or damaged, fetch it anew"
        ) from error
