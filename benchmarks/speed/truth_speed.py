"""Trainings of `manyshot truth` per second, with one process and with two, in turns.

    python -m benchmarks.speed.truth_speed [--rounds 3]

Each round trains the same 24 networks of `tiny` on digits, as `recipes/digits.toml` would, on one
thread each: in this process, and in two others. New processes take seconds to import torch and to
load the images, once; a second figure leaves that out, as the time from the first record to the
last. On an otherwise idle machine two processes can at best halve it. The records of 2026-11-22
have one other process too, and their processes were made by `concurrent.futures`; now joblib makes
them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance, ratio, spread
from benchmarks.lib.pages import markdown, with_reading
from manyshot import records
from manyshot.pipeline import truth
from manyshot.pipeline.workers import Processes
from manyshot.recipe import Recipe

KEPT = kept.of_speed(__file__)
NETWORKS = 24
SETS = ("truth.plan=uniform", f"truth.count={NETWORKS}", "truth.seeds=[0]")
WORKERS = {"this process": Processes(1), "two processes": Processes(2)}


def timed(workers: Processes) -> tuple[float, float]:
    """Seconds in all, and seconds per training between the first record and the last."""
    stamps: list[float] = []
    records.wrote = lambda path: stamps.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        truth(Recipe.load(None, SETS), Path(folder) / "truth", workers=workers)
        seconds = time.perf_counter() - began
    records.wrote = lambda path: None
    own = stamps[-NETWORKS:]
    return seconds, (own[-1] - own[0]) / (NETWORKS - 1)


def main() -> None:
    """Measures, records, and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    kept.options(parser, Path("runs") / "truth_speed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(given, KEPT)
    timed(Processes(1))
    for turn in range(given.rounds):
        for name in list(WORKERS)[turn % 2 :] + list(WORKERS)[: turn % 2]:
            seconds, each = timed(WORKERS[name])
            row = {"workers": name, "turn": turn, "seconds": seconds, "each": each}
            records.append(path, {**row, **provenance()})
    kept.end(given, KEPT, write_page)


def write_page(path: Path) -> Path:
    """The page of the records, beside them."""
    rows = kept.rows(path)
    names = dict.fromkeys(row["workers"] for row in rows)
    by = {name: [row for row in rows if row["workers"] == name] for name in names}
    base = by["this process"]
    lines = []
    for name, own in by.items():
        found = [name]
        for key in ("seconds", "each"):
            seconds = np.array([row[key] for row in own])
            over = ratio(seconds, np.array([row[key] for row in base]))
            low, high = over["interval"]
            found += [f"{spread(seconds)['median']:.3g} s"]
            found += [f"{over['median']:.2f} ({low:.2f} to {high:.2f})"]
        lines.append(found)
    head = (
        "workers",
        f"{NETWORKS} trainings, all",
        "ratio",
        "per training, once running",
        "ratio",
    )
    title = "# Trainings alone, by one process and by two\n"
    about = (
        f"Medians over {len(base)} rounds; ratios are paired by round, with a bootstrap interval "
        "of the median.\n"
    )
    command = "```\npython -m benchmarks.speed.truth_speed\n```\n"
    return with_reading(path, [title, command, about, markdown(head, lines)], rows)


if __name__ == "__main__":
    main()
