"""What winners predict of the test images: by class, what they take for what, and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manyshot.report import figures as f
from manyshot.report.derived import merged
from manyshot.report.figures import plain
from manyshot.report.page import Example, Examples, Figure, Heading, Part, Parts, View
from manyshot.report.reading import RunRecords
from manyshot.run_folder import ExampleRecord, PredictionsRecord
from manyshot.tables import numbers

_BARS = 30
"""Of more classes those with the lowest accuracies are drawn."""
_NUMBERED = 12
"""Of more classes cells hold no numbers."""
_NAMED = 40
"""Of more classes rows and columns have no names."""
_SHORT = 3
"""Longer names stand upright below columns."""
_WIDE = 20
"""Longer names of classes are cut."""


@dataclass(frozen=True, slots=True)
class _Tested:
    """A winner that says what it predicts."""

    name: str
    record: PredictionsRecord


def predictions(run: RunRecords) -> Parts:
    """Accuracy by class, a confusion matrix and examples of every winner that has them."""
    tested = [
        _Tested(", ".join(map(numbers.budget, budgets)), run.predictions[winner.arch])
        for budgets, winner in merged(run.winners)
        if winner.arch in run.predictions
    ]
    if not tested:
        return []
    classes = len(tested[0].record.class_images)
    tested = [one for one in tested if len(one.record.class_images) == classes]
    names = _names(run, classes)
    parts: list[Part] = [_by_class(tested, names)]
    with_matrix = [one for one in tested if one.record.confusion is not None]
    if with_matrix:
        parts.append(_confusion(with_matrix, names))
    for one in tested:
        strips = [
            Examples("Right", [_example(e, names) for e in one.record.right]),
            Examples("Wrong, the surest first", [_example(e, names) for e in one.record.wrong]),
        ]
        parts += [Heading(f"Test images, winner of {one.name}")] if len(tested) > 1 else []
        parts += [strip for strip in strips if strip.examples]
    return parts


def _names(run: RunRecords, classes: int) -> list[str]:
    """The names of the classes, by label; numbers where they have none."""
    names = None if run.images is None else run.images.class_names
    if names is None or len(names) != classes:
        return [str(label) for label in range(classes)]
    return list(names)


def _by_class(tested: Sequence[_Tested], names: Sequence[str]) -> Figure:
    """The share of each class that is classified right, the lowest first; a view per winner."""
    views, most = [], 0
    for one in tested:
        of, right = one.record.class_images, one.record.class_right
        shares = {i: right[i] / of[i] for i in range(len(of)) if of[i]}
        rows = sorted(shares, key=lambda i: (shares[i], i))[:_BARS]
        labels = _labels([names[i] for i in rows])
        bars = f.bars(
            [shares[i] for i in rows],
            labels,
            f.colour(0),
            orientation="h",
            text=[f"{right[i]:,} of {of[i]:,}" for i in rows],
            textposition="inside",
            insidetextanchor="start",
            insidetextfont={"color": f.INK},
            marker={"opacity": 0.5},
            hovertemplate="%{y}: %{x:.1%}, %{text}<extra></extra>",
        )
        axis = f.share_axis("classified right", range=[0, 1])
        layout = f.layout(axis, f.rows_axis(labels), bargap=0.25, margin={"r": 26})
        views.append(View(one.name, [bars], layout))
        most = max(most, len(rows))
    caption = "On test images, the lowest first."
    if most < len(names):
        caption += f" Drawn are the lowest {most} of {len(names)} classes."
    return _figure("Accuracy by class", views, caption, 70 + 26 * most)


def _confusion(tested: Sequence[_Tested], names: Sequence[str]) -> Figure:
    """What classes are taken for, as shares of each class; a view per winner."""
    labels = _labels(names)
    are_long = max(map(len, labels)) > _SHORT
    views = []
    for one in tested:
        counts = one.record.confusion or ()
        heat = f.heatmap(
            labels,
            labels,
            [[n / (sum(row) or 1) for n in row] for row in counts],
            text=[list(row) for row in counts],
            zmin=0,
            zmax=1,
            hovertemplate="%{y} taken for %{x}: %{text} (%{z:.1%})<extra></extra>",
            colorbar={"tickformat": ".0%"},
            **({"texttemplate": "%{text}"} if len(names) <= _NUMBERED else {}),
        )
        has_names = len(names) <= _NAMED
        across = f.axis("taken for", type="category", showticklabels=has_names)
        down = f.rows_axis(labels, showticklabels=has_names)
        if are_long:
            across["tickangle"] = -90
        layout = f.layout(across, down)
        views.append(View(one.name, [heat], layout))
    caption = "Rows are classes, and columns what their test images are taken for."
    height = min(640, 150 + 34 * len(names)) + 110 * are_long
    return _figure("Which class is taken for which", views, caption, height)


def _figure(title: str, views: Sequence[View], caption: str, height: int) -> Figure:
    first = views[0]
    more = views if len(views) > 1 else ()
    return Figure(title, first.traces, first.layout, caption, height, more)


def _labels(names: Sequence[str]) -> list[str]:
    """Names of classes as distinct texts of a figure."""
    short = [numbers.shortened(name, _WIDE) for name in names]
    return [
        plain(text if short.count(text) == 1 else f"{text} ({i})") for i, text in enumerate(short)
    ]


def _example(example: ExampleRecord, names: Sequence[str]) -> Example:
    is_right = example.label == example.predicted
    words = f"{names[example.predicted]}, {numbers.percent(example.probability, 0)}"
    return Example(
        image=example.image,
        words=words,
        label="" if is_right else f"it is {names[example.label]}",
        file=example.file or f"test image {example.index}",
    )
