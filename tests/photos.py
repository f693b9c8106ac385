"""Folders of small random images, a folder per class, which runs on files learn from."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Draw = Callable[[np.random.Generator, int, int], Image.Image]
"""Draws an image from a generator, the number of its class, and its number in the class."""


def columns(printed: str) -> list[list[str]]:
    """What `manyshot predict` and the script beside an ONNX file printed, by line and column."""
    lines = [line.split("\t") for line in printed.removesuffix("\n").split("\n")]
    return [[json.loads(t) if t.startswith('"') else t for t in line] for line in lines]


def folder_of(
    root: Path, names: Sequence[str], numbers: Mapping[str, Sequence[int]], draw: Draw, stem: str
) -> Path:
    """Writes `root/PART/CLASS/`, with so many images of each class in each part.

    Args:
        root: the folder, which is returned.
        names: of the classes.
        numbers: by part, for each class how many images.
        draw: draws one.
        stem: the name of a file without its ending, in which `{}` is its number.
    """
    rng = np.random.default_rng(0)
    for part, counts in numbers.items():
        for label, (name, count) in enumerate(zip(names, counts, strict=True)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                draw(rng, label, i).save(root / part / name / f"{stem.format(i)}.png")
    return root


SHADES = ("dunkel ö", 'hell\tund\n"grell"')
"""The classes of `shaded`, with all that the name of a folder may hold."""


def shaded(root: Path) -> Path:
    """Two classes, dark and light, of slightly different sizes, with names that are not ASCII."""

    def draw(rng: np.random.Generator, label: int, i: int) -> Image.Image:
        pixels = rng.integers(0, 128, (5, 6, 3)) + 100 * label
        return Image.fromarray(pixels.astype(np.uint8)).resize((18 + i % 5, 21 - i % 4))

    return folder_of(root, SHADES, {"train": (50, 50), "test": (6, 6)}, draw, "{} ü")


def write_shard(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Writes a tar file of members by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def members(root: Path, part: str) -> Iterator[tuple[str, bytes]]:
    """The images of a part of a folder as members of a shard, each with the number of its class."""
    for label, name in enumerate(sorted(path.name for path in (root / part).iterdir())):
        for path in sorted((root / part / name).iterdir()):
            yield f"{name}_{path.name}", path.read_bytes()
            yield f"{name}_{path.stem}.cls", f"{label}\n".encode()


COLOURS = ("blue", "green", "red")
"""The classes of `tinted`."""


def tinted(root: Path, side: int, tint: int, numbers: Mapping[str, Sequence[int]]) -> Path:
    """Three classes of square images whose pixels are noise, and by `tint` more in one channel.

    Args:
        root: the folder, which is returned.
        side: of the images, in pixels.
        tint: how far the classes are apart, of 255.
        numbers: by part, for each class how many images.
    """

    def draw(rng: np.random.Generator, label: int, i: int) -> Image.Image:
        pixels = rng.integers(0, 255 - tint, (side, side, 3))
        pixels[..., 2 - label] += tint
        return Image.fromarray(pixels.astype(np.uint8))

    return folder_of(root, COLOURS, numbers, draw, "{}")
