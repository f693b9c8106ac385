"""Costs of modules that take many concatenated parts, without trying all combinations of them.

A layer of a densely connected network takes the outputs of all before it: dozens of sizes, of which
no table holds all combinations. What it costs depends on their sum alone. So the cost is observed
at a few sums for every option of the other decisions, written as a polynomial of the sums, and each
of its terms is a table over few decisions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from torch import nn

from manyshot.cost.recording import Cells, CostMismatch, Observe, Positions, Recording
from manyshot.cost.tables import Table
from manyshot.nn.structure import sizes_of
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, Decision, Number, Size
from manyshot.space.decision import Concat

LISTED = 64
"""A module with concatenations and at most so many combinations is observed at all of them."""
REPEATED = 2
"""How many more sums are observed than the terms of a polynomial need: they have to agree."""

Sums = tuple[int, ...]
Monomial = tuple[int, ...]
"""Which concatenations are multiplied; none for the constant."""


@final
@dataclass(frozen=True)
class Concatenated:
    """A module whose cost is a polynomial of the sizes of its concatenations.

    Attributes:
        module: the module.
        concats: its distinct concatenations.
        rest: the decisions that its cost depends on besides.
        parts: the decisions that the parts of its concatenations depend on.
    """

    module: nn.Module
    concats: tuple[Concat, ...]
    rest: Positions
    parts: Positions

    @classmethod
    def of(cls, recording: Recording, module: nn.Module, depends: Positions) -> Concatenated | None:
        """The module in this form; None if it has no concatenation or is small enough to list.

        Args:
            recording: what observes it.
            module: the module.
            depends: all decisions that its cost depends on.
        """
        counts, index = recording.space.counts, recording.space.index
        if math.prod(int(counts[p]) for p in depends) <= LISTED:
            return None
        sizes = [size for _, size in sizes_of(module, "")]
        concats = {_key(size): size for size in sizes if isinstance(size, Concat)}
        if not concats:
            return None
        others = {index[d] for s in sizes if not isinstance(s, Concat) for d in s.decisions()}
        parts = {index[d] for size in concats.values() for d in size.decisions()}
        rest = tuple(p for p in depends if p in others or p not in parts)
        return cls(module, tuple(concats.values()), rest, tuple(sorted(parts)))

    @property
    def monomials(self) -> list[Monomial]:
        """All products of at most two of the concatenations: of inputs and of outputs."""
        at = range(len(self.concats))
        return [
            product for n in range(3) for product in itertools.combinations_with_replacement(at, n)
        ]

    def sums(self, recording: Recording, arch: Arch) -> Sums:
        """The sizes of the concatenations in an architecture."""
        return tuple(int(_number(recording, size, arch)) for size in self.concats)


def _key(size: Concat) -> tuple[object, ...]:
    return tuple(part if isinstance(part, int | float) else id(part) for part in size.operands)


def _number(recording: Recording, size: Number | Size, arch: Arch) -> Number:
    if not isinstance(size, Size):
        return size
    at = recording.space.index
    values: Mapping[Decision, Number] = {d: d.values[arch[at[d]]] for d in size.decisions()}
    return size.evaluate(values)


def concatenated_tables(
    recording: Recording, observe: Observe[int], held: Sequence[Concatenated]
) -> dict[nn.Module, list[tuple[Positions, Table]]]:
    """The costs of modules as sums of tables.

    Raises:
        CostMismatch: if a cost is no polynomial of the sizes of concatenations.
    """
    seen = _observed(recording, observe, held)
    return {
        one.module: [
            recording.expand(one.module, positions, cells)
            for positions, cells in _terms(recording, one, _fitted(recording, one, seen[i]))
        ]
        for i, one in enumerate(held)
    }


def _observed(
    recording: Recording, observe: Observe[int], held: Sequence[Concatenated]
) -> list[dict[Positions, dict[Sums, int]]]:
    """What is observed of each module, by the options of the rest and by the sums.

    Every architecture takes one pending wish of as many modules as agree, and random options
    elsewhere.
    """
    rng = numpy_rng("concatenations", "checks")
    pending = [list(_wishes(recording, one)) for one in held]
    seen: list[dict[Positions, dict[Sums, int]]] = [{} for _ in held]
    while any(pending):
        fixed: dict[int, int] = {}
        for wishes in sorted(pending, key=len, reverse=True):
            for wish in wishes:
                if all(fixed.get(p, option) == option for p, option in wish.items()):
                    fixed |= wish
                    break
        arch = tuple(fixed.get(i, o) for i, o in enumerate(recording.space.sample(rng)))
        counts = observe(arch)
        for i, one in enumerate(held):
            if not recording.active(one.module, arch):
                continue
            cell, sums = tuple(arch[p] for p in one.rest), one.sums(recording, arch)
            count = counts.get(one.module, 0)
            if seen[i].setdefault(cell, {}).setdefault(sums, count) != count:
                raise _mismatch(recording, one)
            met = next((w for w in pending[i] if all(arch[p] == o for p, o in w.items())), None)
            if met is not None:
                pending[i].remove(met)
    return seen


def _wishes(recording: Recording, one: Concatenated) -> Iterator[dict[int, int]]:
    """At all options of the rest: the smallest parts, the largest, and some of any sizes."""
    space = recording.space
    for cell in itertools.product(*(range(int(space.counts[p])) for p in one.rest)):
        fixed = dict(zip(one.rest, cell, strict=True))
        allowed = (recording.satisfy(use, fixed) for use in recording.uses[one.module])
        wanted = next((options for options in allowed if options is not None), None)
        if wanted is None:
            continue
        for end in (space.smallest, space.largest):
            yield {p: end[p] for p in one.parts} | wanted
        yield from itertools.repeat(wanted, len(one.monomials) - 2 + REPEATED)


def _fitted(
    recording: Recording, one: Concatenated, seen: Mapping[Positions, Mapping[Sums, int]]
) -> dict[Positions, dict[Monomial, int]]:
    """The polynomial at all options of the rest, of the lowest terms that agree with all seen.

    Raises:
        CostMismatch: if there is none, or its coefficients are not whole.
    """
    fitted = {}
    for cell, counts in seen.items():
        solution = _solved(one.monomials, counts)
        if solution is None:
            raise _mismatch(recording, one)
        fitted[cell] = solution
    return fitted


def _solved(
    monomials: Sequence[Monomial], counts: Mapping[Sums, int]
) -> dict[Monomial, int] | None:
    """The coefficients of monomials, exact; None if there are none, or they are not whole."""
    rows = [
        [Fraction(math.prod(sums[i] for i in monomial)) for monomial in monomials]
        + [Fraction(count)]
        for sums, count in counts.items()
    ]
    pivots: list[int] = []
    for column in range(len(monomials)):
        at = next((r for r in range(len(pivots), len(rows)) if rows[r][column]), None)
        if at is None:
            continue  # not told apart by what was observed: left out
        rows[len(pivots)], rows[at] = rows[at], rows[len(pivots)]
        lead = rows[len(pivots)]
        lead[:] = [value / lead[column] for value in lead]
        for row in rows:
            if row is not lead and row[column]:
                row[:] = [v - row[column] * w for v, w in zip(row, lead, strict=True)]
        pivots.append(column)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    solution = {monomials[column]: row[-1] for column, row in zip(pivots, rows, strict=False)}
    if any(value.denominator != 1 for value in solution.values()):
        return None
    return {monomial: int(value) for monomial, value in solution.items() if value}


def _terms(
    recording: Recording, one: Concatenated, fitted: Mapping[Positions, Mapping[Monomial, int]]
) -> Iterator[tuple[Positions, Cells[int]]]:
    """A polynomial of sums as tables: of the rest, and of the parts that are multiplied."""
    space = recording.space
    for monomial in one.monomials:
        if not any(monomial in polynomial for polynomial in fitted.values()):
            continue
        for parts in itertools.product(*(one.concats[i].operands for i in monomial)):
            inside = {space.index[d] for p in parts if isinstance(p, Size) for d in p.decisions()}
            positions = tuple(sorted(inside.union(one.rest)))
            cells: Cells[int] = {}
            arch = [0] * len(space)
            for cell in itertools.product(*(range(int(space.counts[p])) for p in positions)):
                for position, option in zip(positions, cell, strict=True):
                    arch[position] = option
                polynomial = fitted.get(tuple(arch[p] for p in one.rest))
                if polynomial is not None:
                    product = math.prod(_number(recording, part, tuple(arch)) for part in parts)
                    cells[cell] = polynomial.get(monomial, 0) * int(product)
            yield positions, cells


def _mismatch(recording: Recording, one: Concatenated) -> CostMismatch:
    return CostMismatch(
        f"module {recording.paths[one.module]!r} takes {len(one.parts)} sizes that are "
        "concatenated, and its cost is no whole multiple of their sum, nor of products of two such "
        "sums: let it hold every decision that its forward reads, or concatenate fewer"
    )
