"""The three methods against their controls, on a truth that can judge: `design.md` says why so.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.methods.run [--seeds 0 1 2 3 4] [--methods ...]

The truth is `benchmarks/truths/methods_truth.jsonl`, made by

    manyshot truth benchmarks/studies/methods/study.toml --out truth/methods

A run is what `manyshot run` and `manyshot rank --by-loss` do. Every ranked run is a record with all
of its scores in the order of the truth's networks; what is on record is not done again, and what a
killed run had is kept in its folder. Several commands may work on other seeds at the same time,
each with a `--work` of its own. The page is `page.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.methods.arms import ARMS, REFERENCE
from benchmarks.studies.methods.page import TRUTH, write_page
from manyshot import records
from manyshot.pipeline import rank_run, run
from manyshot.pipeline.verbs.compare_spent import spent_by
from manyshot.progress import Bars
from manyshot.rank import TruthTable, load_truth
from manyshot.recipe import Recipe
from manyshot.run_folder import Moment, Ranking, RunFolder, Spent

KEPT = kept.of_study(__file__)
RECIPE = KEPT.with_name("study.toml")


def recipe_of(method: str, seed: int) -> Recipe:
    """The recipe of one run."""
    return Recipe.load(RECIPE, (*ARMS[method].changes, f"name={method}", f"seed={seed}"))


def record_of(method: str, seed: int, work: Path, truth: TruthTable) -> dict[str, Any]:
    """A run, as far as it is not done, ranked against the truth."""
    folder, trained = work / f"{method}-{seed}", trained_by(method, seed, work)
    if not RunFolder(folder).result_file.exists():
        run(recipe_of(method, seed), folder, Bars(), trained=trained)
    result = RunFolder(folder).result()
    assert result is not None
    spent = spent_by(folder, result)
    if trained is not None:
        spent = with_training(spent, trained)
    recipe = Recipe.load(folder / "recipe.toml")
    moments: tuple[Moment, ...] = ("after",)
    if recipe.shifting.name != "none":
        moments = ("before", "after")
    weights = {}
    for moment in moments:
        ranking = rank_run(recipe, folder, truth, Bars(), uncalibrated=0, weights=moment)
        weights[moment] = scores_of(ranking, truth)
    return {
        "method": method,
        "seed": seed,
        "weights": weights,
        "winners": [
            {
                "budget": winner.budget,
                "arch": winner.arch,
                "proxy_loss": winner.proxy_loss,
                "test_loss": winner.test_loss,
                "test_score": winner.test_score,
            }
            for winner in result.winners
        ],
        "images": result.images_forwarded,
        "spent": spent.plain(),
        **provenance(),
    }


def trained_by(method: str, seed: int, work: Path) -> Path | None:
    """The folder with the supernet of a method that changes nothing before its search, if any.

    Training it again would give the same bytes.
    """
    folder = work / f"{REFERENCE}-{seed}"
    changes = ARMS[method].changes
    if not changes or not all(change.startswith(("shifting.", "search.")) for change in changes):
        return None
    return folder if RunFolder(folder).weights.exists() else None


def with_training(spent: Spent, trained: Path) -> Spent:
    """What a run spent, with what the supernet took that it did not train itself."""
    result = RunFolder(trained).result()
    assert result is not None
    before = spent_by(trained, result)
    assert before.weight_steps is not None and spent.weight_steps is not None
    return spent.model_copy(
        update={
            "weight_steps": before.weight_steps + spent.weight_steps,
            "macs": spent.macs | {part: before.macs[part] for part in ("training", "probes")},
            "seconds": spent.seconds | {"training": before.seconds["training"]},
        }
    )


def scores_of(ranking: Ranking, truth: TruthTable) -> dict[str, list[float]]:
    """The scores of a ranking in the order of the truth's networks."""
    assert [point.arch for point in ranking.points] == ["-".join(map(str, a)) for a in truth.archs]
    return {
        "loss": [round(point.proxy_loss, 6) for point in ranking.points],
        "accuracy": [round(point.proxy_score, 6) for point in ranking.points],
    }


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=list(ARMS), default=list(ARMS))
    kept.options(parser, Path("runs") / "methods")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    truth = load_truth(TRUTH, by="loss")
    known = {(row["method"], row["seed"]) for row in records.read_lines(path)}
    for seed in arguments.seeds:
        for method in arguments.methods:
            if (method, seed) not in known:
                records.append(path, record_of(method, seed, arguments.work, truth))
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
