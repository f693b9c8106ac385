"""What the parts of a data set may be called, as folders and in the names of shards."""

from __future__ import annotations

from pathlib import Path

NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
"""By part, in whichever case."""


def part_named(name: str) -> str | None:
    """The part that a name stands for, such as train for `Training`; None if it is of none."""
    return next((part for part, names in NAMES.items() if name.lower() in names), None)


def folders_of_parts(root: Path) -> dict[str, str]:
    """The folder in `root` of each part that has one; hidden ones are none.

    Raises:
        ValueError: if two are for one part.
        OSError: if `root` cannot be listed.
    """
    folders: dict[str, str] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        part = part_named(path.name)
        if part is None or not path.is_dir():
            continue
        if part in folders:
            raise ValueError(
                f"{root} holds {folders[part]} and {path.name}, and both are names of the part "
                f"{part}: leave one of them there"
            )
        folders[part] = path.name
    return folders
