"""The page that shows the records of `run.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown
from manyshot.records import write_text

READING = """
## Reading

Differences are paired by seed, with Student's 95 % intervals, not corrected for their number.

- The longer the body learns before it shifts, the better: the winner's inherited weights are at
  +2.8 points (-1.7 to 7.3) after 5 epochs and at +6.3 (0.9 to 11.7) after 20, against the
  classifier alone, and the order is truer before shifting (tau +0.05, 0.01 to 0.09, and +0.08, 0.04
  to 0.12) and after it (+0.06, 0.05 to 0.07, and +0.08, 0.02 to 0.13).
- Moving pays: 25 epochs from scratch, on as many target images as 5 of the classifier and 20 of a
  moved body, end 24 points (19 to 29) below the latter, with tau 0.26 (0.09 to 0.43) lower before
  shifting and 0.18 (0.11 to 0.26) after it.
- Shifting itself changes tau by 0.00 to 0.01 where a body was moved, and by 0.07 from scratch.
- Halves of the validation images agree on the order of a classifier on a strange body too (0.71),
  so that the warning of noise does not come here. It tells noise, not whether the order is true.
- All seeds move the same source supernet, so that nothing is said of other sources.
"""
DESIGN = Design(
    primary="inherited test accuracy of the winner",
    before=True,
    same="one recipe and one source supernet; arms differ in what trains before shifting",
    protocol="the same truth, validation and test images for all",
    controls=("classifier alone", "scratch, 25 epochs"),
    benchmark="stand-alone trainings of all 256 networks",
)
COMMAND = "python -m benchmarks.studies.transfer_body.run FASHION_FOLDER"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds, means ± standard deviations"


def _mean(values: Sequence[float | None], digits: int = 2, factor: float = 1.0) -> str:
    own = factor * np.array(values, dtype=np.float64)
    if len(own) < 2:
        return f"{own.mean():.{digits}f}"
    return f"{own.mean():.{digits}f} ± {own.std(ddof=1):.{digits}f}"


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    page, rows = kept.page_of(path), kept.rows(path)
    arms, last = list(dict.fromkeys(row["arm"] for row in rows)), rows[-1]
    shown = []
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        shown.append(
            [
                arm,
                _mean([row["mean_before"] for row in own], 1, 100),
                _mean([row["halves_before"] for row in own]),
                _mean([row["tau_before"]["global"] for row in own]),
                _mean([row["tau_after"]["global"] for row in own]),
                _mean([row["inherited"] for row in own], 1, 100),
                _mean([row["seconds"] for row in own], 0),
            ]
        )
    columns = (
        "before shifting", "mean proxy score before, in %", "tau of halves before",
        "tau with truth before", "after", "winner, inherited weights, in %", "seconds",
    )  # fmt: skip
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    seeds = len({row["seed"] for row in rows})
    text = (
        "# How much training a moved supernet needs before it shifts\n\n"
        f"Written by `{COMMAND}` from `{path.name}`. `tiny` moves from Fashion-MNIST at 8x8 pixels "
        "to digits by `recipes/transfer.toml`; 5 epochs of the classifier alone, then of the body "
        f"at `train.lr` down a cosine. One source supernet; {_seeds(seeds)}; tau-b of the proxy"
        " accuracy of all 256 networks with five trainings of each alone. Of the halves of "
        "the validation images the tau is that of `order`, which a run warns by. "
        f"{last['cpu']}, {last['threads']} thread, torch {last['torch']}, {last['date']}, commit "
        f"{commits}.\n\n{markdown(columns, shown)}"
    )
    write_text(page, text.rstrip() + "\n" + READING)
    return with_checklist(page, DESIGN, rows)
