"""Figures of training: curves, codes of K-shot, the probability shift of ShiftNAS."""

from __future__ import annotations

from collections.abc import Sequence

from manyshot.report import figures as f
from manyshot.report.derived import chosen_rows, code_of, entropy_share, layers_of
from manyshot.report.page import Figure
from manyshot.run_folder import CodesLine, TargetsLine, TrainLine
from manyshot.tables import numbers

_PATHS = 400
"""A heat map has at most so many columns of paths; more would be thinner than a pixel."""


def curves(lines: Sequence[TrainLine]) -> list[Figure]:
    """Loss, learning rate, speed, and what a sharing scheme watches, over images."""
    if not lines:
        return []
    loss = _curve(lines, {"loss": "loss of weights", "code_loss": "loss of codes"})
    drawn = [Figure("Training loss", loss, _layout("mean loss since the last record"))]
    panels = {
        "Learning rate": {"lr": "learning rate"},
        "Images per second": {"images_per_second": "images per second"},
        "Entropy of codes": {"code_entropy_share": "share of the largest"},
        "Spread of codes": {"code_spread": "spread"},
        "Effective sharing": {"effective_sharing": "share of a step"},
        "Distance between copies": {"slice_distance": "distance"},
    }
    for title, keys in panels.items():
        traces = _curve(lines, keys)
        if traces:
            layout = _layout(next(iter(keys.values())), rangemode="tozero")
            drawn.append(Figure(title, traces, layout, height=240))
    return [*drawn, *_worth_of_codes(lines)]


def _worth_of_codes(lines: Sequence[TrainLine]) -> list[Figure]:
    """Whether codes matter; nothing of runs that did not measure it."""
    seen = [(line.images, line.codes) for line in lines if line.codes is not None]
    if not seen:
        return []
    images, last = [images for images, _ in seen], seen[-1][1]
    compared = {
        "mean code": [(c.mean_minus_own, c.mean_minus_own_error) for _, c in seen],
        "code of another path": [(c.other_minus_own, c.other_minus_own_error) for _, c in seen],
    }
    traces = [
        f.line(
            images,
            [value for value, _ in values],
            name,
            mode="lines+markers",
            marker={"size": 5},
            line={"color": f.colour(4 * i)},
            error_y=f.intervals([(v, v - 2 * error, v + 2 * error) for v, error in values]),
        )
        for i, (name, values) in enumerate(compared.items())
    ]
    told = "better than" if last.is_better else "no better than"
    worth = Figure(
        "What the own code of a path is worth",
        traces,
        _layout("loss with it minus loss with the own code", zeroline=True),
        f"On {numbers.plural(last.paths, 'random path')}, each on "
        f"{numbers.plural(last.images, 'image')} held out, with two standard errors. At the last "
        f"measurement the own code is {told} the mean code.",
        height=260,
    )
    shares = [c.reachable_share for _, c in seen]
    marks = {"mode": "lines+markers", "marker": {"size": 5}}
    reached = Figure(
        "Gradient that codes can reach",
        [f.line(images, shares, "", showlegend=False, **marks)],
        _layout("share of its squared norm", rangemode="tozero"),
        "Codes move the weights of a path along the differences of the copies alone.",
        height=240,
    )
    return [worth, reached]


def _layout(title: str, **more: object) -> dict[str, object]:
    images = f.axis("images trained on", tickformat="~s", rangemode="tozero", nticks=6)
    return f.layout(images, f.axis(title, **more))


def _curve(lines: Sequence[TrainLine], keys: dict[str, str]) -> list[dict[str, object]]:
    traces = []
    for i, (key, name) in enumerate(keys.items()):
        values = [(line.images, getattr(line, key)) for line in lines]
        drawn = [(images, value) for images, value in values if value is not None]
        if drawn:
            x, y = zip(*drawn, strict=True)
            marks = {"mode": "lines+markers" if len(drawn) < 40 else "lines", "marker": {"size": 5}}
            traces.append(f.line(x, y, name, line={"color": f.colour(4 * i)}, **marks))
    for trace in traces:
        trace["showlegend"] = len(traces) > 1
    return traces


def codes(lines: Sequence[CodesLine]) -> list[Figure]:
    """The codes of paths, cheapest first; and how far each is from using one copy alone."""
    if not lines:
        return []
    lines = sorted(lines, key=lambda line: (line.macs, line.arch))
    lines = [lines[i] for i in chosen_rows(range(len(lines)), _PATHS)]
    values = [code_of(line) for line in lines]
    copies = len(values[0])
    nested = len(layers_of(lines[0])) > 1
    words = [f"{line.arch}, {numbers.count(line.macs)} MACs" for line in lines]
    largest = max(abs(v) for code in values for v in code)
    rows = [f"copy {k + 1}" for k in range(copies)]
    heat = f.heatmap(
        list(range(1, len(lines) + 1)),
        rows,
        list(zip(*values, strict=True)),
        text=[words] * copies,
        hovertemplate="%{text}<br>%{y}: %{z:.3f}<extra></extra>",
        zmin=min(0.0, min(v for code in values for v in code)),
        zmax=max(1.0, largest),
    )
    mean = " Codes are per layer; their means are shown." if nested else ""
    code_map = Figure(
        "Share of each copy of the weights in each path",
        [heat],
        f.layout(f.axis("paths, from few MACs to many"), f.rows_axis(rows)),
        f"{numbers.plural(len(lines), 'path')}, sorted by MACs.{mean}",
        height=110 + 38 * copies,
    )
    entropies = [entropy_share(code) for code in values]
    costs = [line.macs for line in lines]
    scatter = f.dots(
        costs, entropies, "", text=words, hovertemplate="%{text}<br>%{y:.3f}<extra></extra>"
    )
    spread = Figure(
        "Entropy of the code of each path",
        [scatter],
        f.layout(
            f.cost_axis("MACs", costs),
            f.axis("share of the largest entropy", range=[-0.05, 1.12]),
            shapes=[f.rule("y", 1)],
            showlegend=False,
        ),
        f"0: a path uses one copy. Dashed, 1: it uses all {copies} alike. Mean: "
        f"{numbers.decimal(sum(entropies) / len(entropies))}.",
        height=300,
    )
    return [code_map, spread]


def shift(lines: Sequence[TargetsLine], trained: Sequence[TrainLine] = ()) -> list[Figure]:
    """How the probability of target costs moved; how well the generator met them at the end.

    The records `trained` of training say what probes took.
    """
    if not lines:
        return []
    last = lines[-1]
    targets = f.axis(f"target {numbers.metric(last.metric)}", tickformat="~s")
    most = max(2 / len(last.targets), *(max(line.probabilities) for line in lines))
    heat = f.heatmap(
        [line.step for line in lines],
        last.targets,
        list(zip(*(line.probabilities for line in lines), strict=True)),
        zmin=0,
        zmax=most,  # so that a distribution that stayed uniform has the middle colour
        hovertemplate="step %{x}, target %{y:.3s}<br>probability %{z:.3f}<extra></extra>",
        colorbar={"tickformat": ".0%"},
    )
    moved = Figure(
        "Probability of target costs over time",
        [heat],
        f.layout(f.axis("training step", tickformat="~s", nticks=6), targets),
        f"{numbers.plural(sum(line.update for line in lines), 'update')} of the distribution over "
        f"{numbers.plural(len(last.targets), 'target')}; uniform is "
        f"{numbers.percent(1 / len(last.targets))}.{_told(lines)}{_spent(trained)}",
    )
    steps = "target %{x:.3s}<br>%{y} steps<extra></extra>"
    per_target = Figure(
        "Steps trained per target",
        [f.bars(last.targets, last.counts, f.colour(0), hovertemplate=steps)],
        f.layout(targets, f.axis("steps")),
        height=260,
    )
    errors = "target %{x:.3s}<br>%{y:.2f} grid steps<extra></extra>"
    missed = Figure(
        "How far the generator misses its targets",
        [f.bars(last.targets, last.error_grid_steps, f.colour(4), hovertemplate=errors)],
        f.layout(targets, f.axis("grid steps", zeroline=True)),
        "At the last record: cost of the likeliest architecture minus its target.",
        height=260,
    )
    return [moved, *_evidence(lines, targets), per_target, missed, *_variety(lines, targets)]


def _told(lines: Sequence[TargetsLine]) -> str:
    verdicts = [line.verdict for line in lines if line.verdict is not None]
    if not verdicts:
        return ""
    telling = sum(verdict == "distinguishable from noise" for verdict in verdicts)
    return (
        f" At the last update, what targets still gain is {verdicts[-1]}; it was distinguishable "
        f"at {telling} of {numbers.plural(len(verdicts), 'update')}."
    )


def _spent(trained: Sequence[TrainLine]) -> str:
    """What probes took beside training; nothing where records do not say it."""
    last = trained[-1] if trained else None
    if last is None or not last.macs or last.probe_macs is None:
        return ""
    return (
        f" The multiply-adds of probes on held-out images are "
        f"{numbers.percent(last.probe_macs / last.macs)} of those of training, which are of what "
        "ran forward and backward, masks included."
    )


def _variety(lines: Sequence[TargetsLine], targets: dict[str, object]) -> list[Figure]:
    """How varied the generator's draws are, beside those of the whole sub-space of each target."""
    known = [line for line in lines if line.distinct is not None]
    if not known:
        return []
    last = known[-1]
    drawn = f.bars(
        last.targets,
        last.entropy_nats,
        f.colour(5),
        name="generator",
        text=[f"{distinct} distinct of 200 draws" for distinct in last.distinct or ()],
        textposition="none",
        hovertemplate="target %{x:.3s}<br>%{y:.2f} nats, %{text}<extra></extra>",
    )
    whole = f.dots(
        last.targets,
        last.bin_entropy_nats or (),
        "all around the target",
        hovertemplate="target %{x:.3s}<br>%{y:.2f} nats<extra></extra>",
    )
    distinct = [sum(line.distinct or ()) / len(line.targets) for line in known]
    return [
        Figure(
            "How varied the generator's draws are",
            [drawn, whole],
            f.layout(targets, f.axis("entropy, nats", rangemode="tozero")),
            "At the last record; dots are the entropy of drawing uniformly from what costs "
            "within half a step of the target. Of 200 draws for a target "
            f"{numbers.decimal(distinct[-1], 0)} are distinct, in the mean over targets; at the "
            f"first record {numbers.decimal(distinct[0], 0)}.",
            height=280,
        )
    ]


def _evidence(lines: Sequence[TargetsLine], targets: dict[str, object]) -> list[Figure]:
    """Whether gains of targets could be told from noise; nothing without a standard error."""
    known = [line for line in lines if line.signal_to_noise is not None]
    if not known:
        return []
    last = known[-1]
    ratio = f.line(
        [line.step for line in known],
        [line.signal_to_noise for line in known],
        "",
        mode="lines+markers",
        marker={"size": 5},
        text=[line.verdict for line in known],
        hovertemplate="step %{x}: %{y:.2f}<br>%{text}<extra></extra>",
    )
    signal = Figure(
        "Signal to noise of the updates",
        [ratio],
        f.layout(
            f.axis("training step", tickformat="~s", nticks=6),
            f.axis("spread of gains / noise", rangemode="tozero"),
        ),
        "How much the gains of targets differ, as estimated, over the noise of one update; the "
        f"noise of their means is smaller. At the last one they are {last.verdict}.",
        height=260,
    )
    gains = list(zip(last.gain or (), last.standard_error or (), strict=True))
    ends = [
        (None, None, None) if gain is None or error is None else (gain, gain - error, gain + error)
        for gain, error in gains
    ]
    bars = f.bars(
        last.targets,
        [gain for gain, _ in gains],
        f.colour(2),
        error_y=f.intervals(ends),
        hovertemplate="target %{x:.3s}<br>%{y:.2g}<extra></extra>",
    )
    gained = Figure(
        "Gain per draw of each target",
        [bars],
        f.layout(targets, f.axis("fall of loss, less the mean", zeroline=True)),
        "How much more loss falls per update, for a target that is drawn as often as any, than in "
        "the mean of all targets: estimated from the last updates, with its standard error.",
        height=260,
    )
    return [signal, gained]
