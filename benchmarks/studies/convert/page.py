"""The page of `run.py`: what every arm gives at each cost, and what it takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.pages import markdown, with_reading

Rows = list[dict[str, Any]]
COLUMNS = [
    "arm",
    "epochs of finishing",
    "test accuracy",
    "validation, before finishing",
    "MACs",
    "parameters",
    "ms, 1 image",
    "ms, 64 images",
]


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = kept.rows(path)
    [original] = [row for row in rows if row["measure"] == "original"]
    arms = [row for row in rows if row["measure"] == "arm"]
    parts = [
        "# Converting a trained network, against pruning it and against training a smaller one\n",
        "Written by `python -m benchmarks.studies.convert.run` from its records.\n",
        f"The original: {original['accuracy']:.2%} of the 10,000 test images, "
        f"{_millions(original['macs'])} multiply-adds, {_thousands(original['params'])} "
        f"parameters, trained in {original['train_cpu_seconds']:.0f} s of CPU time.\n",
    ]
    for share in sorted({row["share"] for row in arms}, reverse=True):
        here = [row for row in arms if row["share"] == share]
        parts += [f"## {share:.0%} of the multiply-adds\n", markdown(COLUMNS, _networks(here))]
    parts += ["## What it takes\n", markdown(list(TAKES), _efforts(arms))]
    return with_reading(path, parts, arms)


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _networks(rows: Rows) -> list[list[str]]:
    table = []
    for arm in _names(rows):
        own = [row for row in rows if row["arm"] == arm]
        table.append(
            [
                f"{arm} ({len(own)} seeds)",
                _range(f"{row['epochs']}" for row in own),
                _spread([100 * row["accuracy"] for row in own]),
                _spread([100 * row["validation_before"] for row in own], 1),
                _from_to([row["macs"] / 1e6 for row in own], "M"),
                _from_to([row["params"] / 1e3 for row in own], "K", 0),
                *(_latency(own, batch) for batch in (1, 64)),
            ]
        )
    return table


TAKES = {
    "arm": "",
    "lines of code": "",
    "CPU seconds of the method, both networks": "",
    "CPU seconds of finishing, both networks": "",
    "seconds by the clock, both together": "",
}


def _efforts(rows: Rows) -> list[list[str]]:
    table = []
    for arm in _names(rows):
        seeds = sorted({row["seed"] for row in rows if row["arm"] == arm})
        own = [[r for r in rows if r["arm"] == arm and r["seed"] == seed] for seed in seeds]
        method = [of_seed[0]["method_cpu_seconds"] for of_seed in own]
        finish = [sum(row["finish_cpu_seconds"] for row in of_seed) for of_seed in own]
        clock = [
            of_seed[0]["method_seconds"] + sum(row["finish_seconds"] for row in of_seed)
            for of_seed in own
        ]
        table.append(
            [
                arm,
                _range(str(of_seed[0]["lines"]) for of_seed in own),
                *(f"{np.median(seconds):.0f}" for seconds in (method, finish, clock)),
            ]
        )
    return table


def _latency(rows: Rows, batch: int) -> str:
    """The median over seeds of a network's time as a part of the original's, timed in turn."""
    own = [row[f"ms_{batch}"] for row in rows]
    parts = [row[f"ms_{batch}"] / row[f"original_ms_{batch}"] for row in rows]
    return f"{np.median(own):.2f} ({np.median(parts):.2f} of the original's)"


def _range(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _from_to(values: list[float], unit: str, digits: int = 2) -> str:
    return _range(f"{value:.{digits}f} {unit}" for value in (min(values), max(values)))


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"


def _thousands(number: int) -> str:
    return f"{number / 1e3:.0f} K"


def _spread(values: list[float], digits: int = 2) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
