"""The page of `run.py`: one table of its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from manyshot import records

ARCHS = 64
"""Scored with every supernet."""


DESIGN = Design(
    same="one network, one recipe of training for all variants",
    budgets="epochs, and so images forwarded",
    protocol="accuracy of the same architectures on the same images",
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records, of the longest trainings on it, and returns it."""
    rows = kept.rows(path)
    epochs = max(row["epochs"] for row in rows)
    page = kept.page_of(path)
    records.write_text(page, table([row for row in rows if row["epochs"] == epochs]))
    return with_checklist(page, DESIGN, rows)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """What was done, and a line for every variant."""
    lines = [
        "# Controls of K-shot NAS on digits",
        "",
        f"`python -m benchmarks.studies.kshot_controls.run`: `tiny`, {rows[0]['epochs']} epochs "
        f"(one copy with half of them where said), {len({row['seed'] for row in rows})} seeds of "
        f"everything; mean proxy accuracy of the same {ARCHS} random architectures, mean ± "
        "standard deviation over seeds. Proxy accuracy says how well the supernet serves its "
        "paths, not how well it ranks them. Half of the steps after the warm-up train codes "
        "where codes are learnt in turn.",
        "",
        "| variant | accuracy, % | loss | code entropy | code spread | slice distance | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        accuracy = 100 * np.array([row["accuracy"] for row in own])
        cells = [f"{accuracy.mean():.1f} ± {accuracy.std(ddof=len(own) > 1):.1f}"]
        cells.append(f"{np.mean([row['loss'] for row in own]):.3f}")
        for key, digits in (("code_entropy_share", 3), ("code_spread", 4), ("slice_distance", 2)):
            known = [row[key] for row in own if key in row]
            cells.append(f"{np.mean(known):.{digits}f}" if known else "")
        cells.append(f"{np.mean([row['cpu_seconds'] for row in own]):.0f}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
