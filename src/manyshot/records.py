"""What a run writes: atomic files and append-only records. Everything else is drawn from them."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
"""Version of every record that this package writes; readers refuse others."""

wrote: Callable[[Path], None] = lambda path: None  # noqa: E731
"""Called after every durable write; tests put their fail points here."""

_WAY_OUT = "restore it from a copy, or delete it and resume: what it held is made again"


class RecordError(ValueError):
    """A file of a run cannot be used; the message says why and what to do."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well, and durably.

    It has the suffix of `path`, and folders are made. A reader sees the old file or the new one,
    whole; after an error nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(f".part{path.suffix}", f".{path.stem}.", path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    wrote(path)


def _sync_folder(folder: Path) -> None:
    """Makes names in a folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes `text` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record, with its schema, atomically."""
    text = json.dumps({"schema": SCHEMA, **record}, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a `.jsonl` file whole, atomically."""
    rows = (json.dumps({"schema": SCHEMA, **line}, allow_nan=False) for line in lines)
    write_text(path, "".join(f"{row}\n" for row in rows))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a record.

    Raises:
        RecordError: if it is not one, or of another schema.
    """
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise RecordError(f"{path} is not a record: {error}; {_WAY_OUT}") from error
    return _checked(path, record)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one line to a `.jsonl` file, durably."""
    line = json.dumps({"schema": SCHEMA, **record}, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    wrote(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a `.jsonl` file; a last line torn by a kill is left out.

    Raises:
        RecordError: if any other line is no record, or of another schema.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RecordError(
                f"{path}, line {number} is not a record: {error}; {_WAY_OUT}"
            ) from error
        records.append(_checked(path, record))
    return records


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Rewrites a `.jsonl` file with the records that `keep` accepts, and returns them.

    Also drops a torn last line, so that appending may go on.
    """
    kept = [record for record in read_lines(path) if keep(record)]
    if path.exists():
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept)
        if text.encode() != path.read_bytes():
            write_text(path, text)
    return kept


def _checked(path: Path, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else record
        raise RecordError(f"{path} has schema {found!r}; this version reads {SCHEMA}")
    return record
