"""Images in shards: plain tar files in the layout of WebDataset.

A sample is the members of one name but for their endings, such as `n01440764_18.jpg` and
`n01440764_18.cls`. What is to be known of a shard, which images it holds, where each begins and of
which class it is, is read once, and remembered under the shard's length and times of change. From
then on an image is read by itself, so that order, split, shares of processes and the way back into
the middle of an epoch are those of files in folders. The package webdataset reads shards as streams
instead, as storage needs that is far away; but the order is then that of a buffer that is shuffled,
and to go on in the middle of an epoch is to read its beginning again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, final

import torch
from torch import Tensor

from manyshot.data.parts import folders_of_parts, part_named
from manyshot.data.user_cache import cache_folder, write_whole

ENDING = ".tar"
"""Of a shard. A compressed one cannot be read from the middle."""

LABEL = "cls"
"""The ending of the member that holds the class of a sample, as text."""

_MOST_LABEL = 1000
"""Bytes of a class at most."""

_BLOCK = 512
"""Bytes that all in a tar file comes in multiples of; one of zeros ends it."""

_MOST_PADDING = 2**20
"""Zeros that may follow: programs fill records, of 10 KiB as a rule. More are of a file that was
made as long as it should become, and then not fetched to its end."""


@final
@dataclass(frozen=True, eq=False)
class Pieces:
    """Where images are in shards.

    Attributes:
        names: of the shards, relative to the folder of the data set.
        spans_N3: of each image the number of its shard, where it begins and its length, int64.
    """

    names: tuple[str, ...]
    spans_N3: Tensor

    def __len__(self) -> int:
        """The number of images."""
        return len(self.spans_N3)

    def of(self, index: int) -> tuple[str, int, int]:
        """The shard of an image, where it begins, and its length in bytes."""
        shard, offset, length = self.spans_N3[index].tolist()
        return self.names[shard], offset, length

    def subset(self, indices: Tensor) -> Pieces:
        """Those of the images at `indices`."""
        return replace(self, spans_N3=self.spans_N3[indices])

    def joined(self, other: Pieces) -> Pieces:
        """These, and then those of another."""
        moved_M3 = other.spans_N3 + torch.tensor([len(self.names), 0, 0])
        return Pieces(self.names + other.names, torch.cat((self.spans_N3, moved_M3)))


class Member(NamedTuple):
    """An image in a shard.

    Attributes:
        name: in the shard.
        offset: where its bytes begin in the file of the shard.
        length: how many there are.
        label: its class, as text.
    """

    name: str
    offset: int
    length: int
    label: str


class Contents(NamedTuple):
    """What a shard holds.

    Attributes:
        members: the images in the order of the shard.
        others: the endings of what else there is; one of each member.
    """

    members: tuple[Member, ...]
    others: tuple[str, ...]


def shards_of(root: Path, part: str) -> tuple[str, ...]:
    """The shards of a part, sorted: all of `root/PART/`, or those in `root` that are named by it.

    A name is taken apart at what is neither letter nor digit: `imagenet-train-0001.tar` is of the
    part train. Parts have all names of `manyshot.data.parts`.

    Raises:
        ValueError: if two folders are for one part.
    """
    folder = folders_of_parts(root).get(part)
    if folder is not None:
        names = sorted(name for name in os.listdir(root / folder) if _is_shard(name))
        return tuple(f"{folder}/{name}" for name in names)
    names = sorted(name for name in os.listdir(root) if _is_shard(name))
    return tuple(name for name in names if part in map(part_named, _words(name)))


def _is_shard(name: str) -> bool:
    return name.endswith(ENDING) and not name.startswith(".")


def _words(name: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in name.removesuffix(ENDING)).split()


def held_by(path: Path, endings: tuple[str, ...]) -> Contents:
    """What a shard holds, as it is remembered, or read now.

    Args:
        path: of the shard.
        endings: of members that are images, with a dot.

    Raises:
        ValueError: if it is no plain tar file, damaged or cut, or a sample has no class or several
            images; the message names the shard, and the member.
    """
    status = path.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, *endings]
    memory = _memory(path)
    if memory is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(memory.read_bytes())
            if kept["state"] == state:
                rows = zip(*(kept[field] for field in Member._fields), strict=True)
                return Contents(tuple(Member(*row) for row in rows), tuple(kept["others"]))
    try:
        shard = _read(path, endings)
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(f"shard {path} {_said(error)}") from error
    if memory is not None:
        columns = zip(*shard.members, strict=True) if shard.members else [()] * len(Member._fields)
        kept = dict(zip(Member._fields, columns, strict=True))
        with contextlib.suppress(OSError):
            write_whole(
                memory, json.dumps({**kept, "state": state, "others": shard.others}).encode()
            )
    return shard


def _said(error: Exception) -> str:
    if isinstance(error, tarfile.TarError):
        return (
            f"cannot be read as a plain tar file ({error}): a compressed one has to be unpacked "
            "first, a damaged one to be fetched again"
        )
    return str(error)


def _memory(path: Path) -> Path | None:
    """The file in the user's cache folder that remembers a shard; None without a home folder."""
    name = hashlib.sha256(f"2 {path.resolve()}".encode(errors="surrogateescape"))
    try:
        return cache_folder("shards") / f"{name.hexdigest()[:32]}.json"
    except RuntimeError:
        return None


def _read(path: Path, endings: tuple[str, ...]) -> Contents:
    """What is in a shard."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    others: list[str] = []
    with path.open("rb") as file:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                folder, _, base = entry.name.rpartition("/")
                stem, _, ending = base.partition(".")
                key = f"{folder}/{stem}"
                if entry.isdir() or base.startswith("."):
                    continue
                if not entry.isreg() or entry.issparse():
                    others.append("that are links, or no plain files,")
                    continue
                if f".{ending.lower()}" in endings:
                    if key in images:
                        raise ValueError(
                            f"holds two images of one sample, {images[key].name} and {entry.name}"
                        )
                    images[key] = entry
                elif ending == LABEL:
                    if key in labels:
                        raise ValueError(f"says the class of {key.strip('/')} twice")
                    labels[key] = _label(file, entry)
                else:
                    others.append(f".{ending}" if ending else "without an ending")
            _check_end(file, archive.offset)
        without = [entry.name for key, entry in images.items() if key not in labels]
        if without:
            raise ValueError(
                f"holds no class of {without[0]}: a member of the same name with the ending "
                f".{LABEL} has to say it"
            )
    members = (Member(e.name, e.offset_data, e.size, labels[k]) for k, e in images.items())
    return Contents(tuple(members), tuple(others))


def _label(file: BinaryIO, entry: tarfile.TarInfo) -> str:
    """The class that a member holds."""
    if not 0 < entry.size <= _MOST_LABEL:
        raise ValueError(f"has a class of {entry.size} bytes in {entry.name}, where text is wanted")
    here = file.tell()
    file.seek(entry.offset_data)
    content = file.read(entry.size)
    file.seek(here)
    try:
        label = content.decode().strip()
    except UnicodeDecodeError:
        label = ""
    if not label:
        raise ValueError(f"has no text in {entry.name}, which is to say a class")
    return label


def _check_end(file: BinaryIO, offset: int) -> None:
    """Refuses a tar file that ends, or cannot be read on, before the block of zeros at its end.

    Python's reader takes both for the end, and what follows a hole of zeros for nothing.
    """
    file.seek(offset)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise ValueError(
            f"ends after {offset:,} bytes without the empty block that ends a tar file: it is cut, "
            "so fetch it again"
        )
    if any(block):
        raise ValueError(f"is damaged at byte {offset:,}: fetch it again")
    padding = file.read(_MOST_PADDING + 1)
    if len(padding) > _MOST_PADDING or any(padding):
        raise ValueError(
            f"goes on after its end at byte {offset:,}: fetch it again if that failed in the "
            "middle, and give tar files that were joined one by one"
        )
