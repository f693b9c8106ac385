"""Tables for people, from records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text


def count(number: float) -> str:
    """A count in K, M or G, three digits."""
    for suffix, unit in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g}{suffix}"
    return f"{number:g}"


def winners_table(result: dict[str, Any], page: Path) -> Table:
    """The winners of a run: one row per budget."""
    table = Table(
        title=f"{result['name']}: {result['searched']:,} of {result['space']['size']:,} "
        f"architectures scored, winners: {result['finish']}",
        caption=Text(f"files are in {page.parent / 'subnets'}, the report is {page}"),
    )
    right = ("MACs", "params", "latency", "proxy", "test")
    for name in ("budget", "architecture", *right, "file"):
        justify: Literal["left", "right"] = "right" if name in right else "left"
        long = name in ("architecture", "file")
        table.add_column(name, justify=justify, overflow="fold", no_wrap=not long)
    for winner in result["winners"]:
        files = winner["files"]
        table.add_row(
            Text(winner["budget"]),
            winner["arch"],
            count(winner["macs"]),
            count(winner["params"]),
            f"{winner['latency_ms']:.2f} ms",
            f"{winner['proxy_accuracy']:.2%}",
            f"{winner['test_accuracy']:.2%}",
            Text(Path(next(iter(files.values()))).name if files else "-"),
        )
    return table


def shift_tables(result: dict[str, Any]) -> list[Table]:
    """What a search that moved the weights forwarded, and how the order of networks changed."""
    spent = Table(title=f"images forwarded, shifting: {result['shifting']}")
    forwarded: dict[str, int] = result["images_forwarded"]
    for stage in forwarded:
        spent.add_column(stage, justify="right")
    spent.add_row(*(f"{images:,}" for images in forwarded.values()))
    if not result["order"]:
        return [spent]
    order = Table(title="watched networks, before and after")
    columns = ("set", "networks", "mean proxy before", "after", "Kendall's tau, before with after")
    for name in columns:
        order.add_column(name, justify="left" if name == "set" else "right")
    for name, found in result["order"].items():
        tau = found["tau_before_after"]
        order.add_row(
            name,
            str(found["architectures"]),
            f"{found['mean_accuracy_before']:.2%}",
            f"{found['mean_accuracy_after']:.2%}",
            "undefined" if tau is None else f"{tau:.3f}",
        )
    return [spent, order]


def survey_tables(found: dict[str, Any]) -> list[Table]:
    """What `manyshot space` prints: decisions, costs, histograms."""
    decisions = Table(title=f"{found['name']}: {found['size']:,} encodings")
    for name in ("#", "decision", "options"):
        decisions.add_column(name)
    for i, decision in enumerate(found["decisions"]):
        options = ", ".join(map(str, decision["options"]))
        decisions.add_row(str(i), Text(decision["name"]), Text(options))
    costs = Table(title="reachable costs")
    for name in ("cost", "least", "smallest", "largest", "greatest"):
        costs.add_column(name, justify="left" if name == "cost" else "right")
    for metric, cost in found["costs"].items():
        costs.add_row(
            metric, *(count(cost[key]) for key in ("least", "smallest", "largest", "greatest"))
        )
    return [decisions, costs, *(_histogram(m, c) for m, c in found["costs"].items())]


def _histogram(metric: str, cost: dict[str, Any]) -> Table:
    total, peak = sum(cost["histogram"]), max(cost["histogram"])
    table = Table(title=f"{metric} of {total:,} uniform random architectures")
    table.add_column("from", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for low, number in zip(cost["edges"], cost["histogram"], strict=False):
        table.add_row(count(low), f"{number / total:.1%}", "#" * round(40 * number / peak))
    return table


def rank_tables(found: dict[str, Any], page: Path) -> list[Table]:
    """What `manyshot rank` prints: a table per set, with what may be said of it."""
    from manyshot.rank.judge import verdict  # scipy is slow to import

    tables = []
    for own in found["sets"]:
        table = Table(
            title=f"{own['name']}: {own['why']}; judged by {', '.join(own['judged_by'])}",
            caption=Text(verdict(own)),
        )
        columns = ("orders by", "Kendall's tau", "95 %", "Spearman", "Pearson", "regret")
        for name in columns:
            table.add_column(name, justify="left" if name == "orders by" else "right")
        for name, statistics in own["predictors"].items():
            table.add_row(
                name,
                _value(statistics["kendall"]["value"]),
                _bounds(statistics["kendall"]),
                _value(statistics["spearman"]["value"]),
                _value(statistics["pearson"]["value"]),
                f"{statistics['regret']['value']:.2%}",
            )
        tables.append(table)
    absent = [f"no set {name}, it needs {why}" for name, why in found["absent"].items()]
    tables[-1].caption = Text("\n".join([verdict(found["sets"][-1]), *absent, str(page)]))
    return tables


def compare_tables(found: dict[str, Any], page: Path) -> list[Table]:
    """What `manyshot compare` prints: means by kind of metric, then what can be told apart."""
    metrics = list(dict.fromkeys(name for own in found["methods"] for name in own["metrics"]))
    tables = [_means(found, kind, metrics) for kind in KINDS if _of_kind(kind, metrics)]
    if len(found["methods"]) > 1:
        pairs = Table(title="pairs of methods", show_lines=True)
        pairs.add_column("")
        decided = [p for p in found["pairs"] if p["verdict"] in ("better", "worse")]
        for pair in decided:
            pairs.add_row(Text(pair["sentence"]))
        rest = len(found["pairs"]) - len(decided)
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


def _means(found: dict[str, Any], kind: str, metrics: list[str]) -> Table:
    """Means of one kind of metric: a row per method, then what orders without a supernet."""
    own = _of_kind(kind, metrics)
    table = Table(title=f"{KINDS[kind]}; means over seeds, 95 %")
    for name in ("method", "seeds", "images", *(metric.removeprefix(f"{kind} ") for metric in own)):
        table.add_column(Text(name), justify="left" if name == "method" else "right")
    for method in found["methods"]:
        means = [_mean(method["metrics"][metric]) for metric in own]
        row = [str(len(method["seeds"])), count(method["images"]), *means]
        table.add_row(Text(method["method"]), *row)
    for baseline in found["baselines"]:
        values = [_value(baseline["metrics"].get(metric), absent="") for metric in own]
        if any(values):
            table.add_row(Text(baseline["name"]), "", "", *values, style="dim")
    return table


def _value(number: float | None, absent: str = "undefined") -> str:
    return absent if number is None else f"{number:.3f}"


def _bounds(found: dict[str, float | None]) -> str:
    low, high = found["low"], found["high"]
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _mean(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return "undefined"
    if found["low"] is None:
        return f"{found['mean']:.3f}"
    return f"{found['mean']:.3f} ± {found['high'] - found['mean']:.3f}"
