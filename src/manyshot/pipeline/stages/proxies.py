"""Proxy scores of a truth's architectures by a run's supernet, on record."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from manyshot import evaluate, records
from manyshot.data.own import joined
from manyshot.evaluate import Account, Population
from manyshot.evaluate.prefix import Calibration
from manyshot.evaluate.spread import Scored
from manyshot.evaluate.stages import Survey
from manyshot.nn.batch_norm import BatchNormStats
from manyshot.nn.inputs import batch_of, in_parts
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.score import Images
from manyshot.progress import Progress
from manyshot.rank.truth import TruthTable, arch_of
from manyshot.run_folder import Evaluation, RankScoreLine, RunFolder, TaskRecord, ZeroCostLine
from manyshot.seeding import numpy_rng
from manyshot.space import Arch
from manyshot.train.checkpoint import digest

_SHARED_BATCHES = 128
"""Batches of random paths behind the statistics without recalibration."""
Scores = dict[Arch, RankScoreLine]
Line = TypeVar("Line", bound=RankScoreLine | ZeroCostLine)


def taken_over(
    log: Path,
    others: Iterable[Path],
    kind: type[Line],
    archs: Collection[str],
    is_wanted: Callable[[Line], bool],
    key: Callable[[Line], object],
) -> list[Line]:
    """The lines of a log that are wanted, and those of other logs that it lacks; it then has both.

    Args:
        log: the log, which loses its other lines.
        others: logs of the same kind, which stay as they are.
        kind: the type of their lines.
        archs: of other logs only the lines on these architectures are taken over.
        is_wanted: whether a line may count.
        key: what tells the scores of a log apart.
    """
    lines = records.keep(log, kind, is_wanted)
    known = set(map(key, lines))
    more = {
        key(line): line
        for other in others
        for line in records.load_lines(other, kind)
        if line.arch in archs and key(line) not in known and is_wanted(line)
    }
    if more:
        records.write_lines(log, [*lines, *more.values()])
    return [*lines, *more.values()]


class ProxyScores:
    """Proxy scores of architectures by the weights that a workspace has.

    What is on record is not scored again, whatever truth it was scored for.

    Attributes:
        weights: the digest of these weights.
    """

    def __init__(
        self, ws: Workspace, log: Path, archs: Sequence[Arch], others: Sequence[Path]
    ) -> None:
        """Takes over what is on record.

        Args:
            ws: with the weights.
            log: where scores go.
            archs: the architectures.
            others: logs of the same run's rankings against other truths.
        """
        self.ws, self.log, self.archs, self.batches = ws, log, archs, Images(ws)
        self.weights = digest(ws.net.state_dict())
        # of other weights or images nothing is kept: a resumed run may have moved on
        key = operator.attrgetter("arch", "calibrated")
        texts = set(map(ws.net.space.to_text, archs))
        lines = taken_over(log, others, RankScoreLine, texts, self._is_same, key)
        self._known = {(ws.net.space.from_text(line.arch), line.calibrated): line for line in lines}

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

    def calibrated(self, progress: Progress) -> tuple[Scores, Evaluation]:
        """Scores with batch norms calibrated for each architecture, and what they took.

        Those on record count too: a ranking that was killed and one that was not took the same.
        """
        images = self.batches
        scores, spent = self._score(progress, "rank", images.calibration)
        forwarded = images.calibration.images + images.validation.images
        sides = sum(len(self.ws.net.scored(arch)) for arch in scores)
        return scores, Evaluation(
            method=spent.method,
            architectures=spent.architectures,
            images_forwarded=sides * forwarded,
            macs_executed=spent.macs,
            macs_plain=spent.plain_macs,
            seconds=round(sum(line.seconds for line in scores.values()), 2),
        )

    def uncalibrated(self, progress: Progress) -> Scores:
        """Scores with the batch-norm statistics that all paths share."""
        if all((arch, False) in self._known for arch in self.archs):
            return {arch: self._known[arch, False] for arch in self.archs}
        return self._score(progress, "without", self._shared_statistics())[0]

    def _score(
        self, progress: Progress, stage: str, calibration: Calibration
    ) -> tuple[Scores, Account]:
        """Scores what is not on record; `calibration` is as `Population` takes it."""
        archs, calibrated = self.archs, not callable(calibration)
        known = {arch for arch in archs if (arch, calibrated) in self._known}
        done = len(known)
        with progress.stage(stage, len(archs), done) as advance:
            population = self._population(calibration, known)
            for arch, score, seconds in self._scored(population):
                text = self.ws.net.space.to_text(arch)
                score = score.checked(f"architecture {text} on validation images")
                done += 1
                self._record(arch, score, calibrated=calibrated, seconds=round(seconds, 4))
                advance(done, f"{score.value:.4f}")
            if self.ws.spread is not None:  # what one process would have taken
                population = self._population(calibration, archs, population.survey)
                assert not list(population)
        return {arch: self._known[arch, calibrated] for arch in archs}, population.account

    def _population(
        self, calibration: Calibration, known: Collection[Arch], survey: Survey | None = None
    ) -> Population:
        return Population(
            self.ws.net,
            self.archs,
            calibration=calibration,
            validation=self.batches.validation,
            task=self.ws.task,
            known=known,
            survey=survey,
        )

    def _scored(self, population: Population) -> Iterator[Scored]:
        """Scores with their seconds, in any order."""
        if self.ws.spread is not None:
            yield from self.ws.spread.scores(population, self.weights)
            return
        began = time.perf_counter()
        for arch, score in population:
            now = time.perf_counter()
            yield arch, score, now - began
            began = time.perf_counter()

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


def reference_scores(
    runs: Sequence[Path], task: TaskRecord, truth: TruthTable
) -> dict[str, dict[Arch, float]]:
    """By what architectures rank with the supernets of other runs, by the folder of each.

    Args:
        runs: ranked against the same truth before.
        task: says by what networks rank.
        truth: the truth.

    Raises:
        RecordError: if a run lacks scores of the truth.
    """
    return {str(run): _reference(run, task, truth) for run in runs}


def _reference(run: Path, task: TaskRecord, truth: TruthTable) -> dict[Arch, float]:
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
