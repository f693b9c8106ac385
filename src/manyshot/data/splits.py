"""Loading a data set by name, split into train, validation and test."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from manyshot.data.augment import fit
from manyshot.data.balance import balanced, hold_out
from manyshot.data.decoded import in_memory
from manyshot.data.decoding import covering
from manyshot.data.description import DataDescription
from manyshot.data.files import Bad
from manyshot.data.images import ImageFolderSet, LabelledImages, pixels_of
from manyshot.data.own import PARTS, OwnSet, parts_of
from manyshot.data.sources import DATASETS, FILES, own_files
from manyshot.plugins import nearest
from manyshot.seeding import numpy_rng
from manyshot.shown import Shown

Set = TypeVar("Set", LabelledImages, OwnSet)
Pair: TypeAlias = tuple[Set, Set]

MEMORY = 2 * 10**9
"""Image files whose decoded pixels are so many bytes at most are kept in memory, by default."""

_MOMENT_FILES = 4096
"""Mean and std of a set of more files than this are estimated from so many of them."""

_SETTING = {"validation": "data.validation", "held_out": "sampler.held_out"}
"""What a recipe calls the size of a part; messages do, whoever loads the images."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Splits(DataDescription, Shown):
    """A data set in disjoint parts, with what is known of all of them (see `DataDescription`).

    Attributes:
        name: a key of `DATASETS`, or what data of your own are called.
        train: what weights learn from.
        validation: split off the official train part; it may be empty.
        held_out: split off train for samplers that learn from losses; empty unless asked for.
        test: what is to be touched once, at the end.
        fingerprint: 16 hexadecimal digits that identify the contents of all parts.
        training_fingerprint: likewise of all parts but test: what training and scores depend on.
        digests: likewise of each part, by its name; `held_out` only if it is not empty.
        notes: what is worth knowing of image files: how many are used and left out, and why; or of
            the digests of your own data.
    """

    name: str
    train: LabelledImages | OwnSet
    validation: LabelledImages | OwnSet
    held_out: LabelledImages | OwnSet
    test: LabelledImages | OwnSet
    fingerprint: str
    training_fingerprint: str
    digests: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """How many images of each class the parts hold, by the name of the part, if known."""
        labels = {part: getattr(self, part).labels for part in (*PARTS[:2], "held_out", PARTS[2])}
        return {
            part: tuple(torch.bincount(own, minlength=self.classes).tolist())
            for part, own in labels.items()
            if own is not None
        }

    def plain(self) -> dict[str, Any]:
        """What the parts hold, as plain values; parts that are empty are left out."""
        parts = (*PARTS[:2], "held_out", PARTS[2])
        sizes = {part: len(getattr(self, part)) for part in parts}
        return {
            "name": self.name,
            "shape": list(self.image_shape),
            "images": {part: size for part, size in sizes.items() if size},
            "classes": list(self.class_names or map(str, range(self.classes))),
            "counts": {part: list(counts) for part, counts in self.class_counts.items()},
            "notes": list(self.notes),
        }


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    validation: int | float = 0.1,
    held_out: int | float = 0,
    seed: int = 0,
    train_size: int | None = None,
    image_size: int | Sequence[int] | None = None,
    download: bool = False,
    bad: Bad = "refuse",
    memory: int = MEMORY,
    workers: int = 0,
) -> Splits:
    """Loads a data set and splits it; of the other arguments the test part depends on size alone.

    What is split off train is class-balanced as far as the counts allow for the public sets, whose
    classes are of nearly one size. Of `folder` and `shards` every class gives the same share
    instead, so that a rare class does not lose more of its images than was asked for.

    Args:
        name: a key of `DATASETS`.
        root: where the files are. If None, `$MANYSHOT_DATA/<name>`, `~/.cache/manyshot/<name>` and
            for fashion_mnist `/usr/share/datasets/fashion-mnist` are searched.
        validation: how many images to split off train: a count (int) or a fraction of the official
            train part (float, in [0, 1)).
        held_out: how many images to split off what is left, likewise, for a sampler that learns
            from losses.
        seed: decides the validation part, the held-out part and the subset of train.
        train_size: keep so many class-balanced images of what the other parts left, so that these
            are the same for every `train_size`; all of them if None.
        image_size: the side in pixels of square images, or (height, width). None keeps the images;
            those of files become squares of the median shorter side, of 224 pixels at most.
        download: whether missing files may be fetched from the internet.
        bad: of files, whether image files that cannot be used are an error that lists them
            ("refuse"), or are left out with a warning ("skip").
        memory: of files, how many bytes the pixels of all images may be, at the size of a batch,
            to be decoded once and kept in memory, and on disk for the next start (see
            `manyshot.data.decoded`). Twice as much is needed while parts are split off. Else files
            are decoded in every epoch.
        workers: threads that decode then; 0 is one per core, and 8 at most.

    Raises:
        DataNotFound: if the files are not there.
        ValueError: for an unknown name, damaged files or impossible numbers.
    """
    if name not in DATASETS:
        names = ", ".join(sorted(DATASETS))
        raise ValueError(f"unknown data set {name!r}; {nearest(name, DATASETS)}have {names}")
    if bad not in ("refuse", "skip"):
        raise ValueError(f"data.bad must be 'refuse' or 'skip', got {bad!r}")
    path, size, stratified = None if root is None else Path(root), _size(image_size), False
    whole: LabelledImages
    test: LabelledImages
    if name in FILES:
        whole, test = in_memory(own_files(name, path, size, download, bad), memory, workers)
        stratified = True
    else:
        whole, test = DATASETS[name](path, size, download)
    rest, for_validation = _split(whole, "validation", validation, seed, stratified)
    rest, for_samplers = _split(rest, "held_out", held_out, seed, stratified)
    train = _shrunk(rest, train_size, seed)
    return _assembled(name, train, for_validation, for_samplers, test)


def own_data(
    parts: Any,
    *,
    name: str = "own",
    validation: int | float = 0.1,
    held_out: int | float = 0,
    seed: int = 0,
    train_size: int | None = None,
) -> Splits:
    """Data of your own, split.

    Samples are pairs of inputs and targets, each a tensor or a tree of tensors. They come as the
    data set gives them: nothing is normalised or augmented. What it draws from the global random
    numbers of torch, NumPy and Python is a function of seed, epoch and sample.

    Args:
        parts: `(train, test)`, `(train, validation, test)` or a dict with these names, of map-style
            data sets, lists of samples or `DataLoader`s, of which the data set and the
            `collate_fn` are used.
        name: what the data are called in records.
        validation: how many samples to split off train if there is no validation part: a count
            (int) or a fraction (float, in [0, 1)). If targets are class indices, every class gives
            the same share.
        held_out: how many to split off what is left, likewise, for a sampler that learns from
            losses.
        seed: decides these parts and the subset of train.
        train_size: keep so many of what the other parts left, class-balanced if targets are class
            indices; all of them if None.

    Raises:
        ValueError: for parts that are none, or impossible numbers.
    """
    sets = {part: OwnSet.of(data, f"data.{part}") for part, data in parts_of(parts).items()}
    empty = next((part for part, own in sets.items() if not len(own)), None)
    if empty is not None:
        raise ValueError(f"data.{empty} has no samples; each part that is given must have some")
    train = sets["train"]
    if "validation" in sets:
        own_validation = sets["validation"]
    else:
        train, own_validation = _split(train, "validation", validation, seed, stratified=True)
    train, for_samplers = _split(train, "held_out", held_out, seed, stratified=True)
    train = _shrunk(train, train_size, seed)
    every = {"train": train, "validation": own_validation, "held_out": for_samplers}
    every["test"] = sets["test"]
    ends = [part for part, own in every.items() if len(own) and not own.is_in_memory]
    note = (
        f"the digests of {', '.join(ends)} are of their length and their first and last samples: "
        "others may change unseen"
    )
    return Splits(
        name=name,
        train=train,
        validation=own_validation,
        held_out=for_samplers,
        test=sets["test"],
        classes=max(own.classes for own in every.values()) if _all_labelled(every) else 0,
        mean=(),
        std=(),
        image_shape=(),
        **_identified(every),
        notes=(note,) if ends else (),
        example=train.batch(range(min(2, len(train))))[0],
    )


def _all_labelled(parts: Mapping[str, OwnSet]) -> bool:
    return all(own.labels is not None for own in parts.values() if len(own))


def _size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """The (height, width) asked for."""
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(
            "data.image_size must be at least 1 pixel, or a pair of such (height, width), "
            f"got {image_size}"
        )
    return sides


def _split(samples: Set, part: str, asked: int | float, seed: int, stratified: bool) -> Pair[Set]:
    """What is left, and a part by a count or a fraction, drawn as `hold_out` says."""
    count, rng = _count(part, asked, len(samples)), numpy_rng(seed, part)
    try:
        if isinstance(samples, OwnSet):
            return samples.split(count, rng)
        kept, held = hold_out(samples.labels, count, rng, stratified=stratified)
    except ValueError as error:
        raise ValueError(f"{_SETTING[part]} = {asked}: {error}") from error
    return samples.subset(kept), samples.subset(held)


def moments(images: LabelledImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation per channel, of pixels divided by 255.

    They are exact but for files, of which they are taken after resizing, and over a fixed
    class-balanced sample of 4,096 if there are more, whether their pixels are in memory or not.
    """
    counts = _histogram(images)
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(1).double()
    mean = (counts * values).sum(1) / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / total
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def _histogram(images: LabelledImages) -> Tensor:
    """How often each value 0..255 occurs, int64 [C, 256]."""
    channels = images.image_shape[0]
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    if isinstance(images, ImageFolderSet):
        count = min(len(images), _MOMENT_FILES)
        images = images.subset(balanced(images.labels, count, numpy_rng("files", "moments")))
    for pixels_NCHW in _at_their_size(images):
        for channel in range(channels):
            counts[channel] += torch.bincount(pixels_NCHW[:, channel].flatten(), minlength=256)
    return counts


def _at_their_size(images: LabelledImages) -> Iterator[Tensor]:
    """The pixels of all images of a set, one by one unless they are in memory."""
    pixels = pixels_of(images)
    if pixels is not None:
        yield pixels
        return
    _, height, width = images.image_shape
    for index in range(len(images)):
        if isinstance(images, ImageFolderSet):
            image = images.read(index, covering(height, width))
        else:
            image = images.read(index)
        yield fit(image, height, width)[None]


def _shrunk(train: Set, size: int | None, seed: int) -> Set:
    """`size` class-balanced images of the train part, in its order; all of it if None."""
    if size is None:
        return train
    if not 1 <= size <= len(train):
        raise ValueError(
            f"data.train_size must be in 1..{len(train)} (what the other parts leave of train), "
            f"got {size}"
        )
    rng = numpy_rng(seed, "train_size")
    if isinstance(train, OwnSet):
        return train.subset(train.drawn(size, rng).sort().values)
    return train.subset(balanced(train.labels, size, rng).sort().values)


def _assembled(
    name: str,
    train: LabelledImages,
    validation: LabelledImages,
    held_out: LabelledImages,
    test: LabelledImages,
) -> Splits:
    """The splits, with what follows from their parts."""
    mean, std = moments(train)
    parts = {"train": train, "validation": validation, "held_out": held_out, "test": test}
    files = train if isinstance(train, ImageFolderSet) else None
    return Splits(
        name=name,
        train=train,
        validation=validation,
        held_out=held_out,
        test=test,
        classes=train.classes,
        mean=mean,
        std=std,
        image_shape=train.image_shape,
        **_identified(parts),
        class_names=getattr(train, "class_names", None),
        keeps_aspect=files is not None,
        notes=() if files is None else files.notes,
    )


def _identified(parts: Mapping[str, LabelledImages | OwnSet]) -> dict[str, Any]:
    """What identifies the contents of parts, as `Splits` has it."""
    digests = {
        name: part.digest() for name, part in parts.items() if name != "held_out" or len(part)
    }
    return {
        "fingerprint": _together(digests.values()),
        "training_fingerprint": _together(d for part, d in digests.items() if part != "test"),
        "digests": MappingProxyType({part: digest[:16] for part, digest in digests.items()}),
    }


def _together(digests: Iterable[str]) -> str:
    """16 hexadecimal digits that identify several parts by their digests."""
    return hashlib.sha256("/".join(digests).encode()).hexdigest()[:16]


def _count(part: str, asked: int | float, available: int) -> int:
    """The number of images asked for by a count or a fraction."""
    if isinstance(asked, bool) or not isinstance(asked, int | float):
        raise ValueError(f"{_SETTING[part]} must be a count or a fraction, got {asked!r}")
    if isinstance(asked, int):
        return asked
    if not 0 <= asked < 1:
        raise ValueError(
            f"{_SETTING[part]} as a fraction must be in [0, 1), got {asked}; a count is an int"
        )
    return round(asked * available)
