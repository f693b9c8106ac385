"""One image file: what it is, and its pixels with 8 bits a channel.

Only a closed list of formats is decoded, only from regular files, and only up to a number of
pixels, since a file can ask for more: Pillow starts Ghostscript for an EPS whatever its name is,
and a few bytes can stand for gigabytes of pixels.
"""

from __future__ import annotations

import functools
import hashlib
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""The endings of image files, in any case."""

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""The formats that are decoded, by Pillow's names."""

MOST_PIXELS = 8192 * 8192
"""An image of more is refused."""

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


def decode(path: Path) -> tuple[Image, Look]:
    """The upright image in a file, of mode L if it is grey and else RGB, and what it is.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it cannot be decoded; the message says why, without the file's name.
    """
    regular(path)
    with path.open("rb") as file:
        return _decoded(file)


def decode_digested(path: Path) -> tuple[Image, Look]:
    """What `decode` gives, with the digest of the bytes that the image was decoded from.

    It raises what `decode` does.
    """
    regular(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, _CONTENT).hexdigest()
        file.seek(0)
        image, look = _decoded(file)
        return image, look._replace(content=digest)


def look_at(path: Path) -> Look:
    """What `decode_digested` says that a file is; it raises the same."""
    return decode_digested(path)[1]


def as_eight_bits(image: Image) -> Image:
    """What `decode` makes of a file that holds an image of Pillow: upright, opaque, of 8 bits.

    Raises:
        ValueError: if its pixels have no known range.
    """
    image.load()
    return _eight_bits(image)[0]


def _decoded(file: IO[bytes]) -> tuple[Image, Look]:
    # Imported here: only images in files need Pillow, which torchvision brings along.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return _eight_bits(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"is none of {', '.join(FORMATS)}, whatever its name says") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"has more than the {MOST_PIXELS:,} pixels that are allowed (8,192 x 8,192); "
            "make it smaller"
        ) from error
    except Exception as error:  # decoders raise a dozen types on damage, struct.error among them
        raise ValueError(f"cannot be decoded: {error or type(error).__name__}") from error


def _eight_bits(image: Image) -> tuple[Image, Look]:
    """A loaded image with 8 bits a channel, upright and opaque, and what it was."""
    from PIL import Image

    traits = ["frames"] if image.format != "MPO" and getattr(image, "is_animated", False) else []
    # Before the pixels are converted, which forgets it; after loading, by which TIFFs are turned.
    try:
        turned = _TURNED.get(image.getexif().get(0x0112, 1))
    except Exception:  # as above; the pixels are whole
        turned = None
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
    image = image.convert("L" if is_grey else "RGB")
    if turned is not None:
        image = image.transpose(Image.Transpose[turned])
    return image, Look(image.height, image.width, is_grey, tuple(traits))
