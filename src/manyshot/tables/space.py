"""Tables of a search space: its decisions, and what its architectures cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyshot.tables.numbers import count, percent
from manyshot.tables.table import Table

_BAR = 40
"""How many letters the longest bar of a histogram has."""


def decisions(survey: Sequence[Mapping[str, Any]]) -> Table:
    """Decisions with their options."""
    rows = [
        {
            "#": str(number),
            "Decision": decision["name"],
            "Options": ", ".join(map(str, decision["options"])),
        }
        for number, decision in enumerate(survey)
    ]
    return Table(rows, ("Decision", "Options"))


def costs(survey: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the cheapest and the dearest architectures cost."""
    ends = ("least", "smallest", "largest", "greatest")
    rows = [
        {"Cost": metric, **{end.capitalize(): count(cost[end]) for end in ends}}
        for metric, cost in survey.items()
    ]
    return Table(rows, ("Cost",))


def histogram(cost: Mapping[str, Any]) -> Table:
    """How many random architectures cost how much."""
    total, peak = sum(cost["histogram"]), max(cost["histogram"])
    rows = [
        {
            "From": count(low),
            "Share": percent(number / total),
            "": "#" * round(_BAR * number / peak),
        }
        for low, number in zip(cost["edges"], cost["histogram"], strict=False)
    ]
    return Table(rows, ("",))
