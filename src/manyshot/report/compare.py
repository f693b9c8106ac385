"""The page of a comparison of runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, get_args

from manyshot.report import figures as f
from manyshot.report.figures import plain
from manyshot.report.page import Bullets, Figure, Folded, Page, PageSection, Part, Parts, Verdict
from manyshot.run_folder import ComparedMethod, Comparison, FreeBaseline, Mean
from manyshot.tables import compare as tables
from manyshot.tables import numbers
from manyshot.tables.compare import IMAGES
from manyshot.tables.numbers import plural

_LINE, _LINES = 36, 2
"""A name in a figure has lines of so many letters, and at most so many lines."""
_LONG = 70
"""A longer title says how many methods there are instead of their names."""
_TOLD = 4
"""So many differences of winners open a page."""
_FREE = (
    ("Dotted", "dot", f.SOFT),
    ("Dash-dotted", "dashdot", f.SOFT),
    ("Long-dashed", "longdash", f.SOFT),
    ("Long-dash-dotted", "longdashdot", f.SOFT),
    ("Dashed, grey", "dash", f.SOFT),
)
_BASELINES: dict[str, tuple[str, str, str]] = {
    **dict(zip(get_args(FreeBaseline), _FREE, strict=True)),
    "run to run": ("Dashed", "dash", f.INK),
    "ceiling": ("Dashed", "dash", f.INK),
}
"""How lines are drawn at what orders without a supernet."""


def compare_page(comparison: Comparison) -> Page:
    """The page of a comparison."""
    methods = [m.method for m in comparison.methods]
    seeds = sorted({run.seed for run in comparison.runs})
    truth = comparison.truth
    lead = f"{plural(len(methods), 'method')}, {plural(len(comparison.runs), 'run')}, "
    lead += f"{plural(len(seeds), 'random seed')}. "
    if truth is None:
        lead += "There is no truth to rank against: winners are compared by test "
        lead += f"{comparison.metric.name}."
    else:
        lead += f"Truth: {truth.name} ({truth.source})."
    metrics = tables.metrics_of(comparison)
    means = tables.methods(comparison, [metric for metric in metrics if metric != IMAGES])
    gates = tables.gates(comparison)
    curves, spent = _anytime(comparison), tables.spent(comparison)
    sections = [
        PageSection("Methods", [means]),
        *([PageSection("What the truth can judge", [Bullets(gates)])] if gates else []),
        PageSection("Metrics", [[_panel(comparison, m) for m in metrics]]),
        PageSection("Pairs", _pairs(comparison)),
        PageSection("Winners", [tables.winners(comparison)]),
        *([PageSection("Best by what was spent", [curves])] if curves else []),
        *(
            [PageSection("Spent", [Bullets(tables.budgets(comparison)), spent])]
            if spent.rows
            else []
        ),
        PageSection("Images", [tables.images(comparison.runs)]),
    ]
    title = numbers.listed(methods) if methods else "nothing"
    if len(title) > _LONG:
        title = plural(len(methods), "method")
    return Page("compare", title, lead, sections, _warnings(comparison), _verdict(comparison))


def _anytime(comparison: Comparison) -> list[Figure]:
    """How good the best of every run was, by compute and by seconds spent on it until then."""
    position = {m.method: i for i, m in enumerate(comparison.methods)}
    metric = comparison.metric if comparison.truth is None else comparison.truth.metric
    by = "its validated score" if comparison.truth is None else "its score trained alone"
    figures = []
    for key, title, words in (
        ("macs", "multiply-adds of training and search", "compute"),
        ("seconds", "seconds of training and search", "time"),
    ):
        traces: list[dict[str, Any]] = []
        spent: list[float] = []
        named: set[str] = set()
        for run in comparison.runs:
            points = [(getattr(point, key), point.score) for point in run.anytime]
            known = [(x, y) for x, y in points if x is not None]
            if not known:
                continue
            x, y = zip(*known, strict=True)
            spent += x
            traces.append(
                f.line(
                    x,
                    y,
                    plain(run.method),
                    mode="lines+markers",
                    line={"shape": "hv", "color": f.colour(position.get(run.method, 0))},
                    marker={"size": 5},
                    legendgroup=plain(run.method),
                    showlegend=run.method not in named,
                    hovertemplate=f"{plain(run.method)}, seed {run.seed}: %{{y}}<extra></extra>",
                )
            )
            named.add(run.method)
        if traces:
            caption = f"The best of the first budget by proxy, and {by}; a line per run."
            if key == "seconds":
                caption += " Seconds of the search are divided evenly over its candidates."
            layout = f.layout(f.cost_axis(title, spent), f.score_axis("", metric.share))
            figures.append(Figure(f"Best by {words}", traces, layout, caption, height=320))
    return figures


def _verdict(comparison: Comparison) -> Verdict | None:
    """What can be said by the primary metric; of older records, of the winners of two methods."""
    if comparison.primary is None:
        return _verdict_of_winners(comparison)
    pairs = tables.primary_pairs(comparison)
    if not pairs:
        return None
    verdicts = {pair.verdict for pair in pairs}
    words = tables.primary(comparison)
    rest = len(words) - 1 - _TOLD
    if rest > 0:
        words[1 + _TOLD :] = [f"{plural(rest, 'further pair is', 'further pairs are')} below."]
    if verdicts & {"better", "worse"}:
        return Verdict("good", words)
    return Verdict("doubtful" if "not distinguishable" in verdicts else "unknown", words)


def _verdict_of_winners(comparison: Comparison) -> Verdict | None:
    """What can be said of the winners of two methods, by truth where it knows them."""
    by_truth = [p for p in comparison.pairs if p.metric.startswith("winner ")]
    on_test = [p for p in comparison.pairs if p.metric.startswith("finished ")]
    told = [p for p in (*by_truth, *on_test) if p.verdict != "undefined"]
    decided = [p for p in told if p.verdict != "not distinguishable"]
    if not (by_truth or on_test):
        return None
    if not told:
        words = "Whose winners are better cannot be told: that needs methods with more seeds."
        return Verdict("unknown", [words])
    shown = [numbers.budget(pair.sentence) for pair in (decided or told)[:_TOLD]]
    rest = len(told) - len(shown)
    if rest:
        shown.append(f"{plural(rest, 'further pair is', 'further pairs are')} below.")
    if decided:
        first = "Winners of some methods are better than those of others:"
        return Verdict("good", [first, *shown])
    return Verdict("doubtful", ["No method's winners are distinguishable from another's:", *shown])


def _warnings(comparison: Comparison) -> list[str]:
    uneven = {(p.first, p.second) for p in comparison.pairs if not p.equal_images}
    if not uneven:
        return [*comparison.notes]
    named = "; ".join(f"{first} and {second}" for first, second in sorted(uneven))
    said = f"Not at equal cost: the images that these methods forwarded differ: {named}."
    return [*comparison.notes, said]


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
        error_x=f.intervals(
            [(means_of[i].mean, means_of[i].low, means_of[i].high) for i in defined]
        ),
    )
    unknown = [i for i in rows if means_of[i].mean is None]
    shapes, caption = _baselines(comparison, metric)
    ticks = {"tickvals": list(rows), "showticklabels": False, "showgrid": False}
    layout = f.layout(
        _axis(metric, comparison),
        f.axis("", range=[count - 0.7, -0.62], **ticks),
        annotations=_words(methods, unknown),
        shapes=shapes,
        showlegend=False,
    )
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
        look, dash, colour = _BASELINES[baseline.name]
        at = baseline.metrics.get(metric)
        if at is not None:
            shapes.append(f.rule("x", at, line={"dash": dash, "color": colour}))
            name = tables.BASELINES[baseline.name]
            words.append(f"{look}: {name}, {tables.value(metric, comparison, at)}.")
    return shapes, " ".join(words)


def _wrapped(name: str) -> str:
    """A name in lines, as text of a figure."""
    lines = textwrap.wrap(name, _LINE, max_lines=_LINES, placeholder="…")
    return "<br>".join(map(plain, lines))


def _axis(metric: str, comparison: Comparison) -> dict[str, Any]:
    if metric == IMAGES:
        return f.axis("images forwarded", tickformat="~s", nticks=4, rangemode="tozero")
    is_share = tables.is_share(metric, comparison)
    return f.share_axis("", nticks=4) if is_share else f.axis("", nticks=5)


def _pairs(comparison: Comparison) -> Parts:
    told = [numbers.budget(p.sentence) for p in comparison.pairs if p.verdict != "undefined"]
    untold = [numbers.budget(p.sentence) for p in comparison.pairs if p.verdict == "undefined"]
    parts: list[Part] = [Bullets(told)] if told else []
    if untold:
        parts.append(Folded(f"{plural(len(untold), 'difference')} undefined", Bullets(untold)))
    parts += tables.families(comparison)
    return [*parts, tables.pairs(comparison.pairs, comparison)]
