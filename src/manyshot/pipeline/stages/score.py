"""Scoring architectures with the supernet as it is, each score a record."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from manyshot import evaluate, records
from manyshot.data import FixedBatches
from manyshot.evaluate import Score
from manyshot.evaluate.stages import Survey
from manyshot.nn.batch_norm import BatchNormStats
from manyshot.pipeline.build import Workspace
from manyshot.run_folder import (
    SEARCH_LOG,
    SHIFTING_STATE,
    RunFolder,
    ScoreLine,
    SearchLine,
    TaskRecord,
)
from manyshot.space import Arch, SearchSpace
from manyshot.train.checkpoint import digest

RUNNING = "running"
"""The calibration of scores with running averages."""


class Images:
    """What all scores of a run are taken on, made once.

    Attributes:
        validation: as many as the recipe says.
        calibration: training images that batch-norm statistics come from.
        calibration_id: identifies these, and with them all that scores are taken on.
    """

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self.validation = ws.fixed("validation", ws.recipe.evaluate.images)
        self.calibration = ws.calibration()
        images = ws.splits.training_fingerprint
        self.calibration_id = f"{images}:{ws.recipe.seed}:{self.calibration.images}"

    @functools.cached_property
    def whole(self) -> FixedBatches:
        """All validation images."""
        everything = self.validation.images == len(self._ws.splits.validation)
        return self.validation if everything else self._ws.fixed("validation", None)


def fitness_of(task: TaskRecord, line: ScoreLine) -> float:
    """By what a scored architecture ranks; the highest is the best."""
    return line.fitness(task)


def latest_scores(run: Path, space: SearchSpace, task: TaskRecord) -> dict[Arch, float]:
    """By what all that the search of a run scored ranks, the latest score of each.

    Args:
        run: the folder of the run.
        space: its space.
        task: says by what networks rank.

    Raises:
        RecordError: if it has scored nothing.
    """
    lines = records.iterate_lines(RunFolder(run).search_log, SearchLine)
    scores = {space.from_text(line.arch): fitness_of(task, line) for line in lines}
    if not scores:
        raise records.RecordError(
            f"{run} has no {SEARCH_LOG}: search it with manyshot search {run}"
        )
    return scores


Key = tuple[Arch, int, str, int]
"""Architecture, weights version, calibration, validation images: what a score is a function of."""


L = TypeVar("L", bound=ScoreLine)


class Scorer(Generic[L]):
    """Scores architectures; what is on record is replayed, and nothing is scored twice.

    Attributes:
        known: scores by what they are a function of; scorers of one run share it.
        images: forwarded for all that is on file.
    """

    def __init__(
        self,
        ws: Workspace,
        accelerator: Accelerator,
        log: Path,
        kind: type[L],
        batches: Images,
        known: dict[Key, ScoreLine],
        keep: Callable[[L], bool],
    ) -> None:
        """Opens a log.

        Args:
            ws: the run.
            accelerator: processes share the architectures of a call.
            log: the file.
            kind: the type of its lines.
            batches: what to score on.
            known: see the class.
            keep: which records on file to replay; the others are dropped.
        """
        self.ws, self.accelerator, self.log, self.kind = ws, accelerator, log, kind
        self.known, self.batches = known, batches
        self._weights: tuple[int, str] | None = None
        self._survey: Survey | None = None
        self.images = 0
        kept = records.keep(log, kind, keep) if accelerator.is_main_process else None
        accelerator.wait_for_everyone()
        lines = records.load_lines(log, kind) if kept is None else kept
        self.recorded = [self._checked(line) for line in lines]

    def _checked(self, line: L) -> L:
        own = self.batches.calibration_id
        if line.calibration not in (own, RUNNING):
            raise self._other("calibration", line.calibration, own)
        return line

    def _other(self, what: str, recorded: str, now: str) -> records.RecordError:
        return records.RecordError(
            f"{self.log} was made with other {what} ({recorded}, now {now}): move it away to "
            "search anew, or use another --out folder"
        )

    def score(
        self,
        generation: int,
        archs: Sequence[Arch],
        version: int | None,
        role: str = "candidate",
        *,
        whole: bool = False,
        stats: Callable[[Arch], BatchNormStats] | None = None,
    ) -> Iterator[tuple[Arch, L]]:
        """The proxy score of each architecture, in order; new ones are recorded as they come.

        Args:
            generation: of the search.
            archs: what to score.
            version: of the weights; None if they have moved since, and all is on file.
            role: why.
            whole: on all validation images, whatever the recipe says.
            stats: gives batch-norm statistics in place of a calibration.

        Raises:
            RecordError: if the records on file are of other weights, or another search.
        """
        world = self.accelerator.num_processes
        replayed = self._replayed(generation, archs, version, role)
        for arch, line in zip(archs, replayed, strict=False):
            yield arch, line
        fresh = archs[len(replayed) :]
        if fresh and version is None:
            raise records.RecordError(
                f"{self.log} lacks scores of generation {generation}, whose weights have moved "
                f"since: restore it from a copy, or delete {SHIFTING_STATE} too and resume, to "
                "search anew"
            )
        about: dict[str, int | str] = {"generation": generation, "role": role}
        lines: Iterable[L]
        for start in range(0, len(fresh), world) if world > 1 else [0]:
            turn = fresh[start : start + world] if world > 1 else fresh
            mine = turn[self.accelerator.process_index :][:1] if world > 1 else turn
            lines = self._scored(mine, version or 0, whole, stats, about)
            if world > 1:
                lines = gather_object(list(lines))
            for arch, line in zip(turn, lines, strict=True):
                self._remember(arch, line)
                if self.accelerator.is_main_process:
                    records.append(self.log, line)
                yield arch, line

    def _replayed(
        self, generation: int, archs: Sequence[Arch], version: int | None, role: str
    ) -> list[L]:
        """The records of the first of `archs`: as many as are left on file."""
        replayed, self.recorded = self.recorded[: len(archs)], self.recorded[len(archs) :]
        for line, arch in zip(replayed, archs, strict=False):
            text = self.ws.net.space.to_text(arch)
            if (line.generation, line.role, line.arch) != (generation, role, text):
                raise records.RecordError(
                    f"{self.log} has architecture {line.arch} in generation {line.generation} "
                    f"where this search proposes {text} in {generation}: its settings have "
                    "changed, use another --out folder"
                )
            if version is not None and line.weights != self.weights_of(version):
                raise self._other("weights", line.weights, self.weights_of(version))
            self._remember(arch, line)
        return replayed

    def _remember(self, arch: Arch, line: L) -> None:
        key = (arch, line.weights_version, line.calibration, line.validation_images)
        self.known[key] = line
        self.images += line.images_forwarded

    def _scored(
        self,
        archs: Sequence[Arch],
        version: int,
        whole: bool,
        stats: Callable[[Arch], BatchNormStats] | None,
        about: dict[str, int | str],
    ) -> Iterator[L]:
        """The record of each architecture, in order; what is new is scored together."""
        ws, batches = self.ws, self.batches
        validation = batches.whole if whole else batches.validation
        name = batches.calibration_id if stats is None else RUNNING
        keys = {arch: (arch, version, name, validation.images) for arch in archs}
        new = [arch for arch, key in keys.items() if key not in self.known]
        scored = self._together(new, version, validation, stats)
        scores = dict[Arch, Score]()
        for arch in archs:
            before = self.known.get(keys[arch])
            if before is not None:
                value, loss, forwarded = before.proxy_score, before.proxy_loss, 0
                halves = before.halves
            else:
                while arch not in scores:
                    scores.update([next(scored)])
                score = scores.pop(arch)
                text = ws.net.space.to_text(arch)
                score = score.checked(f"architecture {text} on validation images")
                fitness = ws.task_record.fitness_of
                ranks = [fitness(half.value, half.loss) for half in score.parts]
                halves = None
                if len(ranks) == 2 and all(map(math.isfinite, ranks)):
                    halves = (ranks[0], ranks[1])
                value, loss = score.value, score.loss
                calibrated = 0 if stats is not None else batches.calibration.images
                forwarded = (calibrated + validation.images) * len(ws.net.scored(arch))
            content = {
                **about,
                "arch": ws.net.space.to_text(arch),
                "proxy_score": value,
                "proxy_loss": loss,
                **ws.recorded_costs(arch),
                "weights_version": version,
                "calibration": name,
                "validation_images": validation.images,
                "weights": self.weights_of(version),
                "images_forwarded": forwarded,
                "halves": halves,
                "reward": ws.reward(arch, ws.task_record.fitness_of(value, loss)),
            }
            yield self.kind(**content)

    def _together(
        self,
        archs: Sequence[Arch],
        version: int,
        validation: FixedBatches,
        stats: Callable[[Arch], BatchNormStats] | None,
    ) -> Iterator[tuple[Arch, Score]]:
        """The scores of architectures, in any order: several as a population."""
        given: dict[str, Any] = {"validation": validation, "task": self.ws.task, "parts": 2}
        if len(archs) == 1:
            [arch] = archs
            calibration = self.batches.calibration if stats is None else stats(arch)
            yield arch, evaluate.score(self.ws.net, arch, calibration=calibration, **given)
        elif archs:
            population = evaluate.Population(
                self.ws.net,
                archs,
                calibration=stats or self.batches.calibration,
                survey=self._survey,
                **given,
            )
            self._survey = population.survey
            yield from self.ws.scored(population, self.weights_of(version))

    def weights_of(self, version: int) -> str:
        """The digest of the supernet's weights, taken once per version."""
        if self._weights is None or self._weights[0] != version:
            self._weights = (version, digest(self.ws.net.state_dict()))
        return self._weights[1]

    def finish(self) -> None:
        """Refuses records beyond the search."""
        if self.recorded:
            raise records.RecordError(
                f"{self.log} holds {len(self.recorded)} records more than this search proposes: "
                "its settings have changed, use another --out folder"
            )
