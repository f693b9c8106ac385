"""What the benchmarks share: paired timing, records with their provenance, tables."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyshot import records

HERE = Path(__file__).parent
ROOT = HERE.parent


def cpu_seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of this process while `run` runs; what other processes do is left out."""
    began = time.process_time()
    run()
    return time.process_time() - began


def alternate(
    sides: Mapping[str, Sequence[Callable[[], float]]], rounds: int
) -> dict[str, np.ndarray]:
    """Seconds of every side, (rounds, items): sides take turns at each item, in turning order.

    Args:
        sides: per side one timed call per item (an architecture); the same items on each side.
        rounds: repeats of everything, after one unrecorded round.
    """
    names = list(sides)
    items = len(sides[names[0]])
    seconds = {name: np.zeros((rounds + 1, items)) for name in names}
    for turn in range(rounds + 1):
        for item in range(items):
            first = (turn + item) % len(names)
            for name in names[first:] + names[:first]:
                seconds[name][turn, item] = sides[name][item]()
    return {name: values[1:] for name, values in seconds.items()}


def ratio(over: np.ndarray, under: np.ndarray) -> dict[str, Any]:
    """Median, quartiles and a 95 % bootstrap interval of the median of paired ratios."""
    pairs = (over / under).ravel()
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(pairs, (2000, len(pairs))), axis=1)
    return {"n": len(pairs), **spread(pairs), "interval": np.quantile(medians, (0.025, 0.975)).tolist()}


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    q1, median, q3 = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def provenance() -> dict[str, Any]:
    """Where and of what a number was measured: commit, versions, CPU, date."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "edited": bool(_git("status", "--porcelain", "src", "benchmarks/speed.py")),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def latest(path: Path) -> list[dict[str, Any]]:
    """The newest record of every (what, at) in a `.jsonl` file, in order of first appearance."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records.read_lines(path):
        newest[record["what"], record["at"]] = record
    return list(newest.values())


def row(record: Mapping[str, Any]) -> list[str]:
    """What, where, n, median, quartiles, interval of the median, bar, verdict: as text."""
    interval = "-".join(f"{x:.3f}" for x in record["interval"]) if "interval" in record else ""
    bar = record.get("bar")
    verdict = "" if bar is None else "met" if record["median"] <= bar else "MISSED"
    return [
        record["what"],
        record["at"],
        str(record["n"]),
        f"{record['median']:.4g}{record.get('unit', '')}",
        f"{record['q1']:.4g}-{record['q3']:.4g}",
        interval,
        "" if bar is None else f"{bar:g}{record.get('unit', '')}",
        verdict,
    ]


COLUMNS = ("what", "at", "n", "median", "quartiles", "95 % of median", "bar", "")


def markdown(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
