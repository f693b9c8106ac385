"""The parts and the classes of images in shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import torch

from manyshot.data.decoding import SUFFIXES
from manyshot.data.files import Bad, Part, sets
from manyshot.data.images import ImageFolderSet
from manyshot.data.missing import not_found
from manyshot.data.shards import Contents, Pieces, held_by, shards_of
from manyshot.watching import tell

_PARTS = ("train", "test", "val")
_SHOWN = 5
"""How many endings a message lists."""


def image_shards(
    root: Path, size: tuple[int, int] | None, bad: Bad
) -> tuple[ImageFolderSet, ImageFolderSet]:
    """The (train, test) parts of shards in the layout of WebDataset (see `manyshot.data.shards`).

    Shards of a part are `root/PART/*.tar`, or those of `root/*.tar` with the part as a word in
    their names: train, and test, or else val, or else a fixed quarter of every class of train. They
    may have the other names of `manyshot.data.parts`, such as valid. Classes are numbers from 0
    without a gap, or those of the lines of `root/classes.txt`, which names them; or they are names.

    Args:
        root: the folder.
        size: as of `image_folders`.
        bad: whether images that cannot be used are an error, or left out.

    Raises:
        DataNotFound: if there is no shard of the part train.
        ValueError: if a shard cannot be read or is of two parts, a class is none or has no image,
            or images cannot be used; the message names shard and member.
    """
    by_part = {part: shards_of(root, part) for part in _PARTS} if root.is_dir() else {}
    if not by_part.get("train"):
        raise not_found(
            "shards",
            wanted="train/*.tar, or *.tar with the word train in their names",
            places=[root],
            way_out="give data.root, the folder that holds the shards (--set data.root=DIR)",
        )
    tests = [part for part in _PARTS[1:] if by_part[part]]
    for part in tests:
        if shared := sorted({*by_part["train"]} & {*by_part[part]}):
            raise ValueError(
                f"shard {root / shared[0]} has both train and {part} in its name, so that it is "
                "not known what it is for: rename it, or put shards in folders train/ and test/"
            )
    left_out: Counter[str] = Counter()
    read = _read(root, {part: by_part[part] for part in ("train", *tests[:1])})
    labels = [{member.label for one in shards for member in one.members} for _, _, shards in read]
    if not labels[0]:
        kinds = sorted({kind for _, _, shards in read for one in shards for kind in one.others})
        raise ValueError(
            f"the shards of train in {root} hold no images, whose endings are "
            f"{', '.join(SUFFIXES)}; an ending begins at the first dot of a name"
            + (f", and there are {', '.join(kinds[:_SHOWN])}" if kinds else "")
        )
    names, number = _classes(root, *labels)
    parts = [
        _of_shards(part, shards, whole, names, number, left_out) for part, shards, whole in read
    ]
    return sets(root, parts, size, bad, left_out, tests)


def _read(
    root: Path, by_part: Mapping[str, tuple[str, ...]]
) -> list[tuple[str, tuple[str, ...], list[Contents]]]:
    """The name of each part, the names of its shards, and what these hold."""
    read: list[tuple[str, tuple[str, ...], list[Contents]]] = []
    done, total = 0, sum(map(len, by_part.values()))
    for part, names in by_part.items():
        contents = []
        for name in names:
            contents.append(held_by(root / name, SUFFIXES))
            done += 1
            tell("shards", done, total)
        read.append((part, names, contents))
    return read


def _classes(
    root: Path, train: Set[str], test: Set[str] = frozenset()
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the number of each label of shards."""
    every = train | test
    listed = root / "classes.txt"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else None
    if all(label.isdecimal() for label in every):
        number = {label: int(label) for label in every}
        if not lines:
            _check_numbers(root, {number[label] for label in train}, set(number.values()))
        names = tuple(lines) if lines else tuple(map(str, range(max(number.values()) + 1)))
        unnamed = [label for label in every if number[label] >= len(names)]
        if unnamed:
            raise ValueError(
                f"shards in {root} have the class {max(unnamed, key=int)}, and classes.txt names "
                f"{len(names)}, from 0: name all of them"
            )
        return names, number
    names = tuple(lines or sorted(train))
    unknown = sorted(every - set(names))
    if unknown:
        where = "is not in classes.txt" if lines else "is in test shards, but in none of train"
        raise ValueError(f"shards in {root}: class {unknown[0]!r} {where}")
    return names, {name: number for number, name in enumerate(names)}


def _check_numbers(root: Path, train: Set[int], every: Set[int]) -> None:
    """Refuses numbers that leave out a class: without a list of names it may be forgotten."""
    missing = min(set(range(len(train) + 1)) - train)
    if missing <= max(every):
        raise ValueError(
            f"the shards of train in {root} have no image of class {missing}, and there are "
            f"classes up to {max(every)}: number them from 0 on, or name all of them in classes.txt"
        )


def _of_shards(
    part: str,
    shards: tuple[str, ...],
    whole: Sequence[Contents],
    names: tuple[str, ...],
    number: Mapping[str, int],
    left_out: Counter[str],
) -> Part:
    """The images of a part in shards; counts what else there is in `left_out`.

    Args:
        part: its name.
        shards: relative to the root.
        whole: what each of them holds.
        names: of the classes.
        number: of each label.
        left_out: is added to.
    """
    for one in whole:
        left_out.update(f"{kind} in shards" for kind in one.others)
    spans = [
        (shard, member.offset, member.length)
        for shard, one in enumerate(whole)
        for member in one.members
    ]
    return Part(
        name=part,
        class_names=names,
        paths=[f"{s}/{m.name}" for s, one in zip(shards, whole, strict=True) for m in one.members],
        labels=np.array([number[m.label] for one in whole for m in one.members], np.int64),
        pieces=Pieces(shards, torch.tensor(spans, dtype=torch.int64).view(-1, 3)),
    )
