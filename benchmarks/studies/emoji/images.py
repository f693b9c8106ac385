"""Colour images as folders of classes: emoji by four vendors in nine categories, drawn shapes.

The emoji are those of npm's `emoji-datasource-{apple,facebook,google,twitter}` at 64 pixels; `npm`
fetches them (340 MB), and nothing of them is kept beside this file. Three vendors are for training,
and the fourth, whose drawings no network has seen, is the test part.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from manyshot.seeding import numpy_rng

VERSION = "16.0.0"
TRAINED = ("facebook", "google", "twitter")
TESTED = "apple"
CATEGORIES = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body"),
    *("Smileys & Emotion", "Symbols", "Travel & Places"),
)
"""All but one of five images, which are parts of others."""


def make(folder: Path, archives: Path | None = None) -> Path:
    """Writes `folder/{train,test}/CATEGORY/NAME-VENDOR.png`, unless it is there; returns it.

    Args:
        folder: where the images go.
        archives: where the packages are, or are put; by default they are fetched and thrown away.
    """
    if (folder / "test").is_dir():
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if archives is None else archives
        begun = Path(f"{folder}.part")
        for vendor in (*TRAINED, TESTED):
            _unpacked(place, vendor, begun / ("test" if vendor == TESTED else "train"))
        os.rename(begun, folder)
    return folder


def _unpacked(place: Path, vendor: str, part: Path) -> None:
    name = f"emoji-datasource-{vendor}"
    archive = place / f"{name}-{VERSION}.tgz"
    if not archive.exists():
        command = ["npm", "pack", f"{name}@{VERSION}", "--silent"]
        subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(archive) as package:
        members = {member.name: member for member in package.getmembers()}
        table = package.extractfile(members["package/emoji.json"])
        assert table is not None
        for emoji in json.load(table):
            image = f"package/img/{vendor}/64/{emoji['image']}"
            if emoji["category"] not in CATEGORIES or image not in members:
                continue
            data = package.extractfile(members[image])
            assert data is not None
            of_class = part / emoji["category"].replace(" & ", " and ")
            of_class.mkdir(parents=True, exist_ok=True)
            path = of_class / f"{Path(emoji['image']).stem}-{vendor}.png"
            path.write_bytes(data.read())


SHAPES = ("circle", "square", "triangle")
_SHAPE_SIDE = 32
_EACH = {"train": 500, "test": 200}
"""Images of a class."""


def draw(folder: Path, archives: Path | None = None) -> Path:
    """Writes `folder/{train,test}/SHAPE/N.png`, unless they are there; returns the folder.

    Shapes have any colour, size and place, on a ground of another colour, with noise; squares and
    triangles have any direction. The images are the same wherever they are drawn.

    Args:
        folder: where the images go.
        archives: nothing is fetched.
    """
    if (folder / "test").is_dir():
        return folder
    begun = Path(f"{folder}.part")
    for seed, part in enumerate(("train", "test")):
        rng = numpy_rng(seed, "test")
        for name in SHAPES:
            (begun / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(_EACH[part]):
                _shape(name, rng).save(begun / part / name / f"{number}.png")
    os.rename(begun, folder)
    return folder


def _shape(name: str, rng: np.random.Generator) -> Image.Image:
    corners = {"circle": 64, "square": 4, "triangle": 3}[name]
    x, y = rng.uniform(10, _SHAPE_SIDE - 10, 2)
    radius, turned = rng.uniform(6, 10), rng.uniform(0, 2 * math.pi)
    angles = turned + 2 * math.pi * np.arange(corners) / corners
    points = list(zip(x + radius * np.cos(angles), y + radius * np.sin(angles), strict=True))
    ground = rng.integers(0, 256, 3)
    colour = (ground + rng.integers(64, 193, 3)) % 256  # unlike in each of red, green and blue
    image = Image.new("RGB", (_SHAPE_SIDE, _SHAPE_SIDE), tuple(ground.tolist()))
    ImageDraw.Draw(image).polygon(points, fill=tuple(colour.tolist()))
    noise = rng.normal(0, 10, (_SHAPE_SIDE, _SHAPE_SIDE, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


MAKERS: dict[str, Callable[[Path, Path | None], Path]] = {"shapes": draw, "emoji": make}
"""What makes the images of a name in a folder."""
