"""Pages of records: tables, provenance, and a person's reading at the end.

    python -m benchmarks.lib.pages [shifting speed ...]

writes the pages of the records that are kept anew: all of them, or those of the benchmarks named.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.lib import kept, reading
from manyshot import records

COLUMNS = ("what", "at", "n", "median", "quartiles", "95 % of median", "bar", "")


def module_of(path: Path) -> str:
    """The module with the `write_page` of kept records."""
    parts = path.parent.relative_to(kept.ROOT).parts
    name = kept.stem(path)
    if name == "records":
        return ".".join((*parts, "page"))
    apart = path.with_name(f"{name}_page.py").exists()
    return ".".join((*parts, f"{name}_page" if apart else name))


def writer(path: Path) -> kept.Writes:
    """What writes the page of kept records."""
    write_page: kept.Writes = importlib.import_module(module_of(path)).write_page
    return write_page


def name_of(path: Path) -> str:
    """The name of the benchmark whose records are kept at `path`."""
    name = kept.stem(path)
    return path.parent.name if name == "records" else name


def show(path: Path) -> None:
    """Prints the newest records as a table."""
    table = Table(*COLUMNS)
    for record in latest(path):
        table.add_row(*row(record))
    Console().print(table)


def latest(path: Path) -> list[dict[str, Any]]:
    """The newest record of every (what, at), in order of first appearance."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in kept.rows(path):
        newest[record["what"], record["at"]] = record
    return list(newest.values())


def missed(record: Mapping[str, Any]) -> bool:
    """Whether there is a bar and the median is over it."""
    return "bar" in record and bool(record["median"] > record["bar"])


def row(record: Mapping[str, Any]) -> list[str]:
    """The texts of `COLUMNS`."""
    unit, bar = record.get("unit", ""), record.get("bar")
    verdict = "" if bar is None else "MISSED" if missed(record) else "met"
    return [
        record["what"],
        record["at"],
        str(record["n"]),
        f"{record['median']:.4g}{unit}",
        f"{record['q1']:.4g} to {record['q3']:.4g}",
        " to ".join(f"{x:.4g}" for x in record.get("interval", ())),
        "" if bar is None else f"{bar:g}{unit}",
        verdict,
    ]


def mean_and_reach(values_S: np.ndarray) -> tuple[float, float]:
    """The mean over seeds or problems, and half of Student's 95 % interval of it; nan of one."""
    n = len(values_S)
    if n < 2:
        return float(values_S.mean()), float("nan")
    half = stats.t.ppf(0.975, n - 1) * values_S.std(ddof=1) / n**0.5
    return float(values_S.mean()), float(half)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def with_reading(path: Path, parts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the page of the records at `path`: parts, provenance of `rows`, and a reading.

    The reading is in a file of its own beside the records.
    """
    last, commits = rows[-1], ", ".join(sorted({row["commit"] for row in rows}))
    made = (
        f"{last['cores']}-core {last['cpu']}, {last['threads']} thread, torch {last['torch']}, "
        f"{last['date']}, commit {commits}.\n"
    )
    page = kept.page_of(path)
    own = reading.text(path)
    records.write_text(page, "\n".join([*parts, made, *([own] if own else [])]))
    return page


Beside = tuple[str, Callable[[Sequence[Mapping[str, Any]]], str]]
"""A heading, and what makes the table under it of the records."""


def page(path: Path, title: str, command: str, beside: Beside, how: str) -> Path:
    """Writes the page of the records at `path` beside them, and returns it.

    Args:
        path: the records.
        title: of the page.
        command: that made the records.
        beside: a table of facts beside the ratios.
        how: to read the page, behind its tables; a person's reading of the records ends it.
    """
    found = latest(path)
    last, (heading, facts) = found[-1], beside
    barred = [record for record in found if "bar" in record]
    over = [
        f"{r['what']}, {r['at']}: {r['median']:.3g} over {r['bar']:g}" for r in found if missed(r)
    ]
    close = [
        f"{r['what']}, {r['at']}"
        for r in barred
        if "interval" in r and r["interval"][0] <= r["bar"] <= r["interval"][1]
    ]
    commits = sorted({r["commit"] + (" (edited)" if r["edited"] else "") for r in found})
    text = "\n".join(
        [
            f"# {title}\n",
            f"{last['cores']}-core {last['cpu']}, {last['threads']} thread, Python "
            f"{last['python']}, torch {last['torch']}, {last['date']}, "
            f"commit {', '.join(commits)}. Written by `{command}` from `{path.name}`; "
            "each row is the newest record of its kind.\n",
            f"Bars missed: {'; '.join(over) or 'none'}. "
            f"Bars within the interval, so not settled: {'; '.join(close) or 'none'}.\n",
            markdown(COLUMNS, [row(record) for record in barred]),
            f"{heading}:\n",
            facts(found),
            "Everything else, without a bar:\n",
            markdown(COLUMNS[:6], [row(r)[:6] for r in found if "bar" not in r]),
        ]
    )
    written, said = kept.page_of(path), reading.text(path)
    records.write_text(written, text.rstrip() + "\n" + how + (f"\n{said}" if said else ""))
    return written


def main() -> None:
    """Writes pages anew."""
    known = {name_of(path): path for path in kept.every()}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {tuple(known)}; by default all")
    names = parser.parse_args().names
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"no records are kept of {', '.join(unknown)}, only of {', '.join(known)}")
    for name in names or known:
        print(writer(known[name])(known[name]))


if __name__ == "__main__":
    main()
