"""Records that are kept in the repository, and those of a run in its working folder.

What is kept is a gzipped file, always the same bytes for the same records. A run never writes it:
it appends to a plain `records.jsonl` in its working folder, which begins as a copy of what is kept,
so that nothing on record is done again. With `--keep` a run ends by keeping its records, and
writes the page beside them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manyshot import records

ROOT = Path(__file__).parents[2]
"""Of the repository."""
BENCHMARKS = ROOT / "benchmarks"
RECIPES = ROOT / "recipes"
TRUTHS = BENCHMARKS / "truths"
"""What `manyshot truth` made, plain, because `manyshot rank --truth` reads no other."""
WORKING = "records.jsonl"
"""The name of the records in a working folder."""
Writes = Callable[[Path], Path]
"""Writes the page of records beside them, and returns its path."""


def of_study(script: str) -> Path:
    """The kept records of the study that a script belongs to."""
    return Path(script).with_name("records.jsonl.gz")


def of_speed(script: str) -> Path:
    """The kept records of a benchmark of speed, whose files begin with its name."""
    path = Path(script)
    return path.with_name(f"{path.stem.removesuffix('_page')}.jsonl.gz")


def every() -> list[Path]:
    """All kept records."""
    return sorted(BENCHMARKS.rglob("*.jsonl.gz"))


def stem(path: Path) -> str:
    """The name of a file of records without its suffixes."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def page_of(path: Path) -> Path:
    """Where the page of records goes, unless its name says more."""
    name = stem(path)
    return path.with_name("page.md" if name == "records" else f"{name}.md")


def reading_of(path: Path) -> Path:
    """Where a person's reading of records is."""
    name = stem(path)
    return path.with_name("reading.md" if name == "records" else f"{name}_reading.md")


def content(path: Path) -> bytes:
    """The bytes of records, uncompressed; none if there is no file."""
    if not path.exists():
        return b""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


RENAMED = {"code_entropy": "code_entropy_share"}
"""Keys of records that were kept before the library renamed them, and their names now."""


def rows(path: Path) -> list[dict[str, Any]]:
    """The records of a file, plain or gzipped, with the names that keys have now.

    Raises:
        RecordError: if a line is no record, or of another schema.
    """
    if path.suffix != ".gz":
        return [_renamed(row) for row in records.read_lines(path)]
    found = []
    for number, line in enumerate(content(path).splitlines(), start=1):
        row = json.loads(line)
        if row.get("schema") != records.SCHEMA:
            raise records.RecordError(
                f"{path}, line {number} has schema {row.get('schema')!r}; this version reads "
                f"{records.SCHEMA}. Restore the file: git checkout -- {path}"
            )
        found.append(_renamed(row))
    return found


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(key, key): value for key, value in row.items()}


def packed(plain: bytes) -> bytes:
    """Gzipped without a time or a name, so that the same records are always the same bytes."""
    into = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=into, mtime=0) as file:
        file.write(plain)
    return into.getvalue()


def write(path: Path, plain: bytes) -> None:
    """Writes records, gzipped if the name says so, atomically."""
    with records.atomic(path) as temporary:
        temporary.write_bytes(packed(plain) if path.suffix == ".gz" else plain)


def options(parser: argparse.ArgumentParser, work: Path | None) -> None:
    """Adds what every benchmark with records is told about them.

    Args:
        parser: of the benchmark's command line.
        work: the working folder unless another is given; None if the benchmark finds its own.
    """
    text = "the working folder; its records.jsonl begins as a copy of the records that are kept"
    parser.add_argument("--work", type=Path, default=work, help=text)
    either = parser.add_mutually_exclusive_group()
    text = "begin without the records that are kept"
    either.add_argument("--fresh", action="store_true", help=text)
    text = "at the end keep the records, and write the page beside them"
    either.add_argument("--keep", action="store_true", help=text)


def begin(given: argparse.Namespace, kept: Path) -> Path:
    """The records of a working folder, ready to be appended to.

    Args:
        given: what `options` was told.
        kept: the records that are kept.

    Raises:
        RecordError: if the working folder lacks records that are kept.
    """
    path: Path = given.work / WORKING
    given.work.mkdir(parents=True, exist_ok=True)
    if not given.fresh:
        if not path.exists():
            write(path, content(kept))
        check(path, kept)
    records.keep_lines(path, lambda row: True)  # a line torn by a kill is dropped
    return path


def end(given: argparse.Namespace, kept: Path, write_page: Writes) -> None:
    """Writes the page of a working folder, and with `--keep` keeps its records and their page.

    Args:
        given: what `options` was told.
        kept: where records are kept.
        write_page: of the benchmark.
    """
    path: Path = given.work / WORKING
    if given.keep:
        check(path, kept)
        write(kept, path.read_bytes())
        path = kept
    print(write_page(path), file=sys.stderr)


def check(path: Path, kept: Path) -> None:
    """Sees that every record that is kept is in a working folder too.

    Args:
        path: the records of the working folder.
        kept: the records that are kept.

    Raises:
        RecordError: if some are not.
    """
    lacking = set(content(kept).splitlines()) - set(content(path).splitlines())
    if lacking:
        raise records.RecordError(
            f"{path} lacks {len(lacking)} of the records of {kept}, so keeping it would lose them: "
            "give another --work, or move the file away and begin again; --fresh goes on with "
            "the file as it is, and keeps nothing"
        )
