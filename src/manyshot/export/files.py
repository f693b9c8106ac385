"""Files that are either complete and checked, or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from manyshot import records


def replace_file(
    path: Path, content: bytes, check: Callable[[Path], None] = lambda path: None
) -> Path:
    """Writes `content` to a temporary file beside `path`, checks that file, then renames it.

    Folders are made. Whatever fails or is killed, `path` holds its earlier content or the new one,
    never a part; if `check` raises, the temporary file is removed.

    Args:
        path: where to write.
        content: all that the file holds.
        check: reads the temporary file, which has the suffix of `path`, and raises if it is bad.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with records.atomic(path) as temporary:
        temporary.write_bytes(content)
        check(temporary)
    return path


def with_suffix(path: str | os.PathLike[str], suffix: str) -> Path:
    """`path`, after a check that it ends with `suffix`.

    Raises:
        ValueError: if it does not; the readers of these formats go by the suffix.
    """
    checked = Path(path)
    if checked.suffix != suffix:
        raise ValueError(f"{checked.name!r} must end with {suffix!r}")
    return checked
