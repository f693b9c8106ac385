"""A table before it is drawn anywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

Cell: TypeAlias = str | Mapping[str, str]
"""Text, or the paths of files by what they are called."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells as people read them.

    Attributes:
        rows: the cells of each row by the titles of their columns; what a row lacks is empty.
        words: the titles of columns that hold words; all others hold numbers, and stand right.
        code: the titles of columns that hold what a computer reads too, such as architectures.
        note: what one should know to read the numbers.
    """

    rows: Sequence[Mapping[str, Cell]]
    words: Collection[str]
    code: Collection[str] = ()
    note: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def head(self) -> list[str]:
        """The titles of the columns: of all rows, in the order of their first appearance."""
        return list(dict.fromkeys(title for row in self.rows for title in row))

    def cells(self) -> list[dict[str, Cell]]:
        """The rows with a cell in every column, in the order of `head`."""
        head = self.head
        return [{title: row.get(title, "") for title in head} for row in self.rows]

    def only(self, *titles: str) -> Table:
        """The same table with some of its columns."""
        return replace(self, rows=[{title: row[title] for title in titles} for row in self.cells()])

    def without(self, title: str) -> Table:
        """The same table but for one of its columns."""
        return self.only(*(name for name in self.head if name != title))
