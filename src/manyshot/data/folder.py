"""Image files in one folder per class.

Not torchvision's `make_dataset`: its errors do not name the folder of an empty class, it takes
hidden files, such as the `._` ones of macOS, for images, it says nothing of the files that it
leaves out, and its import costs what `data/idx.py` says.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import numpy as np

from manyshot.data.decoding import SUFFIXES
from manyshot.data.files import Bad, Part, kind, readable, sets
from manyshot.data.images import ImageFolderSet
from manyshot.data.missing import not_found
from manyshot.data.parts import folders_of_parts, part_named


def image_folders(
    root: Path, size: tuple[int, int] | None, bad: Bad
) -> tuple[ImageFolderSet, ImageFolderSet]:
    """The (train, test) parts of `root/train/<class>/**` and `root/test/<class>/**`.

    The test part is `root/test`, or else `root/val` (as in ImageNet, whose test labels are secret;
    with both, `val` is unused), or else a fixed quarter of every class of `root/train`. They may
    have the other names of `manyshot.data.parts`, such as `Training` and `valid`. Hidden files and
    folders, whose names begin with a dot, are no part of it. All files are looked at before any is
    used; what is left out or converted is in the notes of the parts, and warned of.

    Args:
        root: the folder.
        size: (height, width) of the images in a batch. By default they are squares of the median
            shorter side in `root/train`, rounded, and of 224 pixels if that is less.
        bad: whether files that cannot be used are an error, or left out.

    Raises:
        DataNotFound: if there is no `root/train`.
        ValueError: if a class is empty, or missing in one part, if two folders are for one part, or
            if files cannot be used; the message lists them.
    """
    folders = folders_of_parts(root)
    if "train" not in folders:
        raise not_found(
            "folder",
            wanted="train/<class>/ with image files",
            places=[root],
            way_out=_way_out(root),
        )
    tests = [folders[part] for part in ("test", "val") if part in folders]
    left_out: Counter[str] = Counter()
    parts = [_list(root, part, left_out) for part in (folders["train"], *tests[:1])]
    if tests:
        _check_same_classes(root, *parts)
    return sets(root, parts, size, bad, left_out, tests)


def _way_out(root: Path) -> str:
    """What to do where there is no `root/train`."""
    names = _visible(str(root))[1] if root.is_dir() else []
    if deeper := [name for name in names if _holds_train(root / name)]:
        return f"give data.root = '{root / deeper[0]}', which holds such a folder"
    for folder in (root, *(root / name for name in names)) if names else ():
        if not _holds_folders_of_images(folder):
            continue
        if folder == root and part_named(root.resolve().name) == "train":
            return f"give data.root = '{root.resolve().parent}', which holds {root.resolve().name}/"
        itself = " itself" if folder == root else ""
        return f"{folder} holds folders of images{itself}: move them into {root / 'train'}"
    return "give data.root, the folder that holds train/ (--set data.root=DIR)"


def _inside(folder: Path) -> tuple[list[str], list[str]]:
    """The files and folders in a folder; none of one that may not be read."""
    with contextlib.suppress(OSError):
        return _visible(str(folder))
    return [], []


def _holds_train(folder: Path) -> bool:
    """Whether a folder holds one that is named as training images are."""
    return any(part_named(name) == "train" for name in _inside(folder)[1])


def _holds_folders_of_images(folder: Path) -> bool:
    """Whether a folder in `folder` holds an image, without looking deeper."""
    return any(
        file.lower().endswith(SUFFIXES)
        for name in _inside(folder)[1]
        for file in _inside(folder / name)[0]
    )


def _list(root: Path, part: str, left_out: Counter[str]) -> Part:
    """The files of `root/part/<class>/**`, sorted by name; counts the others in `left_out`."""
    files, names = _visible(f"{root}/{part}")
    left_out.update(f"{kind(file)} in no class folder" for file in files)
    if not names:
        raise ValueError(f"{root / part} holds no class folders; put images in {part}/<class>/")
    paths: list[str] = []
    counts = []
    for name in names:
        below = _below(str(root), f"{part}/{name}")
        images = [file for file in below if file.lower().endswith(SUFFIXES)]
        if len(images) < len(below):
            left_out.update(kind(f) for f in below if not f.lower().endswith(SUFFIXES))
        if not images:
            raise ValueError(
                f"{root / part / name} holds no image; allowed endings are {', '.join(SUFFIXES)}"
            )
        paths += images
        counts.append(len(images))
    labels = np.repeat(np.arange(len(names)), counts)
    return Part(part, tuple(map(readable, names)), paths, labels)


def _below(root: str, folder: str, above: tuple[str, ...] = ()) -> list[str]:
    """All visible files below a folder, relative to `root`; a link back up is not followed."""
    files, folders = _visible(f"{root}/{folder}")
    if not folders:
        return [f"{folder}/{name}" for name in files]
    real = os.path.realpath(f"{root}/{folder}")
    if real in above:
        return []
    is_folder = set(folders)
    listed = []
    for name in sorted(files + folders):
        if name in is_folder:
            listed += _below(root, f"{folder}/{name}", (*above, real))
        else:
            listed.append(f"{folder}/{name}")
    return listed


def _visible(folder: str) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder that are not hidden, sorted.

    What a file is, is asked of links alone: of others the folder says it.
    """
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a link that leads nowhere is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _check_same_classes(root: Path, train: Part, test: Part) -> None:
    """Refuses a class that only one of the parts has."""
    in_train, in_test = set(train.class_names), set(test.class_names)
    for name in sorted(in_train ^ in_test):
        names = (train.name, test.name)
        there, missing = names if name in in_train else reversed(names)
        raise ValueError(
            f"class {name!r} is in {root / there} but not in {root / missing}; "
            f"both need the same class folders"
        )
