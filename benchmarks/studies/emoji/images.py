"""Colour images of emoji by four vendors, in nine categories, as folders of classes.

The images are those of npm's `emoji-datasource-{apple,facebook,google,twitter}` at 64 pixels; `npm`
fetches them (340 MB), and nothing of them is kept beside this file. Three vendors are for training,
and the fourth, whose drawings no network has seen, is the test part.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

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
