"""One self-contained page of a run, a rank or a comparison, drawn from records alone. No torch."""

from __future__ import annotations

from pathlib import Path

from manyshot import records
from manyshot.report.compare import compare_page
from manyshot.report.page import Page, html_of
from manyshot.report.rank import rank_page
from manyshot.report.reading import RunRecords
from manyshot.report.run import run_page
from manyshot.run_folder import (
    COMPARISON,
    RANKING,
    RECIPE,
    RESULT,
    RUNS,
    SEARCH_LOG,
    TRAIN_LOG,
    CompareFolder,
    RankFolder,
    RunFolder,
    TruthFolder,
    said_of_near,
    why_no_run,
)

__all__ = ["html_of", "write"]


def write(folder: Path, out: Path | None = None) -> Path:
    """Writes the page of a run, a rank or a comparison, and returns its path.

    A run need not be finished: its page shows what is on record.

    Args:
        folder: holds the records.
        out: the page; by default `report.html` in the folder.

    Raises:
        ValueError: if the folder holds no records.
        RecordError: for a damaged one.
    """
    run = RunFolder(folder)
    page = run.report if out is None else out
    text = _page(run).render()
    page.parent.mkdir(parents=True, exist_ok=True)
    records.write_text(page, text)
    return page


def _page(run: RunFolder) -> Page:
    """The page of a folder, of whatever it is."""
    if run.has_records:
        return run_page(RunRecords.read(run))
    rank = RankFolder(run.path)
    ranking = rank.ranking() or rank.before.ranking()
    if ranking is not None:
        return rank_page(ranking, rank.moved())
    comparison = CompareFolder(run.path).comparison()
    if comparison is not None:
        return compare_page(comparison)
    if TruthFolder(run.path).log.exists():
        raise ValueError(
            f"{run.path} is a truth: accuracies of networks trained alone, which have no page of "
            f"their own; rank a run against it with manyshot rank RUN --truth {run.path}, whose "
            "page shows both"
        )
    if not run.path.is_dir():
        raise ValueError(why_no_run(run.path))
    near = said_of_near(run.path, RUNS, RECIPE)
    raise ValueError(
        f"{run.path} holds no records: looked for {RESULT}, {SEARCH_LOG}, {TRAIN_LOG} of a run, "
        f"{RANKING} of a rank and {COMPARISON} of a compare; give the folder that manyshot wrote to"
        f"{f'; {near}' if near else ''}"
    )
