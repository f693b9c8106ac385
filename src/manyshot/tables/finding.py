"""The table of `ms.find`: the winners of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manyshot.tables import numbers
from manyshot.tables.table import Cell, Table


def winners(rows: Sequence[tuple[str, str, Mapping[str, float], float]], scored: int) -> Table:
    """The best network within each budget.

    Args:
        rows: of each its budget, its architecture, its costs by metric and its score.
        scored: how many architectures were scored.
    """
    cells: list[dict[str, Cell]] = [
        {
            "Budget": numbers.budget(budget),
            "Architecture": arch,
            **{metric: numbers.count(cost) for metric, cost in costs.items()},
            "Score": f"{score:.4g}",
        }
        for budget, arch, costs, score in rows
    ]
    note = f"{numbers.plural(scored, 'architecture was', 'architectures were')} scored."
    return Table(cells, ("Budget", "Architecture"), ("Architecture",), note)
