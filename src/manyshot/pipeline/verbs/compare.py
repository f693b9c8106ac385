"""Runs compared: their records gathered, methods told apart by their recipes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from manyshot import records
from manyshot.pipeline.verbs.compare_spent import anytime, not_by_then, spent_by
from manyshot.rank.baselines import MOST_PAIRED, like_pairs
from manyshot.rank.compare import LESS_IS_BETTER, TAUS, compare
from manyshot.rank.crossed import CROSSED, JudgedSet, Turn, mean_over_turns
from manyshot.rank.other_seeds import NAME as OTHER_SEEDS
from manyshot.rank.other_seeds import by_other_seeds
from manyshot.rank.reliability import of_pairs
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import (
    Baseline,
    ComparedRun,
    ComparedWinner,
    CompareFolder,
    Comparison,
    MetricRecord,
    Ranking,
    Reliability,
    RunFolder,
)
from manyshot.writing import writing

TRAINED = ("train", "probe", "shifting")
"""Of the images forwarded, those that weights or samplers learn from."""
METRICS = ("macs", "params")
"""Costs that order without a supernet."""
Free = Literal["macs", "params", "synflow", "naswot", "grad norm"]
FREE: tuple[Free, ...] = ("macs", "params", "synflow", "naswot", "grad norm")
"""What orders without training a supernet."""
LIKE_COST = "global at like cost"
"""The set of all architectures, of which pairs of like multiply-adds count."""
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
        truth: the name of a truth.
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
    truth = truth or _common_truth(runs)
    methods = _names(recipes)
    ranked = [] if truth is None else _rankings(runs, truth)
    frozen = _frozen(ranked)
    rows = tuple(
        row_of(run, recipe.seed, method, truth, frozen)
        for run, recipe, method in zip(runs, recipes, methods, strict=True)
    )
    metric = _metric(runs[0])
    lower = [LESS_IS_BETTER]
    if not metric.higher_is_better:
        lower.append("finished")
    if ranked and not ranked[0].truth.metric.higher_is_better:
        lower.append("winner")
    sets = _judged(rows, ranked, frozen)
    more = _more_sets(rows, ranked, sets)
    rows, sets = _with_sets(rows, more), {**sets, **{n: own for n, (own, _) in more.items()}}
    compared = compare(rows, lower, primary=primary, sets=sets, bounds=_bounds(metric, ranked))
    comparison = Comparison(
        metric=metric,
        truth=ranked[0].truth if ranked else None,
        runs=rows,
        baselines=_joined(_baselines(ranked), _baselines_of_sets(ranked, more)),
        methods=compared.methods,
        pairs=compared.pairs,
        primary=compared.primary,
        reference=compared.reference,
        reliability={
            **_reliability(ranked, frozen),
            **{name: own.reliability for name, own in sets.items() if own.reliability is not None},
        },
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
        raise records.RecordError(f"{path.parent} is not a finished run: it has no {path.name}")
    return path


def _ranking(run: Path, truth: str) -> Ranking:
    ranking = RunFolder(run).rank(truth).ranking()
    if ranking is None:
        raise records.RecordError(
            f"{run} is not ranked against {truth!r}: do it with manyshot rank {run} --truth ..."
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


def _frozen(ranked: Sequence[Ranking]) -> list[str]:
    """The sets that have the same architectures in all rankings.

    A set that each run chose for itself favours whoever chose, and is another for each.
    """
    each = [{own.name: (own.archs, own.turns) for own in r.sets} for r in ranked]
    first = each[0] if each else {}
    return [name for name, archs in first.items() if all(o.get(name) == archs for o in each)]


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


def _judged(
    rows: Sequence[ComparedRun], ranked: Sequence[Ranking], frozen: Collection[str]
) -> dict[str, JudgedSet]:
    """The frozen sets with all scores, as far as the rankings have those of every run."""
    if not ranked or _notes(ranked):
        return {}
    points, runs = ranked[0].points, ranked[0].truth.runs
    place = {point.arch: i for i, point in enumerate(points)}
    fitness_NR, proxies = _truth_of(ranked[0]), _proxies(rows, ranked)
    judged = {}
    for each in (own for own in ranked[0].sets if own.name in frozen):
        own_rows = [place[arch] for arch in each.archs]
        place_in = {arch: i for i, arch in enumerate(each.archs)}
        judged[each.name] = JudgedSet(
            fitness_NR[own_rows][:, [runs.index(run) for run in each.judged_by]],
            {folder: column_N[own_rows] for folder, column_N in proxies.items()},
            whole=each.whole is True,
            reliability=each.reliability,
            turns=tuple(
                Turn(
                    np.array([place_in[arch] for arch in turn.archs]),
                    np.array([run in turn.judged_by for run in each.judged_by]),
                    each.judged_by.index(turn.by) if turn.by in each.judged_by else None,
                )
                for turn in each.turns or ()
            ),
        )
    return judged


def _truth_of(ranking: Ranking) -> npt.NDArray[np.float64]:
    """The scores of every run of the truth, (N, R); higher is better, nan where there is none."""
    scores_NR = np.array([point.scores for point in ranking.points], np.float64)  # None is nan
    return scores_NR if ranking.truth.metric.higher_is_better else -scores_NR


def _proxies(
    rows: Sequence[ComparedRun], ranked: Sequence[Ranking]
) -> dict[str, npt.NDArray[np.float64]]:
    """By folder the proxy scores of the truth's architectures, in the order of the first ranking.

    The rankings are of one table, so that all have the same architectures.
    """
    archs = [point.arch for point in ranked[0].points]
    proxies = {}
    for row, ranking in zip(rows, ranked, strict=True):
        of = ranking.task.fitness_of
        own = {p.arch: of(p.proxy_score, p.proxy_loss) for p in ranking.points}
        proxies[row.folder] = np.array([own[arch] for arch in archs])
    return proxies


def _more_sets(
    rows: tuple[ComparedRun, ...], ranked: Sequence[Ranking], judged: Mapping[str, JudgedSet]
) -> dict[str, tuple[JudgedSet, tuple[int, ...]]]:
    """Sets that are made of all rankings together, with the rows of the truth they have.

    All architectures, of which only pairs of like cost count, and what supernets of other seeds
    choose. Without the scores of every run of the truth there is none.
    """
    if not judged:
        return {}
    points = ranked[0].points
    more: dict[str, tuple[JudgedSet, tuple[int, ...]]] = {}
    if "global" in judged:
        [names] = [own.archs for own in ranked[0].sets if own.name == "global"]
        place = {point.arch: i for i, point in enumerate(points)}
        of_all = tuple(place[arch] for arch in names)
        macs_N = np.array([points[i].macs for i in of_all], np.float64)
        few = len(of_all) <= MOST_PAIRED
        pairs_NN = like_pairs(macs_N) if few else np.zeros((0, 0), np.bool_)
        if pairs_NN.any():
            everything = judged["global"]
            own = of_pairs(everything.truth_NR, pairs_NN)
            like = dataclasses.replace(everything, pairs_NN=pairs_NN, reliability=own)
            more[LIKE_COST] = like, of_all
    whole = any(own.name == "global" and own.whole for own in ranked[0].sets)
    found = by_other_seeds(
        rows,
        _proxies(rows, ranked),
        _truth_of(ranked[0]),
        share=ranked[0].truth.share,
        whole=whole,
    )
    if found is not None:
        more[OTHER_SEEDS] = found
    return more


def _with_sets(
    rows: tuple[ComparedRun, ...], more: Mapping[str, tuple[JudgedSet, tuple[int, ...]]]
) -> tuple[ComparedRun, ...]:
    """Rows with the metrics of further sets; regret has no pairs, so like cost has none."""
    return tuple(
        row.model_copy(
            update={
                "metrics": {
                    **row.metrics,
                    **{
                        f"{kind} {name}": mean_over_turns(own, kind, row.folder)
                        for name, (own, _) in more.items()
                        for kind in _kinds(own)
                    },
                }
            }
        )
        for row in rows
    )


def _kinds(judged: JudgedSet) -> tuple[str, ...]:
    return CROSSED if judged.pairs_NN is None else ("tau",)


def _baselines_of_sets(
    ranked: Sequence[Ranking], more: Mapping[str, tuple[JudgedSet, tuple[int, ...]]]
) -> tuple[Baseline, ...]:
    """What orders further sets without a supernet, and their ceilings."""
    baselines = []
    for baseline in _free(ranked):
        metrics: dict[str, float | None] = {}
        for name, (own, union) in more.items():
            columns = [_scores_of(ranking, baseline)[list(union)] for ranking in ranked]
            scores = {str(i): column_N for i, column_N in enumerate(columns)}
            of_free = dataclasses.replace(own, scores=scores)
            for kind in _kinds(own):
                values = [mean_over_turns(of_free, kind, each) for each in scores]
                metrics[f"{kind} {name}"] = _mean_of(values)
        baselines.append(Baseline(name=baseline, metrics=metrics))
    ceilings = {
        f"tau {name}": own.reliability.ceiling
        for name, (own, _) in more.items()
        if own.reliability is not None and own.pairs_NN is None
    }
    return (*baselines, Baseline(name="ceiling", metrics=ceilings))


def _free(ranked: Sequence[Ranking]) -> list[Free]:
    """The baselines that all rankings have; those without training hang on the seed of each."""
    each = [own.predictors for ranking in ranked for own in ranking.sets if own.name == "global"]
    return [name for name in FREE if each and all(name in predictors for predictors in each)]


def _scores_of(ranking: Ranking, baseline: Free) -> npt.NDArray[np.float64]:
    """What a baseline scores the truth's architectures."""
    if baseline in METRICS:
        return np.array([getattr(point, baseline) for point in ranking.points], np.float64)
    return np.array([(point.zero_cost or {})[baseline] for point in ranking.points], np.float64)


def _mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None if one is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _reliability(ranked: Sequence[Ranking], frozen: Collection[str]) -> dict[str, Reliability]:
    """How reliable the truth is on each frozen set."""
    sets = ranked[0].sets if ranked else ()
    return {
        each.name: each.reliability
        for each in sets
        if each.name in frozen and each.reliability is not None
    }


def _baselines(ranked: Sequence[Ranking]) -> tuple[Baseline, ...]:
    """What orders without a supernet, and the ceiling by the noise of the truth, on frozen sets."""
    frozen = _frozen(ranked)
    sets = [each for each in (ranked[0].sets if ranked else ()) if each.name in frozen]
    if not sets:
        return ()
    baselines = []
    for name in _free(ranked):
        metrics: dict[str, float | None] = {}
        for each in sets:
            alike = [own for r in ranked for own in r.sets if own.name == each.name]
            regrets = [own.predictors[name].regret.value for own in alike]
            taus = [own.predictors[name].kendall.value for own in alike]
            metrics[f"regret {each.name}"] = _mean_of(regrets)
            metrics[f"tau {each.name}"] = _mean_of(taus)
        baselines.append(Baseline(name=name, metrics=metrics))
    ceilings = {f"tau {s.name}": s.reliability.ceiling for s in sets if s.reliability is not None}
    return (*baselines, Baseline(name="ceiling", metrics=ceilings))


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
    lack = sum(any(point.scores is None for point in ranking.points) for ranking in ranked)
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


def _joined(first: Sequence[Baseline], more: Sequence[Baseline]) -> tuple[Baseline, ...]:
    """Baselines with the metrics of others of their names."""
    added = {own.name: own.metrics for own in more}
    return tuple(
        own.model_copy(update={"metrics": {**own.metrics, **added.get(own.name, {})}})
        for own in first
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
