"""How far a run's ranking can be trusted: its proxy scores against stand-alone ones."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack, get_args

import numpy as np

from manyshot import records
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.devices import on_its_threads
from manyshot.pipeline.identity import load_final_weights, weights_fingerprint
from manyshot.pipeline.stages.generate import order_by_weights
from manyshot.pipeline.stages.proxies import ProxyScores, Scores, reference_scores
from manyshot.pipeline.stages.score import latest_scores
from manyshot.pipeline.stages.shrink import said_of_view
from manyshot.pipeline.stages.untrained import Untrained, untrained
from manyshot.pipeline.verbs.rank_moved import moved_ranking
from manyshot.pipeline.workers import Workers, scoring_by
from manyshot.progress import Progress, Silent, showing
from manyshot.rank.baselines import BY_OPTIONS, COSTS
from manyshot.rank.sets import NEEDS, rank_sets
from manyshot.rank.statistics import rank_set
from manyshot.rank.truth import TruthError, TruthTable
from manyshot.recipe import Recipe
from manyshot.run_folder import (
    AFTER,
    BEFORE,
    RANK_SCORES,
    ZERO_COST,
    Moment,
    MovedRanking,
    RankedSet,
    RankedTruth,
    RankFolder,
    Ranking,
    RankPoint,
    RankScoreLine,
    RunFolder,
)
from manyshot.space import Arch, SearchSpace
from manyshot.train import load_weights
from manyshot.writing import Kind, writing

_MOST_LISTED = 100_000
"""Encodings of the largest space of which a plan trains every network."""


class RankOptions(TypedDict, total=False):
    """How a run is ranked, as the arguments of `rank_run` of these names."""

    references: Sequence[Path]
    share: float
    uncalibrated: int
    zero_cost: bool
    out: Path | None
    workers: Workers | None


class _Scored(NamedTuple):
    """All scores of the architectures of a truth."""

    proxy: Scores
    shared: Scores
    """Without recalibration; empty if they were not asked for."""
    free: Untrained
    options: dict[Arch, float] | None
    """By the weights of options; None of a run whose sampler learnt no such weights."""


@on_its_threads
def rank_run(
    recipe: Recipe,
    run: Path,
    truth: TruthTable,
    progress: Progress | None = None,
    *,
    references: Sequence[Path] = (),
    share: float = 0.1,
    uncalibrated: int = 256,
    zero_cost: bool = False,
    out: Path | None = None,
    weights: Moment = AFTER,
    workers: Workers | None = None,
) -> Ranking:
    """Scores a truth's architectures with a run's supernet and compares the two orders.

    Scores are lines of `rank/TRUTH/scores.jsonl` in the run's folder, and those on record are not
    made again; what is returned is `rank.json` beside them. A truth of other images is warned of.

    Args:
        recipe: the run's.
        run: the run's folder; of a search that moved the weights, those it ended with are scored.
        truth: the architectures and their scores.
        progress: shows how far it is.
        references: folders of runs ranked against the same truth, whose proxies choose the local
            set by prediction in turn; this run is left out if there are others. By default this
            run's own proxy does, which favours it.
        share: of the architectures that are in a local set.
        uncalibrated: score without recalibrated batch norms too, if there are no more architectures
            than so many.
        zero_cost: score without any training too: synflow, NASWOT and the norm of the gradients are
            baselines that the supernet has to beat.
        out: where scores and ranking go instead; for runs that cannot be written to.
        weights: those after the search, or before it if it moved them; the latter's records are in
            the folder `before` inside.
        workers: what scores; by default this process. They give the same numbers.

    Raises:
        RecordError: if the run has no supernet, another process writes to its folder, a reference
            lacks scores of this truth, or `weights` are before a search that moved none.
        TruthError: if the truth is of another space.
    """
    _warn_of_other_images(recipe, truth)
    if weights == BEFORE:
        check_moved(recipe, run)
    progress = progress or Silent()
    folder, outer = RunFolder(run), _files(run, truth, out)
    files = outer.before if weights == BEFORE else outer
    place: tuple[Path, Kind] = (run, "run") if out is None else (out, "rank")
    with writing(place[0], "manyshot rank", place[1]):
        with showing(progress):
            ws = Workspace.build(recipe, run)
        truth = in_space(truth, ws.net.space)
        if weights == BEFORE:
            load_weights(folder.weights, ws.net, weights_fingerprint(ws))
        else:
            load_final_weights(ws, folder)
        if words := said_of_view(ws, run, truth.archs):
            warnings.warn(words, stacklevel=3)  # past the threads of the recipe
        files.path.mkdir(parents=True, exist_ok=True)
        archs, free = truth.archs, Untrained()
        if zero_cost:
            logs = folder.in_ranks(ZERO_COST)
            free = untrained(ws, outer.zero_cost_log, archs, logs, progress)
        chosen_by = reference_scores(_others(references, run), ws.task_record, truth)
        with scoring_by(workers, ws) as spread:
            logs = folder.in_ranks(RANK_SCORES)
            scores = ProxyScores(spread, files.scores_log, archs, logs)
            proxy, evaluation = scores.calibrated(progress)
            shared = scores.uncalibrated(progress) if len(truth) <= uncalibrated else {}
        by_options = order_by_weights(ws, run, archs)
        scored = _Scored(proxy, shared, free, by_options)
        ranked = _ranked(ws, folder, truth, scored, chosen_by, share)
        names = {each.name for each in ranked}
        ranking = Ranking(
            run=recipe.name,
            seed=recipe.seed,
            task=ws.task_record,
            weights=scores.weights,
            moment=weights if recipe.shifting.name != "none" else None,
            truth=_about(truth, share),
            evaluation=evaluation,
            points=_points(ws, truth, scored),
            sets=ranked,
            absent={name: why for name, why in NEEDS.items() if name not in names},
            left_out=free.left_out,
        )
        records.write_json(files.ranking_file, ranking)
    return ranking


def _ranked(
    ws: Workspace,
    folder: RunFolder,
    truth: TruthTable,
    scored: _Scored,
    chosen_by: Mapping[str, Mapping[Arch, float]],
    share: float,
) -> tuple[RankedSet, ...]:
    """All statistics of all sets that can be made.

    Args:
        ws: of the run.
        folder: the run's, whose search may have scored architectures of the truth.
        truth: of architectures as they are in the space.
        scored: all their scores.
        chosen_by: of other runs the proxy scores that choose the local set by prediction; without
            any those of this run do.
        share: of the architectures in a local set.
    """
    predictors, history = _predictors(ws, truth.archs, scored), None
    if folder.search_log.exists():
        history = latest_scores(folder.path, ws.net.space, ws.task_record)
    sets = rank_sets(
        truth,
        share=share,
        prediction=chosen_by or {str(folder.path): predictors["proxy"]},
        own_prediction=not chosen_by,
        history=history,
        whole=_is_whole(ws.net.space, truth),
    )
    return tuple(rank_set(each, predictors) for each in sets)


def rank_both(
    recipe: Recipe,
    run: Path,
    truth: TruthTable,
    progress: Progress | None = None,
    **options: Unpack[RankOptions],
) -> tuple[Ranking, Ranking, MovedRanking]:
    """Ranks a run whose search moved its weights before and after, and says what that changed.

    Both rankings are as `rank_run` makes them, whose arguments these are. The third record,
    `moved.json`, has the difference of Kendall's tau with a paired interval, on sets that neither
    weights chose: a set of the best by the weights before, after or in between would favour one of
    them, so that the local set by prediction needs other runs as `references`.

    Args:
        recipe: the run's.
        run: the run's folder.
        truth: the architectures and their scores.
        progress: shows how far it is.
        options: further arguments of `rank_run`.

    Returns:
        The rankings before and after, and the difference.

    Raises:
        RecordError, TruthError: as `rank_run`.
    """
    check_moved(recipe, run)
    before, after = (
        rank_run(recipe, run, truth, progress, weights=weights, **options)
        for weights in get_args(Moment)
    )
    others = _others(options.get("references", ()), run)
    moved = moved_ranking(before, after, truth, others)
    records.write_json(_files(run, truth, options.get("out")).moved_file, moved)
    return before, after, moved


def _others(references: Sequence[Path], run: Path) -> list[Path]:
    """The references but for the run itself."""
    return [other for other in references if other.resolve() != run.resolve()]


def check_moved(recipe: Recipe, run: Path) -> None:
    """Refuses weights before and after a search that moved none.

    Raises:
        RecordError: then.
    """
    if recipe.shifting.name == "none":
        raise records.RecordError(
            f"the search of {run} moved no weights (shifting.name = 'none'), so that those before "
            "it are those after it: leave --weights out"
        )


def _files(run: Path, truth: TruthTable, out: Path | None) -> RankFolder:
    return RunFolder(run).rank(truth.name) if out is None else RankFolder(out)


def _warn_of_other_images(recipe: Recipe, truth: TruthTable) -> None:
    """Warns if a truth is known to be of another data set than the run."""
    if truth.images and truth.images != recipe.data.described:
        warnings.warn(
            f"the truth is of the images {truth.images!r}, the run of {recipe.data.described!r}: "
            "that their orders agree or not says nothing about the run",
            stacklevel=4,  # past the threads of the recipe, to who called `rank_run`
        )


def _about(truth: TruthTable, share: float) -> RankedTruth:
    return RankedTruth(
        name=truth.name,
        source=truth.source,
        metric=truth.metric,
        runs=truth.runs,
        architectures=len(truth),
        run_sd=truth.run_sd,
        digest=truth.digest,
        share=share,
    )


def _is_whole(space: SearchSpace, truth: TruthTable) -> bool:
    """Whether a truth has all networks of a space, which no truth of a large one has."""
    if space.size > _MOST_LISTED:
        return False
    return len({space.canonical(arch) for arch in space.enumerate()}) == len(truth)


def in_space(truth: TruthTable, space: SearchSpace) -> TruthTable:
    """The table with its architectures as canonical encodings of a space.

    Raises:
        TruthError: if one is not in the space, or two are one network.
    """
    given_as: dict[Arch, Arch] = {}
    for arch in truth.archs:
        try:
            canonical = space.canonical(arch)
        except ValueError as error:
            raise TruthError(f"truth {truth.name!r} is of another space: {error}") from error
        if canonical in given_as:
            raise TruthError(
                f"truth {truth.name!r} has {space.to_text(given_as[canonical])} and "
                f"{space.to_text(arch)}, which are one network, {space.to_text(canonical)}: keep "
                "one of them"
            )
        given_as[canonical] = arch
    return dataclasses.replace(truth, archs=tuple(given_as))


def _fitness(ws: Workspace, line: RankScoreLine) -> float:
    return ws.task_record.fitness_of(line.proxy_score, line.proxy_loss)


def _predictors(
    ws: Workspace, archs: Sequence[Arch], scored: _Scored
) -> dict[str, dict[Arch, float]]:
    """By name, what orders the architectures; higher is better."""
    scores, shared = scored.proxy, scored.shared
    predictors = {"proxy": {arch: _fitness(ws, scores[arch]) for arch in archs}}
    if ws.task_record.fitness == "metric":
        predictors["proxy loss"] = {arch: -scores[arch].proxy_loss for arch in archs}
    else:
        oriented = ws.task_record.metric.oriented
        predictors["proxy score"] = {arch: oriented(scores[arch].proxy_score) for arch in archs}
    if shared:
        predictors["without recalibration"] = {a: _fitness(ws, shared[a]) for a in archs}
    if scored.options is not None:
        predictors[BY_OPTIONS] = scored.options
    for metric in COSTS:
        costs = ws.costs[metric](archs).tolist()
        predictors[metric] = dict(zip(archs, map(float, costs), strict=True))
    return predictors | scored.free.scores


def _points(ws: Workspace, truth: TruthTable, scored: _Scored) -> tuple[RankPoint, ...]:
    scores, shared, errors = scored.proxy, scored.shared, truth.errors_N
    macs, params = (ws.costs[metric](truth.archs).tolist() for metric in COSTS)
    runs = np.count_nonzero(~np.isnan(truth.scores_NR), axis=1).tolist()
    return tuple(
        RankPoint(
            arch=ws.net.space.to_text(arch),
            truth=score,
            runs=runs[i],
            error=None if errors is None else float(errors[i]),
            macs=macs[i],
            params=params[i],
            proxy_score=scores[arch].proxy_score,
            proxy_loss=scores[arch].proxy_loss,
            shared_statistics_score=shared[arch].proxy_score if shared else None,
            scores=tuple(None if math.isnan(s) else s for s in truth.scores_NR[i].tolist()),
            zero_cost=scored.free.of(arch),
        )
        for i, (arch, score) in enumerate(zip(truth.archs, truth.scores_N.tolist(), strict=True))
    )
