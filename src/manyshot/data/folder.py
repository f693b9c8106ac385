"""Image files in one folder per class.

Not torchvision's `make_dataset`: its errors do not name the folder of an empty class, it takes
hidden files, such as the `._` ones of macOS, for images, it says nothing of the files that it
leaves out, and its import costs what `data/idx.py` says.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from manyshot.data.balance import hold_out
from manyshot.data.decoding import SUFFIXES, TRAITS, Look
from manyshot.data.images import ImageFolderSet
from manyshot.data.looking import look
from manyshot.data.missing import not_found
from manyshot.seeding import numpy_rng

LARGEST_DEFAULT = 224
"""The side in pixels that images are resized to, if none is given and they are larger."""

_STEP = 4
"""A side that is not given is a multiple of so many pixels, and at least twice that."""

_SHOWN = 10
"""Bad files that a message lists."""

Bad = Literal["refuse", "skip"]
"""What is done about image files that cannot be used: an error, or they are left out."""


def image_folders(
    root: Path, size: tuple[int, int] | None, bad: Bad
) -> tuple[ImageFolderSet, ImageFolderSet]:
    """The (train, test) parts of `root/train/<class>/**` and `root/test/<class>/**`.

    The test part is `root/test`, or else `root/val` (as in ImageNet, whose test labels are secret;
    with both, `val` is unused), or else a fixed quarter of every class of `root/train`. Hidden
    files and folders, whose names begin with a dot, are no part of it. All files are looked at
    before any is used; what is left out or converted is in the notes of the parts, and warned of.

    Args:
        root: the folder.
        size: (height, width) of the images in a batch. By default they are squares of the median
            shorter side in `root/train`, rounded, and of 224 pixels if that is less.
        bad: whether files that cannot be used are an error, or left out.

    Raises:
        DataNotFound: if there is no `root/train`.
        ValueError: if a class is empty, or missing in one part, or if files cannot be used; the
            message lists them.
    """
    if not (root / "train").is_dir():
        raise not_found(
            "folder",
            wanted="train/<class>/ with image files",
            places=[root],
            way_out="give data.root, the folder that holds train/ (--set data.root=DIR)",
        )
    tests = [name for name in ("test", "val") if (root / name).is_dir()]
    left_out: Counter[str] = Counter()
    parts = [_list(root, part, left_out) for part in ("train", *tests[:1])]
    if tests:
        _check_same_classes(root, tests[0], *parts)
    paths = [path for part in parts for path in part.paths]
    looks = dict(zip(paths, look(root, paths), strict=True))
    wrong = {path: seen.wrong for path, seen in looks.items() if seen.wrong}
    if wrong and bad == "refuse":
        raise ValueError(
            f"{len(wrong)} of {len(paths)} image files in {root} cannot be used:"
            f"{_listed(wrong)}\nrepair or delete them, or leave them out by data.bad = 'skip' "
            "(--set data.bad=skip)"
        )
    parts = [_without(root, part, wrong) for part in parts]
    good = {path: seen for path, seen in looks.items() if not seen.wrong}
    concerns = _concerns(good, left_out, wrong, tests)
    if len(concerns) > 1 or left_out or wrong:
        # At the line that called `manyshot.data.load`.
        warnings.warn(f"images in {root}: {'; '.join(concerns)}", stacklevel=4)
    is_grey = all(seen.is_grey for seen in good.values())
    height, width = size or _median_size([good[path] for path in parts[0].paths])
    notes = (
        *concerns,
        f"images are {'grey' if is_grey else 'of three colours'}, resized to cover {height}x{width}"
        f" pixels and cut in the centre{'' if size else ' (data.image_size is not given)'}",
    )
    train, *rest = (
        ImageFolderSet(
            root=root,
            paths=part.paths,
            contents=tuple(good[path].content for path in part.paths),
            labels=torch.tensor(part.labels, dtype=torch.int64),
            class_names=part.class_names,
            image_shape=(1 if is_grey else 3, height, width),
            notes=notes,
        )
        for part in parts
    )
    if rest:
        return train, rest[0]
    rng = numpy_rng("folder", "test")
    kept, held = hold_out(train.labels, len(train) // 4, rng, stratified=True)
    return train.subset(kept), train.subset(held)


def readable(name: str) -> str:
    """The name of a file or folder as text that records can hold, whatever its bytes are."""
    return os.fsencode(name).decode(errors="backslashreplace")


class _Part(NamedTuple):
    """The image files of a part and their classes."""

    name: str
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]


def _list(root: Path, part: str, left_out: Counter[str]) -> _Part:
    """The files of `root/part/<class>/**`, sorted by name; counts the others in `left_out`."""
    entries = _visible(root / part)
    left_out.update(f"{_kind(e.name)} in no class folder" for e in entries if not _is_folder(e))
    names = tuple(entry.name for entry in entries if _is_folder(entry))
    if not names:
        raise ValueError(f"{root / part} holds no class folders; put images in {part}/<class>/")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = list(_below(f"{part}/{name}", root))
        images = [file for file in files if _kind(file) in SUFFIXES]
        left_out.update(_kind(file) for file in files if _kind(file) not in SUFFIXES)
        if not images:
            raise ValueError(
                f"{root / part / name} holds no image; allowed endings are {', '.join(SUFFIXES)}"
            )
        paths += images
        labels += [label] * len(images)
    return _Part(part, tuple(map(readable, names)), tuple(paths), tuple(labels))


def _below(folder: str, root: Path, above: tuple[str, ...] = ()) -> Iterator[str]:
    """All visible files below a folder, relative to `root`; a link back up is not followed."""
    real = os.path.realpath(root / folder)
    if real in above:
        return
    for entry in _visible(root / folder):
        if _is_folder(entry):
            yield from _below(f"{folder}/{entry.name}", root, (*above, real))
        else:
            yield f"{folder}/{entry.name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a link that leads nowhere is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _kind(name: str) -> str:
    """The ending of a file's name, in lower case."""
    return readable(os.path.splitext(name)[1].lower()) or "without an ending"


def _check_same_classes(root: Path, test: str, *parts: _Part) -> None:
    """Refuses a class that only one of the parts has."""
    in_train, in_test = (set(part.class_names) for part in parts)
    for name in sorted(in_train ^ in_test):
        there, missing = ("train", test) if name in in_train else (test, "train")
        raise ValueError(
            f"class {name!r} is in {root / there} but not in {root / missing}; "
            f"both need the same class folders"
        )


def _without(root: Path, part: _Part, wrong: Mapping[str, str]) -> _Part:
    """A part without its bad files, unless that leaves nothing of a class."""
    pairs = list(zip(part.paths, part.labels, strict=True))
    kept = [pair for pair in pairs if pair[0] not in wrong]
    for label in sorted(set(part.labels) - {label for _, label in kept}):
        of_class = {path: wrong[path] for path, other in pairs if other == label}
        raise ValueError(
            f"{root / part.name / part.class_names[label]} holds no image that can be used:"
            f"{_listed(of_class)}"
        )
    return part._replace(paths=tuple(p for p, _ in kept), labels=tuple(of for _, of in kept))


def _listed(wrong: Mapping[str, str]) -> str:
    """The first bad files with what is wrong, a line each, and how many more there are."""
    lines = [f"\n  {readable(path)} {what}" for path, what in list(wrong.items())[:_SHOWN]]
    more = len(wrong) - len(lines)
    return "".join(lines) + (f"\n  and {more} more" if more else "")


def _concerns(
    good: Mapping[str, Look], left_out: Counter[str], wrong: Mapping[str, str], tests: Sequence[str]
) -> list[str]:
    """How many files are used, what is left out, and which are not used as they are."""
    counts = [f"{count} {kind}" for kind, count in sorted(left_out.items())]
    counts += [f"{len(wrong)} that cannot be used"] if wrong else []
    total = sum(left_out.values()) + len(wrong)
    concerns = [f"{len(good)} used" + (f", {total} left out: {', '.join(counts)}" if total else "")]
    if wrong:
        concerns.append(f"those that cannot be used:{_listed(wrong)}")
    if len(tests) > 1:
        concerns.append("val/ is not used, since test/ is there")
    seen = Counter(trait for one in good.values() for trait in one.traits)
    concerns += [f"{seen[trait]} {text}" for trait, text in TRAITS.items() if seen[trait]]
    return concerns


def _median_size(looks: Sequence[Look]) -> tuple[int, int]:
    """A square of the median shorter side, rounded to a multiple of `_STEP` and not too large."""
    median = np.median([min(seen.height, seen.width) for seen in looks])
    side = max(2 * _STEP, min(LARGEST_DEFAULT, _STEP * round(float(median) / _STEP)))
    return side, side
