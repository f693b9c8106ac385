"""What benchmarks share: paired timing, records with their provenance, tables, pages."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from manyshot import records

HERE = Path(__file__).parent
COLUMNS = ("what", "at", "n", "median", "quartiles", "95 % of median", "bar", "")

Timed = Callable[[], Sequence[float]]
"""Runs once and returns the seconds of its parts."""


def alternate(sides: Mapping[str, Sequence[Timed]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every side, (rounds, items, parts): sides take turns at each item.

    Which side begins rotates, so that none always finds the caches warm.

    Args:
        sides: per side one timed call per item (an architecture); the same items on each side.
        rounds: repeats of everything, after one unrecorded round.
    """
    names = list(sides)
    seconds: dict[str, list[list[Sequence[float]]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            seconds[name].append([])
        for item in range(len(sides[names[0]])):
            first = (turn + item) % len(names)
            for name in names[first:] + names[:first]:
                seconds[name][-1].append(sides[name][item]())
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def parser(doc: str, sections: Sequence[str], at: Sequence[str], records: str) -> ArgumentParser:
    """The command line of a benchmark of sections at workloads."""
    made = ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("sections", nargs="*", help=f"of {tuple(sections)}; by default all")
    made.add_argument("--at", nargs="+", choices=at, default=["macro", "shufflenet"])
    made.add_argument("--rounds", type=int, default=10)
    made.add_argument("--records", type=Path, default=HERE / records)
    made.add_argument("--page-only", action="store_true", help="write the page from the records")
    return made


def take(
    given: Namespace,
    sections: Mapping[str, Callable[[Any, int], Iterable[dict[str, Any]]]],
    workloads: Mapping[str, Any],
) -> None:
    """Measures what the command line asks for, and records it."""
    for section in () if given.page_only else given.sections or sections:
        for work in (workloads[at] for at in given.at):
            for found in sections[section](work, given.rounds):
                note(given.records, {"at": work.label, **found})


def note(path: Path, found: Mapping[str, Any]) -> None:
    """Appends a record with its provenance, and shows it."""
    record = {**found, **provenance()}
    records.append(path, record)
    print(*row(record), sep="  ", file=sys.stderr)


def show(path: Path, write_page: Callable[[Path], Path]) -> None:
    """Prints the newest records as a table, and writes the page anew."""
    table = Table(*COLUMNS)
    for record in latest(path):
        table.add_row(*row(record))
    Console().print(table)
    print(write_page(path), file=sys.stderr)


def ratio(over: np.ndarray, under: np.ndarray) -> dict[str, Any]:
    """Median, quartiles and a 95 % bootstrap interval of the median of paired ratios."""
    pairs = (over / under).ravel()
    draws = np.random.default_rng(0).choice(pairs, (2000, len(pairs)))
    interval = np.quantile(np.median(draws, axis=1), (0.025, 0.975)).tolist()
    return {**spread(pairs), "interval": interval}


def spread(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """How many, median and quartiles."""
    q1, median, q3 = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"n": len(values), "median": median, "q1": q1, "q3": q3}


def provenance() -> dict[str, Any]:
    """Of what and on what a number is measured: commit, versions, CPU, date."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "edited": bool(_git("status", "--porcelain", "--untracked-files=no", "src")),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True
    ).stdout.strip()


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def latest(path: Path) -> list[dict[str, Any]]:
    """The newest record of every (what, at), in order of first appearance."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records.read_lines(path):
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
    reading = path.with_name(f"{path.stem}_reading.txt")
    text = "\n".join([*parts, made, *([reading.read_text()] if reading.exists() else [])])
    records.write_text(path.with_suffix(".md"), text)
    return path.with_suffix(".md")


Beside = tuple[str, Callable[[Sequence[Mapping[str, Any]]], str]]
"""A heading, and what makes the table under it of the records."""


def page(path: Path, stem: str, title: str, command: str, beside: Beside, reading: str) -> Path:
    """Writes the page of the records at `path` beside them, and returns it.

    Args:
        path: the records.
        stem: begins the page's name; hardware and date end it.
        title: of the page.
        command: that made the records.
        beside: a table of facts beside the ratios.
        reading: how to read the page, at its end.
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
    written = path.with_name(f"{stem}_{last['cores']}-core-cpu_{last['date']}.md")
    records.write_text(written, text.rstrip() + "\n" + reading)
    return written
