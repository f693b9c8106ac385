"""Files in the user's cache folder: all of it can be deleted, and is made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder `manyshot/<name>` in the user's cache folder, which may not be there yet.

    Raises:
        RuntimeError: if the user has no home folder.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    folder = Path(chosen) if chosen else Path.home() / ".cache"
    return folder / "manyshot" / name


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that readers see the old one or the new one, whole; makes its folder.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(".part", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
