"""The page of `run.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading
from manyshot import rank

Rows = list[dict[str, Any]]
LOCAL = 16
"""The best by the second training, judged by the first."""


DESIGN = Design(
    primary="test accuracy of the winner trained alone",
    same="one network and one target for all arms",
    budgets="images of the target, within what the table says",
    protocol="the winner of each arm, inherited and trained alone, on the same test images",
    controls=("scratch", "transfer, head only", "transfer, uniform"),
    benchmark="64 architectures trained alone, on record",
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = kept.rows(path)
    arms = [row for row in rows if row["measure"] == "arm"]
    target, source = _truth(rows, "target"), _truth(rows, "source")
    ceiling, local = rank.run_to_run(target), np.argsort(-target[:, -1], kind="stable")[:LOCAL]
    between = rank.kendall(target.mean(1), source.mean(1))
    page = with_reading(
        path,
        [
            "# Moving a supernet from Fashion-MNIST to MNIST\n",
            "Written by `python -m benchmarks.studies.transfer.run MNIST_FOLDER` from its "
            "records. `tiny` at 14x14 pixels, 2,000 target images, one budget (60 % of the "
            "largest network's MACs). Mean ± standard deviation over seeds; accuracies on "
            "MNIST's 10,000 test images, in %. Tau-b of the proxy accuracy of 64 architectures, "
            "drawn once, with their test accuracy trained alone on the target; local: the "
            f"{LOCAL} best by one training, judged by the other.\n",
            _table(arms, target, local),
            f"One training against another on the target: tau {ceiling:.3f}. The order of "
            f"stand-alone accuracies on the source (as many images) agrees with that on the "
            f"target to tau {between:.3f}.\n",
        ],
        arms,
    )
    return with_checklist(page, DESIGN, arms)


def _truth(rows: Rows, of: str) -> np.ndarray:
    own = [row for row in rows if row["measure"] == "truth" and row["of"] == of]
    seeds = sorted({row["seed"] for row in own})
    archs = sorted({row["arch"] for row in own})
    by_key = {(row["arch"], row["seed"]): row["accuracy"] for row in own}
    return np.array([[by_key[arch, seed] for seed in seeds] for arch in archs])


def _table(rows: Rows, truth: np.ndarray, local: np.ndarray) -> str:
    table = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        images = {row["images"]["train"] + row["images"]["shifting"] for row in own}
        taus = [rank.kendall(row["scores"], truth.mean(1)) for row in own]
        near = [rank.kendall(np.array(row["scores"])[local], truth[local, 0]) for row in own]
        table.append(
            [
                arm,
                " to ".join(f"{n:,}" for n in sorted({min(images), max(images)})),
                f"{np.median([row['seconds'] for row in own]):.0f}",
                _spread([100 * row["inherited"] for row in own], 1),
                _spread([100 * row["alone"] for row in own], 1),
                _spread(taus, 2),
                _spread(near, 2),
            ]
        )
    columns = [
        "arm",
        "target images trained on",
        "seconds",
        "winner, inherited weights",
        "winner, trained alone",
        "tau, global",
        "tau, local",
    ]
    return markdown(columns, table)


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.{digits}f} ± {np.std(known, ddof=1):.{digits}f}"
