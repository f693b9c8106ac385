"""One writer per folder: claiming a new one, holding its lock, and clearing what a kill left.

Of several processes that torchrun started together, the main one alone claims and locks.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from manyshot import records
from manyshot.recipe import RecipeError
from manyshot.run_folder import COMPARISON, ENVIRONMENT, HOLDER, LOCK, RANKING, Holder

RUNS = Path("runs")
"""Where runs go that are not told where."""
_OURS = (LOCK, ENVIRONMENT, COMPARISON, RANKING)
"""Any of these says that a folder is one that manyshot wrote; the lock is the first file in it."""


def is_main_process() -> bool:
    """Whether this process writes: of several that torchrun started, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def new_folder(name: str) -> Path:
    """Makes `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, ... that does not exist.

    Of several commands that begin at once, each gets a folder of its own.

    Raises:
        RecipeError: for one of several processes, which would each take another.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(
            "several processes need one folder: give --out, --resume, or out= in Python"
        )
    RUNS.mkdir(parents=True, exist_ok=True)
    folder, number = RUNS / name, 2
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            folder, number = RUNS / f"{name}-{number}", number + 1
        else:
            return folder


@contextlib.contextmanager
def writing(folder: Path, doing: str) -> Iterator[None]:
    """Makes this process the only one that writes to a folder, for as long as the block lasts.

    The folder is made if there is none, temporary files of a killed command are removed from it,
    and if nothing is in it at the end it is removed. The lock ends with the process, even if that
    is killed; nothing needs to be removed by hand.

    Args:
        folder: the folder of a run, a truth, a rank or a comparison.
        doing: the command, such as `manyshot truth`; whoever comes second reads it.

    Raises:
        RecordError: at once, if another process writes to it, or if it holds other files.
    """
    if not is_main_process():
        yield
        return
    _check_ours(folder)
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
    with lock:
        for part in (folder, folder / "subnets", *folder.glob("rank/*")):
            records.remove_torn(part)
        holder = Holder(doing=doing, pid=os.getpid(), host=platform.node())
        note.write_text(holder.model_dump_json(by_alias=True), encoding="utf-8")
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
            if [path.name for path in folder.glob("*")] == [LOCK]:
                (folder / LOCK).unlink()
                with contextlib.suppress(OSError):  # somebody has put something there just now
                    folder.rmdir()
                    if folder.parent == RUNS:
                        RUNS.rmdir()


def _check_ours(folder: Path) -> None:
    """Refuses a folder with files in it that manyshot did not write."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise records.RecordError(f"{folder} is a file: choose another --out folder")
    if any((folder / name).exists() for name in _OURS):
        return
    other = sorted(path.name for path in folder.iterdir() if not records.is_torn(path))
    if other:
        raise records.RecordError(
            f"{folder} holds {', '.join(other[:3])}{' and more' if len(other) > 3 else ''}, which "
            "manyshot did not write: choose a new or an empty --out folder"
        )


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as it is known."""
    try:
        holder = records.load(folder / HOLDER, Holder)
    except (OSError, records.RecordError):  # it was just taken, or given back
        return "another process"
    return f"{holder.doing} (process {holder.pid} on {holder.host})"
