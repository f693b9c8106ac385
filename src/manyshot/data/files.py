"""Image files of the parts of a set, looked at, as the sets that runs learn from."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from manyshot.data.balance import hold_out
from manyshot.data.decoding import TRAITS
from manyshot.data.images import ImageFolderSet
from manyshot.data.looking import Looks, look
from manyshot.data.shards import Pieces
from manyshot.seeding import numpy_rng

LARGEST_DEFAULT = 224
"""The side in pixels that images are resized to, if none is given and they are larger."""

_STEP = 4
"""A side that is not given is a multiple of so many pixels, and at least twice that."""

_SHOWN = 10
"""Bad files that a message lists."""

Bad = Literal["refuse", "skip"]
"""What is done about image files that cannot be used: an error, or they are left out."""


class Part(NamedTuple):
    """The image files of a part and their classes.

    Attributes:
        name: of the part.
        class_names: the names of the classes.
        paths: the files, relative to the root; in shards a shard and a name in it.
        labels: the number of the class of each, int64.
        pieces: where files are in shards; None if they are files of their own.
    """

    name: str
    class_names: tuple[str, ...]
    paths: Sequence[str]
    labels: npt.NDArray[np.int64]
    pieces: Pieces | None = None


def sets(
    root: Path,
    parts: Sequence[Part],
    size: tuple[int, int] | None,
    bad: Bad,
    left_out: Counter[str],
    tests: Sequence[str],
) -> tuple[ImageFolderSet, ImageFolderSet]:
    """The (train, test) parts of image files, all of which are looked at.

    Without a test part it is a fixed quarter of every class of train.

    Args:
        root: the folder.
        parts: train, and test if there is one.
        size: (height, width) of the images in a batch. By default they are squares of the median
            shorter side in train, rounded, and of 224 pixels if that is less.
        bad: whether files that cannot be used are an error, or left out.
        left_out: what else there is, by kind.
        tests: the parts that may be the test, of which the first is.

    Raises:
        ValueError: if files cannot be used; the message lists them.
    """
    paths = [path for part in parts for path in part.paths]
    pieces = parts[0].pieces
    for part in parts[1:]:
        pieces = pieces and part.pieces and pieces.joined(part.pieces)
    looks = look(root, paths, pieces)
    wrong = {paths[place]: what for place, what in sorted(looks.wrong.items())}
    if wrong and bad == "refuse":
        raise ValueError(
            f"{len(wrong)} of {len(paths)} image files in {root} cannot be used:"
            f"{_listed(wrong)}\nrepair or delete them, or leave them out by data.bad = 'skip' "
            "(--set data.bad=skip)"
        )
    is_good = np.ones(len(paths), bool)
    is_good[list(looks.wrong)] = False
    of_parts = np.split(np.arange(len(paths)), np.cumsum([len(part.paths) for part in parts])[:-1])
    for part, places in zip(parts, of_parts, strict=True):
        _check_left(root, part, is_good[places], wrong)
    concerns = _concerns(looks, is_good, left_out, wrong, tests)
    if len(concerns) > 1 or left_out or wrong:
        # At the line that called `manyshot.data.load`.
        warnings.warn(f"images in {root}: {'; '.join(concerns)}", stacklevel=5)
    is_grey = bool(looks.records["is_grey"][is_good].all())
    height, width = size or _median_size(looks, of_parts[0][is_good[of_parts[0]]])
    notes = (
        *concerns,
        f"images are {'grey' if is_grey else 'of three colours'}, resized to cover {height}x{width}"
        f" pixels and cut in the centre{'' if size else ' (data.image_size is not given)'}",
    )
    contents = looks.contents
    train, *rest = (
        ImageFolderSet(
            root=root,
            paths=tuple(part.paths),
            contents=contents[places[0] : places[-1] + 1],
            labels=torch.from_numpy(part.labels),
            class_names=part.class_names,
            image_shape=(1 if is_grey else 3, height, width),
            notes=notes,
            pieces=part.pieces,
        ).subset(torch.from_numpy(np.flatnonzero(is_good[places])))
        for part, places in zip(parts, of_parts, strict=True)
    )
    if rest:
        return train, rest[0]
    rng = numpy_rng("folder", "test")
    kept, held = hold_out(train.labels, len(train) // 4, rng, stratified=True)
    return train.subset(kept), train.subset(held)


def readable(name: str) -> str:
    """The name of a file or folder as text that records can hold, whatever its bytes are."""
    return os.fsencode(name).decode(errors="backslashreplace")


def kind(name: str) -> str:
    """The ending of a file's name, in lower case."""
    return readable(os.path.splitext(name)[1].lower()) or "without an ending"


def _check_left(
    root: Path, part: Part, is_good: npt.NDArray[np.bool_], wrong: Mapping[str, str]
) -> None:
    """Refuses a part of which bad files are all that there is of a class."""
    for label in sorted({*part.labels.tolist()} - {*part.labels[is_good].tolist()}):
        places = np.flatnonzero(part.labels == label).tolist()
        of_class = {part.paths[place]: wrong[part.paths[place]] for place in places}
        raise ValueError(
            f"{root / part.name / part.class_names[label]} holds no image that can be used:"
            f"{_listed(of_class)}"
        )


def _listed(wrong: Mapping[str, str]) -> str:
    """The first bad files with what is wrong, a line each, and how many more there are."""
    lines = [f"\n  {readable(path)} {what}" for path, what in list(wrong.items())[:_SHOWN]]
    more = len(wrong) - len(lines)
    return "".join(lines) + (f"\n  and {more} more" if more else "")


def _concerns(
    looks: Looks,
    is_good: npt.NDArray[np.bool_],
    left_out: Counter[str],
    wrong: Mapping[str, str],
    tests: Sequence[str],
) -> list[str]:
    """How many files are used, what is left out, and which are not used as they are."""
    counts = [f"{count} {what}" for what, count in sorted(left_out.items())]
    counts += [f"{len(wrong)} that cannot be used"] if wrong else []
    total = sum(left_out.values()) + len(wrong)
    used = int(is_good.sum())
    concerns = [f"{used} used" + (f", {total} left out: {', '.join(counts)}" if total else "")]
    if wrong:
        concerns.append(f"those that cannot be used:{_listed(wrong)}")
    if len(tests) > 1:
        concerns.append(f"the folder {tests[1]}/ is not used, since {tests[0]}/ is there")
    seen = looks.counts()
    concerns += [f"{seen[trait]} {text}" for trait, text in TRAITS.items() if seen[trait]]
    return concerns


def _median_size(looks: Looks, places: npt.NDArray[np.int64]) -> tuple[int, int]:
    """A square of the median shorter side, rounded to a multiple of `_STEP` and not too large."""
    records = looks.records[places]
    median = np.median(np.minimum(records["height"], records["width"]))
    side = max(2 * _STEP, min(LARGEST_DEFAULT, _STEP * round(float(median) / _STEP)))
    return side, side
