"""CPU time and memory where much was told, many options are to choose from, or records are many.

    python -m benchmarks.speed.growth [searchers canonical tables records] [--largest 100000]

Each row is measured in a process of its own: seconds are its CPU time, memory is by how much its
peak of resident memory rose. Proposals are of 50 architectures of 20 decisions with two budgets,
medians of three generations; imports are done before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.measuring import peak_mb, provenance
from benchmarks.lib.pages import markdown, with_reading
from manyshot import cost, records
from manyshot.run_folder import SearchLine
from manyshot.search import Limit, make_searcher
from manyshot.space import Arch, Decision, SearchSpace

KEPT = kept.of_speed(__file__)
ASKED = 50
DECISIONS, OPTIONS = 20, 5
BARS = {
    "predictor, 10,000 told": (1.0, 300),
    "canonical, 1,000 decisions without gates": (0.0003, None),
    "parameters and multiply-adds, 100 options a decision": (1.0, None),
    "recording 1,000 decisions": (5.0, None),
    "200,000 records, read one by one": (1.0, 200),
}
"""The most seconds and megabytes that were wanted."""

Row = tuple[str, Callable[..., float], tuple[Any, ...]]
"""What is measured, and the function that measures it with its arguments: seconds."""


def proposing(name: str, told: int) -> float:
    """Seconds of one generation of a searcher that was told so many architectures."""
    space = SearchSpace([Decision(range(OPTIONS), f"d{i}") for i in range(DECISIONS)])
    limits = [Limit(f"sum<={most}", _sums, most) for most in (40.0, 50.0)]
    searcher = make_searcher(name, space, seed=0, limits=limits)
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(DECISIONS, OPTIONS))
    archs = list(map(tuple, rng.integers(0, OPTIONS, (told, DECISIONS)).tolist()))
    searcher.tell(archs, _scores(worth, archs))
    spent = []
    for _ in range(4):  # the first imports what is slow to import
        began = time.process_time()
        archs = searcher.ask(ASKED)
        spent.append(time.process_time() - began)
        searcher.tell(archs, _scores(worth, archs))
    return float(np.median(spent[1:]))


def _sums(archs: Any) -> np.ndarray:
    return np.asarray(archs, float).sum(axis=1)


def _scores(worth: np.ndarray, archs: list[Arch]) -> list[float]:
    scores: list[float] = worth[np.arange(DECISIONS), np.array(archs)].sum(axis=1).tolist()
    return scores


def canonical(gated: bool) -> float:
    """Seconds of the canonical encoding of 1,000 decisions, of which nine in ten have a gate."""
    decisions = [Decision(range(OPTIONS), f"d{i}") for i in range(1000)]
    gates = {d: decisions[i - i % 10] for i, d in enumerate(decisions) if i % 10 and gated}
    uses = {d: [((gate, frozenset(range(1, OPTIONS))),)] for d, gate in gates.items()}
    space, rng = SearchSpace(decisions, uses=uses), np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(200)]
    return _seconds(lambda: [space.canonical(arch) for arch in archs]) / len(archs)


def pricing() -> float:
    """Seconds of both costs of 10,000 architectures, recording them counted."""
    widths = [ms.choose(tuple(range(1, 101)), f"width{i}") for i in range(3)]
    net = ms.Supernet(_convolutions(widths))
    rng = np.random.default_rng(0)
    archs = [net.space.sample(rng) for _ in range(10_000)]
    return _seconds(lambda: (cost.params(net, archs), cost.macs(net, archs, (3, 8, 8))))


def recording() -> float:
    """Seconds of recording the multiply-adds of 1,000 convolutions, each of three widths."""
    widths = [ms.choose((1, 2, 3), f"width{i}") for i in range(1000)]
    net = ms.Supernet(_convolutions(widths))
    return _seconds(lambda: cost.macs_table(net, (3, 8, 8)))


def _convolutions(widths: list[Decision]) -> nn.Module:
    layers = [ms.nn.Conv2d(3, widths[0], 3, 1, 1)]
    layers += [ms.nn.Conv2d(a, b, 3, 1, 1) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*layers)


def reading(path: Path, how: str) -> float:
    """Seconds of the records of a search: read one by one, or all kept for it to go on."""
    if how == "keep":
        return _seconds(lambda: records.keep(path, SearchLine))
    lines = records.iterate_lines(path, SearchLine)
    return _seconds(lambda: sum(line.proxy_score for line in lines))


def write_search(path: Path, count: int) -> None:
    """Writes the records of a search."""
    with path.open("w") as file:
        for i in range(count):
            arch = "-".join(str((7 * i + j * j) % OPTIONS) for j in range(DECISIONS))
            line = {
                "schema": 2,
                "generation": i // 50,
                "role": "candidate",
                "arch": arch,
                "proxy_score": 0.5 + 1e-7 * i,
                "proxy_loss": 1.5 + 1e-7 * i,
                "macs": 12_000_000 + i,
                "params": 200_000 + i,
                "latency_ms": 1.5 + 1e-7 * i,
                "weights_version": 0,
                "calibration": "a" * 16,
                "validation_images": 5000,
                "weights": "f" * 64,
                "images_forwarded": 6000,
                "halves": [0.5, 0.6],
            }
            file.write(json.dumps(line) + "\n")


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def searchers(largest: int, folder: Path) -> Iterator[Row]:
    """Of each searcher, at more and more told."""
    for name in ("random", "evolution", "regularised_evolution", "nsga2", "predictor"):
        for told in (n for n in (1_000, 10_000, 100_000) if n <= largest):
            yield f"{name}, {told:,} told", proposing, (name, told)


def encodings(largest: int, folder: Path) -> Iterator[Row]:
    """Canonical encodings."""
    yield "canonical, 1,000 decisions without gates", canonical, (False,)
    yield "canonical, 1,000 decisions, nine in ten gated", canonical, (True,)


def tables(largest: int, folder: Path) -> Iterator[Row]:
    """Cost tables."""
    yield "parameters and multiply-adds, 100 options a decision", pricing, ()
    yield "recording 1,000 decisions", recording, ()


def opening(largest: int, folder: Path) -> Iterator[Row]:
    """Records of a search."""
    path, count = folder / "search.jsonl", 2 * largest
    write_search(path, count)
    yield f"{count:,} records, read one by one", reading, (path, "iterate")
    yield f"{count:,} records, kept to go on", reading, (path, "keep")


SECTIONS = {
    "searchers": searchers,
    "canonical": encodings,
    "tables": tables,
    "records": opening,
}


def _in_process(measure: Callable[..., float], arguments: tuple[Any, ...]) -> tuple[float, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_mb()
    return measure(*arguments), peak_mb() - before


def main() -> None:
    """Measures, records, and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", help=f"of {tuple(SECTIONS)}; by default all")
    parser.add_argument("--largest", type=int, default=100_000, help="most architectures told")
    kept.options(parser, Path("runs") / "growth")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cost.subnet_macs(nn.Linear(1, 1), (1,))  # loads what torch loads on first use
    path = kept.begin(given, KEPT)
    context = multiprocessing.get_context("fork")  # so that nothing is imported again
    with tempfile.TemporaryDirectory() as folder:
        for section in given.sections or SECTIONS:
            for what, measure, arguments in SECTIONS[section](given.largest, Path(folder)):
                with context.Pool(1) as pool:
                    seconds, peak = pool.apply(_in_process, (measure, arguments))
                records.append(path, {"what": what, "seconds": seconds, "mb": peak, **provenance()})
                print(f"{what}: {seconds:.4g} s, {peak:.0f} MB")
    kept.end(given, KEPT, write_page)


def write_page(path: Path) -> Path:
    """The page of the newest record of each kind, beside them."""
    rows = {row["what"]: row for row in kept.rows(path)}
    lines = []
    for what, row in rows.items():
        wanted = BARS.get(what, (None, None))
        bars = [text for text, bar in zip(_texts(*wanted), wanted, strict=True) if bar is not None]
        lines.append([what, *_texts(row["seconds"], row["mb"]), " and ".join(bars)])
    head = ("what", "CPU time", "memory", "wanted at most")
    about = (
        "Each row in a process of its own: its CPU time, and by how much its peak of resident "
        f"memory rose. A proposal is of {ASKED} architectures of {DECISIONS} decisions with two "
        "budgets.\n"
    )
    title = "# What grows with how much there is\n"
    command = "```\npython -m benchmarks.speed.growth\n```\n"
    return with_reading(path, [title, command, about, markdown(head, lines)], list(rows.values()))


def _texts(seconds: float | None, mb: float | None) -> list[str]:
    short = seconds is not None and seconds < 0.01
    time_text = f"{1000 * (seconds or 0):.3g} ms" if short else f"{seconds or 0:.3g} s"
    return [time_text, f"{mb or 0:.0f} MB"]


if __name__ == "__main__":
    main()
