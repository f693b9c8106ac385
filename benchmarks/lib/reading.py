"""Readings: what a person wrote about records, tied to them by the digest in its first line.

    python -m benchmarks.lib.reading benchmarks/studies/shifting/reading.md ...

writes the digest of the records as they are now into readings that have been read again. A test
fails while the records of a reading are not those that its digest names.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

from benchmarks.lib import kept
from manyshot import records

COMMAND = "python -m benchmarks.lib.reading"
MARK = re.compile(r"<!-- Of the records with sha256 ([0-9a-f]{64})\. -->\n")
"""The first line of a reading."""


class ReadingError(ValueError):
    """A reading is not of the records beside it; the message says what to do."""


def digest(path: Path) -> str:
    """Of the uncompressed bytes of records."""
    return hashlib.sha256(kept.content(path)).hexdigest()


def text(path: Path) -> str:
    """The reading of the records at `path` without its first line; empty if there is none."""
    reading = kept.reading_of(path)
    return MARK.sub("", reading.read_text(), count=1) if reading.exists() else ""


def records_of(reading: Path) -> Path:
    """The records that a reading is of.

    Raises:
        ReadingError: if there are none beside it.
    """
    for path in sorted(reading.parent.glob("*.jsonl.gz")):
        if kept.reading_of(path) == reading:
            return path
    raise ReadingError(
        f"{reading} has no records beside it: a reading is called reading.md beside "
        "records.jsonl.gz, or NAME_reading.md beside NAME.jsonl.gz"
    )


def check(reading: Path) -> None:
    """Sees that a reading is of the records beside it.

    Raises:
        ReadingError: if it is not, or does not say.
    """
    path = records_of(reading)
    named = MARK.match(reading.read_text())
    if named is None or named[1] != digest(path):
        said = "names no records" if named is None else f"is of records {named[1][:12]}"
        raise ReadingError(
            f"{reading} {said}, but {path.name} is {digest(path)[:12]}: read its page again, "
            f"correct what no longer holds, then run {COMMAND} {reading} and "
            "python -m benchmarks.lib.pages"
        )


def confirm(reading: Path) -> None:
    """Writes the digest of the records as they are now into a reading."""
    mark = f"<!-- Of the records with sha256 {digest(records_of(reading))}. -->\n"
    records.write_text(reading, mark + MARK.sub("", reading.read_text(), count=1))


def main() -> None:
    """Confirms readings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("readings", type=Path, nargs="+", help="that were read again")
    for reading in parser.parse_args().readings:
        confirm(reading.resolve())


if __name__ == "__main__":
    main()
