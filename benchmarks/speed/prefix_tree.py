"""Scoring populations as a prefix tree, against scoring architectures one by one.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.prefix_tree [--rounds 3] [--at digits macro few]

`digits`: all 256 architectures of `tiny`, by the images of `recipes/digits.toml`. `macro`: 100
random networks of `macro(width=8)` on Fashion-MNIST, by the images of
`benchmarks/studies/order_preservation/macro.toml`, twice. `few`: the same networks by 384 images,
all 3,969 and 300 random ones, both ways. Weights are untrained. Every measurement is a process of
its own and a record; what is on record is not done again. The page is `prefix_tree.md`.
`--at digits --rounds 1 --fresh --work DIR` shows in a minute that it runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.lib.pages import markdown, with_reading
from benchmarks.speed.memory import MIB, status
from manyshot import evaluate, records
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.score import Images
from manyshot.recipe import Recipe
from manyshot.space import Arch, SearchSpace

KEPT = kept.of_speed(__file__)
MACRO = kept.BENCHMARKS / "studies" / "order_preservation" / "macro.toml"
FEW = ("evaluate.calibration_images=128", "evaluate.images=256")
RECIPES: dict[str, tuple[Path, Sequence[str]]] = {
    "digits": (kept.RECIPES / "digits.toml", ()),
    "macro": (MACRO, ()),
    "few": (MACRO, FEW),
}
CAPPED = 8 * MIB
NETWORKS = {"digits": "tiny", "macro": "macro(width=8)", "few": "macro(width=8)"}
Rows = list[dict[str, Any]]


def architectures(space: SearchSpace, count: int, turn: int) -> list[Arch]:
    """`count` networks, drawn by the number of the round; all of them for 0."""
    every = [arch for arch in space.enumerate() if space.canonical(arch) == arch]
    if not count:
        return every
    chosen = np.random.default_rng(turn).choice(len(every), count, replace=False)
    return [every[i] for i in chosen]


def measure(at: str, side: str, count: int, turn: int, memory: int) -> dict[str, Any]:
    """Scores a set in this process: seconds, memory above what was there before, scores."""
    ws = Workspace.build(Recipe.load(*RECIPES[at]))
    batches = Images(ws)
    look: dict[str, Any] = {
        "calibration": batches.calibration,
        "validation": batches.validation,
    }
    archs = architectures(ws.net.space, count, turn)
    dict(evaluate.Population(ws.net, archs[:2], **look))  # what torch loads late is not counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    before, cpu, wall = status("VmRSS"), time.process_time(), time.perf_counter()
    found: dict[str, Any] = {}
    if side == "plain":
        scores = {arch: evaluate.score(ws.net, arch, **look) for arch in archs}
    else:
        population = evaluate.Population(ws.net, archs, memory=memory, **look)
        scores = dict(population)
        spent = population.account
        found = {"method": spent.method, "macs": spent.macs, "plain_macs": spent.plain_macs}
        found["carried_bytes"] = spent.carried_bytes
    found |= {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
    listed = [[arch, scores[arch].value, scores[arch].loss] for arch in sorted(scores)]
    return {
        **found,
        "peak_bytes": status("VmHWM") - before,
        "architectures": len(scores),
        "images": batches.calibration.images + batches.validation.images,
        "scores": hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16],
    }


def rows_wanted(at: Sequence[str], rounds: int) -> Rows:
    """What to measure, sides in turn."""
    wanted: Rows = []
    for where in at:
        count = {"digits": 0, "macro": 100, "few": 300}[where]
        for turn in range(rounds if where == "digits" else min(rounds, 2)):
            sides = ("tree", "plain") if turn % 2 else ("plain", "tree")
            wanted += [{"at": where, "side": s, "count": count, "round": turn} for s in sides]
        if where == "few":
            wanted.append({"at": where, "side": "capped", "count": count, "round": 0})
            for turn, side in ((0, "tree"), (1, "plain"), (1, "tree")):
                wanted.append({"at": where, "side": side, "count": 0, "round": turn})
    timed = [{**row, "returns": False} for row in wanted]
    return timed + [{**row, "returns": True} for row in wanted if row["round"] == 0]


def run(wanted: dict[str, Any]) -> dict[str, Any]:
    """Measures in a fresh process.

    Where large tensors return to the system when they are freed, peaks are those of what is needed,
    but all takes much longer: seconds are taken where they do not.
    """
    returning = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    env = {**os.environ, **(returning if wanted["returns"] else {})}
    module = "benchmarks.speed.prefix_tree"
    command = [sys.executable, "-m", module, "--child", json.dumps(wanted)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=env, cwd=kept.ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = kept.rows(path)
    table = []
    for at in dict.fromkeys(row["at"] for row in rows):
        here = [row for row in rows if row["at"] == at]
        plain = [row for row in here if row["side"] == "plain"]
        for side, count in dict.fromkeys((row["side"], row["count"]) for row in here):
            own = [row for row in here if (row["side"], row["count"]) == (side, count)]
            if side != "plain":
                table.append(_row(own, plain))
    columns = [
        "networks",
        "images",
        "architectures",
        "MACs ÷ one by one",
        "CPU seconds, tree",
        "one by one",
        "CPU ÷ one by one",
        "carried, MiB",
        "peak, tree, MiB",
        "peak, one by one",
        "scores",
    ]
    return with_reading(
        path,
        [
            "# Scoring populations as a prefix tree\n",
            "Written by `python -m benchmarks.speed.prefix_tree` from its records. Medians over "
            "rounds (least to most); sides in turn, each in a process of its own. Peak: resident "
            "memory above that before scoring, when images and supernet are there, in other "
            "processes, in which freed tensors return to the system.\n",
            markdown(columns, table),
        ],
        rows,
    )


def _row(both: Rows, plain_both: Rows) -> list[str]:
    own, plain = ([row for row in part if not row["returns"]] for part in (both, plain_both))
    peaks = [[r["peak_bytes"] / MIB for r in part if r["returns"]] for part in (both, plain_both)]
    first, count = own[0], own[0]["architectures"]
    beside = {row["round"]: row for row in plain if row["architectures"] == count}
    pairs = [(row, beside[row["round"]]) for row in own if row["round"] in beside]
    equal = all(ours["scores"] == row["scores"] for ours, row in pairs)
    capped = f", {CAPPED // MIB} MiB allowed" if first["side"] == "capped" else ""
    return [
        f"{NETWORKS[first['at']]}{capped}",
        f"{first['images']:,}",
        f"{count:,}",
        _spread([row["macs"] / row["plain_macs"] for row in own], 3),
        _spread([row["cpu_seconds"] for row in own]),
        _spread([row["cpu_seconds"] for _, row in pairs]),
        _spread([ours["cpu_seconds"] / row["cpu_seconds"] for ours, row in pairs], 2),
        _spread([row["carried_bytes"] / MIB for row in own]),
        *(_spread(part) for part in peaks),
        "equal" if equal else "DIFFER",
    ]


def _spread(values: Sequence[float], digits: int = 1) -> str:
    least, middle, most = (f"{f(values):.{digits}f}" for f in (min, np.median, max))
    return middle if least == most else f"{middle} ({least} to {most})"


def main(arguments: list[str] | None = None) -> None:
    """Measures what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--at", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--rounds", type=int, default=3)
    kept.options(parser, Path("runs") / "prefix_tree")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.child:
        wanted = given.child
        memory = CAPPED if wanted["side"] == "capped" else evaluate.prefix.MEMORY
        keys = (wanted["at"], wanted["side"], wanted["count"], wanted["round"])
        print(json.dumps(measure(*keys, memory)))
        return
    path = kept.begin(given, KEPT)
    rows = records.read_lines(path)
    for wanted in rows_wanted(given.at, given.rounds):
        if not any(all(row[k] == v for k, v in wanted.items()) for row in rows):
            found = {**wanted, **run(wanted)}
            records.append(path, {**found, **provenance()})
            print(found, file=sys.stderr)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
