"""What a run found, a sentence for each budget."""

from __future__ import annotations

from collections.abc import Sequence

from manyshot.report.reading import RunRecords
from manyshot.run_folder import (
    ControlKind,
    ControlRecord,
    MetricRecord,
    Result,
    TestedRecord,
    WinnerRecord,
    cost_of,
)
from manyshot.space import Budget
from manyshot.tables import numbers


def answers(run: RunRecords) -> list[str]:
    """A sentence per budget: how good its winner is, what it costs, and what it had to beat."""
    result = run.result
    if result is None:
        return []
    images = {line.arch: line.test_images for line in run.finished}
    return [_answer(result, winner, images.get(winner.arch)) for winner in result.winners]


def _answer(result: Result, winner: WinnerRecord, images: int | None) -> str:
    metric = result.task.metric
    costs = [_cost(winner, part.metric) for part in Budget.parse_all(winner.budget)]
    latency = numbers.milliseconds(winner.latency_ms)
    number = "" if images is None else f"{images:,} "
    measured = ", ".join(dict.fromkeys([*filter(None, costs), latency]))
    first = (
        f"Within {within(winner.budget)}: {metric.name} {_score(winner, metric)} on "
        f"{number}test images, {measured}"
    )
    beside = _beside(result, winner)
    return f"{first}; {numbers.listed(beside)}." if beside else f"{first}."


def within(budget: str) -> str:
    """A budget in words: `1.5 ms`, `30 M MACs`, `15 % of the MACs of the largest network`."""
    return " and ".join(map(_limit, Budget.parse_all(budget)))


def _limit(part: Budget) -> str:
    name = numbers.metric(part.metric).partition(" (")[0]
    if part.relative:
        return f"{100 * part.limit:g}\u202f% of the {name} of the largest network"
    if part.metric == "latency_ms":
        return numbers.milliseconds(part.limit)
    written = part.text.partition("<=")[2]
    number = written.rstrip("KMGiB")
    amount = "\u202f".join(filter(None, (number, written[len(number) :])))
    if part.metric == "size":
        return amount
    return f"{amount} {name}" if part.metric in ("macs", "params") else f"{name} {amount}"


def _quantity(metric: str, value: float) -> str:
    """An amount of a cost with its unit."""
    if metric == "latency_ms":
        return numbers.milliseconds(value)
    if metric == "size":
        return f"{numbers.count(value)}B"
    if metric in ("macs", "params"):
        return f"{numbers.count(value)} {numbers.metric(metric)}"
    return f"{metric} {numbers.count(value)}"


def _cost(network: TestedRecord, metric: str) -> str | None:
    value = cost_of(network, metric)
    return None if value is None else _quantity(metric, value)


def _score(network: TestedRecord, metric: MetricRecord) -> str:
    value = numbers.score(network.test_score, metric.share)
    if network.test_interval is None:
        return value
    return f"{value} ({numbers.bounds(network.test_interval, metric.share)})"


def _beside(result: Result, winner: WinnerRecord) -> list[str]:
    """What the controls of a winner's budget have, the hardest to beat first."""
    words: dict[ControlKind, tuple[str, str]] = {
        "largest": ("the largest network within it", ""),
        "scaled": ("the uniformly scaled one", ""),
        "random": ("a random one", "random ones"),
    }
    told = []
    for kind, (one, many) in words.items():
        controls = [c for c in result.controls if (c.kind, c.budget) == (kind, winner.budget)]
        if controls:
            told.append(_of_kind(controls, winner, one, many, result.task.metric))
    return told


def _of_kind(
    controls: Sequence[ControlRecord],
    winner: WinnerRecord,
    one: str,
    many: str,
    metric: MetricRecord,
) -> str:
    """What controls of one kind have.

    Args:
        controls: those of one budget, at least one.
        winner: that of the same budget.
        one: what a single control is called.
        many: what several are called.
        metric: what scores are values of.
    """
    first, *others = controls
    if others:
        mean = sum(control.test_score for control in controls) / len(controls)
        return f"{len(controls)} {many} have {numbers.score(mean, metric.share)} on average"
    if first.arch == winner.arch:
        return f"{one} is the same network"
    return f"{one} has {_score(first, metric)}"
