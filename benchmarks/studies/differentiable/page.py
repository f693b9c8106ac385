"""The page that shows the records of `run.py`."""

from pathlib import Path

BUDGETS = ("macs<=25%", "macs<=45%", "macs<=70%", "macs<=100%")


def write_page(path: Path) -> Path:
    return path
