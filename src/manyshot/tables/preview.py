"""Tables of what a run would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyshot.tables import numbers
from manyshot.tables.numbers import count, percent
from manyshot.tables.table import Cell, Table

_LISTED = 20
"""So many classes have a row of their own."""


def images(data: Mapping[str, Any]) -> Table:
    """How many samples there are of each class, in each part."""
    parts = data["images"]
    counts = {part: data["counts"].get(part, []) for part in parts}
    names = data["classes"] if all(counts.values()) else []
    rows: list[dict[str, Cell]] = [
        {"Class": name, **{part: numbers.whole(counts[part][i]) for part in parts}}
        for i, name in enumerate(names[:_LISTED])
    ]
    rest = len(names) - _LISTED
    if rest > 0:
        more = {part: numbers.whole(sum(counts[part][_LISTED:])) for part in parts}
        rows.append({"Class": f"and {rest} more", **more})
    rows.append({"Class": "all", **{part: numbers.whole(n) for part, n in parts.items()}})
    return Table(rows, ("Class",), note=" ".join(map(numbers.sentence, data["notes"])))


def network(told: Mapping[str, Any]) -> Table:
    """What the space holds, and what its networks cost."""
    rows: list[dict[str, Cell]] = [
        {"What": "decisions", "Value": numbers.whole(told["decisions"])},
        {"What": "encodings", "Value": numbers.whole(told["size"])},
        *(
            {"What": metric, "Value": f"{count(least)} to {count(greatest)}"}
            for metric, (least, greatest) in told["costs"].items()
        ),
    ]
    return Table(rows, ("What",), note=told["converted"] or "")


def budgets(told: Sequence[Mapping[str, Any]]) -> Table:
    """Whether each budget can be met, and by how many networks."""
    rows: list[dict[str, Cell]] = [
        {
            "Budget": numbers.budget(one["budget"]),
            "Limit": ", ".join(count(limit) for limit in one["limits"].values()),
            "Networks within": _within(one),
        }
        for one in told
    ]
    note = ""
    if any(one["share"] is not None and not one["exact"] for one in told):
        note = "Shares are of networks that are drawn at random; a search finds rare ones too."
    return Table(rows, ("Budget", "Networks within"), note=note)


def _within(one: Mapping[str, Any]) -> str:
    if one["problem"]:
        return "none: impossible"
    if one["share"] is None:
        return "not counted before the run"
    if one["exact"]:
        return f"{numbers.whole(one['networks'])} ({percent(one['share'])})"
    return f"about {percent(one['share'])}" if one["share"] else "very few"


def files(told: Sequence[Mapping[str, str]]) -> Table:
    """What a run writes."""
    rows = [{"File": one["file"], "Holds": one["holds"]} for one in told]
    return Table(rows, ("File", "Holds"), ("File",))
