"""The page that shows the records of `planted.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import markdown

from manyshot.records import write_text

Record = dict[str, Any]
COMMAND = "python benchmarks/planted.py"

READING = """
## Reading

"""


@dataclass(frozen=True)
class Result:
    """A variant's records: of the learning rates tried, and of the problems it is judged by."""

    name: str
    tuning: list[Record]
    records: list[Record]

    @property
    def errors(self) -> np.ndarray:
        """Of each problem; infinite where training diverged."""
        return np.array([np.inf if r["mse"] is None else r["mse"] for r in self.records])

    def mean(self, field: str) -> float:
        """Over the problems."""
        return float(np.mean([np.nan if r[field] is None else r[field] for r in self.records]))


EXPECTED = (
    ("K=4", "K=1", "below", 0.5),
    ("K=4, joint", "K=1", "below", 0.5),
    ("K=4, mean-pooled simplex-net", "K=4", "above", 1.5),
    ("K=4, mean-pooled, joint", "K=4, joint", "above", 1.5),
)
"""What the problem was made to show: a variant, another, and how their errors should compare."""


def write_page(path: Path, results: Sequence[Result]) -> Path:
    """Writes the page beside the records; returns it."""
    page, last = path.with_suffix(".md"), results[-1].records[-1]
    commits = sorted({record["commit"] for result in results for record in result.records})
    problems = len(results[0].records)
    text = "\n".join(
        [
            "# K-shot sharing on a planted problem\n",
            f"{problems} problems, {last['steps']} steps of {last['batch']} inputs, {last['cpu']}, "
            f"{last['threads']} thread, torch {last['torch']}, {last['date']}, commit "
            f"{', '.join(commits)}. Written by `{COMMAND}` from `{path.name}`.\n",
            "The problem is **built for the method**: every path's true weights are mixtures of "
            "three matrices by a code of the path. It shows whether the mechanism works, and "
            "says nothing of real networks.\n",
            _table(results),
            "Expected beforehand, and found:\n",
            _expectations(results),
            "The learning rate of each variant was chosen on another problem (seed 0), by the "
            "error there; - is a run that diverged:\n",
            _tuning(results),
        ]
    )
    write_text(page, text.rstrip() + "\n" + READING)
    return page


def _table(results: Sequence[Result]) -> str:
    columns = (
        "variant", "lr", "mse of each problem", "mean", "÷ K=1", "code spread",
        "normalised entropy", "seconds",
    )  # fmt: skip
    one = next((result.errors for result in results if result.name == "K=1"), None)
    rows = []
    for result in results:
        over = "" if one is None else f"{np.mean(result.errors / one):.2f}"
        rows.append(
            [
                result.name,
                f"{result.records[0]['lr']:g}",
                ", ".join(f"{error:.3f}" for error in result.errors),
                f"{np.mean(result.errors):.3f}",
                over,
                f"{result.mean('spread'):.2f}",
                f"{result.mean('entropy'):.2f}",
                f"{result.mean('seconds'):.0f}",
            ]
        )
    return markdown(columns, rows)


def _expectations(results: Sequence[Result]) -> str:
    errors = {result.name: result.errors for result in results}
    lines = []
    for ours, theirs, side, factor in EXPECTED:
        if ours in errors and theirs in errors:
            ratios = errors[ours] / errors[theirs]
            held = ratios < factor if side == "below" else ratios > factor
            lines.append(
                f"- {ours} {side} {factor:g} times {theirs}: "
                f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}; "
                f"holds on {held.sum()} of {len(held)} problems."
            )
    return "\n".join(lines) + "\n"


def _tuning(results: Sequence[Result]) -> str:
    rates = [f"{record['lr']:g}" for record in results[0].tuning]
    rows = [
        [result.name, *("-" if r["mse"] is None else f"{r['mse']:.3f}" for r in result.tuning)]
        for result in results
    ]
    return markdown(("variant", *(f"mse at {rate}" for rate in rates)), rows)
