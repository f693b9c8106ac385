"""One self-contained page of a run, a rank or a comparison, drawn from records alone. No torch."""

from __future__ import annotations

from pathlib import Path

from manyshot import records
from manyshot.report.compare import compare_page
from manyshot.report.rank import rank_page
from manyshot.report.reading import COMPARE, RANK, Run, kind_of
from manyshot.report.run import run_page

__all__ = ["FILE", "write"]

FILE = "report.html"


def write(folder: Path) -> Path:
    """Writes `report.html` of a run, a rank or a comparison, and returns its path.

    A run need not be finished: its page shows what is on record.

    Args:
        folder: holds the records, and gets the page.

    Raises:
        ValueError: if the folder holds no records.
        RecordError: for a damaged one.
    """
    folder = Path(folder)
    kind = kind_of(folder)
    if kind == "run":
        page = run_page(Run.read(folder))
    elif kind == "rank":
        page = rank_page(records.read_json(folder / RANK))
    else:
        page = compare_page(records.read_json(folder / COMPARE))
    path = folder / FILE
    records.write_text(path, page.render())
    return path
