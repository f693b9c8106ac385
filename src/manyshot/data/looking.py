"""All image files of a set, each looked at once, before anything learns from them.

What is learnt of a good file, the digest of its bytes too, is remembered under its path, length and
times of change, so that it is not read for this again; bad ones are looked at every time. Folders
are listed and files are asked for their times whenever images are loaded, since a file that is
written anew changes no time of its folder. What goes unnoticed is a file whose bytes change while
its length and both of its times stay, which takes another clock, or a file system without times of
change.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.data.decoding import TRAITS, Look, contents, look_at
from manyshot.data.shards import Pieces
from manyshot.data.user_cache import cache_folder, write_whole
from manyshot.watching import tell

_RECORD = np.dtype(
    [
        ("state", "<i8", 3),
        ("height", "<i4"),
        ("width", "<i4"),
        ("is_grey", "?"),
        ("traits", "u1"),
        ("content", ">u8"),
    ]
)
"""A file: its length and in nanoseconds the times of change of its content and of its status, then
what `Look` says, traits as bits.

Programs set the first time back, as `cp -p` does; no ordinary one does that to the second."""

_NAMES = tuple(TRAITS)
_DIGITS = 16
"""Hexadecimal digits of a content."""

_CHUNK = 64
"""Files that a thread takes at once."""

_THREADS = min(8, os.cpu_count() or 1)
"""Pillow decodes outside of Python's lock. Each thread holds one image."""


@final
class Looks:
    """What the files of a set are, in the order of their paths, as a table.

    Attributes:
        records: a row per file, of `_RECORD`.
        wrong: why files cannot be used, by their place.
    """

    def __init__(self, records: npt.NDArray[np.void], wrong: Mapping[int, str]) -> None:
        self.records, self.wrong = records, wrong

    def __len__(self) -> int:
        """The number of files."""
        return len(self.records)

    def __getitem__(self, place: int) -> Look:
        """What one file is."""
        row = self.records[place]
        if place in self.wrong:
            return Look(0, 0, False, wrong=self.wrong[place])
        traits = tuple(name for bit, name in enumerate(_NAMES) if row["traits"] >> bit & 1)
        height, width, is_grey = int(row["height"]), int(row["width"]), bool(row["is_grey"])
        content = f"{int(row['content']):0{_DIGITS}x}"
        return Look(height, width, is_grey, traits, content=content)

    def __iter__(self) -> Iterator[Look]:
        return (self[place] for place in range(len(self)))

    @property
    def contents(self) -> tuple[str, ...]:
        """What identifies the bytes of each file that can be used."""
        digits = np.ascontiguousarray(self.records["content"]).tobytes().hex()
        return tuple(digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS))

    def counts(self) -> dict[str, int]:
        """How many files that can be used have each trait, in the order of `TRAITS`."""
        traits = self.records["traits"]
        return {name: int((traits >> bit & 1).sum()) for bit, name in enumerate(_NAMES)}


def look(root: Path, paths: Sequence[str], pieces: Pieces | None = None) -> Looks:
    """What each file is, or what is wrong with it.

    Args:
        root: the folder that `paths` start from.
        paths: relative to `root`.
        pieces: where the files are in shards; None if they are files of their own.
    """
    records = np.zeros(len(paths), _RECORD)
    records["state"] = _states(root, paths, pieces)
    is_known = _recall(root, paths, records)
    new = np.flatnonzero(~is_known).tolist()
    chunks = [new[start : start + _CHUNK] for start in range(0, len(new), _CHUNK)]
    wrong: dict[int, str] = {}

    def looked_at(chunk: Sequence[int]) -> list[Look]:
        return [_look_at(root, paths[place], pieces, place) for place in chunk]

    with ThreadPoolExecutor(_THREADS) as pool:
        done = 0
        for chunk, seen in zip(chunks, pool.map(looked_at, chunks), strict=True):
            for place, one in zip(chunk, seen, strict=True):
                if one.wrong:
                    wrong[place] = one.wrong
                    continue
                bits = sum(1 << _NAMES.index(trait) for trait in one.traits)
                content = int(one.content, 16)
                state = records[place]["state"]
                records[place] = (state, one.height, one.width, one.is_grey, bits, content)
            done += len(chunk)
            if len(chunks) > 1:
                tell("images", done, len(new))
    if len(wrong) < len(new):
        is_good = np.ones(len(paths), bool)
        is_good[list(wrong)] = False
        good = [path for path, use in zip(paths, is_good.tolist(), strict=True) if use]
        _remember(root, good, records[is_good])
    return Looks(records, wrong)


def _look_at(root: Path, path: str, pieces: Pieces | None, place: int) -> Look:
    """What one of the files is, or what is wrong with it."""
    try:
        if pieces is None:
            return look_at(contents(root / path))
        shard, offset, length = pieces.of(place)
        return look_at(contents(root / shard, offset, length))
    except ValueError as error:
        return Look(0, 0, False, wrong=str(error))
    except OSError as error:
        return Look(0, 0, False, wrong=f"cannot be read: {error.strerror}")


def _states(root: Path, paths: Sequence[str], pieces: Pieces | None) -> npt.NDArray[np.int64]:
    """The lengths of files and their times of change, those of the shard of a file in one."""
    files = paths if pieces is None else pieces.names
    start = os.path.join(root, "")
    states = np.array([_state(start + path) for path in files], np.int64).reshape(-1, 3)
    return states if pieces is None else states[pieces.spans_N3[:, 0].numpy()]


def _state(path: str) -> tuple[int, int, int]:
    """The length of a file and its times of change; zeros if they cannot be asked."""
    try:
        status = os.stat(path)  # not by `Path`, which takes four times as long
    except OSError:
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


# -- what is remembered ----------------------------------------------------------------------------


def _memory(root: Path) -> Path:
    """The file in the user's cache folder that remembers the files below `root`.

    Raises:
        RuntimeError: if the user has no home folder.
    """
    # Imported here, like all of Pillow; another version may decode other files.
    from PIL import __version__

    name = hashlib.sha256(f"3 {__version__} {root.resolve()}".encode(errors="surrogateescape"))
    return cache_folder("looked_at") / f"{name.hexdigest()[:32]}.npz"


def _recall(
    root: Path, paths: Sequence[str], records: npt.NDArray[np.void]
) -> npt.NDArray[np.bool_]:
    """Fills in what is remembered of files in their present state; says of which."""
    nothing = np.zeros(len(paths), bool)
    try:
        with np.load(_memory(root), allow_pickle=False) as kept:
            names, remembered = kept["names"].tobytes(), kept["records"]
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return nothing
    if remembered.dtype != _RECORD or names.count(b"\0") != len(remembered):
        return nothing
    if names == _joined(paths):
        rows = np.arange(len(paths))
    else:
        texts = names.decode(errors="surrogateescape").split("\0")[:-1]
        places = {name: row for row, name in enumerate(texts)}
        rows = np.array([places.get(path, -1) for path in paths], int)
    if not len(remembered):
        return nothing
    known: npt.NDArray[np.bool_] = rows >= 0
    known &= (remembered["state"][rows] == records["state"]).all(axis=1)
    records[known] = remembered[rows[known]]
    return known


def _remember(root: Path, paths: Sequence[str], records: npt.NDArray[np.void]) -> None:
    """Replaces what is remembered; where that cannot be written, files are looked at again."""
    file = io.BytesIO()
    np.savez(file, names=np.frombuffer(_joined(paths), np.uint8), records=records)
    with contextlib.suppress(OSError, RuntimeError):
        write_whole(_memory(root), file.getvalue())


def _joined(paths: Sequence[str]) -> bytes:
    """Paths as bytes, each with a zero after it, which no path has in it."""
    return "".join(f"{path}\0" for path in paths).encode(errors="surrogateescape")
