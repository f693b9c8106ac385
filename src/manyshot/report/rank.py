"""The page of a rank, and its part of the page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyshot.report import figures as f
from manyshot.report.derived import chosen_rows
from manyshot.report.figures import plain
from manyshot.report.page import Bullets, Figure, Heading, Page, PageSection, Part, Parts, Verdict
from manyshot.run_folder import BEFORE, MovedRanking, RankedSet, Ranking, RankPoint
from manyshot.tables import numbers
from manyshot.tables import rank as tables
from manyshot.tables.numbers import decimal, plural, sentence, statistic
from manyshot.tables.rank import TAU

_DRAWN = 4000
"""More points than this make a page slow; they are thinned out evenly."""
_BARS = 300
"""More error bars than this hide the points."""
_COSTS = (
    ("macs", "MACs"),
    ("params", "Parameters"),
)


def rank_page(ranking: Ranking, moved: MovedRanking | None = None) -> Page:
    """The page of a rank, and of what moving the weights did to it."""
    truth = ranking.truth
    title = f"{ranking.run} against {truth.name}"
    sections = [*rank_sections(ranking, 0, alone=True), *moved_sections(moved)]
    return Page("rank", title, _lead(ranking), sections, verdict=_verdict(ranking))


def _verdict(ranking: Ranking) -> Verdict | None:
    """Whether the supernet's order is to be trusted more than that by MACs, in plain words."""
    if not ranking.sets:
        return None
    ranked = ranking.sets[0]
    proxy, macs = ranked.predictors["proxy"], ranked.predictors.get("macs")
    if proxy.kendall.value is None:
        nothing = f"The supernet's order of the {ranked.name} set is undefined, so nothing is said."
        return Verdict("unknown", [nothing])
    pairs = (
        f"Of two architectures of the {ranked.name} set, the supernet puts the better one first in "
        f"about {_in_order(proxy.kendall.value)} of cases"
    )
    if macs is not None and macs.kendall.value is not None:
        pairs += f", and counting MACs does in {_in_order(macs.kendall.value)}"
    gain = proxy.beats_free or proxy.beats
    free = tables.free_baseline(ranked)
    if gain is None or gain.value is None or gain.low is None or gain.high is None:
        first, worth = (
            f"How the supernet's order compares with {free} is not known.",
            "unknown",
        )
    else:
        low, value, high = map(_plus, (gain.low, gain.value, gain.high))
        by = f"({TAU} {value}, 95 % interval {low} to {high})"
        if gain.low > 0:
            first, worth = f"The supernet orders better than {free} {by}.", "good"
        elif gain.high < 0:
            first, worth = f"The supernet orders worse than {free} {by}.", "nothing"
        else:
            first = f"The supernet's order is not distinguishable from {free} {by}."
            worth = "doubtful"
    sentences = [f"{pairs}; guessing, in 50 %."]
    gate = tables.gate(ranked)
    if gate is not None and not gate.judges:
        return Verdict("unknown", [numbers.sentence(gate.words), *sentences])
    sentences.insert(0, first)
    if not tables.is_untold(ranked):
        return Verdict(worth, sentences)
    few = plural(ranked.architectures, "architecture is", "architectures are")
    words = f"{few} too few to tell the supernet's order from a random one."
    return Verdict("doubtful", [words, *sentences])


def _plus(difference: float) -> str:
    """A difference with its sign."""
    return f"{difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def _in_order(tau: float) -> str:
    """The share of pairs that are in order, if there are no ties."""
    return numbers.percent((1 + tau) / 2, 0)


def rank_sections(ranking: Ranking, number: int, *, alone: bool = False) -> list[PageSection]:
    """Proxy against truth, agreement, all statistics, and how it was done.

    Args:
        ranking: the record.
        number: of this rank in the page.
        alone: whether the page is about nothing else.
    """
    name = ranking.truth.name
    titles = ("Proxy against truth", "Agreement", "All statistics", "How it was done")
    parts = (_against(ranking), _agreement(ranking), _statistics(ranking), _evaluation(ranking))
    if alone:
        return [PageSection(title, part) for title, part in zip(titles, parts, strict=True)]
    inside: list[Any] = [_lead(ranking)]
    for title, part in zip(titles, parts, strict=True):
        inside += [Heading(title), *part]
    again = f" ({number + 1})" if number else ""
    when = f", {tables.moment(ranking)}" if ranking.moment == BEFORE else ""
    return [PageSection(f"Ranking against {name}{when}{again}", inside)]


def moved_sections(moved: MovedRanking | None) -> list[PageSection]:
    """What moving the weights did to a ranking; nothing if that was not asked."""
    if moved is None:
        return []
    words = (
        "The weights before and after the search were scored on the same architectures, images and "
        "truth. Sets are those that neither weights chose."
    )
    absent = [f"There is no set {name}: it needs {why}." for name, why in moved.absent.items()]
    title = f"What shifting did to the ranking against {moved.truth.name}"
    return [PageSection(title, [words, tables.moved(moved), Bullets(absent)])]


def _lead(ranking: Ranking) -> str:
    truth, sets = ranking.truth, ranking.sets
    words = (
        f"The supernet of {ranking.run} scored {plural(len(ranking.points), 'architecture')} "
        f"whose {truth.metric.name} after a training of their own is known ({truth.name}, "
        f"{plural(len(truth.runs), 'training')} each at most)."
    )
    for ranked in sets[:1]:
        predictors = ranked.predictors
        words += f" Over the {ranked.name} set, {TAU} of {tables.predictor('proxy', ranking)} with "
        words += "truth is "
        words += statistic(predictors["proxy"].kendall)
        if "macs" in predictors:
            words += f"; ordering by MACs alone gives {decimal(predictors['macs'].kendall.value)}"
        if ranked.run_to_run is None:
            words += "; how well two trainings agree is undefined"
        else:
            words += f"; two trainings of the truth agree with {decimal(ranked.run_to_run)}"
        words += "."
    return words


def _against(ranking: Ranking) -> Parts:
    points = ranking.points
    if not points:
        return []
    rows = chosen_rows([p.truth for p in points], _DRAWN)
    drawn = [points[i] for i in rows]
    caption = f"Truth is the mean test {ranking.truth.metric.name} of all trainings of an "
    caption += "architecture on its own."
    if len(drawn) < len(points):
        caption += f" Drawn: {len(drawn):,} of {len(points):,}, evenly by truth."
    errors = any(p.error for p in drawn) and len(drawn) <= _BARS
    if errors:
        caption += " Bars: two standard errors by the random seed of trainings."
    axes = [("proxy_score", sentence(f"proxy {ranking.task.metric.name}").rstrip(".")), *_COSTS]
    first, *others = [_scatter(ranking, drawn, *axis, errors=errors) for axis in axes]
    large = Figure(first.title, first.traces, first.layout, caption, height=440)
    ceiling = [
        f"{ranked.name}: proxy {statistic(ranked.predictors['proxy'].kendall)}, two trainings "
        f"{decimal(ranked.run_to_run)}"
        for ranked in ranking.sets
        if ranked.run_to_run is not None
    ]
    intro = (
        "How well one training predicts the order of another, only the seed differing, is what any "
        f"{TAU} is to be compared with:"
    )
    parts: Parts = [large, others]
    return [*parts, intro, Bullets(ceiling)] if ceiling else parts


def _scatter(
    ranking: Ranking, points: Sequence[RankPoint], key: str, title: str, *, errors: bool
) -> Figure:
    is_score, truth = key == "proxy_score", ranking.truth.metric
    in_percent = is_score and ranking.task.metric.share
    x, y = [getattr(p, key) for p in points], [p.truth for p in points]
    spread = [2 * (p.error or 0.0) for p in points]
    shown = "%{x:.1%}" if in_percent else "%{x:.4~g}" if is_score else "%{x:.3s}"
    judged = "%{y:.2%}" if truth.share else "%{y:.4~g}"
    trace = f.dots(
        x,
        y,
        "",
        text=[p.arch for p in points],
        hovertemplate=f"%{{text}}<br>{plain(title)} {shown}<br>truth {judged}<extra></extra>",
        marker={"size": 6 if len(points) < 1000 else 4, "color": f.colour(0 if is_score else 7)},
    )
    if errors:
        trace["error_y"] = {"array": spread, "thickness": 1, "width": 0, "color": f.SOFT}
    axis = f.cost_axis(title, x)
    if is_score:
        axis = f.score_axis(plain(f"proxy {ranking.task.metric.name}"), ranking.task.metric.share)
    layout = f.layout(axis, f.score_axis("truth", truth.share), showlegend=False)
    return Figure(f"{title} against truth", [trace], layout, height=300)


def _agreement(ranking: Ranking) -> Parts:
    words = (
        "Bars are Kendall's τ with truth, with 95 % intervals by bootstrap over architectures. "
        "Dashed: the ceiling, what who knew the worth of every architecture would reach, as the "
        "truth is itself a mean of few trainings. Grey: what orders that have nothing in "
        "common reach by chance, two standard deviations to both sides."
    )
    reach = _range(ranking.sets)
    bars = [_bars(ranking, ranked, reach) for ranked in ranking.sets]
    recalibrated = tables.recalibration(ranking)
    if not recalibrated.rows:
        return [words, bars]
    return [words, bars, Heading("What recalibrating batch norms does"), recalibrated]


def _bars(ranking: Ranking, ranked: RankedSet, reach: list[float]) -> Figure:
    names = [plain(tables.predictor(name, ranking)) for name in ranked.predictors]
    taus = [stats.kendall for stats in ranked.predictors.values()]
    values = [tau.value for tau in taus]
    trace = f.bars(
        values,
        names,
        [f.colour(0 if i == 0 else 7) for i in range(len(names))],
        orientation="h",
        error_x=f.intervals([(tau.value, tau.low, tau.high) for tau in taus]),
        opacity=0.85,
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    shapes: list[dict[str, Any]] = []
    if ranked.null_sd is not None:
        far = 2 * ranked.null_sd
        band = {"type": "rect", "x0": -far, "x1": far, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append(
            {**band, "fillcolor": f.SOFT, "opacity": 0.18, "line": {"width": 0}, "layer": "below"}
        )
    caption = f"{plural(ranked.architectures, 'architecture')}. {sentence(ranked.why)}"
    ceiling = _ceiling(ranked)
    if ceiling is None:
        caption += " The ceiling is unknown."
    else:
        shapes.append(f.rule("x", ceiling, layer="above"))
        caption += f" The ceiling is {decimal(ceiling)}{_ceiling_bounds(ranked)}."
    if ranked.run_to_run is not None:
        caption += f" Two trainings agree with {decimal(ranked.run_to_run)}."
    undefined = [
        f.note(0, names[i], numbers.UNDEFINED, xanchor="left", xshift=4)
        for i, value in enumerate(values)
        if value is None
    ]
    layout = f.layout(
        f.axis(TAU, range=reach, zeroline=True, nticks=5),
        f.rows_axis(names),
        shapes=shapes,
        annotations=undefined,
        bargap=0.35,
    )
    judged = f" Judged by: {', '.join(ranked.judged_by)}." if ranked.judged_by else ""
    return Figure(
        sentence(ranked.name).rstrip("."),
        [trace],
        layout,
        caption + judged,
        height=110 + 40 * len(names),
    )


def _ceiling_bounds(ranked: RankedSet) -> str:
    known = ranked.reliability
    if known is None or known.ceiling_bounds is None:
        return ""
    low, high = known.ceiling_bounds
    return f" (95 % interval {decimal(low)} to {decimal(high)})"


def _ceiling(ranked: RankedSet) -> float | None:
    return None if ranked.reliability is None else ranked.reliability.ceiling


def _range(sets: Sequence[RankedSet]) -> list[float]:
    """Of all axes of tau alike: all that is drawn, with some room."""
    reached = [0.0, 0.2]
    for ranked in sets:
        taus = [stats.kendall for stats in ranked.predictors.values()]
        ends = [end for tau in taus for end in (tau.value, tau.low, tau.high)]
        chance = [] if ranked.null_sd is None else [-2 * ranked.null_sd, 2 * ranked.null_sd]
        reached += [end for end in (*ends, *chance, _ceiling(ranked)) if end is not None]
    return [max(-1.05, min(reached) - 0.05), min(1.05, max(reached) + 0.05)]


def _statistics(ranking: Ranking) -> Parts:
    words = (
        "Clear pairs: τ over pairs whose true difference exceeds two standard errors. Top k: the "
        "share of the truly best k that is among the predicted best k. Best rank: the best true "
        "rank among the predicted best k. Regret: what taking the predicted best loses, with an "
        "interval by the runs of the truth. Weighted: τ in which the best weigh most. Sparse: "
        "τ with the truth rounded to 0.1 points. "
        "At like cost: τ over pairs whose multiply-adds differ by 10 % at most. "
        "Beats MACs by: the difference of τ to that of MACs; the best free: to that of the best "
        "baseline without a supernet. Where several chose a set in turn, all are means over them, "
        "and τ and regret alone have intervals."
    )
    parts: list[Part] = [words]
    for ranked in ranking.sets:
        title = f"{ranked.name}, {plural(ranked.architectures, 'architecture')}"
        parts += [Heading(title), tables.statistics(ranked, ranking)]
    return parts


def _evaluation(ranking: Ranking) -> Parts:
    executed, plainly = ranking.evaluation.macs_executed, ranking.evaluation.macs_plain
    factor = plainly / executed if executed and plainly else 1.0
    words = f"Sharing what architectures have in common took {factor:.1f} times fewer MACs."
    missing = [f"There is no {name}: {why}." for name, why in ranking.left_out.items()]
    parts: list[Part] = [tables.evaluation(ranking), *([words] if factor > 1.005 else [])]
    return [*parts, Bullets(missing)] if missing else parts
