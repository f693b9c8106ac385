"""What a kill leaves of a folder, at any moment, without doing the work before it again."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from manyshot import records


def left_by_kills(folder: Path, work: Callable[[], object]) -> list[tuple[str, Path]]:
    """Does `work`, and copies `folder` after each durable write, as a kill there would leave it.

    Args:
        folder: what `work` writes to; the copies are beside it.
        work: what is done, once and to its end.

    Returns:
        The name of the file that was written last, and the copy, for every write in turn.
    """
    left: list[tuple[str, Path]] = []

    def wrote(path: Path) -> None:
        if "manyshot-formats-" in str(path):  # a trial, which leaves nothing
            return
        copy = folder.with_name(f"{folder.name}-{len(left)}")
        left.append((path.name, shutil.copytree(folder, copy, symlinks=True)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "wrote", wrote)
        work()
    return left


def one_of_every_kind(left: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Of what kills left that after the middle file of every kind, whatever its architecture."""
    kinds: dict[str, list[tuple[str, Path]]] = {}
    for name, copy in left:
        kinds.setdefault(re.sub(r"[0-9-]+", "", name), []).append((name, copy))
    return [of_kind[len(of_kind) // 2] for of_kind in kinds.values()]


EVERY = pytest.mark.parametrize(
    "of", [one_of_every_kind, pytest.param(list, marks=pytest.mark.slow)], ids=["kinds", "all"]
)
"""Tests that go on after the middle file of every kind or, which is slow, after every file."""
