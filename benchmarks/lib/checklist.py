"""The checklist of best practice for research on architecture search, of a study and its records.

What can be derived from records is: seeds, machines and versions, commits, times, which arms there
are. The rest a study declares in a `Design` in its `page.py`, which a new study has before it runs;
what is not declared is a no.

Reference: Lindauer & Hutter 2020, "Best Practices for Scientific Research on Neural Architecture
    Search" (arXiv:1909.02453). The primary metric and the five seeds are ours.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.lib.pages import markdown
from manyshot import records

SEEDS = 5
"""Of fewer seeds no direction is said."""
ARMS = ("arm", "method", "searcher", "variant", "rule")
"""What records call the methods that are compared."""
PROVENANCE = ("cpu", "torch", "threads")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a study declares that records cannot show. None is a no.

    Attributes:
        primary: the metric that decides.
        before: whether it was declared before the records were made.
        same: that all arms have the same data, split, space and training pipeline, and which.
        budgets: at what equal cost the arms are compared.
        protocol: how whatever an arm ends with is evaluated, the same way for all.
        controls: arms that leave out what a method is made of.
        random: the arm that is drawn at random.
        anytime: where performance over time is shown.
        benchmark: the tabular benchmark, or the table of stand-alone trainings.
        tuning: how hyperparameters were chosen, for all arms, and what that cost.
    """

    primary: str | None = None
    before: bool = False
    same: str | None = None
    budgets: str | None = None
    protocol: str | None = None
    controls: tuple[str, ...] = ()
    random: str | None = None
    anytime: str | None = None
    benchmark: str | None = None
    tuning: str | None = None


class Item(NamedTuple):
    """A line of the checklist: what is asked, whether it is so, and what shows it."""

    asked: str
    is_so: bool
    shown: str


def with_checklist(page: Path, design: Design, rows: Rows) -> Path:
    """Adds the checklist of a study to the end of its page, and returns the page.

    Args:
        page: as it was written just now.
        design: what the study declares.
        rows: its records.
    """
    records.write_text(page, f"{page.read_text().rstrip()}\n\n{section(design, rows)}")
    return page


def section(design: Design, rows: Rows) -> str:
    """The checklist as a section of a page."""
    found = list(items(design, rows))
    count = sum(item.is_so for item in found)
    lines = [[item.asked, "yes" if item.is_so else "**no**", item.shown] for item in found]
    return (
        "## Checklist\n\n"
        f"After Lindauer and Hutter (arXiv:1909.02453), made of the records and of what the study "
        f"declares by `benchmarks/lib/checklist.py`: {count} of {len(found)}.\n\n"
        f"{markdown(('what', '', 'shown by'), lines)}"
    )


def items(design: Design, rows: Rows) -> Iterator[Item]:
    """The lines of the checklist."""
    arms = _arms(rows)
    asked, primary = "One primary metric, declared before", design.primary or "not declared"
    after = "" if design.before or design.primary is None else "; written down after these records"
    yield Item(asked, design.primary is not None and design.before, primary + after)
    yield _code(rows)
    yield _declared("Same data, split, space and training for all", design.same)
    yield _declared("Compared at equal cost", design.budgets)
    yield _declared("Same evaluation of what every arm ends with", design.protocol)
    yield _confounders(rows)
    yield _of_arms("Ablations and the method's own controls", design.controls, arms)
    chance = (design.random,) if design.random else ()
    yield _of_arms("Compared with random search or sampling", chance, arms)
    yield _seeds(rows, arms)
    yield _declared("A tabular benchmark, or stand-alone truth", design.benchmark)
    yield _declared("Performance over time", design.anytime)
    yield _declared("How hyperparameters were tuned", design.tuning)
    yield _times(rows)
    yield _hardware(rows)


def _declared(asked: str, words: str | None) -> Item:
    return Item(asked, words is not None, words or "not declared")


def _code(rows: Rows) -> Item:
    asked = "The code that made every number is in the repository"
    known = [row for row in rows if "commit" in row]
    if not known:
        return Item(asked, False, "records name no commit")
    commits = sorted({row["commit"] for row in known})
    edited = sum(bool(row.get("edited")) for row in known)
    shown = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    if edited:
        return Item(asked, False, f"{shown}; at {edited} of {len(known)} records it was edited")
    return Item(asked, True, shown)


def _confounders(rows: Rows) -> Item:
    asked = "One machine and one version of libraries for all"
    each = {tuple(row[key] for key in PROVENANCE) for row in rows if "cpu" in row}
    if not each:
        return Item(asked, False, "not on record")
    shown = "; ".join(f"{cpu}, torch {torch}, {n} thread" for cpu, torch, n in sorted(each))
    return Item(asked, len(each) == 1, shown)


def _arms(rows: Rows) -> dict[str, set[Any]]:
    """The arms of a study with the seeds of each, by which their names begin."""
    arms: dict[str, set[Any]] = collections.defaultdict(set)
    for row in rows:
        for key in ARMS:
            if key in row:
                arms[str(row[key])].add(row.get("seed"))
                break
    return arms


def _of_arms(asked: str, named: Sequence[str], arms: Mapping[str, object]) -> Item:
    """Whether the arms that are declared were run."""
    lacking = [name for name in named if name not in arms]
    if lacking:
        return Item(asked, False, f"declared, but not on record: {', '.join(lacking)}")
    return Item(asked, bool(named), ", ".join(named) or "none")


def _seeds(rows: Rows, arms: Mapping[str, set[Any]]) -> Item:
    asked = f"At least {SEEDS} seeds each"
    counts = [len(seeds - {None}) for seeds in arms.values()]
    if not counts:
        counts = [len({row["seed"] for row in rows if "seed" in row})]
    fewest, most = min(counts), max(counts)
    return Item(asked, fewest >= SEEDS, f"{fewest}" if fewest == most else f"{fewest} to {most}")


def _times(rows: Rows) -> Item:
    asked = "Time is on record"
    keys = sorted({key for row in rows for key in row if "seconds" in key})
    return Item(asked, bool(keys), ", ".join(f"`{key}`" for key in keys) or "not on record")


def _hardware(rows: Rows) -> Item:
    asked = "Hardware and all settings are reported"
    last = next((row for row in reversed(rows) if {"cpu", "cores"} <= row.keys()), None)
    if last is None:
        return Item(asked, False, "hardware is not on record")
    return Item(asked, True, f"{last['cores']}-core {last['cpu']}; settings in `run.py`")
