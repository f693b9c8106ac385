"""All image files of a set, each looked at once, before anything learns from them.

What is learnt of a good file, the digest of its bytes too, is remembered under its path, length and
times of change, so that it is not read for this again; bad ones are looked at every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from manyshot.data.decoding import Look, look_at
from manyshot.data.user_cache import cache_folder, write_whole
from manyshot.watching import tell

State = tuple[int, int, int]
"""The length of a file, and in nanoseconds the times of change of its content and of its status.

Programs set the first time back, as `cp -p` does; no ordinary one does that to the second."""

_CHUNK = 64
"""Files that a thread takes at once."""

_THREADS = min(8, os.cpu_count() or 1)
"""Pillow decodes outside of Python's lock. Each thread holds one image."""


def look(root: Path, paths: Sequence[str]) -> list[Look]:
    """What each file is, or what is wrong with it.

    Args:
        root: the folder that `paths` start from.
        paths: relative to `root`.
    """
    remembered = _recalled(root)
    states = [_state(root / path) for path in paths]
    looks = {
        path: remembered[path][1]
        for path, state in zip(paths, states, strict=True)
        if path in remembered and remembered[path][0] == state
    }
    new = [path for path in paths if path not in looks]
    chunks = [new[start : start + _CHUNK] for start in range(0, len(new), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        done = 0
        for chunk, seen in zip(chunks, pool.map(partial(_look_at, root), chunks), strict=True):
            looks.update(zip(chunk, seen, strict=True))
            done += len(chunk)
            if len(chunks) > 1:
                tell("images", done, len(new))
    if any(not looks[path].wrong for path in new):
        good = {
            path: (state, looks[path])
            for path, state in zip(paths, states, strict=True)
            if not looks[path].wrong
        }
        _remember(root, good)
    return [looks[path] for path in paths]


def _look_at(root: Path, paths: Sequence[str]) -> list[Look]:
    """What some of the files are, or what is wrong with them."""
    looks = []
    for path in paths:
        try:
            looks.append(look_at(root / path))
        except ValueError as error:
            looks.append(Look(0, 0, False, wrong=str(error)))
        except OSError as error:
            looks.append(Look(0, 0, False, wrong=f"cannot be read: {error.strerror}"))
    return looks


def _state(path: Path) -> State:
    """The length of a file and its times of change; zeros if they cannot be asked."""
    try:
        status = path.stat()
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

    name = hashlib.sha256(f"2 {__version__} {root.resolve()}".encode(errors="surrogateescape"))
    return cache_folder("looked_at") / f"{name.hexdigest()[:32]}.json"


def _recalled(root: Path) -> dict[str, tuple[State, Look]]:
    """What is remembered, by path; nothing if there is no such file, or a damaged one."""
    try:
        return {
            path: (tuple(state), Look(height, width, is_grey, tuple(traits), content=content))
            for path, (*state, height, width, is_grey, traits, content) in json.loads(
                _memory(root).read_bytes()
            ).items()
        }
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError):
        return {}


def _remember(root: Path, good: Mapping[str, tuple[State, Look]]) -> None:
    """Replaces what is remembered; where that cannot be written, files are looked at again."""
    with contextlib.suppress(OSError, RuntimeError):
        kept = {path: [*state, *look[:4], look.content] for path, (state, look) in good.items()}
        write_whole(_memory(root), json.dumps(kept).encode())
