"""Tables of a run: its winners, what it forwarded, what it watched and generated, and where."""

from __future__ import annotations

from collections.abc import Mapping

from manyshot.run_folder import (
    EnvironmentRecord,
    GeneratedRecord,
    Result,
    Timing,
    WatchedSet,
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
}
"""What the stages that forward images are called."""


def winners(result: Result) -> Table:
    """The winners of a run: one row per budget."""
    hides = any(_hidden(winner) for winner in result.winners)
    rows: list[dict[str, Cell]] = [
        {
            "Budget": numbers.budget(winner.budget),
            "Architecture": winner.arch,
            "MACs": count(winner.macs),
            "Parameters": count(winner.params),
            "Latency": numbers.milliseconds(winner.latency_ms),
            **{_titled(metric): count(cost) for metric, cost in (winner.costs or {}).items()},
            "Proxy": percent(winner.proxy_accuracy, 2),
            "Test": percent(winner.test_accuracy, 2),
            **_balanced(winner, hides),
            "Files": winner.files,
        }
        for winner in result.winners
    ]
    note = (
        "Proxy: accuracy on validation images with shared weights, by which winners are chosen. "
        "Test: on test images, once, at the end. "
        f"{'Balanced: the mean of that over classes. ' if hides else ''}"
        f"Latency: {_clock(next(iter(result.latency.values()), None))}."
    )
    return Table(rows, ("Budget", "Architecture", "Files"), ("Architecture",), note)


def _titled(metric: str) -> str:
    name = numbers.metric(metric)
    return name[:1].upper() + name[1:]


def _hidden(winner: WinnerRecord) -> bool:
    """Whether the accuracy and the mean over classes differ by a point or more."""
    balanced = winner.test_balanced_accuracy
    return balanced is not None and abs(balanced - winner.test_accuracy) >= 0.01


def _balanced(winner: WinnerRecord, shown: bool) -> dict[str, Cell]:
    """The mean over classes, where it says something else than the accuracy."""
    balanced = winner.test_balanced_accuracy
    return {"Balanced": percent(balanced, 2)} if shown and balanced is not None else {}


def _clock(timing: Timing | None) -> str:
    if timing is None:
        return "measured directly"
    return (
        f"median of {timing.repeats} runs, batch of {timing.batch_size}, "
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


def watched(order: Mapping[str, WatchedSet]) -> Table:
    """How the scores and the order of watched networks changed while the weights moved."""
    rows = [
        {
            "Set": name,
            "Networks": str(networks.architectures),
            "Mean before": percent(networks.mean_accuracy_before),
            "Mean after": percent(networks.mean_accuracy_after),
            "Kendall's τ between": numbers.decimal(networks.tau_before_after),
        }
        for name, networks in order.items()
    ]
    return Table(rows, ("Set",))


def generated(proposals: Mapping[str, GeneratedRecord]) -> Table:
    """How a generator came to its architecture for each budget."""
    rows = [
        {
            "Budget": numbers.budget(budget),
            "Decoded": str(proposal.decodes),
            "Architecture": "drawn" if proposal.drawn else "likeliest",
            "Left of the budget": "no winner"
            if proposal.below_budget_share is None
            else percent(proposal.below_budget_share),
        }
        for budget, proposal in proposals.items()
    ]
    return Table(rows, ("Budget", "Architecture"))


def environment(record: EnvironmentRecord) -> Table:
    """Versions and machine."""
    rows = [
        {
            "What": key,
            "Value": " ".join(map(str, value)) if isinstance(value, list) else str(value),
        }
        for key, value in record.plain().items()
        if key != "schema"
    ]
    return Table(rows, ("What", "Value"))
