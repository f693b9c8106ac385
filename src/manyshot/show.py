"""Tables for people, from records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from manyshot.run_folder import SUBNETS, Comparison, Mean, Ranking, Result, Statistic


def count(number: float) -> str:
    """A count in K, M or G, three digits."""
    for suffix, unit in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g}{suffix}"
    return f"{number:g}"


def winners_table(result: Result, page: Path) -> Table:
    """The winners of a run: one row per budget."""
    table = Table(
        title=f"{result.name}: {result.searched:,} of {result.space.size:,} architectures scored, "
        f"winners: {result.finish}",
        caption=Text(f"files are in {page.parent / SUBNETS}, the report is {page}"),
    )
    right = ("MACs", "params", "latency", "proxy", "test")
    for name in ("budget", "architecture", *right, "file"):
        justify: Literal["left", "right"] = "right" if name in right else "left"
        long = name in ("architecture", "file")
        table.add_column(name, justify=justify, overflow="fold", no_wrap=not long)
    for winner in result.winners:
        table.add_row(
            Text(winner.budget),
            winner.arch,
            count(winner.macs),
            count(winner.params),
            f"{winner.latency_ms:.2f} ms",
            f"{winner.proxy_accuracy:.2%}",
            f"{winner.test_accuracy:.2%}",
            Text(Path(next(iter(winner.files.values()))).name if winner.files else "-"),
        )
    return table


def shift_tables(result: Result) -> list[Table]:
    """What a search that moved the weights forwarded, and how the order of networks changed."""
    spent = Table(title=f"images forwarded, shifting: {result.shifting}")
    for stage in result.images_forwarded:
        spent.add_column(stage, justify="right")
    spent.add_row(*(f"{images:,}" for images in result.images_forwarded.values()))
    if not result.order:
        return [spent]
    order = Table(title="watched networks, before and after")
    columns = ("set", "networks", "mean proxy before", "after", "Kendall's tau, before with after")
    for name in columns:
        order.add_column(name, justify="left" if name == "set" else "right")
    for name, watched in result.order.items():
        order.add_row(
            name,
            str(watched.architectures),
            f"{watched.mean_accuracy_before:.2%}",
            f"{watched.mean_accuracy_after:.2%}",
            _value(watched.tau_before_after),
        )
    return [spent, order]


def survey_tables(survey: dict[str, Any]) -> list[Table]:
    """What `manyshot space` prints: decisions, costs, histograms."""
    decisions = Table(title=f"{survey['name']}: {survey['size']:,} encodings")
    for name in ("#", "decision", "options"):
        decisions.add_column(name)
    for i, decision in enumerate(survey["decisions"]):
        options = ", ".join(map(str, decision["options"]))
        decisions.add_row(str(i), Text(decision["name"]), Text(options))
    costs = Table(title="reachable costs")
    for name in ("cost", "least", "smallest", "largest", "greatest"):
        costs.add_column(name, justify="left" if name == "cost" else "right")
    for metric, cost in survey["costs"].items():
        costs.add_row(
            metric, *(count(cost[key]) for key in ("least", "smallest", "largest", "greatest"))
        )
    return [decisions, costs, *(_histogram(m, c) for m, c in survey["costs"].items())]


def _histogram(metric: str, cost: dict[str, Any]) -> Table:
    total, peak = sum(cost["histogram"]), max(cost["histogram"])
    table = Table(title=f"{metric} of {total:,} uniform random architectures")
    table.add_column("from", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for low, number in zip(cost["edges"], cost["histogram"], strict=False):
        table.add_row(count(low), f"{number / total:.1%}", "#" * round(40 * number / peak))
    return table


def rank_tables(ranking: Ranking, page: Path) -> list[Table]:
    """What `manyshot rank` prints: a table per set, with what may be said of it."""
    from manyshot.rank.rank import verdict  # scipy is slow to import

    tables = []
    for ranked in ranking.sets:
        table = Table(
            title=f"{ranked.name}: {ranked.why}; judged by {', '.join(ranked.judged_by)}",
            caption=Text(verdict(ranked)),
        )
        columns = ("orders by", "Kendall's tau", "95 %", "Spearman", "Pearson", "regret")
        for name in columns:
            table.add_column(name, justify="left" if name == "orders by" else "right")
        for name, statistics in ranked.predictors.items():
            regret = statistics.regret.value
            table.add_row(
                name,
                _value(statistics.kendall.value),
                _bounds(statistics.kendall),
                _value(statistics.spearman.value),
                _value(statistics.pearson.value),
                _value(None) if regret is None else f"{regret:.2%}",
            )
        tables.append(table)
    absent = [f"no set {name}, it needs {why}" for name, why in ranking.absent.items()]
    tables[-1].caption = Text("\n".join([verdict(ranking.sets[-1]), *absent, str(page)]))
    return tables


def compare_tables(comparison: Comparison, page: Path) -> list[Table]:
    """What `manyshot compare` prints: means by kind of metric, then what can be told apart."""
    metrics = list(dict.fromkeys(name for m in comparison.methods for name in m.metrics))
    tables = [_means(comparison, kind, metrics) for kind in KINDS if _of_kind(kind, metrics)]
    if len(comparison.methods) > 1:
        pairs = Table(title="pairs of methods", show_lines=True)
        pairs.add_column("")
        decided = [p for p in comparison.pairs if p.verdict in ("better", "worse")]
        for pair in decided:
            pairs.add_row(Text(pair.sentence))
        rest = len(comparison.pairs) - len(decided)
        pairs.add_row(Text(f"{rest} other pairs are not distinguishable, or cannot be told apart."))
        tables.append(pairs)
    tables[-1].caption = Text(str(page))
    return tables


KINDS = {
    "tau": "Kendall's tau of the proxy with truth",
    "regret": "accuracy lost by the first pick",
    "winner accuracy": "winners' accuracy trained alone, as far as the truth has them",
    "finished accuracy": "winners' accuracy on test images, finished as the recipe says",
}
"""How the names of metrics begin, and what they are."""


def _of_kind(kind: str, metrics: list[str]) -> list[str]:
    return [metric for metric in metrics if metric.startswith(f"{kind} ")]


def _means(comparison: Comparison, kind: str, metrics: list[str]) -> Table:
    """Means of one kind of metric: a row per method, then what orders without a supernet.

    Args:
        comparison: the record.
        kind: how the names of the metrics begin.
        metrics: the names of all metrics.
    """
    columns = _of_kind(kind, metrics)
    short = [metric.removeprefix(f"{kind} ") for metric in columns]
    table = Table(title=f"{KINDS[kind]}; means over seeds, 95 %")
    for name in ("method", "seeds", "images", *short):
        table.add_column(Text(name), justify="left" if name == "method" else "right")
    for method in comparison.methods:
        means = [_mean(method.metrics[metric]) for metric in columns]
        row = [str(len(method.seeds)), count(method.images), *means]
        table.add_row(Text(method.method), *row)
    for baseline in comparison.baselines:
        values = [_value(baseline.metrics.get(metric), absent="") for metric in columns]
        if any(values):
            table.add_row(Text(baseline.name), "", "", *values, style="dim")
    return table


def _value(number: float | None, absent: str = "undefined") -> str:
    return absent if number is None else f"{number:.3f}"


def _bounds(statistic: Statistic) -> str:
    low, high = statistic.low, statistic.high
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _mean(over_seeds: Mean) -> str:
    if over_seeds.mean is None or over_seeds.high is None:
        return _value(over_seeds.mean)
    return f"{over_seeds.mean:.3f} ± {over_seeds.high - over_seeds.mean:.3f}"
