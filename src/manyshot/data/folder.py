"""Image files in one folder per class.

Not torchvision's `make_dataset`: its errors do not name the folder of an empty class, it takes
hidden files, such as the `._` ones of macOS, for images, and its import costs what `data/idx.py`
says.
"""

from __future__ import annotations

from pathlib import Path

import torch

from manyshot.data.balance import hold_out
from manyshot.data.images import ImageFolderSet
from manyshot.data.missing import not_found
from manyshot.seeding import numpy_rng

DEFAULT_SIZE = 224
"""The side in pixels of the images in a batch when none is given."""

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
"""The endings of image files, in any case; other files are ignored."""


def image_folders(root: Path, size: int) -> tuple[ImageFolderSet, ImageFolderSet]:
    """The (train, test) parts of `root/train/<class>/*` and `root/test/<class>/*`.

    The test part is `root/test`, or else `root/val` (as in ImageNet, whose test labels are secret;
    with both, `val` is unused), or else a fixed class-balanced quarter of `root/train`.

    Args:
        root: the folder.
        size: the side in pixels of the square images in a batch.

    Raises:
        DataNotFound: if there is no `root/train`.
        ValueError: if a class is empty, or missing in one part.
    """
    if not (root / "train").is_dir():
        raise not_found(
            "folder",
            wanted="train/<class>/ with image files",
            places=[root],
            way_out="give root= (the folder that holds train/)",
        )
    train = _part(root, "train", size)
    held_out = next((name for name in ("test", "val") if (root / name).is_dir()), None)
    if held_out is None:
        quarter = len(train) // 4
        kept, held = hold_out(train.labels, quarter, numpy_rng("folder", "test"))
        return train.subset(kept), train.subset(held)
    test = _part(root, held_out, size)
    for name in sorted(set(train.class_names) ^ set(test.class_names)):
        there, missing = ("train", held_out) if name in train.class_names else (held_out, "train")
        raise ValueError(
            f"class {name!r} is in {root / there} but not in {root / missing}; "
            f"both need the same class folders"
        )
    return train, test


def _part(root: Path, part: str, size: int) -> ImageFolderSet:
    """The set of `root/part/<class>/*`, classes and files sorted by name."""
    names = sorted(entry.name for entry in (root / part).iterdir() if entry.is_dir())
    if not names:
        raise ValueError(f"{root / part} holds no class folders; put images in {part}/<class>/")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(
            entry.name
            for entry in (root / part / name).iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
        )
        if not files:
            raise ValueError(
                f"{root / part / name} holds no image; allowed endings are {', '.join(SUFFIXES)}"
            )
        paths += [f"{part}/{name}/{file}" for file in files]
        labels += [label] * len(files)
    return ImageFolderSet(
        root=root,
        paths=tuple(paths),
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=tuple(names),
        size=size,
    )
