"""Tables of a run: its winners, what it forwarded, what it watched and generated, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from manyshot.run_folder import (
    ControlRecord,
    Difference,
    DoseRecord,
    EnvironmentRecord,
    GeneratedRecord,
    MetricRecord,
    Result,
    RunPart,
    SecondsRecord,
    ShrinkLine,
    Statistic,
    TaskRecord,
    TestedRecord,
    Timing,
    VerdictRecord,
    WinnerRecord,
)
from manyshot.tables import numbers
from manyshot.tables.numbers import count, percent
from manyshot.tables.table import Cell, Table

STAGES = {
    "train": "training",
    "search": "scoring",
    "shifting": "shifting",
    "order": "watched networks",
    "probe": "probes of the sampler",
    "shrink": "scores of the shrinker",
}
"""What the stages that forward images are called."""


PARTS = {
    "preparation": "images and network",
    "estimate": "timing steps",
    "formats": "trying formats",
}
"""What the parts of a run are called, where that is not their name on record."""


def took(record: SecondsRecord) -> str:
    """How long the parts of a run took, in the order of a run."""
    parts = [
        f"{PARTS.get(name, name)} {numbers.seconds(record.seconds[name])}"
        for name in get_args(RunPart)
        if record.seconds.get(name)
    ]
    whole = numbers.seconds(sum(record.seconds.values()))
    beside = "starting Python and drawing the page are not counted"
    return f"It took {whole}: {', '.join(parts)}; {beside}."


def winners(result: Result) -> Table:
    """The winners of a run, each above the controls of its budget."""
    metric = result.task.metric
    others = _others(result)
    has_int8 = any(winner.int8_score is not None for winner in result.winners)
    rows: list[dict[str, Cell]] = [
        {
            "Budget": numbers.budget(network.budget),
            **({"Network": _role(network)} if result.controls else {}),
            "Architecture": network.arch,
            "MACs": count(network.macs),
            "Parameters": count(network.params),
            "Latency": numbers.milliseconds(network.latency_ms),
            **{_titled(name): count(cost) for name, cost in (network.costs or {}).items()},
            "Proxy": numbers.score(network.proxy_score, metric.share, 2),
            "Test": numbers.score(network.test_score, metric.share, 2),
            **({"95 %": numbers.bounds(network.test_interval, metric.share)} if bounded else {}),
            **({"Test int8": _int8(network, metric)} if has_int8 else {}),
            **{
                f"Test {name}": numbers.score(network.test_metrics.get(name), metric.share, 2)
                for name in others
            },
            "Files": network.files if isinstance(network, WinnerRecord) else {},
        }
        for bounded in [any(winner.test_interval for winner in result.winners)]
        for network in with_controls(result)
    ]
    beside = ""
    if result.controls:
        beside = (
            "Largest, scaled and random networks within each budget, finished in the same way, are "
            "what a winner has to beat. "
        )
    note = (
        f"{beside}Proxy: {metric.name} on validation images with shared weights"
        f"{_chosen_by(result)}. Test: on test images, once, at the end; the interval is by these "
        f"images alone. Latency: {_clock(next(iter(result.latency.values()), None))}."
    )
    return Table(rows, ("Budget", "Network", "Architecture", "Files"), ("Architecture",), note)


def measures(verdict: VerdictRecord, task: TaskRecord) -> Table:
    """What a verdict rests on."""
    share, random = task.metric.share, verdict.random_networks
    rows = [
        ("Best score with the supernet's weights", numbers.score(verdict.best_proxy, share)),
        ("Score of guessing", numbers.score(verdict.chance, share)),
        ("Networks drawn at random before the search learnt", numbers.whole(random)),
        ("τ of their order by two halves of the validation images", _two(verdict.halves_tau)),
        ("τ of their order with that by MACs", _two(verdict.macs_tau)),
        ("τ of their order with that by parameters", _two(verdict.params_tau)),
        ("Standard deviation of their scores", _spread(verdict.spread, task)),
        ("Standard error of one score", _spread(verdict.error, task)),
        ("Networks finished", numbers.whole(verdict.finished)),
        ("τ of the supernet's order with test scores", _two(verdict.proxy_test_tau)),
        ("τ of the order by MACs with test scores", _two(verdict.macs_test_tau)),
        ("Difference of these two", _bounded(verdict.beats_macs)),
    ]
    rows += [
        (
            f"Winners over {kind} networks, mean of {numbers.plural(found.budgets, 'budget')}",
            _gain(found, task),
        )
        for kind, found in verdict.controls.items()
    ]
    table = [{"What": what, "Value": value} for what, value in rows if value != numbers.UNDEFINED]
    return Table(table, ("What",))


def _two(value: float | None) -> str:
    return numbers.decimal(value, 2)


def _bounded(value: Statistic | None) -> str:
    """A statistic with its interval, if it has both."""
    if value is None or value.low is None or value.high is None:
        return numbers.UNDEFINED if value is None else _two(value.value)
    return f"{_two(value.value)} (95 % interval {_two(value.low)} to {_two(value.high)})"


def _spread(value: float | None, task: TaskRecord) -> str:
    """A difference of what networks rank by, which are losses or scores."""
    return numbers.difference(value, task.metric.share and task.fitness == "metric")


def _gain(found: Difference, task: TaskRecord) -> str:
    gain = numbers.difference(found.value, task.metric.share)
    if found.low is None or found.high is None:
        return gain
    return f"{gain} ({numbers.bounds((found.low, found.high), task.metric.share)})"


def with_controls(result: Result) -> list[TestedRecord]:
    """Each winner, and the controls of its budget behind it."""
    return [
        network
        for winner in result.winners
        for network in (winner, *(c for c in result.controls if c.budget == winner.budget))
    ]


def _int8(network: TestedRecord, metric: MetricRecord) -> str:
    """The score of the file of 8-bit integers, which winners alone may have."""
    if not isinstance(network, WinnerRecord):
        return ""
    return numbers.score(network.int8_score, metric.share, 2)


def _role(network: TestedRecord) -> str:
    return network.kind if isinstance(network, ControlRecord) else "winner"


def _titled(metric: str) -> str:
    name = numbers.metric(metric)
    return name[:1].upper() + name[1:]


def _others(result: Result) -> list[str]:
    """The other metrics that say something else: of shares, where one differs by a point or more.

    Metrics that are no shares are of other units, and always shown.
    """
    metric = result.task.metric
    names = dict.fromkeys(name for winner in result.winners for name in winner.test_metrics)
    return [
        name
        for name in names
        if name != metric.name
        and (
            not metric.share
            or any(
                abs(w.test_metrics.get(name, w.test_score) - w.test_score) >= 0.01
                for w in result.winners
            )
        )
    ]


def _chosen_by(result: Result) -> str:
    """By what winners are chosen, to end a sentence that names the metric."""
    if any(winner.reward is not None for winner in result.winners):
        return "; winners are chosen by a reward, which is that times a power of a cost"
    if result.task.fitness == "metric":
        return ", by which winners are chosen"
    return "; winners are chosen by the loss there"


def _clock(timing: Timing | None) -> str:
    if timing is None:
        return "measured directly"
    by = "" if timing.runtime == "torch" else f"{timing.runtime} {timing.runtime_version}, "
    return (
        f"{by}median of {timing.repeats} runs, batch of {timing.batch_size}, "
        f"{numbers.plural(timing.threads, 'thread')}, {timing.device}"
    )


def images_by_stage(forwarded: Mapping[str, int]) -> dict[str, int]:
    """The images that each stage forwarded, by what the stage is called; idle stages left out."""
    return {STAGES.get(stage, stage): images for stage, images in forwarded.items() if images}


def images(forwarded: Mapping[str, int]) -> Table:
    """The images that stages forwarded, and their shares."""
    spent = images_by_stage(forwarded)
    total = sum(spent.values())
    rows = [
        {"Stage": name, "Images": numbers.whole(number), "Share": percent(number / total)}
        for name, number in ({**spent, "all": total} if spent else {}).items()
    ]
    return Table(rows, ("Stage",))


def views(lines: Sequence[ShrinkLine]) -> Table:
    """In which views of the space a supernet trained, and what options were judged by."""
    rows: list[dict[str, Cell]] = []
    for line in lines:
        row: dict[str, Cell] = {"From step": f"{line.step:,}", "Encodings": f"{line.size:,}"}
        for change in ("dropped", "opened"):
            options = [
                f"{option.decision} {option.option}"
                + ("" if option.score is None else f" ({numbers.decimal(option.score)})")
                for option in line.options
                if option.change == change
            ]
            if options:
                row[change.capitalize()] = ", ".join(options)
        rows.append(row)
    note = f"In brackets: {lines[-1].measure}." if lines else ""
    return Table(rows, ("Dropped", "Opened"), note=note)


def watched(result: Result) -> Table:
    """How the scores and the order of watched networks changed while the weights moved."""
    metric = result.task.metric
    rows = [
        {
            "Set": name,
            "Networks": str(networks.architectures),
            "Mean before": numbers.score(networks.mean_score_before, metric.share),
            "Mean after": numbers.score(networks.mean_score_after, metric.share),
            "Kendall's τ between": numbers.decimal(networks.tau_before_after),
            "τ of halves before": numbers.decimal(networks.halves_tau_before),
            "τ of halves after": numbers.decimal(networks.halves_tau_after),
        }
        for name, networks in result.order.items()
    ]
    return Table(rows, ("Set",))


PUBLIC_DOSE = 21_000 * 1e-4 / (150_000 * 0.5 / 2)
"""Of the public code of Supernet Shifting: 21,000 steps at 1e-4, after 150,000 down a line from 0.5
(Single Path One-Shot's), 0.000056."""


def dose(moved: DoseRecord) -> str:
    """How much a search moved the weights, beside the public code: a sentence."""
    public = f"the public code: {PUBLIC_DOSE:.6f}"
    if moved.relative is None:
        return (
            f"Dose: the rates of the shifting steps sum to {moved.shifting:.3g}, which cannot be "
            f"compared with the training before ({public})"
        )
    return (
        f"Dose: the rates of the shifting steps sum to {moved.relative:.3g} of those of the "
        f"training before ({public})"
    )


def generated(proposals: Mapping[str, GeneratedRecord]) -> Table:
    """How a generator came to its architecture for each budget."""
    rows = [
        {
            "Budget": numbers.budget(budget),
            "Targets tried": str(proposal.decodes),
            "Selected": how_selected(proposal, "the likeliest options"),
            "Left of the budget": left_of(proposal),
        }
        for budget, proposal in proposals.items()
    ]
    return Table(rows, ("Budget", "Selected"))


def how_selected(proposal: GeneratedRecord, usual: str) -> str:
    """How the architecture of a budget was selected.

    Args:
        proposal: its record.
        usual: the words for where nothing had to be drawn.
    """
    return "the best-scored of draws within the budget" if proposal.drawn else usual


def left_of(proposal: GeneratedRecord) -> str:
    """How much of a budget its winner leaves, in percent."""
    share = proposal.below_budget_share
    return "no winner" if share is None else percent(share)


def environment(record: EnvironmentRecord) -> Table:
    """Versions and machine."""

    def said(value: object) -> str:
        if isinstance(value, dict):
            return ": ".join(map(str, value.values()))
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    rows = [
        {"What": key, "Value": said(value)}
        for key, value in record.plain().items()
        if key != "schema"
    ]
    return Table(rows, ("What", "Value"))
