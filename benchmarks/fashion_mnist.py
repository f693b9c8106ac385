"""The winners of a finished run against two honest baselines, at equal finishing.

For every budget of the run: the best of 10 random architectures within it, by the same proxy score,
for several seeds; and the largest network within it (most MACs, no search at all). All are finished
as the run's recipe says and tested once. Resumable: what is on record is not done again.

    manyshot run recipes/fashion_mnist.toml --out runs/fashion_mnist
    python benchmarks/fashion_mnist.py runs/fashion_mnist
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from manyshot import evaluate, records
from manyshot.pipeline.stages.finish import finish
from manyshot.pipeline.verbs.run import WEIGHTS
from manyshot.pipeline.build import Workspace
from manyshot.progress import Bars
from manyshot.recipe import Exporting, Recipe
from manyshot.search import Limit
from manyshot.space import Arch
from manyshot.train import engine, load_weights

DRAWN = 10
HERE = Path(__file__).parent


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


def largest_within(ws: Workspace, limit: Limit) -> Arch:
    """The network with the most MACs within a limit; the first of equals."""
    archs = list(dict.fromkeys(map(ws.net.space.canonical, ws.net.space.enumerate())))
    macs = limit.costs(archs)
    return archs[int(np.argmax(np.where(macs <= limit.limit, macs, -1)))]


def choose(ws: Workspace, seeds: int, log: Path) -> list[dict]:
    """The baselines of every budget, with proxy scores; records are appended as they come."""
    known = {(r["budget"], r["rule"]): r for r in records.keep_lines(log, lambda r: True)}
    calibration, validation = ws.calibration(), ws.fixed("validation", ws.recipe.evaluate.images)

    def proxy(arch: Arch) -> float:
        return evaluate.score(ws.net, arch, calibration=calibration, validation=validation).accuracy

    for limit in ws.limits():
        rules = {"largest within": lambda limit=limit: [largest_within(ws, limit)]}
        for seed in range(seeds):
            rules[f"best of {DRAWN} random, seed {seed}"] = lambda limit=limit, seed=seed: (
                random_within(ws, limit, seed)
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


def rows_of(ws: Workspace, chosen: list[dict], result: dict, tested: dict[str, dict]) -> list[dict]:
    """One row per budget and rule, the run's winner first."""
    rows = []
    for winner in result["winners"]:
        mine = [c for c in chosen if c["budget"] == winner["budget"]]
        rows.append({**winner, "rule": f"search ({ws.recipe.search.name})"})
        for baseline in mine:
            arch = ws.net.space.from_text(baseline["arch"])
            costs = {m: ws.costs[m]([arch])[0].item() for m in ("macs", "params")}
            test = tested[baseline["arch"]]["test_accuracy"]
            rows.append({**baseline, **costs, "test_accuracy": test})
    keys = ("budget", "rule", "arch", "macs", "params", "proxy_accuracy", "test_accuracy")
    return [{key: row[key] for key in keys} for row in rows]


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| budget | rule | architecture | MACs | params | proxy | test |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['budget']} | {row['rule']} | {row['arch']} | {row['macs'] / 1e6:.2f} M | "
            f"{row['params'] / 1e3:.1f} K | {row['proxy_accuracy']:.2%} | "
            f"{row['test_accuracy']:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Scores, finishes and tests the baselines; writes `fashion_mnist.jsonl`, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--seeds", type=int, default=3, help="random draws of ten per budget")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe.load(options.run / "recipe.toml")
    recipe = recipe.model_copy(update={"export": Exporting(formats=[])})
    ws = Workspace.build(recipe)
    load_weights(options.run / WEIGHTS, ws.net)
    folder = options.run / "baselines"
    chosen = choose(ws, options.seeds, folder / "chosen.jsonl")
    result = records.read_json(options.run / "result.json")
    own = {w["arch"]: w for w in result["winners"]}
    archs = [ws.net.space.from_text(c["arch"]) for c in chosen if c["arch"] not in own]
    done = finish(ws, engine(ws.device, recipe.train), folder, archs, recipe.finish, Bars())
    tested = own | {ws.net.space.to_text(arch): record for arch, record in done.items()}
    rows = rows_of(ws, chosen, result, tested)
    (HERE / "fashion_mnist.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


if __name__ == "__main__":
    main()
