"""Where the data sets come from: the table `DATASETS` of functions that return (train, test)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from manyshot.data.balance import hold_out
from manyshot.data.files import Bad
from manyshot.data.folder import image_folders
from manyshot.data.idx import read_idx_pair
from manyshot.data.images import ImageFolderSet, ImageSet, LabelledImages
from manyshot.data.missing import not_found
from manyshot.data.shard_parts import image_shards
from manyshot.seeding import numpy_rng

TrainAndTest = tuple[LabelledImages, LabelledImages]
"""The train and the test part, before anything is split off."""

Files = tuple[ImageFolderSet, ImageFolderSet]
"""Likewise, of image files."""

Size = tuple[int, int]
"""(height, width) of images, in pixels."""

Source = Callable[[Path | None, Size | None, bool], TrainAndTest]
"""A function of root, image_size and download that loads a data set."""

DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's packages put the files: `dataset-fashion-mnist`."""

CLASS_NAMES = {
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
"""The names of classes that IDX files do not hold, in the order of their labels."""

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def default_places(name: str) -> list[Path]:
    """The folders searched for data set `name` when no root is given, best first."""
    chosen = os.environ.get("MANYSHOT_DATA")
    places = [Path(chosen) / name] if chosen else []
    places.append(Path.home() / ".cache" / "manyshot" / name)
    if name in DEBIAN:
        places.append(DEBIAN[name])
    return places


def digits(root: Path | None, image_size: Size | None, download: bool) -> TrainAndTest:
    """The 1,797 handwritten digits of scikit-learn, 1x8x8; a class-balanced quarter is the test.

    The set has no official test part: ours is the same 449 images whatever the seed of the run.
    The values 0..16 become 0..255.

    Args:
        root: must be None, since the images come with scikit-learn.
        image_size: (height, width) to resize to; None keeps the images.
        download: has no effect, since there is nothing to fetch.

    Raises:
        ValueError: if `root` is given.
    """
    # Imported here: scikit-learn costs more than a second and only this data set needs it.
    from sklearn.datasets import load_digits

    if root is not None:
        raise ValueError(
            f"digits comes with scikit-learn and takes no data.root, got {str(root)!r}: leave it "
            "out"
        )
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    whole = ImageSet(
        images=torch.from_numpy(pixels).unsqueeze(1),
        labels=torch.from_numpy(bunch.target.astype(np.int64)),
        classes=10,
    )
    train, test = hold_out(whole.labels, len(whole) // 4, numpy_rng("digits", "test"))
    return resized(whole.subset(train), image_size), resized(whole.subset(test), image_size)


def idx_files(
    name: str, folder: str, root: Path | None, image_size: Size | None, download: bool
) -> TrainAndTest:
    """MNIST or Fashion-MNIST, 1x28x28, from IDX files (gzipped or not).

    Args:
        name: a key of `DATASETS`.
        folder: torchvision's class name, which is also the name of its folder below a root.
        root: a folder with the four files, or torchvision's root (`root/<folder>/raw`).
        image_size: (height, width) to resize to; None keeps the images.
        download: whether torchvision may fetch the files when no place has them.

    Raises:
        DataNotFound: if no place has the files.
        ValueError: if a file is damaged.
    """
    places = [root] if root is not None else default_places(name)
    candidates = [path for place in places for path in (place, place / folder / "raw")]
    files = next(filter(None, map(_idx_in, candidates)), None)
    if files is None and download:
        # Imported here: torchvision costs a second and is only needed to download.
        from torchvision import datasets

        getattr(datasets, folder)(str(places[0]), train=True, download=True)
        files = _idx_in(places[0] / folder / "raw")
    if files is None:
        package = f", or apt-get install dataset-{name.replace('_', '-')}" if name in DEBIAN else ""
        raise not_found(
            name,
            wanted=f"the four IDX files {', '.join(_IDX_FILES)} (each also as .gz)",
            places=candidates,
            way_out=f"give data.root, a folder that holds them (--set data.root=DIR), set "
            f"MANYSHOT_DATA to the folder above {name!r}, or have them fetched "
            f"(--set data.download=true){package}",
        )
    parts = (read_idx_pair(files[i], files[i + 1], classes=10) for i in (0, 2))
    train, test = (replace(part, class_names=CLASS_NAMES.get(name)) for part in parts)
    return resized(train, image_size), resized(test, image_size)


def cifar(
    name: str, folder: str, root: Path | None, image_size: Size | None, download: bool
) -> TrainAndTest:
    """CIFAR-10 or CIFAR-100, 3x32x32, read and checked by torchvision.

    Args:
        name: a key of `DATASETS`.
        folder: the folder of the extracted archive below a root.
        root: torchvision's root, the folder that holds `folder`.
        image_size: (height, width) to resize to; None keeps the images.
        download: whether torchvision may fetch the archive.

    Raises:
        DataNotFound: if no place has the files.
    """
    # Imported here: torchvision costs a second and the sets in other formats do without it.
    from torchvision import datasets

    places = [root] if root is not None else default_places(name)
    place = next((p for p in places if (p / folder).is_dir()), places[0])
    loader = getattr(datasets, name.upper())
    classes = {"cifar10": 10, "cifar100": 100}[name]
    try:
        parts = [loader(str(place), train=train, download=download) for train in (True, False)]
    except RuntimeError as error:  # torchvision says the same for missing and damaged files
        raise not_found(
            name,
            wanted=f"an intact {folder}/",
            places=places,
            way_out=f"give data.root, the folder that holds {folder}/ (--set data.root=DIR), set "
            f"MANYSHOT_DATA to the folder above {name!r}, or have it fetched "
            "(--set data.download=true)",
        ) from error
    train, test = (
        ImageSet(
            images=torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            labels=torch.tensor(part.targets, dtype=torch.int64),
            classes=classes,
            class_names=tuple(part.classes),
        )
        for part in parts
    )
    return resized(train, image_size), resized(test, image_size)


def own_files(
    name: str, root: Path | None, image_size: Size | None, download: bool, bad: Bad = "refuse"
) -> Files:
    """The image files of a user, in one folder per class or in shards.

    See `image_folders` and `image_shards`.

    Args:
        name: a key of `FILES`.
        root: the folder, which must be given.
        image_size: (height, width) of the images in a batch; by default the files decide.
        download: must be false, since these are the user's own files.
        bad: whether files that cannot be used are an error, or left out.

    Raises:
        DataNotFound: if the files are not there.
        ValueError: if `root` is not given, `download` is true, a class is empty or missing, or
            files cannot be used.
    """
    made, holds = FILES[name]
    if root is None:
        raise ValueError(
            f"the data set {name!r} needs data.root, the folder that holds {holds} "
            "(--set data.root=DIR)"
        )
    if download:
        raise ValueError(
            f"the data set {name!r} is your own files and cannot be downloaded: leave "
            "data.download out"
        )
    return made(root, image_size, bad)


FILES: Mapping[str, tuple[Callable[[Path, Size | None, Bad], Files], str]] = {
    "folder": (image_folders, "train/<class>/ and test/<class>/"),
    "shards": (image_shards, "train/*.tar and test/*.tar"),
}
"""The data sets that are a user's own files: what makes them, and what the folder holds."""


DATASETS: Mapping[str, Source] = {
    "cifar10": partial(cifar, "cifar10", "cifar-10-batches-py"),
    "cifar100": partial(cifar, "cifar100", "cifar-100-python"),
    "digits": digits,
    "fashion_mnist": partial(idx_files, "fashion_mnist", "FashionMNIST"),
    "folder": partial(own_files, "folder"),
    "mnist": partial(idx_files, "mnist", "MNIST"),
    "shards": partial(own_files, "shards"),
}
"""Every data set by name."""

CHANNELS = {"cifar10": 3, "cifar100": 3, "digits": 1, "fashion_mnist": 1, "mnist": 1}
"""The channels of images by data set; those of files are as these are."""


def resized(images: ImageSet, size: Size | None) -> ImageSet:
    """The images scaled to (height, width), bilinear and antialiased; as they are for None."""
    if size is None or images.image_shape[1:] == size:
        return images
    # Imported here: torchvision costs a second and is only needed to resize.
    from torchvision.transforms.v2 import functional

    chunks = torch.split(images.images, 4096)  # bounds the memory of the intermediate floats
    scaled = [functional.resize(chunk, list(size), antialias=True) for chunk in chunks]
    return replace(images, images=torch.cat(scaled))


def _idx_in(place: Path) -> list[Path] | None:
    """The four IDX files of a folder in the order of `_IDX_FILES`, or None if one is missing."""
    paths = []
    for name in _IDX_FILES:
        both = (place / name, place / f"{name}.gz")
        path = next((p for p in both if p.exists() and not p.is_dir()), None)
        if path is None:
            return None
        paths.append(path)
    return paths
