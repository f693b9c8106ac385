"""What figures share: colours, axes and marks, as the dicts that plotly reads."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

INK, SOFT, DOT, LINE, CARD = "--ink", "--soft", "--dot", "--line", "--card"
"""Colours are variables of the page; the script of a page replaces them."""
COLOURS = 8
SCALE = "Cividis"
"""The colour-blind read it as others do."""
LOGARITHMIC = 30
"""A cost that spreads over more than this factor gets a logarithmic axis."""


def colour(number: int) -> str:
    """The colour of the number-th of several things."""
    return f"--c{number % COLOURS}"


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title, "standoff": 8}, "zeroline": False, "tickangle": 0, **more}


def rows_axis(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """An axis of names, the first one at the top."""
    order = {"categoryorder": "array", "categoryarray": list(names)}
    return axis("", type="category", autorange="reversed", ticklabelstandoff=6, **order, **more)


def share_axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis of shares, shown in percent."""
    return axis(title, **{"tickformat": ".3~p", "nticks": 7, **more})


def score_axis(title: str, is_share: bool, **more: Any) -> dict[str, Any]:
    """An axis of scores, in percent if these are shares."""
    return share_axis(title, **more) if is_share else axis(title, **{"nticks": 7, **more})


def cost_axis(title: str, values: Sequence[float], **more: Any) -> dict[str, Any]:
    """An axis of a cost, logarithmic if it spreads far."""
    positive = [v for v in values if v > 0]
    far = len(positive) == len(values) > 0 and max(positive) > LOGARITHMIC * min(positive)
    if far:
        more = {"type": "log", "dtick": "D2", **more}
    return axis(title, **{"tickformat": "~s", "nticks": 7, **more})


def layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The layout of a figure with these axes."""
    return {"xaxis": x, "yaxis": y, **more}


def dots(x: Sequence[Any], y: Sequence[Any], name: str, **more: Any) -> dict[str, Any]:
    """A dot at every point."""
    marker = {"size": 7, "color": DOT, "opacity": 0.75, **more.pop("marker", {})}
    return _trace("scatter", x, y, name=name, mode="markers", marker=marker, **more)


def line(x: Sequence[Any], y: Sequence[Any], name: str, **more: Any) -> dict[str, Any]:
    """A curve through points."""
    style = {"width": 2, "color": INK, **more.pop("line", {})}
    return _trace("scatter", x, y, name=name, line=style, **{"mode": "lines", **more})


def bars(
    x: Sequence[Any], y: Sequence[Any], colours: str | list[str], **more: Any
) -> dict[str, Any]:
    """A bar for every value, all of one colour or each of its own."""
    marker = {"color": colours, **more.pop("marker", {})}
    return _trace("bar", x, y, marker=marker, **more)


def _trace(kind: str, x: Sequence[Any], y: Sequence[Any], **more: Any) -> dict[str, Any]:
    return {"type": kind, "x": list(x), "y": list(y), **more}


def intervals(
    values: Sequence[tuple[float | None, float | None, float | None]],
) -> dict[str, Any]:
    """Error bars from values to both ends of their intervals; none where something is undefined."""

    def away(value: float | None, end: float | None) -> float:
        return 0.0 if value is None or end is None else abs(end - value)

    return {
        "type": "data",
        "symmetric": False,
        "array": [away(value, high) for value, _, high in values],
        "arrayminus": [away(value, low) for value, low, _ in values],
        "color": INK,
        "thickness": 1.5,
        "width": 4,
    }


def rule(across: str, at: float, **more: Any) -> dict[str, Any]:
    """A straight line through the plot at x (`"x"`) or y (`"y"`) = `at`."""
    other = "y" if across == "x" else "x"
    style = {"color": INK, "width": 1.5, "dash": "dash", **more.pop("line", {})}
    return {
        "type": "line",
        f"{across}0": at,
        f"{across}1": at,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": "paper",
        "layer": "below",
        "line": style,
        **more,
    }


def plain(text: object) -> str:
    """Text for a figure: plotly reads tags in labels, and entities as what they stand for."""
    return html.escape(str(text), quote=False)


def note(x: float, y: float | str, text: str, **more: Any) -> dict[str, Any]:
    """Words in the plot; `text` is a plain string of ours or went through `plain`."""
    return {"x": x, "y": y, "text": text, "showarrow": False, "bgcolor": CARD, **more}


def heatmap(
    x: Sequence[Any], y: Sequence[Any], z: Sequence[Sequence[float | None]], **more: Any
) -> dict[str, Any]:
    """A heat map with a thin bar of colours."""
    colours = {"thickness": 10, "outlinewidth": 0, "xpad": 6, **more.pop("colorbar", {})}
    rows = [list(row) for row in z]
    return _trace("heatmap", x, y, z=rows, colorscale=SCALE, colorbar=colours, **more)


def padded(values: Sequence[float], share: float = 0.08) -> list[float]:
    """A range around values with some room; of one value, around it."""
    low, high = min(values), max(values)
    room = (high - low) * share or abs(high) * share or 1.0
    return [low - room, high + room]
