"""Can the ranking be trusted? Every method against its controls, ranked against stand-alone truth.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.order_preservation.run tiny [--seeds 0 1 2 3 4 5]
    OMP_NUM_THREADS=1 python -m benchmarks.studies.order_preservation.run macro [--seeds 0 1 2]

`tiny` are all 256 networks of `tiny` on digits, whose truth is
`benchmarks/truths/tiny_truth.jsonl`; `macro` are networks of `macro(width=8)` on Fashion-MNIST,
whose truth is `benchmarks/truths/macro_truth.jsonl`, made by

    manyshot truth --out truth/tiny --set truth.seeds=[0,1,2,3,4]
    manyshot truth benchmarks/studies/order_preservation/macro.toml --out truth/macro
    manyshot truth benchmarks/studies/order_preservation/macro.toml --out truth/macro \\
        --set truth.plan=best --set truth.count=16 --set truth.seeds=[1,2]

A run is what `manyshot run` and `manyshot rank` do; every ranked run is a record, with all scores
in the order of the truth's architectures, and what is on record is not done again. All methods of a
study forward equally many images in training, probes and shifting together, within 4 %. Local sets
by prediction are chosen by another uniform supernet, of seed 100. The page is `page.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.order_preservation.page import write_page
from manyshot import records
from manyshot.pipeline import rank_run, run
from manyshot.pipeline.verbs.compare import row_of
from manyshot.progress import Bars
from manyshot.rank import TruthTable, load_truth
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder

KEPT = kept.of_study(__file__)
REFERENCE = 100
"""The seed of the supernet that chooses local sets by prediction."""
IN_TURN = "optimizer='adam', lr=0.01, code_every=2, compensate=false"
K2 = ("sharing.name=k_shot", f"sharing.options={{copies=2, m=2, {IN_TURN}}}")
K4 = ("sharing.name=k_shot", f"sharing.options={{copies=4, m=4, {IN_TURN}}}")
TINY = (
    "shifting.schedule=constant",  # this and the next were the default then
    "shifting.elites=score",
    "name=order",
    "data.train_size=896",
    "train.epochs=96",
    "search.budgets=['macs<=25%', 'macs<=45%', 'macs<=70%']",
    "search.candidates=60",
    "search.generation=20",
    "search.options={population=20, parents=6, mutants=10, crossovers=10, dedupe='per_generation'}",
    "finish.mode=inherit",
    "export.formats=[]",
)
BEFORE = (
    "kept='weights', dead_zone=0.0, entropy_weight=0.0, mix_uniform=0.0, policy_share=1.0, "
    "policy_every=1"
)
"""What ShiftNAS did when these records were made, where its defaults are others now."""
TINY_SHIFT = (
    "sampler.name=shiftnas",
    "sampler.held_out=128",
    f"sampler.options={{rule='paper', period=100, images=128, {BEFORE}}}",
)
MACRO_SHIFT = (
    "sampler.name=shiftnas",
    "sampler.held_out=2000",
    f"sampler.options={{rule='paper', period=200, images=256, {BEFORE}}}",
)
METHODS: dict[str, dict[str, tuple[str, ...]]] = {
    "tiny": {
        "uniform": (),
        "fair": ("sampler.name=fair", "train.epochs=24"),
        "sandwich": ("sampler.name=sandwich", "sampler.options={random=2}", "train.epochs=24"),
        "kshot2": K2,
        "kshot4": K4,
        "shift": (*TINY_SHIFT, "train.epochs=72"),
        "shifting": ("shifting.name=population", "train.epochs=79"),
        "uniform_finetune": ("shifting.name=uniform_finetune", "train.epochs=79"),
        "random_population": ("shifting.name=random_population", "train.epochs=79"),
        "all_three": (*TINY_SHIFT, *K2, "shifting.name=population", "train.epochs=68"),
    },
    "macro": {
        "uniform": (),
        "fair": ("sampler.name=fair", "train.epochs=6"),
        "sandwich": ("sampler.name=sandwich", "sampler.options={random=1}", "train.epochs=6"),
        "kshot2": K2,
        "kshot4": K4,
        "shift": (*MACRO_SHIFT, "train.epochs=16"),
        "shifting": ("shifting.name=population", "train.epochs=14"),
        "uniform_finetune": ("shifting.name=uniform_finetune", "train.epochs=14"),
        "all_three": (*MACRO_SHIFT, *K2, "shifting.name=population", "train.epochs=13"),
    },
}
"""What a method changes in its study's recipe."""
TRUTH = {study: kept.TRUTHS / f"{study}_truth.jsonl" for study in METHODS}


def recipe_of(study: str, method: str, seed: int) -> Recipe:
    """The recipe of one run."""
    base = None if study == "tiny" else KEPT.with_name("macro.toml")
    sets = TINY if study == "tiny" else ()
    own = (*sets, *METHODS[study][method], f"name={method}", f"seed={seed}")
    return Recipe.load(base, own)


def done(study: str, method: str, seed: int, runs: Path) -> Path:
    """The folder of a finished run."""
    folder = runs / study / f"{method}-{seed}"
    if not RunFolder(folder).result_file.exists():
        run(recipe_of(study, method, seed), folder, Bars())
    return folder


def ranked(
    study: str, method: str, seed: int, runs: Path, truth: TruthTable, reference: Path
) -> dict[str, Any]:
    """The record of a run ranked against the truth."""
    folder = done(study, method, seed, runs)
    recipe = Recipe.load(folder / "recipe.toml")
    uncalibrated = len(truth) if method == "uniform" else 0
    ranking = rank_run(
        recipe, folder, truth, Bars(), references=[reference], uncalibrated=uncalibrated
    ).plain()
    frozen = ("global", "local by truth", "local by prediction")
    row = row_of(folder, seed, method, truth.name, frozen).plain()
    scores = {"proxy_accuracy": "proxy_score", "proxy_loss": "proxy_loss"}
    if uncalibrated:
        scores["shared_statistics_accuracy"] = "shared_statistics_score"
    return {
        "study": study,
        **{key: row[key] for key in ("method", "seed", "images", "metrics", "winners")},
        "sets": [shortened(own) for own in ranking["sets"]],
        "truth": ranking["truth"],
        **{
            key: [round(point[name], 5) for point in ranking["points"]]
            for key, name in scores.items()
        },
        **provenance(),
    }


def shortened(own: dict[str, Any]) -> dict[str, Any]:
    """A set's record without its architectures, and with fewer statistics."""
    keys = ("name", "why", "architectures", "judged_by", "run_to_run", "null_sd")
    predictors = {
        name: {key: statistics[key] for key in ("kendall", "spearman", "regret")}
        for name, statistics in own["predictors"].items()
    }
    return {**{key: own[key] for key in keys}, "predictors": predictors}


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="?", choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--truth", type=Path, help="in place of the study's own")
    kept.options(parser, Path("runs") / "order_preservation")
    parser.add_argument("--train-only", action="store_true", help="run, but do not rank yet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    study = arguments.study
    if study is not None:
        methods = arguments.methods or list(METHODS[study])
        rows = records.read_lines(path)
        known = {(row["study"], row["method"], row["seed"]) for row in rows}
        reference = done(study, "uniform", REFERENCE, arguments.work)
        tasks = [(method, seed) for seed in arguments.seeds for method in methods]
        if arguments.train_only:
            for method, seed in tasks:
                done(study, method, seed, arguments.work)
            return
        truth = load_truth(arguments.truth or TRUTH[study])
        rank_run(Recipe.load(reference / "recipe.toml"), reference, truth, uncalibrated=0)
        for method, seed in tasks:
            if (study, method, seed) not in known:
                row = ranked(study, method, seed, arguments.work, truth, reference)
                records.append(path, row)
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
