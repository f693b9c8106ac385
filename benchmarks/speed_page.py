"""The page that shows the records of `speed.py`."""

from __future__ import annotations

from pathlib import Path

from measuring import COLUMNS, latest, markdown, row

from manyshot.records import write_text

NOTES = "TODO"


def write_page(path: Path) -> Path:
    """Writes the page beside the records, named after their date and hardware; returns it."""
    found = latest(path)
    last = found[-1]
    name = f"speed_{last['cores']}-core-cpu_{last['date']}.md"
    text = NOTES + markdown(COLUMNS, [row(record) for record in found])
    write_text(path.with_name(name), text)
    return path.with_name(name)
