"""Tables of a search space: its decisions, and what its architectures cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyshot.tables.numbers import count, percent
from manyshot.tables.table import Table

_BAR = 40
"""How many letters the longest bar of a histogram has."""
_LISTED = 3
"""So many modules of a decision are listed."""


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


def converted(conversion: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """What a conversion did, as tables with titles; those alone that have rows."""
    varies = [
        {"Decision": d["name"], "Kind": d["kind"], "Modules": _listed(d["modules"])}
        for d in conversion["decisions"]
    ]
    fixed = [
        {
            "Module": kept["name"],
            "Kind": kept["kind"],
            "Number": count(kept["number"]) if kept["number"] else "",
            "Because": kept["reason"],
        }
        for kept in conversion["fixed"]
    ]
    follows = [
        {"Attribute": name, "Follows": ", ".join(decisions)}
        for name, decisions in conversion["attributes"].items()
    ]
    opaque = [{"Module": path, "Because": why} for path, why in conversion["opaque"].items()]
    tables = [
        ("Converted", Table(varies, ("Decision", "Kind", "Modules"), note=conversion["summary"])),
        ("Not converted", Table(fixed, ("Module", "Kind", "Because"))),
        ("Attributes that follow", Table(follows, ("Attribute", "Follows"))),
        ("Not looked into", Table(opaque, ("Module", "Because"))),
    ]
    return [(title, table) for title, table in tables if len(table)]


def _listed(paths: Sequence[str]) -> str:
    """The first paths, and how many more there are."""
    more = len(paths) - _LISTED
    return ", ".join(paths[:_LISTED]) + (f" and {more} more" if more > 0 else "")


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


def parameters(listed: Sequence[Mapping[str, Any]]) -> Table:
    """The names and shapes of the parameters of a network."""
    rows = [
        {"Name": one["name"], "Shape": "x".join(map(str, one["shape"])) or "scalar"}
        for one in listed
    ]
    return Table(rows, ("Name", "Shape"), ("Name",))
