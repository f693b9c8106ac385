"""One writer per folder: claiming a new one, holding its lock, and clearing what a kill left.

Of several processes that torchrun started together, the main one alone claims and locks.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from manyshot import records
from manyshot.recipe import RecipeError
from manyshot.run_folder import (
    BEFORE,
    COMPARISON,
    HOLDER,
    LOCK,
    RANK_SCORES,
    RANKING,
    RANKS,
    RECIPE,
    RESULT,
    RUNS,
    SPACE,
    SUBNETS,
    TRAIN_LOG,
    TRUTH_LOG,
    WEIGHTS,
    ZERO_COST,
    Holder,
    RunFolder,
)

_RUNS = Path(RUNS)
Kind = Literal["run", "truth", "rank", "comparison"]
_KINDS: dict[Kind, tuple[str, ...]] = {
    "run": (SPACE, TRAIN_LOG, WEIGHTS, RESULT),
    "truth": (TRUTH_LOG,),
    "rank": (RANKING, RANK_SCORES, ZERO_COST, BEFORE),
    "comparison": (COMPARISON,),
}
"""Files that only a folder of that kind has."""
_NEW: set[Path] = set()
"""Folders that `new_folder` made and nothing was written to yet."""
_INTERRUPTED: list[Path] = []
"""The folders that were written to when somebody interrupted."""


def processes() -> int:
    """How many processes torchrun, or accelerate, started together.

    Raises:
        RecipeError: if the environment does not say a number.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal():
        raise RecipeError(f"the environment's WORLD_SIZE is {text!r}, not a number: unset it")
    return int(text)


def is_main_process() -> bool:
    """Whether this process writes: of several that were started together, only the first does."""
    return processes() <= 1 or os.environ.get("RANK", "0") == "0"


def new_folder(name: str) -> Path:
    """Makes `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, ... that does not exist.

    Of several commands that begin at once, each gets a folder of its own.

    Raises:
        RecipeError: for one of several processes, which would each take another.
    """
    if processes() > 1:
        raise RecipeError(
            "several processes need one folder: give --out, --resume, or out= in Python"
        )
    _RUNS.mkdir(parents=True, exist_ok=True)
    for folder in _names(name):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        _NEW.add(folder)
        return folder
    raise AssertionError("names never end")


def next_folder(name: str) -> Path:
    """The folder that `new_folder` would make now, which is not made."""
    return next(folder for folder in _names(name) if not folder.exists())


def _names(name: str) -> Iterator[Path]:
    """`runs/NAME`, `runs/NAME-2`, and so on."""
    yield _RUNS / name
    yield from (_RUNS / f"{name}-{number}" for number in itertools.count(2))


def interrupted() -> Path | None:
    """The folder that was written to when somebody interrupted; empty new ones are removed."""
    for folder in _NEW:
        with contextlib.suppress(OSError):
            folder.rmdir()
            _RUNS.rmdir()
    return next((folder for folder in _INTERRUPTED if folder.exists()), None)


@contextlib.contextmanager
def writing(folder: Path, doing: str, kind: Kind = "run") -> Iterator[None]:
    """Makes this process the only one that writes to a folder, for as long as the block lasts.

    The folder is made if there is none, temporary files of a killed command are removed from it,
    and if nothing is in it at the end it is removed. The lock ends with the process, even if that
    is killed; nothing needs to be removed by hand.

    Args:
        folder: the folder of a run, a truth, a rank or a comparison.
        doing: the command, such as `manyshot truth`; whoever comes second reads it.
        kind: what the folder is to hold.

    Raises:
        RecordError: at once, if another process writes to it, or if it holds other files or
            something of another kind.
    """
    if not is_main_process():
        yield
        return
    check_ours(folder, kind)
    new = not folder.exists() or folder in _NEW
    _NEW.discard(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise records.RecordError(
            f"{_holder(folder)} is at work in {folder}: wait until it ends, or choose another "
            "--out folder"
        ) from None
    note = folder / HOLDER  # beside the lock, which filelock empties whenever it tries it
    with lock, records.held(folder):
        for part in (folder, folder / SUBNETS, *folder.glob(f"{RANKS}/*")):
            records.remove_torn(part)
        holder = Holder(doing=doing, pid=os.getpid(), host=platform.node())
        note.unlink(missing_ok=True)
        with note.open("x", encoding="utf-8") as file:
            file.write(holder.model_dump_json(by_alias=True))
        try:
            yield
        except KeyboardInterrupt:
            _INTERRUPTED.append(folder)
            raise
        finally:
            if records.is_held(folder):
                with contextlib.suppress(OSError):  # of the disk: why the block ended says more
                    note.unlink(missing_ok=True)
                if new and [path.name for path in folder.glob("*")] == [LOCK]:
                    (folder / LOCK).unlink()
                    with contextlib.suppress(OSError):  # somebody has put something there just now
                        folder.rmdir()
                        if folder.parent == _RUNS:
                            _RUNS.rmdir()


def check_ours(folder: Path, kind: Kind) -> None:
    """Refuses a folder with files in it that manyshot did not write, or of another kind.

    Args:
        folder: where something is to be written.
        kind: what it is to hold.

    Raises:
        RecordError: then.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise records.RecordError(f"{folder} is a file: choose another --out folder")
    for name in (LOCK, SUBNETS, RANKS):
        if (folder / name).is_symlink():
            raise records.RecordError(f"{folder / name} is a link: runs have none, remove it")
    for other, files in _KINDS.items():
        if other != kind and any((folder / name).exists() for name in files):
            raise records.RecordError(
                f"{folder} holds a {other}, and this command writes a {kind}: choose another --out "
                "folder"
            )
    names = {path.name for path in folder.iterdir() if not records.is_torn(path)} - {LOCK, HOLDER}
    if names and not _is_ours(folder, names):
        listed = ", ".join(sorted(names)[:3])
        raise records.RecordError(
            f"{folder} holds {listed}{' and more' if len(names) > 3 else ''}, which manyshot did "
            "not write: choose a new or an empty --out folder"
        )


def _is_ours(folder: Path, names: set[str]) -> bool:
    """Whether manyshot wrote to it: it has our lock and a file of ours, or our environment."""
    lock = folder / LOCK
    ours = {RECIPE, *(name for kind in _KINDS.values() for name in kind)}
    if lock.is_file() and lock.stat().st_size == 0 and names & ours:
        return True
    try:
        return RunFolder(folder).environment() is not None
    except records.RecordError:
        return False


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as it is known."""
    try:
        holder = records.load(folder / HOLDER, Holder)
    except (OSError, records.RecordError):  # it was just taken, or given back
        return "another process"
    return f"{holder.doing} (process {holder.pid} on {holder.host})"
