"""A cost as a sum of tables, each over a few decisions: arithmetic instead of forward passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt

from manyshot.space import Arch

Archs = Sequence[Arch] | npt.NDArray[np.int64]
Table = npt.NDArray[Any]
MAX_CELLS = 10_000_000
COUNTED = ("macs", "params", "size")
"""The metrics whose costs are whole numbers."""


@final
@dataclass(frozen=True, eq=False)
class CostTable:
    """The exact cost of any architecture: a constant plus one table per set of decisions.

    Attributes:
        metric: what is counted: `macs`, `params`, `size`, `latency_ms`, or `share` of something.
        counts: the number of options of every decision.
        constant: the part that no decision changes.
        tables: for each set of decisions (positions in an architecture, ascending) an array with
            one axis per decision.
    """

    metric: str
    counts: tuple[int, ...]
    constant: float
    tables: dict[tuple[int, ...], Table]

    @classmethod
    def of(
        cls, metric: str, counts: tuple[int, ...], parts: Iterable[tuple[tuple[int, ...], Table]]
    ) -> Self:
        """The table that is the sum of parts.

        Args:
            metric: what is counted.
            counts: the number of options of every decision.
            parts: sets of decisions, each with a table over them.
        """
        tables: dict[tuple[int, ...], Table] = {}
        for positions, table in parts:
            tables[positions] = tables[positions] + table if positions in tables else table
        constant = tables.pop((), np.zeros((), np.int64)).item()
        return cls(metric, counts, constant, tables)

    def __call__(self, archs: Archs) -> npt.NDArray[Any]:
        """The costs of architectures, (N,): integers for `macs`, `params` and `size`.

        Raises:
            ValueError: for an architecture that is not in the space.
        """
        encodings = self._encodings(archs)
        total = np.full(len(encodings), self.constant, dtype=self.dtype)
        for positions, table in self.tables.items():
            total += table[tuple(encodings[:, p] for p in positions)]
        return total

    def _encodings(self, archs: Archs) -> npt.NDArray[np.int64]:
        if len(archs) == 0:
            return np.zeros((0, len(self.counts)), np.int64)
        try:
            encodings = np.asarray(archs)
        except ValueError:
            encodings = np.zeros(0)  # of differing lengths
        wanted = f"a list of architectures of {len(self.counts)} whole numbers each"
        if encodings.ndim != 2 or encodings.shape[1] != len(self.counts):
            lengths = sorted({len(arch) if np.ndim(arch) else 0 for arch in archs})
            hint = "; for one architecture write [arch]" if lengths == [0] else ""
            raise ValueError(f"{self.metric}: expected {wanted}, got lengths {lengths}{hint}")
        if encodings.dtype.kind not in "iu":
            raise ValueError(f"{self.metric}: expected {wanted}, got {encodings.dtype}")
        outside = (encodings < 0) | (encodings >= np.array(self.counts))
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise ValueError(
                f"{self.metric}: architecture {tuple(encodings[row].tolist())}: option "
                f"{encodings[row, column]} of decision {column} is not in "
                f"0..{self.counts[column] - 1}"
            )
        return encodings.astype(np.int64, copy=False)

    @property
    def dtype(self) -> type[np.int64] | type[np.float64]:
        """The type of costs: integers for counts, floating point for time."""
        return np.int64 if self.metric in COUNTED else np.float64

    def range(self) -> tuple[float, float]:
        """The least and the greatest cost in the space, exact (by eliminating decisions)."""
        return self._extreme(np.min), self._extreme(np.max)

    @classmethod
    def weighed(cls, weighed: Iterable[tuple[Self, float]]) -> Self:
        """The sum of tables of one space, each times a number; its metric is `share`."""
        pairs = list(weighed)
        parts = [
            (positions, table * weight)
            for one, weight in pairs
            for positions, table in (*one.tables.items(), ((), np.array(one.constant)))
        ]
        return cls.of("share", pairs[0][0].counts, parts)

    def to_dict(self) -> dict[str, Any]:
        """A record that JSON can hold; `from_dict` restores an equal table."""
        return {
            "metric": self.metric,
            "counts": list(self.counts),
            "constant": self.constant,
            "tables": [
                [list(positions), table.tolist()] for positions, table in self.tables.items()
            ],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The table that `to_dict` described."""
        dtype = np.int64 if record["metric"] in COUNTED else np.float64
        tables = {tuple(positions): np.array(table, dtype) for positions, table in record["tables"]}
        return cls(record["metric"], tuple(record["counts"]), record["constant"], tables)

    def _extreme(self, best: Callable[..., Any]) -> float:
        factors = list(self.tables.items())
        total: float = self.constant
        while factors:
            factors, constant = self._without_the_decided(factors, best)
            total += constant
            if not factors:
                break
            left = {p for positions, _ in factors for p in positions}
            position = min(left, key=lambda p: _merged(factors, p))
            touching = [f for f in factors if position in f[0]]
            factors = [f for f in factors if position not in f[0]]
            scope, table = self._product(touching)
            table = best(table, axis=scope.index(position))
            scope = tuple(p for p in scope if p != position)
            if scope:
                factors.append((scope, table))
            else:
                total += table.item()
        return total

    def _without_the_decided(
        self, factors: list[tuple[tuple[int, ...], Table]], best: Callable[..., Any]
    ) -> tuple[list[tuple[tuple[int, ...], Table]], float]:
        """Factors without the decisions one of whose options is best whatever the others are.

        Returns:
            The factors left, and the sum of those that no decision is left in.
        """
        constant: float = 0  # whole numbers stay whole
        for position in sorted({p for positions, _ in factors for p in positions}):
            touching = [f for f in factors if position in f[0]]
            options = [
                _best_options(positions.index(position), t, best) for positions, t in touching
            ]
            agreed = np.flatnonzero(np.logical_and.reduce(options))
            if not len(agreed):
                continue
            factors = [f for f in factors if position not in f[0]]
            for positions, table in touching:
                chosen = table.take(agreed[0], axis=positions.index(position))
                rest = tuple(p for p in positions if p != position)
                if rest:
                    factors.append((rest, chosen))
                else:
                    constant += chosen.item()
        return factors, constant

    def _product(
        self, factors: Sequence[tuple[tuple[int, ...], Table]]
    ) -> tuple[tuple[int, ...], Table]:
        scope = tuple(sorted({p for positions, _ in factors for p in positions}))
        shape = [self.counts[p] for p in scope]
        if math.prod(shape) > MAX_CELLS:
            raise ValueError(
                f"{self.metric}: the exact range needs a table of {math.prod(shape):,} cells "
                f"(at most {MAX_CELLS:,}): too many decisions multiply one another"
            )
        table = np.zeros(shape, self.dtype)
        for positions, values in factors:
            table += values.reshape([self.counts[p] if p in positions else 1 for p in scope])
        return scope, table


def _best_options(axis: int, table: Table, best: Callable[..., Any]) -> npt.NDArray[np.bool_]:
    """Which options of a decision are best at all options of the others."""
    moved = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    return np.asarray((moved == best(moved, axis=0)).all(1))


def _merged(factors: Sequence[tuple[tuple[int, ...], Table]], position: int) -> int:
    return len({p for positions, _ in factors if position in positions for p in positions})
