"""What figures show that no record says in so many words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from manyshot.report.reading import Record
from manyshot.space import Arch, SearchSpace

PROPOSED = ("candidate", "elite")
"""Roles of scores that a search takes on its way; `final` ones are taken after it."""
TIE = 1e-9
"""A cost exceeds a limit by more than this share of it, or not."""


def latest(lines: Sequence[Record]) -> list[Record]:
    """The last record of every architecture, in the order of their first."""
    return list({line["arch"]: line for line in lines}.values())


def front(points: Sequence[Record], cost: str, value: str) -> list[Record]:
    """The records that no other beats: none costs as little with so high a value.

    Cheapest first; of equal ones the first.
    """
    kept: list[Record] = []
    for point in sorted(points, key=lambda p: (p[cost], -p[value])):
        if not kept or point[value] > kept[-1][value]:
            kept.append(point)
    return kept


def best_so_far(
    lines: Sequence[Record], limit: tuple[str, float] | None
) -> list[tuple[int, float]]:
    """Where the best score within a limit rose: (scores taken, best accuracy).

    Args:
        lines: scores in the order that they were taken in.
        limit: metric and limit; None for all.
    """
    steps: list[tuple[int, float]] = []
    for number, line in enumerate(lines, start=1):
        if limit is not None and line[limit[0]] > limit[1] * (1 + TIE):
            continue
        if not steps or line["proxy_accuracy"] > steps[-1][1]:
            steps.append((number, line["proxy_accuracy"]))
    return steps


def shares(space: SearchSpace, archs: Sequence[Arch]) -> list[list[float]]:
    """How often each option of each decision occurs, of the architectures where it matters.

    Zeros for a decision that matters in none.
    """
    counts = [[0] * len(decision.options) for decision in space.decisions]
    for arch in archs:
        for i, active in enumerate(space.active(arch)):
            counts[i][arch[i]] += active
    return [[n / sum(row) if any(row) else 0.0 for n in row] for row in counts]


def code_of(record: Record) -> list[float]:
    """The code of a path: K numbers, those of layers averaged."""
    code = record["code"]
    if code and isinstance(code[0], list):
        return [sum(column) / len(code) for column in zip(*code, strict=True)]
    return list(code)


def entropy(code: Sequence[float]) -> float:
    """Of the magnitudes of a code as a distribution, in nats."""
    total = sum(map(abs, code))
    parts = [abs(c) / total for c in code] if total else []
    return -sum(p * math.log(p) for p in parts if p > 0) + 0.0


def merged(winners: Sequence[Record]) -> list[tuple[list[str], Record]]:
    """Winners with the budgets that they won; one network may win several."""
    budgets: dict[str, list[str]] = {}
    for winner in winners:
        budgets.setdefault(winner["arch"], []).append(winner["budget"])
    own: Mapping[str, Record] = {winner["arch"]: winner for winner in winners}
    return [(names, own[arch]) for arch, names in budgets.items()]


def chosen_rows(values: Sequence[float], most: int) -> list[int]:
    """Rows to draw of many: all, or `most` evenly spread over the order of `values`."""
    if len(values) <= most:
        return list(range(len(values)))
    order = sorted(range(len(values)), key=values.__getitem__)
    return sorted(order[round(i * (len(order) - 1) / (most - 1))] for i in range(most))
