"""One image file: what it is, and its pixels with 8 bits a channel.

Only a closed list of formats is decoded, only from regular files, and only up to a number of
pixels, since a file can ask for more: Pillow starts Ghostscript for an EPS whatever its name is,
and a few bytes can stand for gigabytes of pixels.

A JPEG is decoded at a quarter or an eighth of its size where all that is wanted of it is smaller
still, which libjpeg does in a fraction of the time. At its own size it is decoded by torchvision,
as long as that can, to the pixels that Pillow makes of it, which takes longer. Pillow at a half of
the size is no faster than that (`benchmarks.speed.jpeg`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""The endings of image files, in any case."""

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""The formats that are decoded, by Pillow's names."""

MOST_PIXELS = 8192 * 8192
"""An image of more is refused."""

MOST_BYTES = 2**30
"""A longer file is refused, since files are read whole."""

Shrink = Callable[[int, int], int]
"""How many times smaller an image of (height, width) may be decoded than it is; at least 1."""

_SCALES = (8, 4)
"""How many times smaller a JPEG is decoded, if it is."""

_TRANSPOSING = range(5, 9)
"""The EXIF orientations in which height and width change places."""

TRAITS = {
    "transparent": "transparent in places, put on white",
    "deep": "of 16 bits, whose range 0..65535 becomes 0..255",
    "dim": "of 16 bits of which the lowest 12 alone are used, so that the images are almost black; "
    "scale them to the full range first",
    "exif": "with EXIF data that cannot be read, taken as upright",
    "frames": "of several frames or pages, of which the first is used",
}
"""What is worth knowing of files that are decoded, by the name in `Look.traits`."""

_GREY = ("1", "L", "LA")
"""Pillow's modes of grey pixels of 8 bits or less."""

_CONTENT = functools.partial(hashlib.blake2b, digest_size=8)
"""Identifies the bytes of a file: a digest for accidents, not against forgers."""

_TURNED = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What turns an image upright, by its EXIF orientation; 1 is upright already."""


class Look(NamedTuple):
    """What a look at one image file found.

    Attributes:
        height: of the upright image, in pixels.
        width: likewise.
        is_grey: whether it is stored without colours.
        traits: keys of `TRAITS`.
        wrong: why it cannot be used; empty if it can.
        content: 16 hexadecimal digits that identify the bytes of the file, if it can be used.
    """

    height: int
    width: int
    is_grey: bool
    traits: tuple[str, ...] = ()
    wrong: str = ""
    content: str = ""


def covering(height: int, width: int) -> Shrink:
    """Lets images be as small as they still cover a rectangle."""
    return lambda tall, wide: max(1, min(tall // height, wide // width))


def regular(path: Path) -> int:
    """The length in bytes of a regular file, which alone is safe to open: others may never end.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is something else, or empty; the message does not name the file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is not a regular file (but a folder, a pipe or a device)")
    if not status.st_size:
        raise ValueError("is empty")
    return status.st_size


def contents(path: Path, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes of a regular file, or a piece of it.

    Args:
        path: of the file.
        offset: where the piece begins.
        length: how long it is; None for the whole file.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is something else, empty, too long, or ends before the piece does; the
            message does not name the file.
    """
    whole = regular(path)
    wanted = whole if length is None else length
    if not wanted:
        raise ValueError("is empty")
    if wanted > MOST_BYTES:
        raise ValueError(f"is longer than the {MOST_BYTES:,} bytes that are allowed")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(wanted)
    if len(data) < wanted:
        raise ValueError(f"ends {wanted - len(data):,} bytes too early")
    return data


def content_of(data: bytes) -> str:
    """16 hexadecimal digits that identify bytes."""
    return _CONTENT(data).hexdigest()


def decode(data: bytes, shrink: Shrink | None = None) -> tuple[Image, Look]:
    """The upright image in a file, of mode L if it is grey and else RGB, and what it is.

    Args:
        data: the bytes of the file.
        shrink: how small the image may be; by default it has its own size.

    Raises:
        ValueError: if it cannot be decoded; the message says why, without the file's name.
    """
    with _opened(data) as image:
        return _eight_bits(image, _shrunk(image, shrink))


def pixels(data: bytes, channels: int, shrink: Shrink | None = None) -> Tensor:
    """The pixels of the image that `decode` gives, uint8 [C, height, width].

    Args:
        data: the bytes of the file.
        channels: 1 for a grey image, 3 for colours.
        shrink: how small the image may be; by default it has its own size.

    Raises:
        ValueError: as `decode` does.
    """
    with _opened(data) as opened:
        size = _shrunk(opened, shrink)
        decoder = _jpeg_decoder() if size is None and _is_plain_jpeg(opened, channels) else None
        if decoder is not None:
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            with contextlib.suppress(RuntimeError):  # then Pillow says what is wrong
                return decoder(encoded, channels, False)
        image, _ = _eight_bits(opened, size)
        array = np.array(_in_mode(image, "L" if channels == 1 else "RGB"))
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)


def look_at(data: bytes) -> Look:
    """What the bytes of a file are, which are decoded for it, as small as they can be.

    Raises:
        ValueError: as `decode` does.
    """
    _, look = decode(data, lambda height, width: max(_SCALES))
    return look._replace(content=content_of(data))


def as_eight_bits(image: Image) -> Image:
    """What `decode` makes of a file that holds an image of Pillow: upright, opaque, of 8 bits.

    Raises:
        ValueError: if its pixels have no known range.
    """
    return _eight_bits(image)[0]


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image]:
    """An image whose header was read; whatever is wrong with it is a ValueError."""
    # Imported here: only images in files need Pillow, which torchvision brings along.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"is none of {', '.join(FORMATS)}, whatever its name says") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"has more than the {MOST_PIXELS:,} pixels that are allowed (8,192 x 8,192); "
            "make it smaller"
        ) from error
    except Exception as error:  # decoders raise a dozen types on damage, struct.error among them
        raise ValueError(f"cannot be decoded: {error or type(error).__name__}") from error


def _shrunk(image: Image, shrink: Shrink | None) -> tuple[int, int] | None:
    """Has a JPEG decoded smaller, if that is allowed.

    Returns:
        The (width, height) in which it is stored; None for an image that is decoded at that size.
    """
    if shrink is None or image.format != "JPEG":
        return None
    width, height = image.size
    try:
        is_transposed = image.getexif().get(0x0112, 1) in _TRANSPOSING
    except Exception:  # as in `_eight_bits`
        is_transposed = False
    allowed = shrink(width, height) if is_transposed else shrink(height, width)
    scale = next((scale for scale in _SCALES if scale <= allowed), 1)
    if scale == 1:
        return None
    image.draft(None, (max(1, width // scale), max(1, height // scale)))
    return width, height


def _is_plain_jpeg(image: Image, channels: int) -> bool:
    """Whether torchvision decodes an image to the pixels that Pillow does."""
    if image.format != "JPEG" or (image.mode, channels) not in (("L", 1), ("L", 3), ("RGB", 3)):
        return False
    try:
        return image.getexif().get(0x0112, 1) not in _TURNED
    except Exception:  # as in `_eight_bits`
        return True


@functools.cache
def _jpeg_decoder() -> Callable[[Tensor, int, bool], Tensor] | None:
    """Torchvision's operation that decodes a JPEG, if it has one; its versions to come may not.

    It takes the bytes, uint8, the number of channels, and whether EXIF turns the image.
    """
    # Imported here: torchvision costs a second, and sets in memory do without it.
    from torchvision.io import image  # noqa: F401 - registers the operation

    try:
        operation: Callable[[Tensor, int, bool], Tensor] = torch.ops.image.decode_jpeg
    except AttributeError:
        return None
    return operation


def _in_mode(image: Image, mode: str) -> Image:
    """The image in a mode, which costs a copy only if it has another."""
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image, size: tuple[int, int] | None = None) -> tuple[Image, Look]:
    """An image with 8 bits a channel, upright and opaque, and what it was.

    Args:
        image: which was opened.
        size: the (width, height) in which it is stored, if it is decoded smaller.

    Raises:
        ValueError: if its pixels have no known range.
    """
    from PIL import Image

    image.load()

    traits = ["frames"] if image.format != "MPO" and getattr(image, "is_animated", False) else []
    # Before the pixels are converted, which forgets it; after loading, by which TIFFs are turned.
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # as above; the pixels are whole
        orientation = 1
        traits.append("exif")
    is_grey = image.mode in _GREY
    # Pillow before 10.3 calls the 16 bits of a PNG I.
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        if "transparency" in image.info:
            raise ValueError("it has 16 bits and a transparent colour; convert it to 8 bits")
        deep = np.asarray(image).astype(np.int64)
        traits += ["deep", "dim"] if deep.max() < 2**12 else ["deep"]
        image, is_grey = Image.fromarray(((deep + 128) // 257).astype(np.uint8)), True
    elif image.mode[0] in "IF":
        raise ValueError(
            f"its pixels, of mode {image.mode}, have no known range; convert to 8 bits"
        )
    elif image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        if np.asarray(colours)[:, :, 3].min() < 255:
            traits.append("transparent")
        white = Image.new("RGBA", colours.size, "white")
        image = Image.alpha_composite(white, colours)
    image = _in_mode(image, "L" if is_grey else "RGB")
    if orientation in _TURNED:
        image = image.transpose(Image.Transpose[_TURNED[orientation]])
    width, height = size or image.size
    if size and orientation in _TRANSPOSING:
        width, height = height, width
    return image, Look(height, width, is_grey, tuple(traits))
