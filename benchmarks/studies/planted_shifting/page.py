"""The page that shows the records of `run.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, mean_and_reach
from manyshot.records import write_text

Record = dict[str, Any]
DESIGN = Design(
    primary="change of tau in the set by prediction",
    same="the same planted problems and the same supernet before shifting for all arms",
    budgets="optimiser steps",
    protocol="the exact error of every network",
    controls=("random 50, always the same", "random_population", "uniform_finetune"),
    random="random_population",
    benchmark="planted problems with exact truth",
)
COMMAND = "python -m benchmarks.studies.planted_shifting.run"
READING = """
## Reading

- **Training the right networks orders them better, at the price of all others.** The frozen top 50,
  trained on their own, gain 0.16 among themselves (six problems of six), and lose 0.07 over the
  whole space. Among the 50 best by truth, which no supernet knows, the gain is not told from 0.
- **Evolution does it by half, if at all:** 0.07 at a fifth of the rate, 0.02 at the default one,
  neither told from 0 on six problems. Globally both lose, the larger dose more. What it trains is
  narrow: with five decisions, a mutant at probability 0.1 is its parent in two of three cases.
- **Controls gain nothing:** random networks, drawn anew or always the same, and uniform paths. They
  move about as far, so that a gain among the predicted best is not what any motion gives.
- Constant and higher rates were tried on one or two problems, which say nothing of a size;
  uniform paths at a constant 0.02 lose most.
- The set by prediction was chosen by the weights before, so that its range is narrow in their
  scores: that alone may favour weights after, which is what the controls are there for.
"""
SETS = ("local by prediction", "local by truth", "global")


def changes(rows: Sequence[Record], arm: str, name: str) -> np.ndarray:
    """By problem, how an arm changed tau with the truth in a set."""
    own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: int(row["seed"]))
    taus = np.array([row["tau"][name] for row in own], dtype=np.float64)
    return np.asarray(taus[:, 1] - taus[:, 0])


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    page, rows = kept.page_of(path), kept.rows(path)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    last, first = rows[-1], [row for row in rows if row["arm"] == arms[0]]
    commits = sorted({row["commit"] for row in rows})
    before = [f"{np.mean([row['tau'][name][0] for row in first]):.2f}" for name in SETS]
    text = "\n".join(
        [
            "# Supernet Shifting where every order is known\n",
            f"{len(first)} problems or fewer, {last['cpu']}, {last['threads']} thread, torch "
            f"{last['torch']}, {last['date']}, commit {', '.join(commits)}. Written by `{COMMAND}` "
            f"from `{path.name}`.\n",
            "1,024 networks share linear weights; truth and scores are exact "
            "([problem.py](problem.py)). The problem is **built for the method**: it shows whether "
            "the mechanism works, and says nothing of real networks.\n",
            "Change of Kendall's tau with the truth from the weights that are the best for uniform "
            "paths, in three sets: the 50 best by these weights, the 50 best by truth, all. Means "
            "over problems, with Student's 95 % interval of each; arms have as many problems as "
            "there was time for. Before: "
            f"{', '.join(f'{tau} {name}' for tau, name in zip(before, SETS, strict=True))}.\n",
            _table(rows, arms),
        ]
    )
    write_text(page, text.rstrip() + "\n" + READING)
    return with_checklist(page, DESIGN, rows)


def _table(rows: Sequence[Record], arms: Sequence[str]) -> str:
    columns = (
        "trains on, rate", "problems", *SETS, "error of the 50 best by prediction", "sum of rates",
        "images", "seconds",
    )  # fmt: skip
    shown = []
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        errors = np.mean([row["error"]["local by prediction"] for row in own], axis=0)
        cells = []
        for name in SETS:
            mean, half = mean_and_reach(changes(rows, arm, name))
            cells.append(f"{mean:+.3f}" + ("" if np.isnan(half) else f" ± {half:.3f}"))
        shown.append(
            [
                arm,
                str(len(own)),
                *cells,
                f"{errors[0]:.3f} → {errors[1]:.3f}",
                f"{np.mean([row['rates'] for row in own]):.2f}",
                f"{np.mean([row['images'] for row in own]):,.0f}",
                f"{np.mean([row['seconds'] for row in own]):.0f}",
            ]
        )
    return markdown(columns, shown)
