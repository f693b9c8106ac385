"""What benchmarks of speed share: paired timing, statistics of it, provenance, command lines."""

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

from benchmarks.lib import kept, pages
from manyshot import records
from manyshot.allocation import hold_freed_memory

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


def parser(doc: str, sections: Sequence[str], at: Sequence[str], name: str) -> ArgumentParser:
    """The command line of a benchmark of sections at workloads."""
    made = ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("sections", nargs="*", help=f"of {tuple(sections)}; by default all")
    made.add_argument("--at", nargs="+", choices=at, default=["macro", "shufflenet"])
    made.add_argument("--rounds", type=int, default=10)
    kept.options(made, Path("runs") / name)
    return made


def take(
    given: Namespace,
    path: Path,
    sections: Mapping[str, Callable[[Any, int], Iterable[dict[str, Any]]]],
    workloads: Mapping[str, Any],
) -> None:
    """Measures what the command line asks for, and records it.

    The process keeps what it frees; else one side pays for pages that another gave back.

    Args:
        given: the command line.
        path: where records are appended.
        sections: what measures each section.
        workloads: by the names that the command line has.
    """
    hold_freed_memory()
    for section in given.sections or sections:
        for work in (workloads[at] for at in given.at):
            for found in sections[section](work, given.rounds):
                note(path, {"at": work.label, **found})


def note(path: Path, found: Mapping[str, Any]) -> None:
    """Appends a record with its provenance, and shows it."""
    record = {**found, **provenance()}
    records.append(path, record)
    print(*pages.row(record), sep="  ", file=sys.stderr)


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


def peak_mb() -> float:
    """The most memory that this process had since its peak began anew, in MB; on Linux alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return peak / 1024


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=kept.ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
