"""The winners of a finished run against two honest baselines, at equal finishing.

For every budget of the run: the best of 10 random architectures within it, by the same proxy score,
for several seeds; and the largest network within it (most MACs, no search at all). All are finished
as the run's recipe says and tested once. Resumable: what is on record is not done again. The page
is `page.md`.

    manyshot run recipes/fashion_mnist.toml --out runs/fashion_mnist
    python -m benchmarks.studies.fashion_mnist.run runs/fashion_mnist
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib import kept
from benchmarks.studies.fashion_mnist.page import table, write_page
from manyshot import evaluate, records
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.finish import finish
from manyshot.progress import Bars
from manyshot.recipe import ExportSettings, Recipe
from manyshot.run_folder import Result, RunFolder
from manyshot.search import Limit
from manyshot.space import Arch
from manyshot.train import engine, load_weights

DRAWN = 10
KEPT = kept.of_study(__file__)
Row = dict[str, Any]


def random_within(ws: Workspace, limit: Limit, seed: int, attempts: int = 100_000) -> list[Arch]:
    """`DRAWN` distinct random networks within a limit."""
    rng = np.random.default_rng((seed, DRAWN))
    found: dict[Arch, None] = {}
    for _ in range(attempts):
        arch = ws.net.space.canonical(ws.net.space.sample(rng))
        if limit.satisfied([arch])[0]:
            found[arch] = None
        if len(found) == DRAWN:
            return list(found)
    raise RuntimeError(f"only {len(found)} networks within {limit.name} in {attempts} draws")


def largest_within(ws: Workspace, limit: Limit) -> list[Arch]:
    """Only the network with the most MACs within a limit; the first of equals."""
    archs = list(dict.fromkeys(map(ws.net.space.canonical, ws.net.space.enumerate())))
    macs = limit.costs(archs)
    return [archs[int(np.argmax(np.where(macs <= limit.limit, macs, -1)))]]


def choose(ws: Workspace, seeds: int, log: Path) -> list[Row]:
    """The baselines of every budget, with proxy scores; records are appended as they come."""
    known = {(r["budget"], r["rule"]): r for r in records.keep_lines(log, lambda r: True)}
    calibration, validation = ws.calibration(), ws.fixed("validation", ws.recipe.evaluate.images)

    def proxy(arch: Arch) -> float:
        return evaluate.score(ws.net, arch, calibration=calibration, validation=validation).value

    for limit in ws.limits():
        rules: dict[str, Callable[[], list[Arch]]] = {
            "largest within": functools.partial(largest_within, ws, limit)
        }
        for seed in range(seeds):
            rules[f"best of {DRAWN} random, seed {seed}"] = functools.partial(
                random_within, ws, limit, seed
            )
        for rule, candidates in rules.items():
            if (limit.name, rule) in known:
                continue
            scores = {arch: proxy(arch) for arch in candidates()}
            arch = max(scores, key=lambda a: scores[a])
            record = {
                "budget": limit.name,
                "rule": rule,
                "arch": ws.net.space.to_text(arch),
                "proxy_accuracy": scores[arch],
            }
            records.append(log, record)
            known[limit.name, rule] = record
    return list(known.values())


def rows_of(
    ws: Workspace, chosen: list[Row], result: Result, tested: dict[str, float | None]
) -> list[Row]:
    """One row per budget and rule, the run's winner first."""
    rows = []
    for winner in result.winners:
        mine = [c for c in chosen if c["budget"] == winner.budget]
        rows.append({**winner.plain(), "rule": f"search ({ws.recipe.search.name})"})
        for baseline in mine:
            arch = ws.net.space.from_text(baseline["arch"])
            costs = {m: ws.costs[m]([arch])[0].item() for m in ("macs", "params")}
            rows.append({**baseline, **costs, "test_accuracy": tested[baseline["arch"]]})
    keys = ("budget", "rule", "arch", "macs", "params", "proxy_accuracy", "test_accuracy")
    return [{key: row[key] for key in keys} for row in rows]


def main() -> None:
    """Scores, finishes and tests the baselines; writes records and page, prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--seeds", type=int, default=3, help="random draws of ten per budget")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, help="the working folder; by default baselines in run")
    parser.add_argument(
        "--keep", action="store_true", help="keep records and page in place of ours"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe.load(options.run / "recipe.toml")
    recipe = recipe.model_copy(update={"export": ExportSettings(formats=[])})
    ws = Workspace.build(recipe)
    load_weights(RunFolder(options.run).weights, ws.net)
    folder = options.work or options.run / "baselines"
    chosen = choose(ws, options.seeds, folder / "chosen.jsonl")
    result = records.load(RunFolder(options.run).result_file, Result)
    tested: dict[str, float | None] = {w.arch: w.test_score for w in result.winners}
    archs = [ws.net.space.from_text(c["arch"]) for c in chosen if c["arch"] not in tested]
    done = finish(ws, engine(ws.device, recipe.train), folder, archs, recipe.finish, Bars())
    tested |= {line.arch: line.test_score for line in done.values()}
    rows = rows_of(ws, chosen, result, tested)
    records.write_lines(folder / kept.WORKING, rows)
    print(table(rows))
    path = folder / kept.WORKING
    if options.keep:  # the records are those of one run, so they replace those of another
        kept.write(KEPT, path.read_bytes())
        path = KEPT
    print(write_page(path), file=sys.stderr)


if __name__ == "__main__":
    main()
