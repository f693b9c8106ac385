"""Scoring architectures with the supernet as it is, each score a record."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from manyshot import evaluate, records
from manyshot.data import FixedBatches
from manyshot.nn.batch_norm import BatchNormStats
from manyshot.pipeline.build import Workspace
from manyshot.space import Arch, SearchSpace
from manyshot.train.checkpoint import digest

LOG = "search.jsonl"
RUNNING = "running"
"""The calibration of scores with running averages."""


class Images:
    """What all scores of a run are taken on, made once.

    Attributes:
        validation: as many as the recipe says.
        calibration: training images that batch-norm statistics come from.
        calibration_id: identifies these.
    """

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self.validation = ws.fixed("validation", ws.recipe.evaluate.images)
        self.calibration = ws.calibration()
        self.calibration_id = f"{ws.splits.fingerprint}:{ws.recipe.seed}:{self.calibration.images}"

    @functools.cached_property
    def whole(self) -> FixedBatches:
        """All validation images."""
        everything = self.validation.images == len(self._ws.splits.validation)
        return self.validation if everything else self._ws.fixed("validation", None)


def latest_scores(run: Path, space: SearchSpace) -> dict[Arch, float]:
    """The proxy accuracy of all that the search of a run scored, the latest of each.

    Raises:
        RecordError: if it has scored nothing.
    """
    rows = records.read_lines(run / LOG)
    if not rows:
        raise records.RecordError(f"{run} has no {LOG}: search it with manyshot search {run}")
    return {space.from_text(row["arch"]): row["proxy_accuracy"] for row in rows}


Key = tuple[Arch, int, str, int]
"""Architecture, weights version, calibration, validation images: what a score is a function of."""


class Scorer:
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
        batches: Images,
        known: dict[Key, dict[str, Any]],
        keep: Callable[[dict[str, Any]], bool],
    ) -> None:
        """Opens a log.

        Args:
            ws: the run.
            accelerator: processes share the architectures of a call.
            log: the file.
            batches: what to score on.
            known: see the class.
            keep: which records on file to replay; the others are dropped.
        """
        self.ws, self.accelerator, self.log = ws, accelerator, log
        self.known, self.batches = known, batches
        self._weights: tuple[int, str] | None = None
        self.images = 0
        if accelerator.is_main_process:
            records.keep_lines(log, keep)
        accelerator.wait_for_everyone()
        self.recorded = [self._checked(record) for record in records.read_lines(log)]

    def _checked(self, record: dict[str, Any]) -> dict[str, Any]:
        own = self.batches.calibration_id
        if record["calibration"] not in (own, RUNNING):
            raise self._other("calibration", record["calibration"], own)
        return record

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
    ) -> Iterator[tuple[Arch, float]]:
        """The proxy accuracy of each architecture, in order; new ones are recorded as they come.

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
        for arch, record in zip(archs, replayed, strict=False):
            yield arch, record["proxy_accuracy"]
        fresh = archs[len(replayed) :]
        if fresh and version is None:
            raise records.RecordError(
                f"{self.log} lacks scores of generation {generation}, whose weights have moved "
                "since: restore it from a copy, or delete shifting.pt too and resume, to search "
                "anew"
            )
        about = {"generation": generation, "role": role}
        for start in range(0, len(fresh), world):
            turn = fresh[start : start + world]
            mine = turn[self.accelerator.process_index :][:1]
            own = [self._scored(arch, version or 0, whole, stats) for arch in mine]
            found = gather_object(own) if world > 1 else own
            for arch, record in zip(turn, found, strict=True):
                self._remember(arch, record)
                if self.accelerator.is_main_process:
                    records.append(self.log, {**about, **record})
                yield arch, record["proxy_accuracy"]

    def _replayed(
        self, generation: int, archs: Sequence[Arch], version: int | None, role: str
    ) -> list[dict[str, Any]]:
        """The records of the first of `archs`: as many as are left on file."""
        replayed, self.recorded = self.recorded[: len(archs)], self.recorded[len(archs) :]
        for record, arch in zip(replayed, archs, strict=False):
            asked = {"generation": generation, "role": role}
            asked |= {"arch": self.ws.net.space.to_text(arch)}
            if any(record.get(key) != value for key, value in asked.items()):
                raise records.RecordError(
                    f"{self.log} has architecture {record['arch']} in generation "
                    f"{record['generation']} where this search proposes {asked['arch']} in "
                    f"{generation}: its settings have changed, use another --out folder"
                )
            if version is not None and record["weights"] != self.weights_of(version):
                raise self._other("weights", record["weights"], self.weights_of(version))
            self._remember(arch, record)
        return replayed

    def _remember(self, arch: Arch, record: dict[str, Any]) -> None:
        key = (arch, record["weights_version"], record["calibration"], record["validation"])
        self.known[key] = record
        self.images += record["images_forwarded"]

    def _scored(
        self,
        arch: Arch,
        version: int,
        whole: bool,
        stats: Callable[[Arch], BatchNormStats] | None,
    ) -> dict[str, Any]:
        ws, batches = self.ws, self.batches
        validation = batches.whole if whole else batches.validation
        calibration: FixedBatches | BatchNormStats
        calibration, name = batches.calibration, batches.calibration_id
        if stats is not None:
            calibration, name = stats(arch), RUNNING
        about = {"weights_version": version, "calibration": name, "validation": validation.images}
        known = self.known.get((arch, version, name, validation.images))
        if known is not None:
            score = {key: known[key] for key in ("proxy_accuracy", "proxy_loss")}
            forwarded = 0
        else:
            own = evaluate.score(ws.net, arch, calibration=calibration, validation=validation)
            score = {"proxy_accuracy": own.accuracy, "proxy_loss": own.loss}
            calibrated = 0 if stats is not None else batches.calibration.images
            forwarded = calibrated + validation.images
        return {
            "arch": ws.net.space.to_text(arch),
            **score,
            **{metric: table([arch])[0].item() for metric, table in ws.costs.items()},
            **about,
            "weights": self.weights_of(version),
            "images_forwarded": forwarded,
        }

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
