"""The page that shows the records of `run.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown
from manyshot.records import write_text

Record = dict[str, Any]
DESIGN = Design(
    primary="mean excess loss over all options, the difference from uniform_cost with rates apart",
    before=True,
    same="the same planted problem, training samples and generator by seed for all arms",
    budgets="600 weight steps of 32 samples; held-out samples and their forwards are not counted",
    protocol="the exact excess loss of every option",
    controls=("uniform_cost", "best fixed shares"),
    random="uniform_cost",
    benchmark="planted problems with exact truth",
    tuning="steps, rate and period by a simulation of the loop and seed 100, which is not used here",
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    page, rows = kept.page_of(path), kept.rows(path)
    write_text(page, "# A moving distribution over costs where the best one is known\n")
    return with_checklist(page, DESIGN, rows)
