"""What figures show that no record says in so many words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from manyshot.run_folder import (
    CodesLine,
    ScoreLine,
    SearchLine,
    TaskRecord,
    WinnerRecord,
    cost_of,
)
from manyshot.space import Arch, SearchSpace

S = TypeVar("S", bound=ScoreLine)

PROPOSED = ("candidate", "elite")
"""Roles of scores that a search takes on its way; `final` ones are taken after it."""
TIE = 1e-9
"""A cost exceeds a limit only if it does so by more than this share of the limit."""


def latest(lines: Sequence[S]) -> list[S]:
    """The last score of every architecture, in the order of their first."""
    return list({line.arch: line for line in lines}.values())


def fitness_of(task: TaskRecord, line: ScoreLine) -> float:
    """By what a score ranks in the search; the highest is the best."""
    return line.fitness(task)


def front(points: Sequence[S], task: TaskRecord, metric: str = "macs") -> list[S]:
    """The scores that no other beats: none costs as little and is so good, a reward aside.

    Cheapest first; of equal ones the first.

    Args:
        points: the scores, each with that cost on record.
        task: says by what scores rank.
        metric: the cost.
    """

    def cost(point: S) -> float:
        value = cost_of(point, metric)
        assert value is not None
        return value

    def score(point: S) -> float:
        return task.fitness_of(point.proxy_score, point.proxy_loss)

    kept: list[S] = []
    for point in sorted(points, key=lambda p: (cost(p), -score(p))):
        if not kept or score(point) > score(kept[-1]):
            kept.append(point)
    return kept


def best_so_far(
    lines: Sequence[SearchLine], limit: tuple[str, float] | None, task: TaskRecord
) -> list[tuple[int, float]]:
    """Where another score became the best within a limit: (scores taken, that score).

    Args:
        lines: scores in the order that they were taken in.
        limit: metric and limit; None for all.
        task: says by what scores rank.
    """
    steps: list[tuple[int, float]] = []
    best = -math.inf
    for number, line in enumerate(lines, start=1):
        cost = None if limit is None else cost_of(line, limit[0])
        if limit is not None and (cost is None or cost > limit[1] * (1 + TIE)):
            continue
        if fitness_of(task, line) > best:
            best = fitness_of(task, line)
            steps.append((number, line.proxy_score))
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
