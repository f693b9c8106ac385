"""What a run writes: atomic files and append-only records. Everything else is drawn from them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer
from pydantic_core import ErrorDetails

from manyshot.plugins import shown

SCHEMA = 1
"""Version of the records that this package writes, but for those of `SCORES_SCHEMA`; readers
refuse others."""
SCORES_SCHEMA = 2
"""Version of records that hold scores: since 2 these are of the run's task, which they name."""

wrote: Callable[[Path], None] = lambda path: None  # noqa: E731
"""Called after every durable write; tests put their fail points here."""

_WAY_OUT = "restore it from a copy, or delete it and resume: what it held is made again"
_TORN = ".manyshot-part"
"""In the names of temporary files, before the suffix."""
_DISK = (
    ({errno.ENOSPC, errno.EDQUOT}, "the disk is full", "make room"),
    ({errno.EROFS}, "the disk can only be read", "let it be written to"),
    ({errno.EACCES, errno.EPERM}, "writing there is not allowed", "give this user the right"),
)
"""Numbers of errors that a disk gives rise to, what they mean, and the way out."""


class RecordError(ValueError):
    """A file of a run cannot be used; the message says why and what to do."""


class Part(BaseModel):
    """Something inside a record: frozen and strict, without unknown keys, NaN or infinity.

    A field whose default is None is absent from the file where it is None; any other None is
    written as null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_absent(self, plain: Callable[[Part], dict[str, Any]]) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            key: value
            for key, value in plain(self).items()
            if value is not None or key not in fields or fields[key].is_required()
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The same from plain values, in which lists stand for tuples.

        Raises:
            ValueError: if a key is missing, unknown or has a wrong value.
        """
        return cls.model_validate_json(json.dumps(content, allow_nan=False))

    def plain(self) -> dict[str, Any]:
        """What the file holds, as dictionaries, lists, texts and numbers."""
        return self.model_dump(mode="json", by_alias=True)


class Record(Part):
    """A whole file, or a line of one."""

    schema_version: int = Field(default=SCHEMA, ge=SCHEMA, le=SCHEMA, alias="schema")


R = TypeVar("R", bound=Record)


class ScoresRecord(Record):
    """A record that holds scores, or says what they are."""

    schema_version: int = Field(
        default=SCORES_SCHEMA, ge=SCORES_SCHEMA, le=SCORES_SCHEMA, alias="schema"
    )


def parsed(kind: type[R], text: bytes | str, where: str) -> R:
    """One record from its JSON text.

    Args:
        kind: the type of the record.
        text: what was read.
        where: the file, and the line if it has several; errors begin with it.

    Raises:
        RecordError: if the text is no record, is of another schema, or lacks a key or has a wrong
            value, which the message names.
    """
    reads = kind.model_fields["schema_version"].default
    try:
        record = kind.model_validate_json(text)
    except ValidationError as error:
        raise RecordError(f"{where} {_said(error.errors(include_url=False), reads)}") from error
    if "schema_version" not in record.model_fields_set:
        raise RecordError(f"{where} has schema None; this version reads {reads}")
    return record


def _said(errors: list[ErrorDetails], reads: int) -> str:
    """What is wrong with a record, the most important first, and what to do."""
    for error in errors:
        if error["loc"] == ("schema",):
            return f"has schema {shown(error['input'])}; this version reads {reads}"
    first = errors[0]
    if not first["loc"]:
        return f"is not a record: {first['msg']}; {_WAY_OUT}"
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        what = f"has no {key!r}"
    elif first["type"] == "extra_forbidden":
        what = f"has an unknown key {key!r}"
    else:
        said = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        what = f"has {key!r} = {shown(first['input'])}: {said}"
    return f"{what}; {_WAY_OUT}"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well, and durably.

    It has the suffix of `path`. A reader sees the old file or the new one, whole; after an error
    nothing is left.

    Raises:
        RecordError: if the folder is not there (any more).
    """
    _check_folder(path.parent)
    with _disk_said(path):
        handle, name = tempfile.mkstemp(f"{_TORN}{path.suffix}", f".{path.stem}.", path.parent)
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


@contextlib.contextmanager
def _disk_said(path: Path) -> Iterator[None]:
    """An error for want of space, or of the right to write, names the file and the way out.

    Raises:
        OSError: of the same number, then; others stay as they are.
    """
    try:
        yield
    except OSError as error:
        for numbers, why, way_out in _DISK:
            if error.errno in numbers:
                raise OSError(
                    error.errno, f"{why}, so {path} was not written: {way_out}, then resume"
                ) from error
        raise


def sha256_of(path: Path) -> str:
    """The sha256 of the content of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_torn(folder: Path) -> None:
    """Removes from a folder, not from those in it, the temporary files of a killed `atomic`."""
    for path in folder.glob(f".*{_TORN}*"):
        if is_torn(path):
            path.unlink(missing_ok=True)


def is_torn(path: Path) -> bool:
    """Whether a path is a temporary file of `atomic`."""
    named = path.name.startswith(".") and (path.suffix == _TORN or path.stem.endswith(_TORN))
    return named and path.is_file() and not path.is_symlink()


_HELD: dict[Path, tuple[int, int]] = {}
"""The folders that this process holds the locks of, and which folders they were then."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nothing is written below a path inside the block if another folder has taken its place."""
    _HELD[folder] = _identity(folder)
    try:
        yield
    finally:
        del _HELD[folder]


def is_held(folder: Path) -> bool:
    """Whether a held folder is still the one that it was."""
    return folder.is_dir() and _HELD.get(folder) == _identity(folder)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _check_folder(folder: Path) -> None:
    replaced = [one for one in (folder, *folder.parents) if one in _HELD and not is_held(one)]
    if replaced or not folder.is_dir():
        raise RecordError(
            f"folder {(*replaced, folder)[0]} is not there: if it was removed, renamed or replaced "
            "while a command wrote to it, start that command again"
        )


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


def _plain(record: Record | Mapping[str, Any]) -> dict[str, Any]:
    content = record.plain() if isinstance(record, Record) else record
    return {"schema": SCHEMA, **content}


def write_json(path: Path, record: Record | Mapping[str, Any]) -> None:
    """Writes a record, with its schema, atomically."""
    write_text(path, json.dumps(_plain(record), indent=2, allow_nan=False) + "\n")


def write_lines(path: Path, lines: Iterable[Record | Mapping[str, Any]]) -> None:
    """Writes a `.jsonl` file whole, atomically."""
    rows = (json.dumps(_plain(line), allow_nan=False) for line in lines)
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


def load(path: Path, kind: type[R]) -> R:
    """Reads a record of a known type.

    Raises:
        RecordError: if it is not one, or of another schema.
    """
    return parsed(kind, path.read_bytes(), str(path))


def append(path: Path, record: Record | Mapping[str, Any]) -> None:
    """Adds one line to a `.jsonl` file, durably."""
    line = json.dumps(_plain(record), allow_nan=False) + "\n"
    _check_folder(path.parent)
    with _disk_said(path), open(path, "a", encoding="utf-8", opener=_no_link) as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    wrote(path)


def _no_link(path: str, flags: int) -> int:
    """Opens a file that must not be a link, which could lead out of the folder."""
    if os.path.islink(path):
        raise RecordError(f"{path} is a link: the files of a run are none, remove it")
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, one in memory at a time; a last one without an end is left out."""
    if path.exists():
        with path.open("rb") as file:
            yield from (line[:-1] for line in file if line.endswith(b"\n"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a `.jsonl` file; a last line torn by a kill is left out.

    Raises:
        RecordError: if any other line is no record, or of another schema.
    """
    return [_read_line(path, *numbered) for numbered in enumerate(_raw_lines(path), start=1)]


def _read_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}, line {number} is not a record: {error}; {_WAY_OUT}") from error
    return _checked(path, record)


def iterate_lines(
    path: Path, kind: type[R], only: Callable[[dict[str, Any]], bool] | None = None
) -> Iterator[R]:
    """The lines of a `.jsonl` file as records of a known type, read when they are asked for.

    However long the file is, one line is in memory at a time. A torn last one is left out.

    Args:
        path: the file; without one there are no lines.
        kind: the type of all lines.
        only: passes over the lines that it refuses, which may be of any type.

    Raises:
        RecordError: if a line is not of the type, or of another schema, once it is reached.
    """
    validate = kind.model_validate_json
    for number, line in enumerate(_raw_lines(path), start=1):
        if only is not None and not only(_read_line(path, number, line)):
            continue
        try:
            record = validate(line)
        except ValidationError:
            record = None
        if record is None or "schema_version" not in record.model_fields_set:
            record = parsed(kind, line, f"{path}, line {number}")  # says what is wrong
        yield record


def load_lines(
    path: Path, kind: type[R], only: Callable[[dict[str, Any]], bool] | None = None
) -> list[R]:
    """The lines of a `.jsonl` file as records of a known type; see `iterate_lines`.

    Raises:
        RecordError: if a line is not of the type, or of another schema.
    """
    return list(iterate_lines(path, kind, only))


def keep(path: Path, kind: type[R], wanted: Callable[[R], bool] = lambda line: True) -> list[R]:
    """Rewrites a `.jsonl` file with the lines of a known type that are wanted, and returns them.

    A torn last line is dropped too, so that appending may go on. Lines that stay are not changed.

    Args:
        path: the file; without one nothing is written.
        kind: the type of all lines.
        wanted: says which lines stay; by default all.

    Raises:
        RecordError: if a line is not of the type, or of another schema.
    """
    kept: list[R] = []
    stays = bytearray()
    for line in iterate_lines(path, kind):
        stays.append(wanted(line))
        if stays[-1]:
            kept.append(line)
    if path.exists() and (not all(stays) or _is_cut(path)):
        with atomic(path) as temporary, path.open("rb") as old, temporary.open("wb") as new:
            new.writelines(line for stay, line in zip(stays, old, strict=False) if stay)
    return kept


def _is_cut(path: Path) -> bool:
    """Whether the last line of a file has no end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


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
    if not isinstance(record, dict) or record.get("schema") not in (SCHEMA, SCORES_SCHEMA):
        found = record.get("schema") if isinstance(record, dict) else record
        raise RecordError(
            f"{path} has schema {found!r}; this version reads {SCHEMA} and {SCORES_SCHEMA}"
        )
    return record
