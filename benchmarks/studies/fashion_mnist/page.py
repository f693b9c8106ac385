"""The page of `run.py`: one table of its records, under what the run was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lib import kept, reading
from benchmarks.lib.checklist import Design, with_checklist
from manyshot import records

INTRODUCTION = """# Fashion-MNIST, the whole way, against two honest baselines

2-core AMD EPYC, one torch thread, torch 2.14.1, 2026-11-22. One supernet, one seed.

```
manyshot run recipes/fashion_mnist.toml --out runs/fashion_mnist
python -m benchmarks.studies.fashion_mnist.run runs/fashion_mnist
```

`macro(width=8)`, 6,561 encodings; 50,000 training images, 10,000 held out of them to score on; \
the supernet saw 998,400 images, the search forwarded 1,204,800 (200 candidates, 1,024 images for \
calibration and 5,000 for the score each). Winners and baselines are finished alike: 3 epochs \
from the supernet's weights. The 10,000 test images were touched once per network. *Proxy* is the \
accuracy with the supernet's weights.
"""


DESIGN = Design(
    primary="test accuracy of the finished winner within each budget",
    same="one supernet, one finish for all",
    budgets="multiply-adds of the finished network",
    protocol="all networks are finished and tested by one run",
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = [json.loads(line) for line in kept.content(path).splitlines()]
    page = kept.page_of(path)
    records.write_text(page, f"{INTRODUCTION}\n{table(rows)}\n\n{reading.text(path)}")
    return with_checklist(page, DESIGN, rows)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| budget | rule | architecture | MACs | params | proxy | test |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['budget']} | {row['rule']} | {row['arch']} | {row['macs'] / 1e6:.2f} M | "
            f"{row['params'] / 1e3:.1f} K | {row['proxy_accuracy']:.2%} | "
            f"{row['test_accuracy']:.2%} |"
        )
    return "\n".join(lines)
