"""What figures show that no record says in so many words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from manyshot.run_folder import CodesLine, ScoreLine, SearchLine, WinnerRecord
from manyshot.space import Arch, SearchSpace

S = TypeVar("S", bound=ScoreLine)

PROPOSED = ("candidate", "elite")
"""Roles of scores that a search takes on its way; `final` ones are taken after it."""
TIE = 1e-9
"""A cost exceeds a limit only if it does so by more than this share of the limit."""


def latest(lines: Sequence[S]) -> list[S]:
    """The last score of every architecture, in the order of their first."""
    return list({line.arch: line for line in lines}.values())


def front(points: Sequence[S]) -> list[S]:
    """The scores that no other beats: none has as few MACs with so high an accuracy.

    Cheapest first; of equal ones the first.
    """
    kept: list[S] = []
    for point in sorted(points, key=lambda p: (p.macs, -p.proxy_accuracy)):
        if not kept or point.proxy_accuracy > kept[-1].proxy_accuracy:
            kept.append(point)
    return kept


def best_so_far(
    lines: Sequence[SearchLine], limit: tuple[str, float] | None
) -> list[tuple[int, float]]:
    """Where the best score within a limit rose: (scores taken, best accuracy).

    Args:
        lines: scores in the order that they were taken in.
        limit: metric and limit; None for all.
    """
    steps: list[tuple[int, float]] = []
    for number, line in enumerate(lines, start=1):
        cost = None if limit is None else line.cost(limit[0])
        if limit is not None and (cost is None or cost > limit[1] * (1 + TIE)):
            continue
        if not steps or line.proxy_accuracy > steps[-1][1]:
            steps.append((number, line.proxy_accuracy))
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


def layers_of(line: CodesLine) -> list[tuple[float, ...]]:
    """The codes of a path: one for each layer, or a single one for all of them."""
    layers = [layer for layer in line.code if isinstance(layer, tuple)]
    return layers or [tuple(share for share in line.code if not isinstance(share, tuple))]


def code_of(line: CodesLine) -> list[float]:
    """The K numbers of the code of a path, averaged over layers if each has its own."""
    layers = layers_of(line)
    return [sum(column) / len(layers) for column in zip(*layers, strict=True)]


def entropy_share(code: Sequence[float]) -> float:
    """The entropy of the magnitudes of a code as a distribution, as a share of log K."""
    total = sum(map(abs, code))
    parts = [abs(c) / total for c in code] if total else []
    nats = -sum(p * math.log(p) for p in parts if p > 0) + 0.0
    return nats / math.log(len(code)) if len(code) > 1 else 0.0


def merged(winners: Sequence[WinnerRecord]) -> list[tuple[list[str], WinnerRecord]]:
    """Winners with the budgets that they won; one network may win several."""
    budgets: dict[str, list[str]] = {}
    for winner in winners:
        budgets.setdefault(winner.arch, []).append(winner.budget)
    by_arch = {winner.arch: winner for winner in winners}
    return [(names, by_arch[arch]) for arch, names in budgets.items()]


def chosen_rows(values: Sequence[float], most: int) -> list[int]:
    """The rows to draw: all, or `most` of them, spread evenly over the order of `values`."""
    if len(values) <= most:
        return list(range(len(values)))
    order = sorted(range(len(values)), key=values.__getitem__)
    return sorted(order[round(i * (len(order) - 1) / (most - 1))] for i in range(most))
