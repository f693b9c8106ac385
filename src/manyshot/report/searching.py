"""Figures of a search: its progress, operations, the order of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyshot.report import figures as f
from manyshot.report.derived import (
    PROPOSED,
    best_so_far,
    fitness_of,
    latest,
    shares,
)
from manyshot.report.figures import plain
from manyshot.report.page import Figure
from manyshot.report.reading import RunRecords
from manyshot.run_folder import AFTER, BEFORE, MetricRecord, SearchLine, ShiftingLine, TaskRecord
from manyshot.tables import numbers

_BEST = 10
"""Operations are shown of the best one in so many."""
_FEWEST = 5
"""And of at least so many architectures."""
_WIDE = 28
"""Longer names of decisions are cut."""


def _dots(
    x: Sequence[int], scores: Sequence[SearchLine], hover: str, **more: Any
) -> dict[str, Any]:
    """A dot per score."""
    return f.dots(
        x,
        [score.proxy_score for score in scores],
        "scored",
        text=[score.arch for score in scores],
        hovertemplate=f"%{{text}}<br>{hover}<extra></extra>",
        **more,
    )


def shown(metric: MetricRecord, of: str = "y") -> str:
    """A score of a figure as people read it."""
    return f"%{{{of}:.1%}}" if metric.share else f"%{{{of}:.4~g}}"


def progress(run: RunRecords, task: TaskRecord) -> Figure:
    """Every score in the order it was taken in, and the best so far within each budget."""
    lines = [s for s in run.search if s.role in PROPOSED]
    traces = [_dots(range(1, len(lines) + 1), lines, shown(task.metric), marker={"size": 5})]
    limits = {budget: run.limit(budget) for budget in run.budgets}
    curves: list[tuple[str, tuple[str, float] | None]] = [
        (f"best, {numbers.budget(budget)}", limit)
        for budget, limit in limits.items()
        if limit is not None
    ]
    for i, (name, limit) in enumerate(curves or [("best of all", None)]):
        steps = best_so_far(lines, limit, task)
        if steps:
            steps.append((len(lines), steps[-1][1]))
            x, y = zip(*steps, strict=True)
            style = {"shape": "hv", "color": f.colour(i)}
            traces.append(f.line(x, y, plain(name), line=style, hoverinfo="skip"))
    missing = len(limits) - len(curves)
    caption = ""
    if any(s.weights_version for s in lines):
        caption = "Weights moved meanwhile: scores of different generations are of other weights."
    if any(s.reward is not None for s in lines):
        caption = f"{caption} The best are by the reward, of a score and a cost.".strip()
    if missing:
        caption = f"{caption} Limits that are not on record are left out: {missing}.".strip()
    layout = f.layout(
        f.axis("scores taken", rangemode="tozero"),
        f.score_axis(plain(f"proxy {task.metric.name}"), task.metric.share),
    )
    return Figure("Search progress", traces, layout, caption, height=380)


def operations(run: RunRecords) -> list[Figure]:
    """How often options occur: first and last generation, and the best of all that was scored."""
    lines = [s for s in run.search if s.role in PROPOSED]
    if run.space is None or run.task is None or not lines:
        return []
    task = run.task
    generations = sorted({s.generation for s in lines})
    groups = {}
    if len(generations) > 1:
        for title, number in (("First", generations[0]), ("Last", generations[-1])):
            groups[f"{title} generation"] = [s for s in lines if s.generation == number]
    else:
        groups["Proposed"] = lines
    scored = latest(run.search)
    count = max(_FEWEST, len(scored) // _BEST)
    if len(scored) > count:
        ordered = sorted(scored, key=lambda s: (-fitness_of(task, s), s.macs))
        groups[f"Best {count} scored"] = ordered[:count]
    return [_shares(run, title, group) for title, group in groups.items()]


def _shares(run: RunRecords, title: str, lines: Sequence[SearchLine]) -> Figure:
    assert run.space is not None
    rows = shares(run.space, [run.space.from_text(line.arch) for line in lines])
    names = [plain(numbers.shortened(str(d.name), _WIDE)) for d in run.space.decisions]
    traces = []
    for option in range(max(len(row) for row in rows)):
        having = [i for i, row in enumerate(rows) if option < len(row)]
        words = [plain(run.space.decisions[i].options[option]) for i in having]
        traces.append(
            f.bars(
                [rows[i][option] for i in having],
                [names[i] for i in having],
                f.colour(option),
                orientation="h",
                text=words,
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": f.INK},
                marker={"opacity": 0.5, "line": {"width": 1, "color": f.CARD}},
                hovertemplate="%{y}: %{text}<br>%{x:.0%}<extra></extra>",
                showlegend=False,
            )
        )
    layout = f.layout(
        f.share_axis("", range=[0, 1], tickvals=[0, 0.5, 1], showgrid=False),
        f.rows_axis(names),
        barmode="stack",
        bargap=0.15,
        margin={"r": 26},
        uniformtext={"mode": "hide", "minsize": 9},
    )
    caption = numbers.plural(len(lines), "architecture")
    return Figure(title, traces, layout, caption, height=50 + 28 * len(names))


def order(run: RunRecords) -> list[Figure]:
    """Scores of the watched architectures before and after the weights moved."""
    before = {s.arch: s.proxy_score for s in run.order if s.role == BEFORE}
    after = {s.arch: s.proxy_score for s in run.order if s.role == AFTER}
    both = [arch for arch in before if arch in after]
    if not both or run.task is None:
        return []
    metric = run.task.metric
    x, y = [before[a] for a in both], [after[a] for a in both]
    low, high = f.padded([*x, *y])
    same = f.line([low, high], [low, high], "no change", line={"dash": "dash", "width": 1})
    scatter = f.dots(
        x,
        y,
        "watched",
        text=both,
        hovertemplate=f"%{{text}}<br>{shown(metric, 'x')} → {shown(metric)}<extra></extra>",
    )
    layout = f.layout(
        f.score_axis(plain(f"proxy {metric.name} before"), metric.share, range=[low, high]),
        f.score_axis(plain(f"proxy {metric.name} after"), metric.share, range=[low, high]),
    )
    words = f"{numbers.plural(len(both), 'architecture')}, on the same images both times."
    return [Figure("Watched architectures, before and after", [same, scatter], layout, words)]


def shifting(lines: Sequence[ShiftingLine]) -> list[Figure]:
    """Loss of the shifting steps, and how varied proposals were, by generation."""
    if not lines:
        return []
    x = [line.generation for line in lines]
    varied = [sum(e) / len(e) for e in (line.proposed.entropy_nats for line in lines)]
    panels = (
        ("Loss of shifting", "mean loss", [line.loss for line in lines], 0),
        ("Variety of proposals", "mean entropy (nats)", varied, 2),
    )
    return [
        Figure(
            title,
            [f.line(x, y, "", mode="lines+markers", line={"color": f.colour(number)})],
            f.layout(f.axis("generation", dtick=1 if len(x) < 12 else None), f.axis(name)),
            height=260,
        )
        for title, name, y, number in panels
    ]
