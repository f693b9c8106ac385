"""Weights that mixed options: how they moved, and what choosing one of each decision costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from manyshot.report import figures as f
from manyshot.report.page import Figure
from manyshot.report.reading import RunRecords
from manyshot.run_folder import (
    GeneratedRecord,
    MixedRecord,
    OptionsLine,
    TaskRecord,
    WinnerRecord,
)
from manyshot.space import SearchSpace
from manyshot.tables import numbers
from manyshot.tables.run import how_selected, left_of
from manyshot.tables.table import Table

DRAWN = 12
"""Of so many decisions at most every one has a curve; of more there is their mean."""


def gap(
    mixed: MixedRecord | None, winners: Sequence[WinnerRecord], task: TaskRecord | None
) -> Table:
    """The network with mixed options beside winners, by the supernet's weights and finished."""
    if mixed is None or task is None:
        return Table([], ())
    metric = task.metric
    first, last = f"Supernet's weights, {metric.name}", f"Finished, test {metric.name}"
    rows = [{"Network": "all options, mixed", first: _score(mixed.proxy_score, task), last: ""}]
    rows += [
        {
            "Network": f"winner of {numbers.budget(winner.budget)}",
            first: _score(winner.proxy_score, task),
            last: _score(winner.test_score, task),
        }
        for winner in winners
    ]
    note = (
        "With the supernet's weights, on validation images: all options mixed by their weights, "
        "normalised by the batch, and one option of each decision, calibrated. The difference is "
        "the discretisation gap."
    )
    return Table(rows, ("Network",), note=note)


def selected(run: RunRecords, proposals: Mapping[str, GeneratedRecord]) -> Table:
    """How the winner of each budget was selected, and how far it is from the largest weights.

    It names options that pruning had left out and that came back, if there are any.
    """
    came_back = any(proposal.returned for proposal in proposals.values())
    winners = {winner.budget: winner.arch for winner in run.winners}
    rows = [
        {
            "Budget": numbers.budget(budget),
            "Selected": how_selected(proposal, "the largest weights that fit"),
            **_changed(run, winners.get(budget)),
            "Left of the budget": left_of(proposal),
            **({"Came back": ", ".join(proposal.returned or ())} if came_back else {}),
        }
        for budget, proposal in proposals.items()
    ]
    return Table(rows, ("Budget", "Selected"))


def _changed(run: RunRecords, winner: str | None) -> dict[str, str]:
    """In how many decisions that matter a winner has another option than that of most weight.

    It has no entry where the weights are not on record.
    """
    if not run.options or run.space is None or winner is None:
        return {}
    arch, weights = run.space.from_text(winner), run.options[-1].weights
    mattering = [i for i, matters in enumerate(run.space.active(arch)) if matters]
    others = sum(weights[i][arch[i]] < max(weights[i]) for i in mattering)
    return {"Not of the largest weight": f"{others} of {len(mattering)} decisions"}


def _score(value: float, task: TaskRecord) -> str:
    return numbers.score(value, task.metric.share, 2)


def options(lines: Sequence[OptionsLine], space: SearchSpace | None) -> list[Figure]:
    """How decided the weights became, and what they are at the end."""
    last = lines[-1]
    steps = [line.step for line in lines]
    spread = [[_entropy_share(weights) for weights in line.weights] for line in lines]
    if len(last.decisions) <= DRAWN:
        curves = [
            f.line(
                steps,
                [line[i] for line in spread],
                name,
                line={"color": f.colour(i)},
                hovertemplate=f"{name}, step %{{x}}: %{{y:.0%}}<extra></extra>",
            )
            for i, name in enumerate(last.decisions)
        ]
    else:
        means = [sum(line) / len(line) for line in spread]
        curves = [f.line(steps, means, "mean", hovertemplate="step %{x}: %{y:.0%}<extra></extra>")]
    ends = sum(spread[-1]) / len(spread[-1])
    decided = Figure(
        "How undecided the weights of options are",
        curves,
        f.layout(
            f.axis("training step", tickformat="~s", nticks=6),
            f.share_axis("share of the largest entropy", range=[-0.05, 1.05]),
        ),
        "0 %: one option has all of the weight; 100 %: all have as much. At the end "
        f"{numbers.percent(ends)} in the mean of decisions; of "
        f"{sum(map(len, last.weights)):,} options {last.options_left:,} are left.",
    )
    most = max(map(len, last.weights))
    names = _names(last, space)
    same = len(set(map(tuple, names))) == 1  # then columns have names
    table = f.heatmap(
        names[0] if same else list(range(most)),
        list(last.decisions),
        [[*weights, *[None] * (most - len(weights))] for weights in last.weights],
        zmin=0,
        zmax=1,
        text=[[*each, *[""] * (most - len(each))] for each in names],
        hovertemplate="%{y}: %{text}<br>weight %{z:.3f}<extra></extra>",
        colorbar={"tickformat": ".0%"},
    )
    axis = f.axis("option", type="category") if same else f.axis("option", dtick=1)
    weights = Figure(
        "Weights of options at the end",
        [table],
        f.layout(
            axis,
            f.rows_axis(last.decisions),
        ),
        "The option of the largest weight is chosen, where the budget allows it.",
        height=max(260, 22 * len(last.decisions) + 100),
    )
    return [decided, weights]


def _names(line: OptionsLine, space: SearchSpace | None) -> list[list[str]]:
    """The options of each decision in words."""
    if space is None:
        return [[str(i) for i in range(len(weights))] for weights in line.weights]
    return [[str(option) for option in decision.options] for decision in space.decisions]


def _entropy_share(weights: Sequence[float]) -> float:
    """Of weights that are made to sum to one, in the largest that there is; 0 for one option."""
    total = sum(weights)
    shares = [weight / total for weight in weights if weight > 0]
    if len(weights) < 2:
        return 0.0
    return -sum(share * math.log(share) for share in shares) / math.log(len(weights))
