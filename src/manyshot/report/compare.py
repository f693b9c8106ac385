"""The page of a comparison of runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from manyshot.report import figures as f
from manyshot.report import numbers
from manyshot.report.markup import bullets, table, tag
from manyshot.report.numbers import percent, plain, plural
from manyshot.report.page import Figure, Page, PageSection, Parts
from manyshot.run_folder import ComparedMethod, ComparedPair, Comparison, Mean, Statistic

_SHARES = ("regret", "winner accuracy", "finished accuracy")
"""Metrics that begin so are accuracies or differences of them."""
_IMAGES = "images"
_LINE, _LINES = 36, 2
"""A name in a figure has lines of so many letters, and at most so many lines."""
_LONG = 70
"""A longer title says how many methods there are instead of their names."""
_BASELINES = {
    "macs": ("MACs alone", "dot", f.SOFT),
    "params": ("parameters alone", "dashdot", f.SOFT),
    "run to run": ("two trainings of the truth", "dash", f.INK),
}
"""What orders without a supernet: its name, and how it is drawn."""
_DASHES = {"dot": "Dotted", "dashdot": "Dash-dotted", "dash": "Dashed"}
_SYMBOLS = {"better": "▲", "worse": "▼", "not distinguishable": "≈", "undefined": "–"}


def compare_page(comparison: Comparison) -> Page:
    """The page of a comparison."""
    methods = [m.method for m in comparison.methods]
    seeds = sorted({run.seed for run in comparison.runs})
    truth = comparison.truth
    lead = f"{plural(len(methods), 'method')}, {plural(len(comparison.runs), 'run')}, "
    lead += f"{plural(len(seeds), 'random seed')}. "
    if truth is None:
        lead += "There is no truth to rank against: winners are compared by test accuracy."
    else:
        lead += f"Truth: {truth.name} ({truth.source})."
    sections = [
        PageSection("Methods", _methods(comparison)),
        PageSection("Metrics", [_dots(comparison)] if comparison.methods else []),
        PageSection("Pairs", _pairs(comparison)),
        PageSection("Winners", _winners(comparison)),
        PageSection("Images", _images(comparison)),
    ]
    title = numbers.listed(methods) if methods else "nothing"
    if len(title) > _LONG:
        title = plural(len(methods), "method")
    return Page("compare", title, lead, sections, _warnings(comparison))


def _warnings(comparison: Comparison) -> list[str]:
    uneven = {(p.first, p.second) for p in comparison.pairs if not p.equal_images}
    if not uneven:
        return []
    named = "; ".join(f"{first} and {second}" for first, second in sorted(uneven))
    return [f"Not at equal cost: the images that these methods forwarded differ: {named}."]


def _metrics(comparison: Comparison) -> list[str]:
    """All metrics, in the order of their first appearance."""
    return list(dict.fromkeys(name for m in comparison.methods for name in m.metrics))


def _shown(metric: str, value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval, as people read the metric."""
    if metric == _IMAGES:
        return numbers.count(value)
    taken = Statistic(value=value, low=low, high=high)
    is_share = metric.startswith(_SHARES)
    return numbers.share_statistic(taken, 2) if is_share else numbers.statistic(taken)


def _mean(metric: str, over_seeds: Mean | None) -> str:
    """A mean with its interval."""
    if over_seeds is None:
        return numbers.UNDEFINED
    return _shown(metric, over_seeds.mean, over_seeds.low, over_seeds.high)


def _methods(comparison: Comparison) -> Parts:
    metrics = [metric for metric in _metrics(comparison) if metric != _IMAGES]
    head = ["Method", "Seeds", "Images", *(numbers.budget(metric) for metric in metrics)]
    rows = [
        [
            m.method,
            ", ".join(map(str, m.seeds)),
            numbers.count(m.images),
            *(_mean(metric, m.metrics.get(metric)) for metric in metrics),
        ]
        for m in comparison.methods
    ]
    for baseline in comparison.baselines:
        values = baseline.metrics
        cells = (_shown(m, values[m], None, None) if m in values else "" for m in metrics)
        rows.append([_BASELINES[baseline.name][0], "", "", *cells])
    words = "Means over random seeds with 95 % intervals. What has no value is undefined."
    return [table(head, rows, range(2, len(head))), tag("p", words, class_="note")]


def _dots(comparison: Comparison) -> list[Figure]:
    return [_panel(comparison, metric) for metric in _metrics(comparison)]


def _panel(comparison: Comparison, metric: str) -> Figure:
    """A row per method: mean and interval, and a small dot per seed below it."""
    methods = comparison.methods
    count, rows = len(methods), range(len(methods))
    position = {m.method: i for i, m in enumerate(methods)}
    single = [
        (run.metrics[metric], position[run.method], run.seed)
        for run in comparison.runs
        if run.metrics.get(metric) is not None and run.method in position
    ]
    undefined = Mean(mean=None, low=None, high=None, n=0)
    means_of = [m.metrics.get(metric, undefined) for m in methods]
    seeds = f.dots(
        [x for x, _, _ in single],
        [y + 0.17 for _, y, _ in single],
        "",
        text=[f"seed {seed}" for _, _, seed in single],
        hovertemplate="%{text}: %{x}<extra></extra>",
        marker={"size": 6, "color": [f.colour(y) for _, y, _ in single], "opacity": 0.6},
    )
    defined = [i for i in rows if means_of[i].mean is not None]
    means = f.dots(
        [means_of[i].mean for i in defined],
        defined,
        "",
        text=[plain(methods[i].method) for i in defined],
        hovertemplate="%{text}: %{x}<extra></extra>",
        marker={"size": 11, "color": [f.colour(i) for i in defined], "opacity": 1},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_away(means_of[i], means_of[i].high) for i in defined],
            "arrayminus": [_away(means_of[i], means_of[i].low) for i in defined],
            "color": f.INK,
            "thickness": 1.5,
            "width": 5,
        },
    )
    unknown = [i for i in rows if means_of[i].mean is None]
    shapes, caption = _baselines(comparison, metric)
    layout: dict[str, Any] = {
        "xaxis": _axis(metric),
        "yaxis": f.axis(
            "",
            range=[count - 0.7, -0.62],
            tickvals=list(rows),
            showticklabels=False,
            showgrid=False,
        ),
        "annotations": _words(methods, unknown),
        "shapes": shapes,
        "showlegend": False,
    }
    title = numbers.budget(metric)
    title = f"{title[:1].upper()}{title[1:]}"
    return Figure(title, [means, seeds], layout, caption, height=60 + 80 * count)


def _words(methods: Sequence[ComparedMethod], unknown: Sequence[int]) -> list[dict[str, Any]]:
    """The names of methods above their rows, and which are undefined."""
    left = {"xref": "paper", "xanchor": "left", "align": "left"}
    names = [
        f.note(0, i - 0.12, _wrapped(m.method), yanchor="bottom", **left)
        for i, m in enumerate(methods)
    ]
    return names + [f.note(0.02, i, numbers.UNDEFINED, **left) for i in unknown]


def _baselines(comparison: Comparison, metric: str) -> tuple[list[dict[str, Any]], str]:
    """Lines at what orders without a supernet, and what they are."""
    shapes, words = [], []
    for baseline in comparison.baselines:
        name, dash, colour = _BASELINES[baseline.name]
        at = baseline.metrics.get(metric)
        if at is not None:
            shapes.append(f.rule("x", at, line={"dash": dash, "color": colour}))
            words.append(f"{_DASHES[dash]}: {name}, {_shown(metric, at, None, None)}.")
    return shapes, " ".join(words)


def _wrapped(name: str) -> str:
    """A name in lines, as text of a figure."""
    lines = textwrap.wrap(name, _LINE) or [""]
    lines = lines if len(lines) <= _LINES else [*lines[: _LINES - 1], f"{lines[_LINES - 1]}…"]
    return "<br>".join(map(plain, lines))


def _axis(metric: str) -> dict[str, Any]:
    if metric == _IMAGES:
        return f.axis("images forwarded", tickformat="~s", nticks=4, rangemode="tozero")
    return f.share_axis("", nticks=4) if metric.startswith(_SHARES) else f.axis("", nticks=5)


def _away(over_seeds: Mean, end: float | None) -> float:
    return 0.0 if end is None or over_seeds.mean is None else abs(end - over_seeds.mean)


def _pairs(comparison: Comparison) -> Parts:
    if not comparison.pairs:
        return []
    rows = [
        (
            numbers.budget(pair.metric),
            pair.first,
            pair.second,
            tag("span", f"{_SYMBOLS[pair.verdict]} {pair.verdict}", class_="together"),
            _difference(pair),
            str(pair.n),
            "equal" if pair.equal_images else "different",
        )
        for pair in comparison.pairs
    ]
    said = [numbers.budget(p.sentence) for p in comparison.pairs if p.verdict != "undefined"]
    unknown = [p.sentence for p in comparison.pairs if p.verdict == "undefined"]
    parts: Parts = [bullets(said)] if said else []
    if unknown:
        summary = tag("summary", f"{plural(len(unknown), 'difference')} undefined")
        parts.append(tag("details", summary, bullets(map(numbers.budget, unknown))))
    head = ("Metric", "First", "Second", "First is", "Difference", "Seeds", "Images")
    words = "First minus second, over the random seeds that both have, with 95 % intervals."
    note = tag("p", words, class_="note")
    return [*parts, table(head, rows, (4, 5)), note]


def _difference(pair: ComparedPair) -> str:
    return _shown(pair.metric, pair.difference, pair.low, pair.high)


def _winners(comparison: Comparison) -> Parts:
    rows = [
        (
            run.method,
            str(run.seed),
            numbers.budget(winner.budget),
            tag("code", winner.arch),
            numbers.UNDEFINED if winner.truth is None else percent(winner.truth, 2),
            percent(winner.test_accuracy, 2),
            tag("code", run.folder),
        )
        for run in comparison.runs
        for winner in run.winners
    ]
    head = ("Method", "Seed", "Budget", "Architecture", "Truth", "Test", "Folder")
    return [table(head, rows, (1, 4, 5))] if rows else []


def _images(comparison: Comparison) -> Parts:
    stages = list(dict.fromkeys(s for run in comparison.runs for s in run.images))
    stages = [*(s for s in stages if s != "total"), "total"]
    rows = [
        (
            run.method,
            str(run.seed),
            *(numbers.whole(run.images.get(stage, 0)) for stage in stages),
        )
        for run in comparison.runs
    ]
    head = ("Method", "Seed", *stages)
    return [table(head, rows, range(1, len(head)))] if rows else []
