"""Images of files decoded once: kept in memory, and on disk for the next start.

Pixels are kept at the size of a batch as uint8, in chunks of at most `CHUNK_BYTES`, each a file in
the user's cache folder. They lie there and not in the folder of a run because many runs, seeds and
trainings alone are of the same images. The name of a chunk says what is in it: the digests of the
files' contents, the size, and by what they were decoded. A chunk is written whole or not at all,
and has a digest that is checked whenever it is read; one that is damaged is decoded again. A kill
loses the chunk that was being decoded.

After chunks were written, those that were not used for the longest time are deleted until all are
`KEPT_BYTES` at most together; those of the images in use stay, even if they alone are more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import final

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from manyshot.data.augment import fit
from manyshot.data.decoding import covering
from manyshot.data.images import ImageFolderSet
from manyshot.data.user_cache import cache_folder, write_whole
from manyshot.watching import tell

CHUNK_BYTES = 2**24
"""Most bytes of pixels in a file; an image of more has one of its own."""

KEPT_BYTES = 10 * 10**9
"""Most bytes of pixels on disk, of all sets together, unless one set alone is more."""

_RULE = 2
"""Version of how a file becomes pixels in this package; of libraries the versions count."""

_THREADS = min(8, os.cpu_count() or 1)
"""By default; Pillow and torch work outside of Python's lock. Each thread holds one image."""

_TOLD = 64
"""Images between two tellings of how far the decoding is."""

_STALE_S = 24 * 3600
"""After so many seconds a lock or a temporary file in the cache folder is nobody's any more."""


def in_memory(
    parts: Sequence[ImageFolderSet], most: int, threads: int = 0
) -> tuple[ImageFolderSet, ...]:
    """The parts with their pixels in memory, or as they are if all together are too large.

    Whether they are too large depends on their number and size alone, never on this machine or on
    what is on disk, so that a recipe does the same everywhere.

    Args:
        parts: of one data set.
        most: the bytes of pixels that may be in memory, over all parts.
        threads: that decode; by default one per core, and 8 at most.

    Raises:
        FileNotFoundError: if a file is gone.
        ValueError: if a file cannot be decoded, or is another than when it was looked at.
    """
    total = sum(_bytes_of(part, len(part)) for part in parts)
    if total > most:
        return tuple(
            replace(
                part,
                notes=(
                    *part.notes,
                    f"decoded anew in every epoch: in memory they are {total:,} bytes, and "
                    f"data.memory allows {most:,}",
                ),
            )
            for part in parts
        )
    pixels = [torch.empty(len(part), *part.image_shape, dtype=torch.uint8) for part in parts]
    chunks = [
        chunk for part, own in zip(parts, pixels, strict=True) for chunk in _chunks(part, own)
    ]
    _fill(chunks, threads or _THREADS)
    return tuple(replace(part, images=own) for part, own in zip(parts, pixels, strict=True))


def _bytes_of(images: ImageFolderSet, count: int) -> int:
    """What so many images of a set are in memory."""
    return count * int(np.prod(images.image_shape))


@final
@dataclass(frozen=True)
class _Chunk:
    """Consecutive images of a set, and where their pixels go.

    Attributes:
        images: the files.
        pixels: uint8 [N, C, H, W], to be filled.
        key: 32 hexadecimal digits that say what the pixels are.
    """

    images: ImageFolderSet
    pixels: Tensor
    key: str


def _chunks(images: ImageFolderSet, pixels: Tensor) -> Iterator[_Chunk]:
    """A set in chunks."""
    decoder = [str(_RULE), torch.backends.cpu.get_cpu_capability()]
    decoder += [version(package) for package in ("pillow", "torch", "torchvision")]
    size = max(1, CHUNK_BYTES // _bytes_of(images, 1))
    for start in range(0, len(images), size):
        part = images.subset(range(start, min(start + size, len(images))))
        named = "\n".join([*decoder, str(images.image_shape), *part.contents])
        key = hashlib.sha256(named.encode()).hexdigest()[:32]
        yield _Chunk(part, pixels[start : start + size], key)


def _fill(chunks: Sequence[_Chunk], threads: int) -> None:
    """Fills the pixels of all chunks, from disk as far as they are there."""
    folder = _folder()
    missing = [chunk for chunk in chunks if not _recall(folder, chunk)]
    if not missing:
        return
    total = sum(len(chunk.images) for chunk in chunks)
    done = total - sum(len(chunk.images) for chunk in missing)
    with _alone(folder, chunks[0].key), ThreadPoolExecutor(threads) as pool:
        for chunk in missing:
            if not _recall(folder, chunk):  # another process may have decoded it by now
                for count in _decode(chunk, pool):
                    tell("decoding", done + count, total)
                folder = _remember(folder, chunk)
            done += len(chunk.images)
            tell("decoding", done, total)
    if folder is not None:
        _delete_oldest(folder, {_file(folder, chunk) for chunk in chunks})


def _decode(chunk: _Chunk, pool: ThreadPoolExecutor) -> Iterator[int]:
    """Fills the pixels of a chunk from its files; says now and then how many are done."""
    _, height, width = chunk.images.image_shape

    def decoded(index: int) -> Tensor:
        return fit(chunk.images.read_checked(index, covering(height, width)), height, width)

    for index, image in enumerate(pool.map(decoded, range(len(chunk.images)))):
        chunk.pixels[index] = image
        if index % _TOLD == 0:
            yield index


# -- what is kept on disk --------------------------------------------------------------------------


def _folder() -> Path | None:
    """The folder of the chunks; None if the user has no home."""
    try:
        return cache_folder("decoded")
    except RuntimeError:
        return None


def _file(folder: Path, chunk: _Chunk) -> Path:
    return folder / f"{chunk.key}.safetensors"


def _digest(key: str, pixels: Tensor) -> Tensor:
    """Identifies pixels and what they are of, uint8 [32]."""
    digest = hashlib.blake2b(key.encode(), digest_size=32)
    digest.update(pixels.contiguous().numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _recall(folder: Path | None, chunk: _Chunk) -> bool:
    """Fills the pixels of a chunk if they are on disk and whole; says whether it did."""
    if folder is None:
        return False
    path = _file(folder, chunk)
    try:
        tensors = load(path.read_bytes())
        pixels, digest = tensors["pixels"], tensors["digest"]
        if pixels.dtype != torch.uint8 or pixels.shape != chunk.pixels.shape:
            raise ValueError(f"it holds {pixels.dtype} {list(pixels.shape)}")
        if not torch.equal(digest, _digest(chunk.key, pixels)):
            raise ValueError("its digest is another")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        warnings.warn(
            f"decoded images in {path} are damaged ({error}): they are decoded again", stacklevel=2
        )
        return False
    chunk.pixels.copy_(pixels)
    with contextlib.suppress(OSError):
        os.utime(path)  # when it was last used
    return True


def _remember(folder: Path | None, chunk: _Chunk) -> Path | None:
    """Keeps a chunk on disk; gives the folder, or None if nothing can be kept there."""
    if folder is None:
        return None
    content = save({"pixels": chunk.pixels, "digest": _digest(chunk.key, chunk.pixels)})
    try:
        write_whole(_file(folder, chunk), content)
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be kept in {folder} ({error.strerror}), so that the next start "
            "decodes them again: make room, or set XDG_CACHE_HOME to another folder",
            stacklevel=2,
        )
        return None
    return folder


@contextlib.contextmanager
def _alone(folder: Path | None, key: str) -> Iterator[None]:
    """Of several processes that begin with the same chunk, one decodes at a time.

    Without the lock they would each decode all; nothing else depends on it.
    """
    lock = contextlib.ExitStack()
    if folder is not None:
        with contextlib.suppress(OSError, NotImplementedError):
            folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(FileLock(folder / f"{key}.lock"))
    with lock:
        yield


def _delete_oldest(folder: Path, in_use: set[Path]) -> None:
    """Deletes the chunks longest unused until they are few enough, and what kills have left."""
    with contextlib.suppress(OSError):
        entries = [(path, path.stat()) for path in folder.iterdir()]
        now = time.time()
        for path, status in entries:
            if path.suffix != ".safetensors" and now - status.st_mtime > _STALE_S:
                path.unlink(missing_ok=True)
        chunks = [(path, status) for path, status in entries if path.suffix == ".safetensors"]
        total = sum(status.st_size for _, status in chunks)
        for path, status in sorted(chunks, key=lambda entry: entry[1].st_mtime):
            if total <= KEPT_BYTES:
                break
            if path not in in_use:
                path.unlink(missing_ok=True)
                total -= status.st_size
