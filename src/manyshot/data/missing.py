"""The error for data that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final


@final
class DataNotFound(FileNotFoundError):
    """A data set's files are missing; the message says what, where, and the way out."""


def not_found(name: str, *, wanted: str, places: Sequence[Path], way_out: str) -> DataNotFound:
    """Makes the error for data that is not there, to be raised.

    Args:
        name: the data set.
        wanted: what was looked for.
        places: where it was looked for, in order.
        way_out: what the reader can do.
    """
    looked = "\n  ".join(map(str, places))
    return DataNotFound(
        f"data set {name!r} was not found. Looked for {wanted} in\n  {looked}\nTo go on: {way_out}"
    )
