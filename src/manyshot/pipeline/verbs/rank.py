"""How far a run's ranking can be trusted: its proxy scores against stand-alone ones."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from manyshot import evaluate, records
from manyshot.data.own import joined
from manyshot.evaluate import Account
from manyshot.evaluate.prefix import Calibration
from manyshot.nn.batch_norm import BatchNormStats
from manyshot.nn.inputs import batch_of, in_parts
from manyshot.pipeline.build import Workspace, on_its_threads
from manyshot.pipeline.stages.score import Images, latest_scores
from manyshot.pipeline.stages.untrained import Untrained, untrained
from manyshot.progress import Progress, Silent, showing
from manyshot.rank.crossed import JudgedSet, mean_over_turns
from manyshot.rank.moved import AFTER, BEFORE, gain
from manyshot.rank.rank import NEEDS, rank_set, rank_sets, turns_of
from manyshot.rank.reliability import over_turns, reliability
from manyshot.rank.truth import TruthError, TruthTable, arch_of, text_of
from manyshot.recipe import Recipe
from manyshot.run_folder import (
    Evaluation,
    Moment,
    MovedRanking,
    MovedSet,
    RankedTruth,
    RankFolder,
    Ranking,
    RankPoint,
    RankScoreLine,
    RunFolder,
    TaskRecord,
)
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace
from manyshot.train import load_weights
from manyshot.train.checkpoint import digest
from manyshot.writing import Kind, writing

_SHARED_BATCHES = 128
"""Batches of random paths behind the statistics without recalibration."""
_MOST_LISTED = 100_000
"""Encodings of the largest space of which a plan trains every network."""
Scores = dict[Arch, RankScoreLine]
_NEEDS_OTHERS = {
    **NEEDS,
    "local by prediction": "another run, ranked before, as --reference: one that these weights "
    "chose would favour them",
    "local by search": "what no search has: its scores are of weights on their way to those after",
}
"""What a set lacks that neither the weights before nor those after chose."""


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
    weights: Moment = "after",
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

    Raises:
        RecordError: if the run has no supernet, another process writes to its folder, a reference
            lacks scores of this truth, or `weights` are before a search that moved none.
        TruthError: if the truth is of another space.
    """
    _warn_of_other_images(recipe, truth)
    moves = recipe.shifting.name != "none"
    if weights == "before":
        check_moved(recipe, run)
    outer = _files(run, truth, out)
    files = outer.before if weights == "before" else outer
    place: tuple[Path, Kind] = (run, "run") if out is None else (out, "rank")
    with writing(place[0], "manyshot rank", place[1]):
        with showing(progress or Silent()):
            ws = Workspace.build(recipe, run)
        truth = in_space(truth, ws.net.space)
        if weights == "before":
            load_weights(RunFolder(run).weights, ws.net, ws.weights_fingerprint())
        else:
            ws.load_final_weights(RunFolder(run))
        files.path.mkdir(parents=True, exist_ok=True)
        moment = weights if moves else None
        progress = progress or Silent()
        free = untrained(ws, outer, truth.archs, progress) if zero_cost else Untrained()
        options = references, share, uncalibrated, free, moment
        return _ranked(ws, run, files, truth, progress, *options)


def rank_both(
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
) -> tuple[Ranking, Ranking, MovedRanking]:
    """Ranks a run whose search moved its weights before and after, and says what that changed.

    Both rankings are as `rank_run` makes them. The third record, `moved.json`, has the difference
    of Kendall's tau with a paired interval, on sets that neither weights chose: a set of the best
    by the weights before, after or in between would favour one of them, so that the local set by
    prediction needs other runs as `references`. The arguments are those of `rank_run`.

    Returns:
        The rankings before and after, and the difference.

    Raises:
        RecordError, TruthError: as `rank_run`.
    """
    check_moved(recipe, run)
    ranked = [
        rank_run(
            recipe,
            run,
            truth,
            progress,
            references=references,
            share=share,
            uncalibrated=uncalibrated,
            zero_cost=zero_cost,
            out=out,
            weights=weights,
        )
        for weights in get_args(Moment)
    ]
    before, after = ranked
    files = _files(run, truth, out)
    moved = _moved(before, after, truth, files, references, run, share)
    records.write_json(files.moved_file, moved)
    return before, after, moved


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


def _moved(
    before: Ranking,
    after: Ranking,
    truth: TruthTable,
    files: RankFolder,
    references: Sequence[Path],
    run: Path,
    share: float,
) -> MovedRanking:
    """The difference of two rankings, on sets that neither of their weights chose."""
    task = after.task
    scores: dict[str, dict[str, float]] = {
        moment: {p.arch: task.fitness_of(p.proxy_score, p.proxy_loss) for p in ranking.points}
        for moment, ranking in ((BEFORE, before), (AFTER, after))
    }
    where = str(files.ranking_file)  # whose architectures are in the order of the table
    archs = tuple(arch_of(point.arch, where) for point in after.points)
    truth = dataclasses.replace(truth, archs=archs)
    prediction = {
        str(other): _reference(other, task, truth)
        for other in references
        if other.resolve() != run.resolve()
    }
    whole = any(each.whole for each in after.sets if each.name == "global")
    sets = []
    for ranked in rank_sets(
        truth, share=share, prediction=prediction, own_prediction=False, whole=whole
    ):
        texts = [text_of(arch) for arch in ranked.truth.archs]
        columns = {moment: np.array([by[text] for text in texts]) for moment, by in scores.items()}
        turns = turns_of(ranked)
        judged = JudgedSet(ranked.truth.fitness_NR, columns, ranked.whole, turns=turns)
        sets.append(
            MovedSet(
                name=ranked.chosen.name,
                why=ranked.why,
                architectures=len(texts),
                before=mean_over_turns(judged, "tau", BEFORE),
                after=mean_over_turns(judged, "tau", AFTER),
                gain=gain(judged),
                reliability=over_turns(
                    [
                        reliability(turn.truth.fitness_NR, whole=turn.whole)
                        for turn in ranked.turns or (ranked,)
                    ]
                ),
            )
        )
    names = {each.name for each in sets}
    return MovedRanking(
        run=after.run,
        seed=after.seed,
        task=task,
        truth=after.truth,
        before=before.weights,
        after=after.weights,
        sets=tuple(sets),
        absent={name: why for name, why in _NEEDS_OTHERS.items() if name not in names},
    )


def _warn_of_other_images(recipe: Recipe, truth: TruthTable) -> None:
    """Warns if a truth is known to be of another data set than the run."""
    if truth.images and truth.images != recipe.data.described:
        warnings.warn(
            f"the truth is of the images {truth.images!r}, the run of {recipe.data.described!r}: "
            "that their orders agree or not says nothing about the run",
            stacklevel=4,  # past the threads of the recipe, to who called `rank_run`
        )


def _ranked(
    ws: Workspace,
    run: Path,
    files: RankFolder,
    truth: TruthTable,
    progress: Progress,
    references: Sequence[Path],
    share: float,
    uncalibrated: int,
    free: Untrained,
    moment: Moment | None,
) -> Ranking:
    folder, recipe = RunFolder(run), ws.recipe
    others = [other for other in references if other.resolve() != run.resolve()]
    chosen_by = {str(other): _reference(other, ws.task_record, truth) for other in others}
    scoring = _Scoring(ws, files)
    scores, evaluation = scoring.calibrated(truth.archs, progress)
    shared: Scores = {}
    if len(truth) <= uncalibrated:
        shared = scoring.uncalibrated(truth.archs, progress)
    predictors = {**_predictors(ws, truth.archs, scores, shared), **free.scores}
    history = (
        latest_scores(run, ws.net.space, ws.task_record) if folder.search_log.exists() else None
    )
    sets = rank_sets(
        truth,
        share=share,
        prediction=chosen_by or {str(run): predictors["proxy"]},
        own_prediction=not chosen_by,
        history=history,
        whole=_is_whole(ws.net.space, truth),
    )
    ranked = tuple(rank_set(each, predictors) for each in sets)
    names = {each.name for each in ranked}
    ranking = Ranking(
        run=recipe.name,
        seed=recipe.seed,
        task=ws.task_record,
        weights=scoring.weights,
        moment=moment,
        truth=_about(truth, share),
        evaluation=evaluation,
        points=_points(ws, truth, scores, shared, free),
        sets=ranked,
        absent={name: why for name, why in NEEDS.items() if name not in names},
        left_out=free.left_out,
    )
    records.write_json(files.ranking_file, ranking)
    return ranking


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


class _Scoring:
    """Proxy scores of a run's final weights, on record.

    Attributes:
        weights: their digest.
    """

    def __init__(self, ws: Workspace, files: RankFolder) -> None:
        self.ws, self.log, self.batches = ws, files.scores_log, Images(ws)
        self.weights = digest(ws.net.state_dict())
        # of other weights or images nothing is kept: a resumed run may have moved on
        lines = records.keep(self.log, RankScoreLine, self._is_same)
        parse = ws.net.space.from_text
        self._known = {(parse(line.arch), line.calibrated): line for line in lines}

    def _is_same(self, line: RankScoreLine) -> bool:
        """Whether a score is of these weights and these images."""
        score = line.proxy_score, line.proxy_loss
        return line == self._line(line.arch, line.calibrated, *score, line.seconds)

    def _line(
        self, text: str, calibrated: bool, value: float, loss: float, seconds: float
    ) -> RankScoreLine:
        return RankScoreLine(
            arch=text,
            calibrated=calibrated,
            proxy_score=value,
            proxy_loss=loss,
            weights=self.weights,
            calibration=self.batches.calibration_id,
            validation_images=self.batches.validation.images,
            batch_size=self.ws.recipe.evaluate.batch_size,
            seconds=seconds,
        )

    def calibrated(self, archs: Sequence[Arch], progress: Progress) -> tuple[Scores, Evaluation]:
        """Scores with batch norms calibrated for each architecture, and what they took.

        Those on record count too: a ranking that was killed and one that was not took the same.
        """
        images = self.batches
        scores, spent = self._score(archs, progress, "rank", images.calibration)
        forwarded = images.calibration.images + images.validation.images
        return scores, Evaluation(
            method=spent.method,
            architectures=spent.architectures,
            images_forwarded=spent.architectures * forwarded,
            macs_executed=spent.macs,
            macs_plain=spent.plain_macs,
            seconds=round(sum(line.seconds for line in scores.values()), 2),
        )

    def uncalibrated(self, archs: Sequence[Arch], progress: Progress) -> Scores:
        """Scores with the batch-norm statistics that all paths share."""
        if all((arch, False) in self._known for arch in archs):
            return {arch: self._known[arch, False] for arch in archs}
        return self._score(archs, progress, "without", self._shared_statistics())[0]

    def _score(
        self, archs: Sequence[Arch], progress: Progress, stage: str, calibration: Calibration
    ) -> tuple[Scores, Account]:
        """Scores what is not on record; `calibration` is as `Population` takes it."""
        calibrated = not callable(calibration)
        known = {arch for arch in archs if (arch, calibrated) in self._known}
        done, began = len(known), time.perf_counter()
        with progress.stage(stage, len(archs), done) as advance:
            population = evaluate.Population(
                self.ws.net,
                archs,
                calibration=calibration,
                validation=self.batches.validation,
                task=self.ws.task,
                known=known,
            )
            for arch, score in population:
                text = self.ws.net.space.to_text(arch)
                score = score.checked(f"architecture {text} on validation images")
                done += 1
                now = time.perf_counter()
                self._record(arch, score, calibrated=calibrated, seconds=round(now - began, 4))
                began = now
                advance(done, f"{score.value:.4f}")
        return {arch: self._known[arch, calibrated] for arch in archs}, population.account

    def _shared_statistics(self) -> Callable[[Arch], BatchNormStats]:
        """Of batches as large as those of training, as far as the images allow."""
        recipe, ws = self.ws.recipe, self.ws
        size = min(recipe.train.batch_size, len(ws.splits.train))
        images = ws.fixed("train", min(_SHARED_BATCHES * size, len(ws.splits.train)))
        together = joined([inputs for inputs, _ in images])
        pool = [part for part in in_parts(together, size) if batch_of(part) == size]
        batches = [pool[i % len(pool)] for i in range(_SHARED_BATCHES)]
        return evaluate.shared_statistics(
            ws.net, batches, numpy_rng(recipe.seed, "shared_statistics")
        )

    def _record(
        self, arch: Arch, score: evaluate.Score, *, calibrated: bool, seconds: float
    ) -> None:
        text = self.ws.net.space.to_text(arch)
        line = self._line(text, calibrated, score.value, score.loss, seconds)
        records.append(self.log, line)
        self._known[arch, calibrated] = line


def _reference(run: Path, task: TaskRecord, truth: TruthTable) -> dict[Arch, float]:
    """By what architectures rank with another run's supernet, scored for the same truth."""
    files = RunFolder(run).rank(truth.name)
    lines = [line for line in files.score_lines() if line.calibrated]
    where = str(files.scores_log)
    scores = {
        arch_of(line.arch, where): task.fitness_of(line.proxy_score, line.proxy_loss)
        for line in lines
    }
    missing = len(set(truth.archs) - scores.keys())
    if missing:
        raise records.RecordError(
            f"{files.scores_log} lacks the scores of {missing} architectures: rank {run} against "
            "the same truth first, it is the reference"
        )
    return scores


def _fitness(ws: Workspace, line: RankScoreLine) -> float:
    return ws.task_record.fitness_of(line.proxy_score, line.proxy_loss)


def _predictors(
    ws: Workspace, archs: Sequence[Arch], scores: Scores, shared: Scores
) -> dict[str, dict[Arch, float]]:
    """By name, what orders the architectures; higher is better."""
    predictors = {"proxy": {arch: _fitness(ws, scores[arch]) for arch in archs}}
    if ws.task_record.fitness == "metric":
        predictors["proxy loss"] = {arch: -scores[arch].proxy_loss for arch in archs}
    else:
        oriented = ws.task_record.metric.oriented
        predictors["proxy score"] = {arch: oriented(scores[arch].proxy_score) for arch in archs}
    if shared:
        predictors["without recalibration"] = {a: _fitness(ws, shared[a]) for a in archs}
    for metric in ("macs", "params"):
        costs = ws.costs[metric](archs).tolist()
        predictors[metric] = dict(zip(archs, map(float, costs), strict=True))
    return predictors


def _points(
    ws: Workspace, truth: TruthTable, scores: Scores, shared: Scores, free: Untrained
) -> tuple[RankPoint, ...]:
    errors = truth.errors_N
    macs, params = (ws.costs[metric](truth.archs).tolist() for metric in ("macs", "params"))
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
            zero_cost=free.of(arch),
        )
        for i, (arch, score) in enumerate(zip(truth.archs, truth.scores_N.tolist(), strict=True))
    )
