"""Figures of cost against score, of which a reader chooses the cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from manyshot.report import figures as f
from manyshot.report import labels
from manyshot.report.derived import front, latest, merged
from manyshot.report.figures import plain
from manyshot.report.page import Figure, View
from manyshot.report.reading import RunRecords
from manyshot.report.searching import shown
from manyshot.run_folder import ControlKind, SearchLine, TaskRecord, TestedRecord, cost_of
from manyshot.tables import numbers

_KINDS: dict[ControlKind, tuple[str, str]] = {
    "largest": ("largest within a budget", "square-open"),
    "scaled": ("uniformly scaled", "diamond-open"),
    "random": ("random within a budget", "x-thin-open"),
}
"""What controls are called in a legend, and their marks."""

_UNITS = {
    "macs": "%{x:.3s} MACs",
    "params": "%{x:.3s} parameters",
    "size": "%{x:.3s}B",
    "latency_ms": "%{x:.3~g} ms",
}
"""A cost of a figure as people read it."""

_LONG = 30
"""A label of more letters is of several lines, because it would be as wide as a phone."""

_HEIGHT, _TESTED_HEIGHT = 480, 420
"""Of the figures, in pixels."""

_Network: TypeAlias = SearchLine | TestedRecord


@dataclass(frozen=True, slots=True)
class _Series:
    """Marks that a legend names once.

    Attributes:
        trace: what plotly draws, without costs.
        networks: where the marks are, in their order.
        label: what hovering over a mark says of it.
    """

    trace: Mapping[str, Any]
    networks: Sequence[_Network]
    label: str = ""


def trade_off(run: RunRecords, task: TaskRecord) -> Figure:
    """All scored architectures by cost and proxy score, the front, limits, winners, controls."""
    scored, metric = latest(run.search), task.metric
    dots = f.dots(
        [],
        [line.proxy_score for line in scored],
        "scored",
        text=[line.arch for line in scored],
    )
    series = [_Series(dots, scored), *_largest(run, scored), *_controls(run, on_test=False)]
    series += _stars(run, on_test=False)
    views = []
    for cost in _costs(run, scored):
        has_cost = [line for line in scored if cost_of(line, cost) is not None]
        best = front(has_cost, task, cost)
        step = f.line(
            [cost_of(line, cost) for line in best],
            [line.proxy_score for line in best],
            "Pareto front",
            line={"shape": "hv", "width": 1.5},
            hoverinfo="skip",
        )
        views.append(_view(run, task, series, cost, f"proxy {metric.name}", [step], _HEIGHT))
    unknown = [
        numbers.budget(budget) for budget in run.budgets if None in run.limits(budget).values()
    ]
    caption = f"Proxy {metric.name} on validation images, with the supernet's weights."
    if any(run.limits(budget) for budget in run.budgets):
        caption += " Dotted: the limits of budgets."
    if _has_table(scored):
        caption += " Latencies are by the run's table, by which budgets are met."
    if unknown:
        caption += (
            f" Not drawn, because the cost of the largest network is not on record: the limits of "
            f"{numbers.listed(unknown)}."
        )
    return _figure(f"Cost against {metric.name}", views, caption, _HEIGHT)


def tested(run: RunRecords, task: TaskRecord) -> list[Figure]:
    """Winners and controls by cost and test score; nothing where there is but one network."""
    result = run.result
    if result is None or len({n.arch for n in (*result.winners, *result.controls)}) < 2:
        return []
    series = [*_controls(run, on_test=True), *_stars(run, on_test=True)]
    name = f"test {task.metric.name}"
    views = [_view(run, task, series, cost, name, [], _TESTED_HEIGHT) for cost in _costs(run, [])]
    caption = "Each was finished in the same way, and tested once."
    if any(network.test_interval for network in result.winners):
        caption += " Bars: 95 % intervals by the test images alone."
    title = f"Cost against {task.metric.name} on test images"
    return [_figure(title, views, caption, _TESTED_HEIGHT)]


def _figure(
    title: str,
    views: Sequence[tuple[str, list[dict[str, Any]], dict[str, Any]]],
    caption: str,
    height: int,
) -> Figure:
    """A figure of views, each a name, traces and a layout; all have the same traces but for costs.

    Args:
        title: the line above it.
        views: the first one is shown first.
        caption: the words below it.
        height: in pixels.
    """
    _, traces, layout = views[0]
    differ = [
        View(
            name,
            [
                {key: value for key, value in trace.items() if first.get(key) != value}
                for first, trace in zip(traces, other, strict=True)
            ],
            look,
        )
        for name, other, look in views
    ]
    return Figure(title, traces, layout, caption, height, differ if len(differ) > 1 else ())


def _view(
    run: RunRecords,
    task: TaskRecord,
    series: Sequence[_Series],
    cost: str,
    name: str,
    lines: Sequence[dict[str, Any]],
    height: int,
) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """What the figure is by one cost: its name, its traces and its layout.

    Args:
        run: the records.
        task: says what scores are.
        series: all marks.
        cost: the metric across.
        name: what the scores are called.
        lines: what is drawn between the first marks and the others.
        height: of the figure, in pixels.
    """
    by_table = _has_table([n for s in series for n in s.networks if isinstance(n, SearchLine)])
    unit = _UNITS.get(cost, f"{plain(cost)} %{{x:.3~s}}")
    traces, costs = [], []
    for one in series:
        x = [_cost(run, network, cost, by_table) for network in one.networks]
        costs += [value for value in x if value is not None]
        hover = f"%{{text}}<br>{unit}, {shown(task.metric)}<extra>{one.label}</extra>"
        traces.append({**one.trace, "x": x, "hovertemplate": hover})
    ticks = {"tickformat": ".3~g"} if cost == "latency_ms" else {}
    axis = f.cost_axis(plain(numbers.metric(cost)), costs, **ticks)
    limits = [
        (i, limit)
        for i, budget in enumerate(run.budgets)
        for metric, limit in run.limits(budget).items()
        if metric == cost and limit is not None
    ]
    drawn = [*traces[:1], *lines, *traces[1:]]
    shapes = [
        f.rule("x", limit, line={"color": f.colour(i), "dash": "dot", "width": 2})
        for i, limit in limits
    ]
    layout = f.layout(
        axis,
        f.score_axis(plain(name), task.metric.share),
        shapes=shapes,
        annotations=_labels(
            run,
            drawn,
            [limit for _, limit in limits],
            cost,
            height,
            logarithmic=axis.get("type") == "log",
        ),
        margin={"r": 24},
    )
    titled = numbers.metric(cost).partition(" (")[0]
    return f"{titled[:1].upper()}{titled[1:]}", drawn, layout


def _costs(run: RunRecords, scored: Sequence[SearchLine]) -> list[str]:
    """The costs that are on record, those that budgets are on first."""
    controls = () if run.result is None else run.result.controls
    networks: list[_Network] = [*scored, *run.winners, *controls]
    further = [name for network in networks for name in network.costs or {}]
    budgets = [metric for budget in run.budgets for metric in run.limits(budget)]
    names = dict.fromkeys([*budgets, "macs", "params", "latency_ms", *further])
    return [n for n in names if any(cost_of(network, n) is not None for network in networks)] or [
        "macs"
    ]


def _has_table(scored: Sequence[SearchLine]) -> bool:
    """Whether candidates have latencies, which are by a table."""
    return any(line.latency_ms is not None for line in scored)


def _cost(run: RunRecords, network: _Network, metric: str, by_table: bool) -> float | None:
    """Where a network stands; beside latencies by a table, that of the same table if known."""
    if metric == "latency_ms" and by_table and run.result is not None:
        timing = run.result.latency.get(network.arch)
        if timing is not None and timing.table_ms is not None:
            return timing.table_ms
    return cost_of(network, metric)


def _largest(run: RunRecords, scored: Sequence[SearchLine]) -> list[_Series]:
    """The largest network of the space, if it was scored."""
    if run.space is None:
        return []
    text = run.space.to_text(run.space.canonical(run.space.largest))
    there = [line for line in scored if line.arch == text]
    marker = {"symbol": "triangle-up-open", "size": 12, "color": f.INK, "opacity": 1}
    y = [line.proxy_score for line in there]
    trace = f.dots([], y, "largest of all", text=[text], marker=marker, cliponaxis=False)
    return [_Series(trace, there, "largest of all")] if there else []


def _controls(run: RunRecords, *, on_test: bool) -> list[_Series]:
    """A series for each kind of control."""
    drawn = []
    for kind, (name, symbol) in _KINDS.items():
        controls = () if run.result is None else run.result.controls
        networks = [control for control in controls if control.kind == kind]
        marker = {"symbol": symbol, "size": 10, "color": f.INK, "opacity": 1, "line": {"width": 2}}
        text = [f"{n.arch}, {plain(numbers.budget(n.budget))}" for n in networks]
        trace = _tested_trace(networks, name, on_test, text=text, marker=marker)
        if networks:
            drawn.append(_Series(trace, networks, name))
    return drawn


def _stars(run: RunRecords, *, on_test: bool) -> list[_Series]:
    """A star per winning network."""
    stars: list[_Series] = []
    for budgets, winner in merged(run.winners):
        number = run.budgets.index(budgets[0]) if budgets[0] in run.budgets else len(stars)
        marker = {
            "symbol": "star",
            "size": 17,
            "color": f.colour(number),
            "opacity": 1,
            "line": {"color": f.CARD, "width": 1},
        }
        name = plain(f"winner, {', '.join(map(numbers.budget, budgets))}")
        trace = _tested_trace([winner], name, on_test, text=[winner.arch], marker=marker)
        stars.append(_Series(trace, [winner], "winner"))
    return stars


def _tested_trace(
    networks: Sequence[TestedRecord], name: str, on_test: bool, **more: Any
) -> dict[str, Any]:
    """Marks of finished networks at their proxy scores, or at test scores with their intervals."""
    y = [network.test_score if on_test else network.proxy_score for network in networks]
    if on_test and any(network.test_interval for network in networks):
        bounds = [network.test_interval or (None, None) for network in networks]
        ends = [(value, low, high) for value, (low, high) in zip(y, bounds, strict=True)]
        more["error_y"] = {**f.intervals(ends), "color": f.SOFT, "thickness": 1}
    return f.dots([], y, name, cliponaxis=False, **more)


def _labels(
    run: RunRecords,
    traces: Sequence[Mapping[str, Any]],
    limits: Sequence[float],
    cost: str,
    height: int,
    *,
    logarithmic: bool,
) -> list[dict[str, Any]]:
    """The limits that each winner meets, beside its star or where a line leads to it.

    Args:
        run: the records.
        traces: all that is drawn, of which stars are winners.
        limits: what is drawn across besides.
        cost: the metric across.
        height: of the figure.
        logarithmic: whether the axis across is.
    """

    def at(value: float) -> float:
        return math.log10(value) if logarithmic else value

    stars = [trace for trace in traces if _is_star(trace) and trace["x"] != [None]]
    if not stars:
        return []
    ends = [end for trace in traces for end in _ends(trace)]
    across = labels.Range.of(
        [*(at(x) for x, _, _ in ends), *(at(limit) for limit in limits if limit > 0)]
    )
    upwards = labels.Range.of([y for _, *both in ends for y in both])
    covered = []
    for trace in traces:
        points = [
            (across.share(at(x)), upwards.share(low), upwards.share(high))
            for x, low, high in _ends(trace)
        ]
        if trace["mode"] == "lines":  # horizontally to the next point, and there vertically
            for (x, y, _), (next_x, next_y, _) in pairwise(points):
                covered.append(labels.Mark(x, next_x, y, y, around=1.0))
                low, high = sorted((y, next_y))
                covered.append(labels.Mark(next_x, next_x, low, high, around=1.0))
        elif trace["name"] != "scored":  # too many not to be covered
            covered += [labels.Mark(x, x, low, high) for x, low, high in points]
    budgets = {winner.arch: names for names, winner in merged(run.winners)}
    stars.sort(key=lambda trace: (-trace["y"][0], trace["x"][0]))
    placed = [
        labels.Label(
            across.share(at(trace["x"][0])),
            upwards.share(trace["y"][0]),
            _limits(budgets[trace["text"][0]], cost),
        )
        for trace in stars
    ]
    places = labels.places(placed, covered, labels.plots(height, len(traces)))
    return [
        f.note(
            at(trace["x"][0]),
            trace["y"][0],
            label.text,
            **{"opacity": 0.95, "borderpad": 1, **place.drawn(trace["marker"]["color"])},
        )
        for trace, label, place in zip(stars, placed, places, strict=True)
    ]


def _is_star(trace: Mapping[str, Any]) -> bool:
    symbol: object = trace.get("marker", {}).get("symbol")
    return symbol == "star"


def _ends(trace: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    """Where the marks of a trace are: across, and from where to where, with error bars."""
    bars = trace.get("error_y", {})
    none = [0.0] * len(trace["y"])
    ends = zip(bars.get("arrayminus", none), bars.get("array", none), strict=True)
    return [
        (x, y - down, y + up)
        for x, y, (down, up) in zip(trace["x"], trace["y"], ends, strict=True)
        if x is not None
    ]


def _limits(budgets: Sequence[str], cost: str) -> str:
    """Budgets as a label: the limit alone where it is on the cost across."""
    words = [
        numbers.limit_of(budget) if budget.startswith(f"{cost}<") else numbers.budget(budget)
        for budget in budgets
    ]
    lines = [line for text in words for line in _wrapped(text)]
    return labels.LINE_BREAK.join(map(plain, lines))


def _wrapped(budget: str) -> list[str]:
    """A budget in lines, of one limit each where it is long."""
    if len(budget) <= _LONG:
        return [budget]
    first, *others = budget.split(" and ")
    return [first, *(f"and {other}" for other in others)]
