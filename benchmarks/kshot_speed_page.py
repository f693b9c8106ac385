"""The page that shows the records of `kshot_speed.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import COLUMNS, latest, markdown, missed, row

from manyshot.records import write_text

COMMAND = "python benchmarks/kshot_speed.py [steps codes evaluation memory] [--at macro]"

READING = """
## How to read it

"""


def write_page(path: Path) -> Path:
    """Writes the page beside the records, named after their date and hardware; returns it."""
    found = latest(path)
    last = found[-1]
    page = path.with_name(f"kshot_speed_{last['cores']}-core-cpu_{last['date']}.md")
    barred = [record for record in found if "bar" in record]
    over = [
        f"{r['what']}, {r['at']}: {r['median']:.3g} over {r['bar']:g}" for r in found if missed(r)
    ]
    commits = sorted({r["commit"] + (" (edited)" if r["edited"] else "") for r in found})
    text = "\n".join(
        [
            "# What K copies of the weights cost\n",
            f"{last['cores']}-core {last['cpu']}, {last['threads']} thread, Python "
            f"{last['python']}, torch {last['torch']}, {last['date']}, "
            f"commit {', '.join(commits)}. Written by `{COMMAND}` from `{path.name}`; "
            "each row is the newest record of its kind.\n",
            f"Bars missed: {'; '.join(over) or 'none'}.\n",
            markdown(COLUMNS, [row(record) for record in barred]),
            "Beside the ratios:\n",
            _beside(found),
            "Everything else, without a bar:\n",
            markdown(COLUMNS[:6], [row(r)[:6] for r in found if "bar" not in r]),
        ]
    )
    write_text(page, text.rstrip() + "\n" + READING)
    return page


def _beside(found: Sequence[Mapping[str, Any]]) -> str:
    columns = ("at", "step with K = 1, CPU", "path parameters", "path parameters ÷ path MACs")
    rows = [
        [
            r["at"],
            f"{r['one_ms']:.0f} ms",
            f"{r['path_params']:,.0f}",
            f"{r['path_params_per_path_macs']:.4f}",
        ]
        for r in found
        if r["what"] == "weights step: K=8 ÷ K=1"
    ]
    return markdown(columns, rows)
