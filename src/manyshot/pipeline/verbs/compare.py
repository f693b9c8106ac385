"""Runs compared: their records gathered, methods told apart by their recipes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyshot import records
from manyshot.pipeline.verbs.compare_sets import (
    LIKE_COST,
    baselines,
    frozen_sets,
    judged_sets,
    lacking_scores,
    made_sets,
    with_made_sets,
)
from manyshot.pipeline.verbs.compare_spent import anytime, not_by_then, spent_by
from manyshot.rank.compare import LESS_IS_BETTER, TAUS, compare
from manyshot.rank.like_cost import MOST_PAIRED
from manyshot.rank.published import name_of_truth
from manyshot.rank.resampling import JudgedSet
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import (
    ComparedRun,
    ComparedWinner,
    CompareFolder,
    Comparison,
    MetricRecord,
    Ranking,
    RunFolder,
    why_no_run,
)
from manyshot.writing import writing

TRAINED = ("train", "probe", "shifting")
"""Of the images forwarded, those that weights or samplers learn from."""
PLACE = {"root", "download", "workers"}
"""Of a recipe's data, what does not make other images."""
BESIDE: dict[str, Any] = {
    **dict.fromkeys(("seed", "device", "threads", "export", "latency", "truth"), True),
    "data": PLACE,
}
"""Of a recipe, what does not make another method."""


def compare_runs(
    runs: Sequence[Path], folder: Path, truth: str | None = None, primary: str | None = None
) -> Comparison:
    """Compares finished runs, and writes `compare.json` in `folder`.

    Runs whose recipes differ in their seed alone are one method, and differences between methods
    are paired by seed. Of rankings, those against `truth` count, by default the one truth that all
    runs were ranked against, if there is one; and of their sets those that are the same in all.

    Args:
        runs: their folders; the method of the first is the one that others are compared with.
        folder: where the record goes.
        truth: the name of a truth, or what `load_truth` makes it of.
        primary: the metric that the verdict is by, which a study names before it runs; by default
            `tau global` where there is a truth, else the first budget's finished winners.

    Raises:
        ValueError: if no run has the primary metric.
        RecordError: if a run is not finished, or not ranked against `truth`, or if another process
            writes to the folder, or it holds other files.
        RecipeError: if runs are of different images or networks.
    """
    recipes = [Recipe.load(_existing(RunFolder(run).recipe_file)) for run in runs]
    for run, recipe in zip(runs, recipes, strict=True):
        for part in ("network", "task", "data"):
            own, other = (getattr(r, part).model_dump(exclude=PLACE) for r in (recipe, recipes[0]))
            if own != other:
                raise RecipeError(
                    f"{part} of {run} is not that of {runs[0]}: numbers of different ones say "
                    "nothing about methods"
                )
    truth = _common_truth(runs) if truth is None else _known_as(truth, runs[0])
    methods = _names(recipes)
    ranked = [] if truth is None else _rankings(runs, truth)
    frozen = frozen_sets(ranked)
    names = [each.name for each in frozen]
    rows = tuple(
        row_of(run, recipe.seed, method, truth, names)
        for run, recipe, method in zip(runs, recipes, methods, strict=True)
    )
    metric = _metric(runs[0])
    lower = [LESS_IS_BETTER]
    if not metric.higher_is_better:
        lower.append("finished")
    if ranked and not ranked[0].truth.metric.higher_is_better:
        lower.append("winner")
    sets = judged_sets(rows, ranked, frozen)
    made = made_sets(rows, ranked, sets)
    rows, sets = with_made_sets(rows, made), sets | {n: own.judged for n, own in made.items()}
    known = {each.name: each.reliability for each in frozen}
    known |= {name: own.reliability for name, own in sets.items()}
    compared = compare(rows, lower, primary=primary, sets=sets, bounds=_bounds(metric, ranked))
    comparison = Comparison(
        metric=metric,
        truth=ranked[0].truth if ranked else None,
        runs=rows,
        baselines=baselines(ranked, frozen, made),
        methods=compared.methods,
        pairs=compared.pairs,
        primary=compared.primary,
        reference=compared.reference,
        reliability={name: own for name, own in known.items() if own is not None},
        families=compared.families,
        notes=(*_notes(ranked), *_note_on_pairs(sets), *_notes_on_spent(runs)),
    )
    with writing(folder, "manyshot compare", "comparison"):
        records.write_json(CompareFolder(folder).comparison_file, comparison)
    return comparison


def _metric(run: Path) -> MetricRecord:
    result = RunFolder(run).result()
    assert result is not None  # `row_of` has seen it
    return result.task.metric


def _existing(path: Path) -> Path:
    if not path.exists():
        raise records.RecordError(why_no_run(path.parent, path.name))
    return path


def _ranking(run: Path, truth: str) -> Ranking:
    ranking = RunFolder(run).rank(truth).ranking()
    if ranking is None:
        raise records.RecordError(
            f"{run} is not ranked against {truth!r}: do it with manyshot rank {run} --truth TRUTH, "
            "the folder of manyshot truth"
        )
    return ranking


def _rankings(runs: Sequence[Path], truth: str) -> list[Ranking]:
    """The rankings of all runs, if they are against one and the same table."""
    ranked = [_ranking(run, truth) for run in runs]
    first = ranked[0].truth
    for run, ranking in zip(runs, ranked, strict=True):
        if (ranking.truth.digest, ranking.truth.share) != (first.digest, first.share):
            raise records.RecordError(
                f"{run} and {runs[0]} are ranked against different tables {truth!r}, or with other "
                "shares in local sets: rank them again, alike"
            )
    return ranked


def _known_as(truth: str, run: Path) -> str:
    """The name that a truth has in rankings, by itself or by its folder or file."""
    is_name = RunFolder(run).rank(truth).ranking_file.exists()
    return truth if is_name else name_of_truth(truth)


def _common_truth(runs: Sequence[Path]) -> str | None:
    """The truth that all runs are ranked against, if there is exactly one."""
    each = [{rank.path.name for rank in RunFolder(run).ranks()} for run in runs]
    common = set.intersection(*each)
    if not common and any(each):
        names = sorted(set.union(*each))
        without = [str(run) for run, own in zip(runs, each, strict=True) if names[0] not in own]
        raise records.RecordError(
            f"some runs are ranked against {', '.join(names)}, and {', '.join(without)} not: rank "
            "them too, or leave them out"
        )
    if len(common) > 1:
        raise records.RecordError(
            f"the runs are ranked against {', '.join(sorted(common))}: say which by --truth"
        )
    return common.pop() if common else None


def row_of(
    run: Path, seed: int, method: str, truth: str | None, sets: Collection[str]
) -> ComparedRun:
    """What `compare` takes of a run, of its ranking against `truth` these sets; and its winners.

    Args:
        run: the folder of a finished run.
        seed: of the run.
        method: that the run is of.
        truth: the name of what it is ranked against; None for nothing.
        sets: the names of the sets whose statistics count.

    Raises:
        RecordError: if the run is not finished, or not ranked against `truth`.
    """
    _existing(RunFolder(run).result_file)
    result = RunFolder(run).result()
    assert result is not None  # it exists
    forwarded = result.images_forwarded
    images = {
        **forwarded,
        "trained": sum(forwarded.get(kind, 0) for kind in TRAINED),
        "total": sum(forwarded.values()),
    }
    metric = result.task.metric.name
    metrics: dict[str, float | None] = {}
    truths: dict[str, float] = {}
    if truth is not None:
        ranking = _ranking(run, truth)
        for ranked_set in (each for each in ranking.sets if each.name in sets):
            proxy = ranked_set.predictors["proxy"]
            metrics[f"tau {ranked_set.name}"] = proxy.kendall.value
            metrics[f"regret {ranked_set.name}"] = proxy.regret.value
        truths = {point.arch: point.truth for point in ranking.points}
        for winner in result.winners:
            metrics[f"winner {ranking.truth.metric.name} {winner.budget}"] = truths.get(winner.arch)
    for winner in result.winners:
        metrics[f"finished {metric} {winner.budget}"] = winner.test_score
    winners = tuple(
        ComparedWinner(
            budget=winner.budget,
            arch=winner.arch,
            test_score=winner.test_score,
            truth=truths.get(winner.arch),
        )
        for winner in result.winners
    )
    spent = spent_by(run, result)
    return ComparedRun(
        folder=str(run),
        method=method,
        seed=seed,
        images=images,
        metrics=metrics,
        winners=winners,
        spent=spent,
        anytime=anytime(run, result, spent, truths),
    )


def _bounds(metric: MetricRecord, ranked: Sequence[Ranking]) -> dict[str, tuple[float, float]]:
    """What values of metrics can be, by how their names begin."""
    bounds = dict(TAUS)
    if metric.share:
        bounds["finished "] = (0.0, 1.0)
    if ranked and ranked[0].truth.metric.share:
        bounds |= {"winner ": (0.0, 1.0), "regret ": (0.0, 1.0)}
    return bounds


def _notes(ranked: Sequence[Ranking]) -> tuple[str, ...]:
    """What rankings lack for all to be resampled, and how to get it."""
    lack = lacking_scores(ranked)
    if not lack:
        return ()
    return (
        "Intervals of tau and regret are by seeds alone, and whether sets can judge is unknown: "
        f"{lack} of {len(ranked)} rankings have no scores of every run of the truth, as they were "
        "made before these were recorded. Rank the runs again (manyshot rank RUN --truth ...), "
        "which scores nothing anew, and architectures and runs of the truth are resampled too.",
    )


def _notes_on_spent(runs: Sequence[Path]) -> tuple[str, ...]:
    """Of which runs the best by what was spent is not known, and why."""
    each = ((run, RunFolder(run).result()) for run in runs)
    said = (None if result is None else not_by_then(run, result) for run, result in each)
    return tuple(why for why in said if why is not None)


def _note_on_pairs(sets: Mapping[str, JudgedSet]) -> tuple[str, ...]:
    """That pairs of like cost are too many, if they are."""
    everything = sets.get("global")
    if everything is None or len(everything.truth_NR) <= MOST_PAIRED:
        return ()
    return (
        f"There is no set {LIKE_COST}: the truth has {len(everything.truth_NR):,} architectures, "
        f"and pairs are resampled of {MOST_PAIRED:,} at most, as they grow with the square.",
    )


def _names(recipes: Sequence[Recipe]) -> list[str]:
    """A name per recipe, the same for those that differ in nothing that makes a method.

    That of the recipe; where several methods have one name, with the settings that differ.
    """
    flat = [_flat(recipe.model_dump(exclude=BESIDE)) for recipe in recipes]
    names = []
    for own, recipe in zip(flat, recipes, strict=True):
        alike = [other for other, r in zip(flat, recipes, strict=True) if r.name == recipe.name]
        keys = {key for other in alike for key in own.keys() | other.keys()}
        differing = sorted(k for k in keys if len({other.get(k) for other in alike}) > 1)
        said = ", ".join(f"{key}={own[key]}" for key in differing if key in own)
        names.append(f"{recipe.name} ({said})" if said else recipe.name)
    return names


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value)
    return flat
