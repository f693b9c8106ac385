"""What is said of a path that is not the folder that it should be, and which ones are near it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from manyshot.plugins import nearest_of
from manyshot.run_folder import names

_SHOWN = 5
"""So many folders are listed."""


def why_no_run(folder: Path, lacks: str = names.RECIPE) -> str:
    """Why a path is not the folder of a run, and the runs in it, beside it and in `runs/`.

    Args:
        folder: the path.
        lacks: the file that it would have.
    """
    near = said_of_near(folder, names.RUNS, lacks)
    if not folder.exists():
        return f"there is no folder {folder}; {near or 'nor is there a run near it'}"
    why = (
        f"is not a run: it has no {lacks}"
        if folder.is_dir()
        else "is a file, and a run is a folder"
    )
    return f"{folder} {why}{f'; {near}' if near else ''}"


def said_of_near(folder: Path, home: str, has: str) -> str:
    """Which folders with a file are near a path, the nearest by name first; empty if none is.

    Args:
        folder: the path, which need not exist.
        home: where the command that makes such folders puts them.
        has: the file.
    """
    folders: dict[Path, Path] = {}
    for place in (folder, folder.parent, Path(home)):
        with contextlib.suppress(OSError):  # of a folder that may not be read nothing is said
            for file in sorted(place.glob(f"*/{has}")):
                if has == names.TRUTH_LOG or not (file.parent / names.TRUTH_LOG).exists():
                    folders.setdefault(file.parent.resolve(), file.parent)
    by_name = {path.name: str(path) for path in reversed(folders.values())}
    near = by_name.get(nearest_of(folder.name, by_name) or "")
    rest = [str(path) for path in folders.values() if str(path) != near]
    listed = ", ".join(rest[:_SHOWN]) + (f" and {len(rest) - _SHOWN} more" * (len(rest) > _SHOWN))
    if near is None:
        return f"near it: {listed}" if listed else ""
    return f"did you mean {near}?" + (f" Others near it: {listed}" if listed else "")
